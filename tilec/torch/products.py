"""Products in torch: matmul, and linear layers with dense weights or quantised ones.

y = linear(x, weight, bias, activation="gelu")      # weight [N, K]: a tensor, or an ops.QuantizedWeight
"""

from collections.abc import Sequence
from typing import Any

import torch

from tilec import ops
from tilec.ir.errors import TilecError
from tilec.ops import QuantizedWeight, SparseWeight
from tilec.ops.activations import eight_bits, pair
from tilec.ops.linear import pair_of
from tilec.torch.register import Gradient, Tensor, cast, check_no_gradient, dtype_name, register, writing
from tilec.torch.sparse_weights import SparseCodes, dense, sparse_tensors_of, sparse_weight_of
from tilec.torch.weights import Codes, dequantize, tensors_of, weight_of

# matmul.

MATMUL = "(Tensor a, Tensor b, ScalarType? out_dtype) -> Tensor"


def _matmul(a: Tensor, b: Tensor, out_dtype: Any = None, out: Tensor = None) -> Tensor:
    return ops.matmul(a, b, out_dtype=dtype_name(out_dtype), out=out)


def _matmul_shape(a: Tensor, b: Tensor, out_dtype: Any) -> Tensor:
    lead = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return a.new_empty((*lead, a.shape[-2], b.shape[-1]), dtype=out_dtype or a.dtype)


def _matmul_backward(saved: Any, rest: Any, d: Tensor) -> tuple[Any, ...]:
    a, b = saved
    d = d.to(a.dtype)
    d_a = _matmul_op(d, b.mT, None).sum_to_size(a.shape)
    return d_a, _matmul_op(a.mT, d, None).sum_to_size(b.shape), None


_matmul_op = register(
    "matmul", MATMUL, _matmul, _matmul_shape, Gradient(lambda given, _: given[:2], _matmul_backward)
)
_matmul_out = writing("matmul", MATMUL, _matmul)


def matmul(a: Tensor, b: Tensor, *, out_dtype: Any = None, out: Tensor = None) -> Tensor:
    """ops.matmul on tensors, with a gradient; `out_dtype` is torch's."""
    a, b = cast(a, b)
    if out is None:
        return _matmul_op(a, b, out_dtype)
    check_no_gradient(out, (a, b))
    _matmul_out(a, b, out.dtype, out)
    return out


# linear.

FINISH = (
    "Tensor? bias, str? activation, Tensor? residual, Tensor? a, Tensor? b, str? activations,"
    " Tensor? x_scale, ScalarType? out_dtype"
)
CODES = "Tensor codes, Tensor scales, Tensor? zeros, str dtype, int group_size"
SPARSE_CODES = "Tensor codes, Tensor? scales, Tensor? zeros, str dtype, int group_size, Tensor places"
LINEAR = f"(Tensor x, Tensor weight, {FINISH}) -> Tensor"
QUANTIZED = f"(Tensor x, {CODES}, {FINISH}) -> Tensor"
SPARSE = f"(Tensor x, {SPARSE_CODES}, {FINISH}) -> Tensor"


def _linear(x: Tensor, weight: Any, bias: Tensor, activation: Any, residual: Tensor, a: Tensor, b: Tensor,
            activations: Any, x_scale: Tensor, out_dtype: Any, *, out: Tensor = None) -> Tensor:  # fmt: skip
    return ops.linear(
        x, weight, bias, activation=activation, residual=residual, low_rank=None if a is None else (a, b),
        x_scale=x_scale, out_dtype=dtype_name(out_dtype), out=out, activations=activations,
    )  # fmt: skip


def _quantized(x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, dtype: str, group_size: int,
               *rest: Any, out: Tensor = None) -> Tensor:  # fmt: skip
    weight = weight_of(Codes(codes, scales, zeros, dtype, group_size, x.shape[-1]))
    return _linear(x, weight, *rest, out=out)


def _sparse(x: Tensor, *given: Any, out: Tensor = None) -> Tensor:
    held, finish = SparseCodes(*given[:6]), given[6:]
    return _linear(x, sparse_weight_of(held, x.shape[-1]), *finish, out=out)


