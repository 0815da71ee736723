"""Numbers to codes and back, casts, and arithmetic that is rounded once.

The reference runner holds values in `dtype.reference` (bf16, tf32 and everything smaller in float32), memory
holds codes. Everything here is derived from the numbers that describe a type.
    encode(0.3, f4e2m1) == 1        decode(1, f4e2m1) == 0.5        round_to(0.3, f4e2m1) == 0.5

Rounding is to nearest; of two equally near numbers, to the one whose last digit is even. Types of 8 bits
or fewer saturate, infinities included; NaN becomes the largest number where there is no NaN. The scale e8m0
takes the nearest power of two, and 2^-127, its code 0, for anything smaller, zero and negative numbers too.
In types without mantissa bits, e8m0 among them, both neighbours of 1.5 * 2^k are odd: the larger is taken.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tilec.ir import exact
from tilec.ir.dtype import IN_NUMPY, DType
from tilec.ir.errors import TilecError

Array = np.ndarray[Any, Any]


def encode(values: ArrayLike, dtype: DType) -> Array:
    """The codes of `values`, as `dtype.code`; numbers that the type lacks are rounded as by `round_to`.
    Infinity keeps its code where it has one, so that encode undoes decode on every code, NaNs included.
    """
    values = np.asarray(values)
    if not dtype.is_float:
        return np.asarray(_integers(values, dtype).astype(dtype.code) & dtype.code.type(dtype.code_mask))
    if _is_native(dtype):
        return _native(values, dtype).view(dtype.code)
    return _float_codes(values, dtype, keep_infinity=True)


def decode(codes: ArrayLike, dtype: DType) -> Array:
    """The values of `codes`, as `dtype.reference`. Bits above the type's and its unused ones are ignored."""
    codes = np.asarray(codes).astype(dtype.code, copy=False)
    if not dtype.is_float:
        return _integers(codes, dtype)
    codes = np.asarray(codes & dtype.code.type(dtype.code_mask >> dtype.unused << dtype.unused))
    if dtype.reference.itemsize == dtype.code.itemsize:
        return codes.view(dtype.reference)
    return np.asarray(_table(dtype)[codes])


def round_to(values: ArrayLike, dtype: DType) -> Array:
    """`values` (any numpy integers or floats) rounded once to the nearest of `dtype`, as `dtype.reference`.

    To integers: from floats they are truncated and saturate, NaN gives 0; from integers they wrap.
    """
    values = np.asarray(values)
    if not dtype.is_float:
        return _integers(values, dtype)
    if _is_native(dtype):
        return _native(values, dtype)
    return decode(_float_codes(values, dtype, keep_infinity=False), dtype)


def cast(values: ArrayLike, src: DType, dst: DType) -> Array:
    """What `.to(dst)` means on values of `src`: `round_to`, and nothing at all from a type to itself.

    To bool everything but zero is true, NaN too; from bool come 0 and 1.
    """
    return np.asarray(values) if src == dst else round_to(values, dst)


def from_storage(array: Array, dtype: DType) -> Array:
    """The values of an array as a user holds it: in `dtype.storage`, or in ml_dtypes' type of that name.

    Raises TilecError for an array of another dtype.
    """
    if array.dtype == dtype.storage or (array.dtype.name in dtype.aliases and array.dtype.isnative):
        return decode(array.view(dtype.code), dtype)
    what = "values" if dtype.storage == dtype.reference else "codes"
    raise TilecError(
        f"expected {dtype} as numpy {dtype.storage} ({what}), found {array.dtype}: convert the array first"
    )


def to_storage(values: Array, dtype: DType) -> Array:
    """Values of `dtype`, in `dtype.reference`, as an array in `dtype.storage`."""
    assert values.dtype == dtype.reference, (
        f"values of {dtype} are held in {dtype.reference}, not {values.dtype}"
    )
    return values if dtype.storage == dtype.reference else encode(values, dtype)


# Arithmetic: exact, then rounded once.

