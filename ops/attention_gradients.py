"""Backward calls: from a checked call of attention, its result and the result's gradients to all gradients.

gradients = backward(call, out, lse, d_out, d_lse)
"""

import math
from typing import Any, NamedTuple

from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.arrays import Array, array, empty_like, flat, result, sums_in, told, total_kernel, zeros
from tilec.ops.attention_backward import delta_kernel, key_gradient_kernel, query_gradient_kernel
from tilec.ops.attention_bias import bias_parts_kernel
from tilec.ops.attention_call import Call, Tensors
from tilec.ops.attention_kernel import Options
from tilec.ops.attention_tiling import Tiling
from tilec.ops.attention_windows import Axis

PARTS = 32  # of all boxes, whose sums for the bias' gradient are found side by side, per head


class Gradients(NamedTuple):
    """Of query, key and value, in their dtypes; of the others where they were given, else None."""

    query: Array
    key: Array
    value: Array
    bias: Array | None = None
    additional_keys: Array | None = None
    additional_values: Array | None = None


def backward(call: Call, out: Any, lse: Any, d_out: Any, d_lse: Any) -> Gradients:
    """The gradients of sum(out * d_out) + sum(lse * d_lse); d_lse None: 0. TilecError for other shapes."""
    y, dy = (_like(x, name, call.out_shape, call.dtype) for x, name in ((out, "out"), (d_out, "d_out")))
    wide = sums_in(call.dtype)
    held = _like(lse, "lse", call.lse_shape, wide)
    nothing = zeros(call.lse_shape, wide)
    dl = nothing if d_lse is None else _like(d_lse, "d_lse", call.lse_shape, wide)
    q, k, v, more_k, more_v, bias = call.tensors
    dq, tiling = empty_like(q), call.tiling(backward=True)
    saved = (held, _delta(y, dy, dl), dy)
    query_gradient_kernel(
        q, k, v, *saved, dq, more_k, more_v, bias, call.scale, options=call.options, **tiling._asdict()
    )  # fmt: skip
    dk, dv = _key_gradients(call, saved, tiling)
    d_bias = _bias_gradient(call, saved, tiling) if call.options.bias else None
    more = _more_gradients(call, saved) if call.options.more else (None, None)
    return Gradients(dq, dk, dv, d_bias, *more)


def _like(x: Any, name: str, shape: tuple[int, ...], dtype: DType) -> Array:
    held = array(x, name, rank=1)
    if held.shape != shape or find_dtype(held.dtype) != dtype:
        raise TilecError(f"{name} is {told(held)}, expected {dtype}{list(shape)}")
    return held


Saved = tuple[Array, Array, Array]  # lse and delta [B, X.., H], d_out [B, X.., H, Dv]


def _delta(out: Array, d_out: Array, d_lse: Array) -> Array:
    """rowsum(out * d_out) - d_lse, like d_lse."""
    delta = empty_like(d_lse)
    delta_kernel(flat(out, 2), flat(d_out, 2), flat(d_lse, 1), flat(delta, 1))
    return delta


def _key_gradients(call: Call, saved: Saved, tiling: Tiling) -> tuple[Array, Array]:
    """dk and dv; an axis' box is of keys."""
    q, k, v, _, _, bias = call.tensors
    dk, dv = empty_like(k), empty_like(v)
    key_gradient_kernel(
        q, k, v, *saved, dk, dv, bias, call.scale, axes=tiling.axes, options=call.options,
        stages=tiling.stages, warps=tiling.warps,
    )  # fmt: skip
    return dk, dv


def _more_gradients(call: Call, saved: Saved) -> tuple[Array, Array]:
    """Of additional keys and values, which are keys that every query sees."""
    q, _, _, more_k, more_v, _ = call.tensors
    tokens = math.prod(q.shape[1:-2])
    flat = [x.reshape(x.shape[0], tokens, *x.shape[call.rank + 1 :]) for x in (q, *saved)]
    nothing = zeros((1, 1), call.dtype)
    tensors = Tensors(flat[0], more_k, more_v, *call.tensors[3:5], nothing)
    options = Options(call.options.sharing)
    dense = Call(tensors, (Axis(0),), options, call.scale)
    return _key_gradients(dense, (flat[1], flat[2], flat[3]), dense.tiling(backward=True))


def _bias_gradient(call: Call, saved: Saved, tiling: Tiling) -> Array:
    q, k, v, _, _, bias = call.tensors
    d_bias, kind = empty_like(bias), sums_in(call.dtype)
    parts = result(None, (PARTS, *bias.shape), kind)
    options = call.options._replace(more=False)
    bias_parts_kernel(
        q, k, v, *saved, parts, bias, call.scale, axes=tiling.axes, options=options, warps=tiling.warps
    )  # fmt: skip
    total_kernel(parts.reshape(PARTS, math.prod(bias.shape)), flat(d_bias, 1))
    return d_bias
