"""Kernels of one's own as operators of torch, whose gradients are kernels too.

    square = tilec.torch.op(square_kernel, like={"y": "x"}, gradient=square_gradient)
    square(x).sum().backward()
Where square_kernel(x, y) writes y, and square_gradient(x, d_y, d_x) writes d_x.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

import tilec as tc
from tilec.frontend import EMPTY, Param
from tilec.ir.errors import TilecError
from tilec.torch.register import Gradient, Tensor, register

_numbers = count()


def op(
    kernel: tc.Kernel,
    *,
    like: Mapping[str, Any],
    gradient: tc.Kernel | None = None,
    name: str | None = None,
    gradient_constants: Mapping[str, Any] | None = None,
    **constants: Any,
) -> Callable[..., Any]:
    """A kernel as a function of tensors: called with its inputs and scalars, it returns its outputs.

    `like` says what the outputs are, by parameter: the name of an input whose shape and dtype they have, or
    a function of the inputs that gives (shape, dtype). `gradient` is a kernel that writes, for inputs x, the
    parameters d_x; its others are the inputs, outputs and scalars of `kernel`, and d_y for outputs y.
    `constants` are those of the kernel. `name`: as torch.library knows it, "mine::square". TilecError for
    parameters that fit none of these.
    """
    params = kernel.definition.params
    names = [p.name for p in params]
    strange = [each for each in like if each not in names]
    if strange or not like:
        raise TilecError(
            f"like= names the outputs among {kernel.definition.name}'s parameters ({', '.join(names)}), "
            f"found {', '.join(strange) or 'none'}"
        )
    inputs = tuple(p for p in params if p.name not in like)
    own = Own(kernel, inputs, dict(like), constants)
    label = name or f"tilec_own::{kernel.definition.name}_{next(_numbers)}"
    found = None
    if gradient is not None:
        found = _gradient(own, gradient, label, dict(gradient_constants or {}))
    return register(label, own.schema, own.run, own.shapes, found)


@dataclass(frozen=True)
class Own:
    """A kernel, what its operator takes (which may be more than the kernel does), and what it returns."""

    kernel: tc.Kernel
    inputs: tuple[Param, ...]
    like: dict[str, Any]
    constants: dict[str, Any]

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.kernel.definition.params if p.name in self.like)

    @property
    def schema(self) -> str:
        given = ", ".join(map(_declared, self.inputs))
        made = ", ".join("Tensor" for _ in self.outputs)
        return f"({given}) -> " + (made if len(self.outputs) == 1 else f"({made})")

    def named(self, args: tuple[Any, ...]) -> dict[str, Any]:
        """The arguments by their parameters' names."""
        return dict(zip((p.name for p in self.inputs), args, strict=True))

    def shapes(self, *args: Any) -> Any:
        """The outputs, their elements not set."""
        given = self.named(args)
        made = tuple(_empty(name, self.like[name], given) for name in self.outputs)
        return made[0] if len(made) == 1 else made

    def run(self, *args: Any) -> Any:
        made = self.shapes(*args)
        outputs = zip(self.outputs, made if isinstance(made, tuple) else (made,), strict=True)
        named = {**self.named(args), **dict(outputs)}
        self.kernel(*(named[p.name] for p in self.kernel.definition.params), **self.constants)
        return made


def _empty(name: str, like: Any, given: dict[str, Any]) -> Tensor:
    """An output: like an input, or of the shape and dtype that a function of the inputs gives."""
    if isinstance(like, str):
        if not isinstance(given.get(like), torch.Tensor):
            raise TilecError(f"{name} is like {like}, expected a tensor among {', '.join(given)}")
        return given[like].new_empty(given[like].shape)
    shape, dtype = like(**given)
    first = next(x for x in given.values() if isinstance(x, torch.Tensor))
    return first.new_empty(shape, dtype=dtype)


def _declared(param: Param) -> str:
    """A parameter in torch's schema."""
    if param.dtype is None:
        return f"Tensor{'?' if param.optional else ''} {param.name}"
    kind = "float" if param.dtype.is_float else "bool" if param.dtype.name == "bool" else "int"
    return f"{kind} {param.name}"


def _gradient(own: Own, kernel: tc.Kernel, label: str, constants: dict[str, Any]) -> Gradient:
    """The gradient by another kernel, which is an operator itself, so that it can be traced."""
    written = {f"d_{p.name}": p.name for p in own.inputs if p.dtype is None}
    above = [f"d_{name}" for name in own.outputs]
    names = [p.name for p in kernel.definition.params]
    unknown = set(names) - {*written, *above, *own.outputs, *(p.name for p in own.inputs)}
    if unknown or not written.keys() & set(names):
        raise TilecError(
            f"{kernel.definition.name} takes {', '.join(names)}: a gradient takes "
            f"{', '.join([p.name for p in own.inputs] + [*own.outputs, *above])}, and writes some of "
            f"{', '.join(written)}"
        )
    kept = [name for name in own.outputs if name in names]
    inputs = (*own.inputs, *(Param(name, None, EMPTY) for name in (*kept, *above)))
    back = Own(kernel, inputs, {d: x for d, x in written.items() if d in names}, constants)
    run = register(f"{label}_backward", back.schema, back.run, back.shapes)

    def saves(given: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> list[Any]:
        by_name = dict(zip(own.outputs, outputs, strict=True))
        tensors = [x if isinstance(x, torch.Tensor) else None for x in given]
        return [*tensors, *(by_name[name] for name in kept)]

    def backward(saved: Any, rest: Any, *d_outputs: Tensor) -> list[Any]:
        given = [other if x is None else x for x, other in zip(saved, rest, strict=False)]
        found = run(*given, *saved[len(rest) :], *d_outputs)
        by_name = dict(zip(back.outputs, found if isinstance(found, tuple) else (found,), strict=True))
        return [by_name.get(f"d_{p.name}") for p in own.inputs]

    return Gradient(saves, backward, whole=True)
