"""Calls of attention, checked: what every kernel of it takes.

call = neighborhood_call(q, k, v, 7, dilation=2)
call.axes, call.options, call.tensors
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.arrays import FLOATS, LONGEST, Array, array, float_of, told, zeros
from tilec.ops.attention_kernel import Options
from tilec.ops.attention_tiling import Tiling, group_lengths, tiled
from tilec.ops.attention_windows import Axis
from tilec.ops.tiling import Extent
from tilec.places import current_target

LARGEST_SCALE = 1e38  # in f32 still a number when logits are in base 2


class Tensors(NamedTuple):
    """query [B, X.., H, D], key [B, Y.., Hkv, D], value [B, Y.., Hkv, Dv], additional keys and values
    [B, T, Hkv, D or Dv], bias [H, 2w - 1 ..]; one element where not given."""

    query: Array
    key: Array
    value: Array
    more_keys: Array
    more_values: Array
    bias: Array


class Call(NamedTuple):
    """A call: its arrays, what queries see along each axis, what there is besides, and the scale."""

    tensors: Tensors
    axes: tuple[Axis, ...]
    options: Options
    scale: float

    @property
    def dtype(self) -> DType:
        return find_dtype(self.tensors.query.dtype)

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (*self.tensors.query.shape[:-1], self.tensors.value.shape[-1])

    @property
    def lse_shape(self) -> tuple[int, ...]:
        return tuple(self.tensors.query.shape[:-1])

    @property
    def rank(self) -> int:
        """The number of axes of tokens."""
        return len(self.axes)

    def tiling(self, backward: bool = False) -> Tiling:
        """Boxes and spans for the current target."""
        lengths = group_lengths(self.tensors.query.shape[1:-2], self.axes)
        dim = max(self.tensors.query.shape[-1], self.tensors.value.shape[-1])
        return tiled(self.axes, lengths, dim, self.dtype.bytes, current_target(), backward)


def neighborhood_call(
    query: Any,
    key: Any,
    value: Any,
    kernel_size: Any,
    stride: Any = 1,
    dilation: Any = 1,
    is_causal: Any = False,
    scale: Any = None,
    additional_keys: Any = None,
    additional_values: Any = None,
    border: str = "shift",
    bias: Any = None,
    name: str = "neighborhood_attention",
    rank: int | None = None,
) -> Call:
    """What the arguments of ops.neighborhood_attention mean. Raises TilecError for what does not fit."""
    q, k, v = (array(x, what, rank=1) for x, what in ((query, "query"), (key, "key"), (value, "value")))
    _check_rank(q, name, rank)
    extents = q.shape[1:-2]
    axes = windows(extents, kernel_size, stride, dilation, is_causal, border)
    check_tensors(q, k, v)
    if k.shape[1:-2] != extents:
        raise TilecError(
            f"query and key have one token layout: query is {list(q.shape)}, key {list(k.shape)}; "
            "ops.attention takes keys of another length"
        )
    mk, mv = _additional(additional_keys, additional_values, k, v)
    options = Options(q.shape[-2] // k.shape[-2], mk is not None, bias is not None)
    nothing = zeros((1,) * 4, find_dtype(q.dtype))
    tensors = Tensors(
        q, k, v, nothing if mk is None else mk, nothing if mv is None else mv, _bias(bias, q, axes)
    )
    return Call(tensors, axes, options, scale_of(scale, q))


def attention_call(query: Any, key: Any, value: Any, is_causal: Any = False, scale: Any = None) -> Call:
    """What the arguments of ops.attention mean. Raises TilecError for what does not fit."""
    q, k, v = (array(x, what, rank=1) for x, what in ((query, "query"), (key, "key"), (value, "value")))
    if q.ndim != 4:
        raise TilecError(f"attention takes query [B, L, H, D]: found {list(q.shape)}")
    check_tensors(q, k, v)
    if k.shape[1] == 0:
        raise TilecError(f"attention needs at least one key: key is {list(k.shape)}")
    (causal,) = per_axis(is_causal, "is_causal", 1, bool)
    nothing = zeros((1,) * 4, find_dtype(q.dtype))
    tensors = Tensors(q, k, v, nothing, nothing, nothing[0, 0])
    options = Options(q.shape[-2] // k.shape[-2])
    return Call(tensors, (Axis(0, causal=causal),), options, scale_of(scale, q))


def _check_rank(q: Array, name: str, rank: int | None) -> None:
    if rank is not None and q.ndim != rank + 3:
        axes = ", ".join("XYZ"[:rank])
        raise TilecError(f"{name} takes query [B, {axes}, H, D], of rank {rank + 3}: found {list(q.shape)}")
    if not 4 <= q.ndim <= 6:
        raise TilecError(f"{name} takes query [B, X.., H, D] with 1 to 3 axes X: found {list(q.shape)}")


class Heads(NamedTuple):
    """Heads of a kernel that is compiled without arrays: `sharing` of the queries' read one of the keys'."""

    value_dim: int
    keys: Extent
    sharing: int


def heads_of(heads: Extent, kv_heads: Extent | None, dim: int, value_dim: int | None) -> Heads:
    """Raises TilecError for what does not fit."""
    keys = heads if kv_heads is None else kv_heads
    if min(dim, dim if value_dim is None else value_dim) < 1:
        raise TilecError(f"heads have a dim of 1 or more: found dim {dim}, value_dim {value_dim}")
    numbers = isinstance(heads, int) and isinstance(keys, int)
    if heads != keys and (not numbers or keys < 1 or heads % keys):  # type: ignore[operator]
        raise TilecError(
            "heads is a multiple of kv_heads, both numbers, or one name stands for both: found heads "
            f"{heads!r}, kv_heads {keys!r}"
        )
    return Heads(value_dim or dim, keys, 1 if heads == keys else heads // keys)  # type: ignore[operator]


def check_tensors(q: Array, k: Array, v: Array) -> None:
    """Raises TilecError unless query [B, X.., H, D], key [B, Y.., Hkv, D], value [B, Y.., Hkv, Dv] fit."""
    for x, name in ((q, "query"), (k, "key"), (v, "value")):
        float_of(x.dtype, name)
        if x.dtype != q.dtype:
            raise TilecError(
                f"query, key and value are of one dtype: query is {find_dtype(q.dtype)}, {name} "
                f"{find_dtype(x.dtype)}; cast one"
            )
        if x.ndim != q.ndim:
            raise TilecError(f"{name} has the rank of query, {q.ndim}: found {list(x.shape)}")
    found = f"query is {list(q.shape)}, key {list(k.shape)}, value {list(v.shape)}"
    if q.shape[-1] != k.shape[-1] or q.shape[-1] == 0 or v.shape[-1] == 0:
        raise TilecError(f"query and key have one head dim, of 1 or more: {found}")
    if k.shape[:-1] != v.shape[:-1]:
        raise TilecError(f"key and value differ in their last axis at most: {found}")
    if q.shape[0] != k.shape[0]:
        raise TilecError(f"query and key have one batch: {found}")
    if k.shape[-2] == 0 or q.shape[-2] % k.shape[-2]:
        raise TilecError(
            f"the heads of key must divide those of query: query has {q.shape[-2]}, key {k.shape[-2]}"
        )


def windows(
    extents: Sequence[int], kernel_size: Any, stride: Any, dilation: Any, is_causal: Any, border: str
) -> tuple[Axis, ...]:
    """One Axis per extent. None stands for 1, 1 and False. Raises TilecError for windows that do not fit."""
    n = len(extents)
    if border not in ("shift", "zero"):
        raise TilecError(f"expected border 'shift' or 'zero', found {border!r}")
    sizes = per_axis(kernel_size, "kernel_size", n)
    strides = per_axis(1 if stride is None else stride, "stride", n)
    dilations = per_axis(1 if dilation is None else dilation, "dilation", n)
    causal = per_axis(False if is_causal is None else is_causal, "is_causal", n, bool)
    axes = tuple(map(Axis, sizes, strides, dilations, causal, [border == "shift"] * n))
    for i, (axis, extent) in enumerate(zip(axes, extents, strict=True)):
        _check_axis(axis, i, extent)
    return axes


def per_axis(x: Any, name: str, n: int, kind: type = int) -> tuple[Any, ...]:
    """One value for all axes, or one each."""
    values = tuple(x) if isinstance(x, Sequence) and not isinstance(x, str) else (x,) * n
    what = "bool" if kind is bool else "whole number of 1 or more"
    if len(values) != n:
        raise TilecError(f"{name} is one {what}, or one per axis, {n} here: found {x!r}")
    for each in values:
        fits = isinstance(each, bool | np.bool_) if kind is bool else isinstance(each, int | np.integer)
        if not fits or (kind is int and (isinstance(each, bool) or each < 1)):
            raise TilecError(f"{name} is a {what} for each axis, found {x!r}")
        if each > LONGEST:
            raise TilecError(f"{name} is up to 2^31 - 1, as extents are: found {x!r}")
    return tuple(map(kind, values))


def _check_axis(axis: Axis, i: int, extent: int) -> None:
    if axis.stride > axis.window:
        raise TilecError(
            f"axis {i}: stride {axis.stride} is over kernel_size {axis.window}; queries between windows "
            "would not see themselves"
        )
    if axis.shifts and axis.window * axis.dilation > extent:
        raise TilecError(
            f"axis {i}: kernel_size {axis.window} x dilation {axis.dilation} = "
            f"{axis.window * axis.dilation} is over its {extent} tokens"
        )


def scale_of(scale: Any, q: Array) -> float:
    """The scale of scores: 1 / sqrt(D) unless given."""
    if scale is None:
        return float(q.shape[-1] ** -0.5)
    number = isinstance(scale, int | float | np.integer | np.floating) and not isinstance(scale, bool)
    if not number or not abs(scale) <= LARGEST_SCALE:
        raise TilecError(
            f"scale is a number of up to {LARGEST_SCALE:.0e}, or None for 1 / sqrt(head dim): found {scale!r}"
        )
    return float(scale)


def _additional(keys: Any, values: Any, k: Array, v: Array) -> tuple[Array, Array] | tuple[None, None]:
    if (keys is None) != (values is None):
        missing = "additional_keys" if keys is None else "additional_values"
        raise TilecError(f"additional_keys and additional_values come together: {missing} is missing")
    if keys is None:
        return None, None
    mk, mv = array(keys, "additional_keys", rank=1), array(values, "additional_values", rank=1)
    for x, like, name in ((mk, k, "additional_keys"), (mv, v, "additional_values")):
        wanted = [like.shape[0], "T", *like.shape[-2:]]
        if (
            x.ndim != 4
            or x.dtype != like.dtype
            or (x.shape[0], *x.shape[2:]) != (like.shape[0], *like.shape[-2:])
        ):
            shown = f"{find_dtype(like.dtype)}[{', '.join(map(str, wanted))}]"
            raise TilecError(f"{name} is {told(x)}, expected {shown}")
    if mk.shape[1] != mv.shape[1]:
        raise TilecError(
            f"additional_keys and additional_values have one length: {mk.shape[1]} and {mv.shape[1]}"
        )
    return mk, mv


def _bias(bias: Any, q: Array, axes: Sequence[Axis]) -> Array:
    if bias is None:
        return zeros((1,) * (len(axes) + 1), find_dtype(q.dtype))
    held = array(bias, "bias", rank=1)
    wanted = (q.shape[-2], *(2 * axis.window - 1 for axis in axes))
    if held.shape != wanted or find_dtype(held.dtype).name not in FLOATS:
        raise TilecError(
            f"bias is floats {list(wanted)}, per head and relative position: found {told(held)}"
        )
    return held