_OPERATIONS = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}


def binary(name: str, a: ArrayLike, b: ArrayLike, dtype: DType) -> Array:
    """add, sub, mul or div of values of a float type, rounded once."""
    wide = _wide(dtype)
    with np.errstate(all="ignore"):
        return round_to(_OPERATIONS[name](np.asarray(a, wide), np.asarray(b, wide)), dtype)


def sqrt(x: ArrayLike, dtype: DType) -> Array:
    """The square root of values of a float type, rounded once; NaN for negative ones."""
    with np.errstate(all="ignore"):
        return round_to(np.sqrt(np.asarray(x, _wide(dtype))), dtype)


def fma(a: ArrayLike, b: ArrayLike, c: ArrayLike, dtype: DType) -> Array:
    """a * b + c of values of a float type, rounded once."""
    assert dtype.is_float, f"{dtype} is not a float"
    with np.errstate(all="ignore"):
        a, b, c = (np.asarray(x, np.float64) for x in (a, b, c))
        exact_product = 2 * (dtype.mantissa + 1) <= 53
        return round_to(exact.odd_sum(a * b, c) if exact_product else exact.fma(a, b, c), dtype)


def _wide(dtype: DType) -> "np.dtype[Any]":
    """Where + - * / and sqrt may be computed. f32 and f64 as they are; of p bits, rounding first to 2p + 2 or
    more changes nothing (Figueroa, "When is double rounding innocuous?", 1995), and 11 bits leave room.
    """
    assert dtype.is_float, f"{dtype} is not a float"
    return dtype.reference if dtype.mantissa >= 23 else np.dtype(np.float64)


# Integers.


def _integers(values: Array, dtype: DType) -> Array:
    if dtype.is_bool:
        return np.asarray(values != 0)
    return _truncated(values, dtype) if values.dtype.kind == "f" else _wrapped(values, dtype)


def _wrapped(values: Array, dtype: DType) -> Array:
    """The low bits, read in two's complement: shifted to the top of the container and back."""
    held = values.astype(dtype.reference)
    spare = held.dtype.type(held.itemsize * 8 - dtype.bits)
    return np.asarray(held << spare >> spare) if spare else held


def _truncated(values: Array, dtype: DType) -> Array:
    low, high = dtype.reference.type(dtype.min), dtype.reference.type(dtype.max)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        whole = np.trunc(values.astype(np.float64))
    below, above = whole < float(dtype.min), whole >= float(dtype.max + 1)  # both bounds are exact in float64
    inside = np.where(below | above | np.isnan(whole), 0, whole).astype(dtype.reference)
    return np.where(above, high, np.where(below, low, inside))


# Floats.


def _is_native(dtype: DType) -> bool:
    """Does numpy compute in this very type?"""
    return (dtype.exponent, dtype.mantissa) in IN_NUMPY


def _native(values: Array, dtype: DType) -> Array:
    """numpy's own conversion rounds once. (Integers reach f16 by way of f32, exact up to f16's max.)"""
    with np.errstate(all="ignore"):
        return values.astype(dtype.reference, copy=False)


def _carrier(values: Array, dtype: DType) -> Array:
    """`values` as float32 or float64, exactly, or rounded to odd. float32 has no normal number for 2^-127."""
    if values.dtype.kind in "iu" and values.itemsize == 8:
        return exact.odd_float(values)
    if values.dtype in (np.float16, np.float32) and dtype.has_subnormals:
        return values.astype(np.float32, copy=False)
    return values.astype(np.float64, copy=False)


