"""Registering: a function on tensors becomes torch.ops.tilec.NAME, with shapes for tracing and a gradient.

matmul = register("matmul", "(Tensor a, Tensor b) -> Tensor", run, fake, Gradient(saves, backward))
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

from tilec.ir.errors import TilecError

Tensor = Any  # torch is not there wherever types are checked


class Gradient(NamedTuple):
    """How an operator is differentiated.

    `saves(inputs, outputs)` are the tensors (or None) that `backward(saved, inputs, *d_outputs)` gets back,
    with the inputs that are no tensors in their places; it returns one gradient per input. Outputs that
    nothing depends on have the gradient None, or zeros where `whole`.
    """

    saves: Callable[[tuple[Any, ...], tuple[Tensor, ...]], Sequence[Tensor | None]]
    backward: Callable[..., Sequence[Tensor | None]]
    whole: bool = False


def register(
    name: str,
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    gradient: Gradient | None = None,
) -> Callable[..., Any]:
    """torch.ops.tilec.NAME (or of another namespace, "mine::name"); called like `run`, in schema's order."""
    qualified = name if "::" in name else f"tilec::{name}"

    def without_gradient(*args: Any, **named: Any) -> Any:
        if forward_ad._current_level >= 0:  # torch leaves out their part without a word
            raise TilecError(f"{qualified} has no derivative in forward mode: use backward")
        with torch.no_grad():
            return run(*args, **named)

    made: Any = torch.library.custom_op(
        qualified, without_gradient, mutates_args=_mutated(schema), schema=schema
    )
    made.register_fake(fake)
    if gradient is not None:
        _differentiable(made, gradient)
    return made  # type: ignore[no-any-return]


def _mutated(schema: str) -> tuple[str, ...]:
    """The arguments that a schema says are written, "Tensor(a!) out"."""
    return tuple(re.findall(r"!\) (\w+)", schema))


def _differentiable(made: Any, gradient: Gradient) -> None:
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.set_materialize_grads(gradient.whole)
        ctx.save_for_backward(*gradient.saves(inputs, outputs))
        ctx.rest = tuple(map(_without_tensors, inputs))

    def backward(ctx: Any, *d_outputs: Any) -> Any:
        if all(d is None for d in d_outputs):
            return tuple(x if isinstance(x, list) and not any(x) else None for x in ctx.rest)
        found = gradient.backward(ctx.saved_tensors, ctx.rest, *d_outputs)
        return tuple(found)

    made.register_autograd(backward, setup_context=setup_context)


def _without_tensors(x: Any) -> Any:
    if isinstance(x, list | tuple) and all(isinstance(each, torch.Tensor) for each in x):
        return [None] * len(x)
    return None if isinstance(x, torch.Tensor) else x


def writing(name: str, schema: str, run: Callable[..., Any]) -> Callable[..., None]:
    """The operator NAME_out, which writes its result to the tensor `out` and so allocates none."""
    arguments = schema.removeprefix("(").rpartition(") -> Tensor")[0]

    def write(*args: Any) -> None:
        run(*args[:-1], out=args[-1])

    return register(f"{name}_out", f"({arguments}, Tensor(a!) out) -> ()", write, lambda *args: None)


def check_no_gradient(out: Any, tensors: Sequence[Any]) -> None:
    """Raises TilecError where a gradient would have to go through `out`."""
    there = (out, *(x for x in tensors if x is not None))
    if torch.is_grad_enabled() and any(x.requires_grad for x in there):
        raise TilecError("out= has no gradient: leave it out, or call inside torch.no_grad()")


def cast(*tensors: Any) -> tuple[Any, ...]:
    """Floats in the dtype of torch.autocast, where that is on for the device of the first tensor. Raises
    TilecError for what is no tensor."""
    for x in tensors:
        if not isinstance(x, torch.Tensor | None):
            raise TilecError(f"tilec.torch takes tensors, found {type(x).__name__}: see tilec.ops")
    kind = tensors[0].device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):  # "meta" has none
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(x.to(dtype) if _eligible(x) else x for x in tensors)


def _eligible(x: Any) -> bool:
    return x is not None and x.is_floating_point() and x.dtype != torch.float64 and x.itemsize > 1


def dtype_name(dtype: Any) -> str | None:
    """torch.float16 -> "float16", as tilec.dtype knows it."""
    return None if dtype is None else str(dtype).removeprefix("torch.")