def _result(x: Tensor, outputs: int, x_scale: Tensor, out_dtype: Any) -> Tensor:
    kind = torch.float16 if x.dtype.itemsize == 1 else x.dtype
    return x.new_empty((*x.shape[:-1], outputs), dtype=out_dtype or kind)


def _linear_shape(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return _result(x, weight.shape[0], *rest[-2:])


def _quantized_shape(x: Tensor, codes: Tensor, scales: Tensor, *rest: Any) -> Tensor:
    return _result(x, scales.shape[0], *rest[-2:])


def _sparse_shape(x: Tensor, *given: Any) -> Tensor:
    return _result(x, SparseCodes(*given[:6]).outputs, *given[-2:])


def slope(activation: str | None, d: Tensor, before: Tensor) -> Tensor:
    """The gradient of what went into an activation."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward(d, before, 0)
    if activation == "gelu":
        return torch.ops.aten.gelu_backward(d, before)
    return torch.ops.aten.silu_backward(d, before) if activation == "silu" else d


def _finish_backward(
    x: Tensor, weight: Tensor, finish: Sequence[Any], d: Tensor, again: Any
) -> tuple[Any, ...]:
    """Gradients of x, of the product of both (for the weight's), and of what finishes a linear layer."""
    bias, activation, residual, a, b, activations, x_scale, _ = finish
    if x_scale is not None:
        raise TilecError("linear with x_scale has no gradient: x is of codes; detach it")
    d_residual = None if residual is None else d.to(residual.dtype)
    d = d.to(x.dtype)
    if activation is not None:
        d = slope(activation, d, again(bias, None, None, a, b, activations, None, x.dtype))
    rows, above = x.reshape(-1, x.shape[-1]), d.reshape(-1, d.shape[-1])
    d_x, d_a, d_b = _matmul_op(above, weight, None), None, None
    if a is not None:
        inner = _matmul_op(above, b, None)
        d_x = d_x + _matmul_op(inner, a, None)
        d_a, d_b = _matmul_op(inner.mT, rows, None), _matmul_op(above.mT, _matmul_op(rows, a.mT, None), None)
    d_bias = None if bias is None else above.sum(0).to(bias.dtype)
    return d_x.reshape(x.shape), (above, rows), (d_bias, None, d_residual, d_a, d_b, None, None, None)


def _merged(tensors: Sequence[Any], rest: Sequence[Any]) -> tuple[Any, ...]:
    """The inputs again: tensors where there were any, the others between them."""
    return tuple(other if x is None else x for x, other in zip(tensors, rest, strict=True))


def _kept(given: tuple[Any, ...], _: Any) -> list[Any]:
    return [x if isinstance(x, torch.Tensor) else None for x in given]


def _linear_backward(saved: Any, rest: Any, d: Tensor) -> tuple[Any, ...]:
    x, weight, *finish = _merged(saved, rest)
    d_x, (above, rows), more = _finish_backward(
        x, weight, finish, d, lambda *plain: _linear_op(x, weight, *plain)
    )
    return d_x, _matmul_op(above.mT, rows, None), *more


def _quantized_backward(saved: Any, rest: Any, d: Tensor) -> tuple[Any, ...]:
    x, *quantised = _merged(saved, rest)
    codes, finish = quantised[:5], quantised[5:]
    weight = dequantize(*codes, x.shape[-1], x.dtype)
    d_x, _, more = _finish_backward(x, weight, finish, d, lambda *plain: _quantized_op(x, *codes, *plain))
    return d_x, None, None, None, None, None, *more


def _sparse_backward(saved: Any, rest: Any, d: Tensor) -> tuple[Any, ...]:
    x, *sparse = _merged(saved, rest)
    held, finish = SparseCodes(*sparse[:6]), sparse[6:]
    weight = dense(held, x.shape[-1], x.dtype)
    d_x, _, more = _finish_backward(x, weight, finish, d, lambda *plain: _sparse_op(x, *held, *plain))
    return d_x, *[None] * len(held), *more


_linear_op = register("linear", LINEAR, _linear, _linear_shape, Gradient(_kept, _linear_backward))
_quantized_op = register(
    "quantized_linear", QUANTIZED, _quantized, _quantized_shape, Gradient(_kept, _quantized_backward)
)
_sparse_op = register("sparse_linear", SPARSE, _sparse, _sparse_shape, Gradient(_kept, _sparse_backward))
_linear_out = writing("linear", LINEAR, _linear)
_quantized_out = writing("quantized_linear", QUANTIZED, _quantized)
_sparse_out = writing("sparse_linear", SPARSE, _sparse)
_OPERATORS = {Codes: (_quantized_op, _quantized_out), SparseCodes: (_sparse_op, _sparse_out)}


def linear(
    x: Tensor,
    weight: Any,
    bias: Tensor = None,
    *,
    activation: str | None = None,
    residual: Tensor = None,
    low_rank: Any = None,
    x_scale: Tensor = None,
    out_dtype: Any = None,
    out: Tensor = None,
    activations: str | None = None,
) -> Tensor:
    """ops.linear on tensors, with a gradient (of all but quantised and 2:4 weights); `out_dtype` is torch's.

    `weight` is a tensor [N, K], an ops.QuantizedWeight or SparseWeight, or its tensors (Codes of
    tilec.torch.weights, SparseCodes of sparse_weights), which do not break graphs of torch.compile. With
    `activations` the gradient of x is what it is without: rounding counts as the identity.
    """
    a, b = (None, None) if low_rank is None else pair_of(low_rank)
    if isinstance(weight, SparseWeight):
        weight = sparse_tensors_of(weight, x.device)
    if isinstance(weight, QuantizedWeight):
        weight = tensors_of(weight, x.device)
    if isinstance(weight, Codes) and weight.order is not None:
        x, a = (None if y is None else y.index_select(-1, weight.order) for y in (x, a))
    held, (made, writes) = _held(weight), _OPERATORS.get(type(weight), (_linear_op, _linear_out))
    x, weight, bias, residual, a, b = cast(x, None if held else weight, bias, residual, a, b)
    kind = out_dtype if out is None else out.dtype
    operands = (x, *(held or (weight,)), bias, activation, residual, a, b, activations, x_scale, kind)
    if out is None:
        return made(*operands)
    check_no_gradient(out, (x, weight, bias, residual, a, b))
    writes(*operands, out)
    return out


def _held(weight: Any) -> tuple[Any, ...]:
    """What an operator takes of a weight's tensors; () of one that is dense. TilecError where torch is asked
    for the gradient of a 2:4 weight.
    """
    if isinstance(weight, Codes):
        return weight[:5]
    if not isinstance(weight, SparseCodes):
        return ()
    if torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in weight):
        raise TilecError("a 2:4 weight has no gradient: detach its tensors, and train what it was made from")
    return weight


# Activations of 8 bits.

ROUNDING = "(Tensor x, str dtype) -> (Tensor, Tensor)"
KINDS = {"i8": torch.int8, "f8e4m3": torch.float8_e4m3fn}


def _rounded(x: Tensor, dtype: str) -> tuple[Tensor, Tensor]:
    q, scale = ops.quantize_activation(x, dtype)
    return q, scale


def _rounded_shapes(x: Tensor, dtype: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=KINDS[dtype]), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


def _write_rounded(x: Tensor, dtype: str, q: Tensor, scale: Tensor) -> None:
    ops.quantize_activation(x, dtype, out=(q, scale))


_rounded_op = register("quantize_activation", ROUNDING, _rounded, _rounded_shapes)
_rounded_out = register(
    "quantize_activation_out", "(Tensor x, str dtype, Tensor(a!) q, Tensor(b!) scale) -> ()", _write_rounded,
    lambda *_: None,
)  # fmt: skip


def quantize_activation(x: Tensor, dtype: Any = "i8", *, out: Any = None) -> tuple[Tensor, Tensor]:
    """ops.quantize_activation on tensors; what it gives has no gradient. `dtype` is torch's or tilec's."""
    kind = eight_bits(dtype_name(dtype)).name
    if out is None:
        q, scale = _rounded_op(x, kind)
        return q, scale
    _rounded_out(x, kind, *pair(out))
    return out  # type: ignore[no-any-return]