def _float_codes(values: Array, dtype: DType, keep_infinity: bool) -> Array:
    """Codes of the nearest numbers, by the rules at the top of this file."""
    with np.errstate(all="ignore"):  # what overflows below is not selected
        x = _carrier(values, dtype)
        nan, negative, top = np.isnan(x), np.signbit(x), dtype.max_code >> dtype.unused
        codes = np.minimum(_magnitude_codes(np.abs(x), dtype), top + (not dtype.saturates))
    if keep_infinity and dtype.has_infinity:
        codes = np.where(np.isinf(x), top + 1, codes)
    if not dtype.is_signed:
        codes = np.where(negative, 0, codes)
    if nan.any():
        codes = np.where(nan, _nan_codes(x, dtype), codes)
        negative &= dtype.has_nan | ~nan
    signs = negative.astype(dtype.code) * dtype.code.type(dtype.sign_code)
    return np.asarray(codes.astype(dtype.code) << dtype.code.type(dtype.unused) | signs)


def _magnitude_codes(magnitude: Array, dtype: DType) -> Array:
    """Exponent and mantissa of positive numbers, without unused bits; too large ones lie beyond the top."""
    subnormal = magnitude < dtype.smallest_normal
    codes = _normal_codes(magnitude, dtype)
    if not dtype.has_subnormals:
        return np.where(subnormal, 0, codes)
    if not subnormal.any():
        return codes
    smallest = dtype.bias - 1 + dtype.mantissa  # 2**-smallest has code 1
    return np.where(subnormal, np.rint(np.ldexp(magnitude, smallest)).astype(codes.dtype), codes)


def _normal_codes(magnitude: Array, dtype: DType) -> Array:
    """The carrier's bits, with the type's bias, less the mantissa bits that are too many; a carry from the
    mantissa runs into the exponent, as it should. At a tie the last digit decides: if the mantissa has none
    that is the leading one, always odd, and so the larger number is taken (IEEE 754-2019, 4.3.1).
    """
    bits, drop, bias = _fields(magnitude, dtype)
    bits = bits - ((bias - dtype.bias) << drop + dtype.mantissa)
    last_digit = bits >> drop & 1 if dtype.mantissa else 1
    return np.asarray(bits + ((1 << drop - 1) - 1) + last_digit >> drop)


def _nan_codes(x: Array, dtype: DType) -> Array | int:
    """A NaN's code keeps the top bits of its payload where that leaves it a NaN, so that moves keep codes."""
    top = dtype.max_code >> dtype.unused
    if not dtype.has_nan:
        return top
    bits, drop, _ = _fields(x, dtype)
    codes = bits >> drop & (1 << dtype.exponent + dtype.mantissa) - 1
    return np.where(codes > top + dtype.has_infinity, codes, dtype.nan_code >> dtype.unused)


def _fields(x: Array, dtype: DType) -> tuple[Array, int, int]:
    """Of float32 or float64 numbers: their bits, how many mantissa bits are too many, their bias."""
    info = np.finfo(x.dtype)
    bits = np.asarray(x).view(f"int{info.bits}")
    return bits, int(info.nmant) - dtype.mantissa, 1 - int(info.minexp)


@cache
def _table(dtype: DType) -> Array:
    """The values of all codes as float32; NaNs carry their mantissa on top of theirs, and their sign."""
    codes = np.arange(1 << dtype.bits)
    magnitude = codes & ~dtype.sign_code
    field, mantissa = magnitude >> dtype.mantissa, magnitude & (1 << dtype.mantissa) - 1
    subnormal = (field == 0) & dtype.has_subnormals
    significand = mantissa + np.where(subnormal, 0, 1 << dtype.mantissa)
    with np.errstate(over="ignore"):  # where the top exponent is infinity's
        values = np.ldexp(significand, np.maximum(field, subnormal) - dtype.bias - dtype.mantissa).astype(
            np.float32
        )
    if dtype.has_infinity:
        values[magnitude >= dtype.infinity_code] = np.inf
    bits = values.view(np.uint32)
    quiet_nan = 0x7F800000 | np.where(mantissa == 0, 0x400000, mantissa << 23 - dtype.mantissa)
    nan = magnitude > dtype.max_code + dtype.has_infinity
    bits[nan] = quiet_nan[nan]
    bits[codes != magnitude] |= np.uint32(0x80000000)
    values.flags.writeable = False
    return np.asarray(values)
