"""Quantising: floats to codes of any type of 1 to 8 bits, with a scale (and perhaps a zero) per group.

    q = quantize(weight, "u4", group_size=128)    # of weight [N, K]: q.codes [N, K], q.scales [N, K / 128]
    q.dequantize()                                # f32 [N, K], near weight
The scale of a group is searched for: the one that clips nothing, smaller ones as far as clipping can pay for
the type's number of codes, and the least-squares fit to the codes so found; the smallest squared error wins.
Candidates are rounded to the scales' dtype first, so codes are the nearest ones under the scale that is
stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilec.device import DeviceArray
from tilec.ir import codec
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.callers import any_arrays
from tilec.ops.weight import QuantizedWeight, code_values, default_zero

Array = np.ndarray[Any, Any]
Floats = NDArray[np.float32]

LARGEST_CODE = 2.0**8  # larger floats are left unused: codes, and scales in f16, stay normal numbers
CHUNK = 1 << 17  # weights at once: what a search touches stays in the cache


@any_arrays
def quantize(
    weight: ArrayLike,
    dtype: object,
    *,
    group_size: int | None = 128,
    zero_point: bool = False,
    scale_dtype: object = "f16",
) -> QuantizedWeight:
    """`weight` (floats [N, K]) as codes of `dtype`, an integer or float type of 1 to 8 bits.

    `group_size` weights of a row share a scale (None: the whole row; the last group may be short), and with
    `zero_point` an integer zero, a value of the type. Groups of zeros have scale 1. A type without mantissa,
    like f5e4m0, is 0 and the powers of two, of which the nearest is taken, the larger where two are; with
    scale_dtype="e8m0" weights are such powers themselves. u1 is signs, times half a scale. Raises TilecError
    for other types, weights that are no finite f32 numbers, and scales that `scale_dtype` cannot hold.
    """
    to, scale_to = weight_dtype(dtype), _scale_dtype(scale_dtype)
    floats = _floats(weight)
    size = _group_size(group_size, floats.shape[1])
    parts = [_quantize_part(part, Grid(to), scale_to, zero_point) for part in _equal_groups(floats, size)]
    codes, scales, zeros = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return QuantizedWeight(codes, scales, zeros if zero_point else None, to, scale_to, size)


def weight_dtype(dtype: object) -> DType:
    """The type of 1 to 8 bits that `dtype` names; TilecError for any that weights are not quantised to."""
    to = find_dtype(dtype)
    if to.bits > 8 or not (to.is_integer or (to.is_float and to.is_signed)):
        raise TilecError(f"weights are quantised to an integer or float type of 1 to 8 bits, not to {to}")
    return to


def _scale_dtype(dtype: object) -> DType:
    to = find_dtype(dtype)
    if not to.is_float or to.bits not in (8, 16, 32) or to.unused:
        raise TilecError(
            f"scales are of a float type of 8, 16 or 32 bits, like f16, bf16, f32 or e8m0, not {to}"
        )
    return to


def _floats(weight: ArrayLike) -> Floats:
    array = weight.numpy() if isinstance(weight, DeviceArray) else np.asarray(weight)
    if array.ndim != 2 or array.size == 0:
        raise TilecError(f"expected a weight [N, K] with elements, found shape {array.shape}")
    if not find_dtype(array.dtype).is_float:
        raise TilecError(
            f"expected a weight of floats, found {array.dtype}: convert it with .astype(np.float32)"
        )
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(floats).all():
        n, k = np.argwhere(~np.isfinite(floats))[0]
        raise TilecError(f"cannot quantise {array[n, k]} (weight[{n}, {k}]): weights are finite f32 numbers")
    return floats


def _group_size(group_size: int | None, k: int) -> int:
    check_group_size(group_size)
    return k if group_size is None else int(group_size)


def check_group_size(group_size: int | None) -> None:
    """Raises TilecError for what is no number of columns, nor None."""
    if group_size is not None and (not isinstance(group_size, int | np.integer) or group_size < 1):
        raise TilecError(
            f"expected a group_size of 1 or more, or None for the whole row, found {group_size!r}"
        )


def _equal_groups(weight: Floats, size: int) -> Iterator[Floats]:
    """[N, groups, size]: first the whole groups of every row, then the short last ones."""
    n, k = weight.shape
    whole = k // size * size
    if whole:
        yield weight[:, :whole].reshape(n, -1, size)
    if whole < k:
        yield weight[:, whole:].reshape(n, 1, -1)


@dataclass(frozen=True)
class Grid:
    """The numbers that a type's codes stand for, as far as quantising uses them."""

    dtype: DType

    @property
    def high(self) -> float:
        if self.dtype.is_integer:
            return float(self.dtype.max)
        values = code_values(self.dtype)
        return float(values[np.abs(values) <= LARGEST_CODE].max())

    @property
    def low(self) -> float:
        return float(self.dtype.min) if self.dtype.is_integer else -self.high

    def codes(self, x: Floats) -> NDArray[np.uint8]:
        """The nearest codes (x is overwritten); of two the even one."""
        np.clip(x, self.low, self.high, out=x)
        if self.dtype.is_integer:
            return np.rint(x, out=x).astype(np.int16).astype(np.uint8) & np.uint8(self.dtype.code_mask)
        return _nearest_codes(self.dtype)[_index(x)]

    def nearest(self, x: Floats) -> Floats:
        """The nearest values (x is overwritten)."""
        if self.dtype.is_integer:
            return np.rint(np.clip(x, self.low, self.high, out=x), out=x)
        return code_values(self.dtype).take(self.codes(x), out=x)

    def zeros(self, low: Array, high: Array) -> Array:
        """The integer that comes to stand for 0 when [low, high], with 0 in it, is spread over all codes."""
        step = (high - low) / (self.high - self.low)
        zeros = np.rint(self.low - np.divide(low, step, out=np.zeros_like(low), where=step > 0))
        return np.clip(zeros, np.ceil(self.low), np.floor(self.high))

    def widest(self, low: Array, high: Array, zeros: Array) -> Array:
        """The least scale that clips nothing of [low, high], but for a side on which there are no codes."""
        above, below = self.high - zeros, zeros - self.low
        return np.maximum(
            np.divide(high, above, out=np.zeros_like(high), where=above > 0),
            np.divide(-low, below, out=np.zeros_like(low), where=below > 0),
        )

    def ratios(self, scale_dtype: DType) -> list[float]:
        """Which scales to try, as parts of the widest: also one up, in case rounding it would clip."""
        codes = 1 << self.dtype.bits
        up = 1 + 2.0 ** -(scale_dtype.mantissa + 1)
        return [1.0, up] if codes > 64 else [1.0, up, *np.linspace(1, max(1 - 4 / codes, 1 / 4), 9)[1:]]


