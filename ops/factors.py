"""What a linear layer multiplies: the dtype of its products, and weights in it, inside of the kernel.

    product_dtype(i8, u4, None, 128, "sm_80")      i8: bytes, summed exactly
    product_dtype(f8e4m3, u4, None, 128, "sm_80")  f16, which holds every number of either; on sm_89 f8e4m3
Factors are weights less their zero times a power of two, which `unit` takes back where scales are applied.
"""

from typing import Any

import numpy as np

import tilec as tc
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.target import parse_target
from tilec.ops.tiling import Weighted, has_threads, known, sums_bytes
from tilec.ops.weight import code_values, default_zero


def compute_dtype(x: DType) -> DType:
    """x's dtype, or f16, which holds every number of 8 bits that x may have."""
    return dt.f16 if x.bits == 8 else x


def product_dtype(x: DType, weight: DType, zeros: DType | None, group: int, target: str) -> DType:
    """What products of x and a weight with such zeros (None: the type's own) are made of."""
    if x.is_integer and weight.is_integer:
        wide = zeros is not None and zeros.is_integer and weight.bits == 8  # differences of 9 bits
        return dt.f16 if wide and has_threads(target) and sums_bytes(group, target) else x
    if x == dt.f8e4m3 and sums_bytes(group, target) and multiplies(target, x) and held_by(weight, x, zeros):
        return x
    return compute_dtype(x)


def multiplies(target: str, dtype: DType) -> bool:
    """Has the target a product of its own for operands of this dtype, and a fast one?"""
    machine = parse_target(known(target)).target
    if machine is None:
        return False
    warps = () if dtype.name in machine.slow_mma else machine.mma
    return any(each.a == each.b == dtype.name for each in (*warps, *machine.wgmma))


def held_by(weight: DType, into: DType, zeros: DType | None = None) -> bool:
    """Whether a small float holds every number of a weight exactly, less its type's zero or a code."""
    if zeros is not None:
        return weight.is_integer and zeros.is_integer and 1 << weight.bits <= 2 << into.mantissa
    values = (code_values(weight) - default_zero(weight)) * (2 if is_halved(weight, False) else 1)
    return np.array_equal(codec.round_to(values, into), values)


def placed_for(tiling: Weighted, weight: DType, zero_point: bool, target: str) -> Weighted:
    """With bytes less zeros made of codes that lie at the foot of bytes; floats that the target has an
    instruction for lie as they are.
    """
    of_bytes = tiling.placed is not None and tiling.placed.bits == 8
    if tiling.placed == dt.f16 and weight == dt.f8e4m3 and converts(target):
        return tiling._replace(placed=weight)
    return tiling._replace(placed=dt.u8) if of_bytes and zero_point else tiling


def converts(target: str) -> bool:
    """Has the target an instruction from f8e4m3 to f16?"""
    machine = parse_target(known(target)).target
    return machine is not None and machine.has("cvt_f8")


def unit(weight: DType, compute: DType, zero_point: bool, placed: DType | None) -> float:
    """What one unit of a factor stands for."""
    if compute.bits > 8:
        return 1 / shrinkage(weight, compute, None if zero_point else placed)
    if weight == compute:
        return 1.0
    if compute.is_float and weight.is_float:
        return 2.0 ** (compute.bias - weight.bias)
    if placed == dt.i8:
        return 2.0 ** (weight.bits - 8)
    half = 0.5 if is_halved(weight, zero_point) else 1.0
    return half / compute.smallest_subnormal if compute.is_float else half


def shrinkage(weight: DType, compute: DType, placed: DType | None) -> float:
    """The power of two by which floats may be multiplied for nothing: their bits, put where a wider float has
    them, are that. Not into bf16, whose numbers would be so small that sums in f32 lost bits.
    """
    if placed in (None, weight) or weight.kind != "float" or weight.exponent >= compute.exponent:
        return 1
    least = 2.0 ** (weight.bias - compute.bias)
    return least if least >= 2.0**-31 else 1


def is_halved(weight: DType, zero_point: bool) -> bool:
    """Is the zero between two codes (u1's)?"""
    return not zero_point and default_zero(weight) % 1 != 0


# In kernels.


def of_group(constants: tc.Array, at: Any, w: tc.Tile) -> tc.Tile:
    """The constants (1, bn) of the group at `at`, which weights w (bk, bn) are of; (groups, 1, bn) from there
    on for w (groups, bk, bn).
    """
    bn = w.shape[-1]
    if w.rank == 2:
        return constants.load(at, (1, bn))
    return constants.load(at, (w.shape[0], bn)).reshape((-1, 1, bn))


def factors(
    w: tc.Tile, zeros: tc.Array, at: Any, compute: DType, zero_point: bool, placed: DType | None
) -> tc.Tile:
    """(w - zero) / unit, exact: zeros of the group at `at`, or the type's own."""
    if compute.is_integer:
        return raised(w) if placed == dt.i8 else integers(w, zeros, at, zero_point)
    if compute.bits > 8:
        times = shrinkage(w.dtype, compute, None if zero_point else placed)
        return floats(w, zeros, at, compute, zero_point, times)
    if w.dtype == compute:
        return w
    if w.dtype.is_float:
        return w.to(compute) * 2.0 ** (w.dtype.bias - compute.bias)
    return integers(w, zeros, at, zero_point).to(compute) * compute.smallest_subnormal


def floats(
    w: tc.Tile, zeros: tc.Array, at: Any, compute: DType, zero_point: bool, times: float = 1
) -> tc.Tile:
    """(w - zero) * times, exact: zeros of the group at `at`, or the type's own."""
    if times != 1:
        return w.to(compute) * times
    zero = of_group(zeros, at, w).to(compute) if zero_point else default_zero(w.dtype)
    return w.to(compute) - zero


def by_elements(w: tc.Tile, scales: tc.Array, zeros: tc.Array, at: Any, zero_point: bool) -> tc.Tile:
    """(w - zero) * scale in f32, where groups end within w: each weight at its place (group, column)."""
    zero = zeros.gather(*at).to(tc.f32) if zero_point else default_zero(w.dtype)
    return (w.to(tc.f32) - zero) * scales.gather(*at).to(tc.f32)


def integers(w: tc.Tile, zeros: tc.Array, at: Any, zero_point: bool) -> tc.Tile:
    """w - zero as bytes where they hold it; twice that where the zero is a half."""
    if is_halved(w.dtype, zero_point):
        return (w.to(tc.i8) << 1) - 1
    if not zero_point:
        return w.to(tc.i8) - wrapped(default_zero(w.dtype))  # wraps to the difference
    kind = tc.i16 if w.dtype.bits == 8 else tc.i8
    return w.to(kind) - of_group(zeros, at, w).to(kind)


def raised(w: tc.Tile) -> tc.Tile:
    """w - zero at the top of bytes: times 2^(8 - bits)."""
    up = 8 - w.dtype.bits
    return (w.to(tc.i8) << up) - wrapped(default_zero(w.dtype) * 2**up)


def wrapped(x: float) -> int:
    """The byte that an integer is, mod 256."""
    return (int(x) + 128) % 256 - 128


def zeros_dtype(weight: DType) -> DType:
    """Zeros are integers of a byte, or of two where the type's range is wider."""
    return find_dtype(f"{'i' if weight.is_signed else 'u'}8" if weight.is_integer else "i16")