# Rounding to a float of at most 7 mantissa bits by table: of a float32 the upper 18 bits (9 of the mantissa),
# the lowest of them set if anything follows. That is rounding to odd, after which rounding again is harmless.


def _index(x: Floats) -> NDArray[np.uint32]:
    bits = x.view(np.uint32)
    rest = bits & np.uint32(0x3FFF)
    rest += np.uint32(0x3FFF)
    rest >>= np.uint32(14)
    rest |= bits >> np.uint32(14)
    return rest


@lru_cache
def _nearest_codes(dtype: DType) -> NDArray[np.uint8]:
    assert dtype.mantissa <= 7, f"{dtype} has more mantissa bits than the table resolves"
    numbers = (np.arange(1 << 18, dtype=np.uint32) << np.uint32(14)).view(np.float32)
    return codec.encode(np.nan_to_num(numbers), dtype).astype(np.uint8)


def _quantize_part(
    weight: Floats, grid: Grid, scale_dtype: DType, zero_point: bool
) -> tuple[Array, Array, Array]:
    """Codes [N, K'], scales and zeros [N, groups] of a weight [N, groups, size]."""
    n, groups, size = weight.shape
    rows = weight.reshape(-1, size)
    step = max(1, CHUNK // size)
    found = [
        _quantize_rows(rows[i : i + step], grid, scale_dtype, zero_point) for i in range(0, len(rows), step)
    ]
    codes, scales, zeros = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    integers = grid.dtype.reference if grid.dtype.is_integer else np.dtype(np.int16)
    return (
        codes.reshape(n, groups * size),
        scales.reshape(n, groups).astype(scale_dtype.reference),
        zeros.reshape(n, groups).astype(integers),
    )


def _quantize_rows(w: Floats, grid: Grid, scale_dtype: DType, zero_point: bool) -> tuple[Array, Array, Array]:
    """Codes [R, size], scales and zeros [R, 1] of R groups."""
    low = np.minimum(w.min(1, keepdims=True), 0).astype(np.float64)
    high = np.maximum(w.max(1, keepdims=True), 0).astype(np.float64)
    zeros = grid.zeros(low, high) if zero_point else np.full_like(low, default_zero(grid.dtype))
    widest = grid.widest(low, high, zeros)
    empty = widest == 0  # all zeros, or all on the side without codes
    widest[empty] = 1
    _check_scales(widest, scale_dtype)
    search = Search(w, grid, zeros.astype(np.float32), scale_dtype)
    for ratio in grid.ratios(scale_dtype):
        search.offer(widest * ratio)
    search.offer(search.least_squares())
    scales = np.where(empty, np.float32(1), search.scales)
    return grid.codes(search.places(scales)), scales, zeros


def _check_scales(scales: Array, dtype: DType) -> None:
    """Below the smallest normal number a scale may lose bits, but not so many that it is another scale."""
    lost = (scales < dtype.smallest_normal) & (np.abs(codec.round_to(scales, dtype) - scales) > scales / 16)
    if lost.any():
        raise TilecError(
            f"the scale {scales[lost][0]:.3g} of a group underflows in {dtype}: quantise with "
            "scale_dtype='f32', larger groups, or a larger weight"
        )
    if (scales > dtype.max).any():
        raise TilecError(
            f"the scale {scales.max():.3g} of a group overflows {dtype}, which ends at {dtype.max:.6g}: "
            "quantise with scale_dtype='f32', or a smaller weight"
        )


class Search:
    """The best scale so far of every group: the one whose nearest values leave the smallest squared error."""

    def __init__(self, w: Floats, grid: Grid, zeros: Floats, scale_dtype: DType) -> None:
        self.w, self.grid, self.zeros, self.scale_dtype = w, grid, zeros, scale_dtype
        self.scales: Floats = np.ones((len(w), 1), np.float32)
        self.errors = np.full((len(w), 1), np.inf, np.float32)

    def offer(self, scales: Array) -> None:
        """Takes a scale where it is better than all before; one of 0, or that rounds to it, is none."""
        rounded = codec.round_to(scales, self.scale_dtype).astype(np.float32)
        usable = (scales > 0) & (rounded > 0) & np.isfinite(rounded)
        rounded = np.where(usable, rounded, self.scales)
        errors = self._errors(rounded)
        better = usable & (errors < self.errors)
        self.scales, self.errors = (
            np.where(better, rounded, self.scales),
            np.where(better, errors, self.errors),
        )

    def places(self, scales: Floats) -> Floats:
        """Where the weights lie on the grid."""
        places = self.w / scales
        places += self.zeros
        return places

    def _steps(self, scales: Floats) -> Floats:
        steps = self.grid.nearest(self.places(scales))
        steps -= self.zeros
        return steps

    def _errors(self, scales: Floats) -> Floats:
        left = self._steps(scales)
        left *= scales
        left -= self.w
        return _dot(left, left)

    def least_squares(self) -> Floats:
        """The scale nearest the weights under the codes of the best one; 0 where all of them stand for 0."""
        steps = self._steps(self.scales)
        length = _dot(steps, steps)
        return np.divide(_dot(steps, self.w), length, out=np.zeros_like(length), where=length > 0)


def _dot(a: Floats, b: Floats) -> Floats:
    """Row by row, [R, 1]."""
    return np.asarray(np.einsum("rg,rg->r", a, b)[:, None], np.float32)
