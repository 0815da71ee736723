"""Casts of single numbers, by definition, and numbers worth casting.

Written in rationals and Python integers: they share nothing with codec.py but the numbers of a type (and, to
list sample values, `decode`, whose own test is the formula).
"""

import math
from fractions import Fraction
from functools import cache

import numpy as np

from tilec.ir import codec
from tilec.ir.dtype import DType

Number = int | float


def nearest(x: Fraction, kind: DType) -> float:
    """x as a multiple of the distance between numbers around it; halves to even, then overflow."""
    if kind.kind == "scale" and x < Fraction(kind.min):
        return kind.min
    exponent = max(floor_log2(x), floor_log2(Fraction(kind.smallest_normal))) if x else 0
    sign = 1 if x > 0 else -1
    step = Fraction(2) ** (exponent - kind.mantissa)
    rounded = round(abs(x) / step) * step  # Python rounds half to even
    if rounded > Fraction(kind.max):
        return sign * (kind.max if kind.bits <= 8 else math.inf)
    return sign * float(rounded)


def floor_log2(x: Fraction) -> int:
    guess = abs(x.numerator).bit_length() - x.denominator.bit_length()
    return guess if abs(x) >= Fraction(2) ** guess else guess - 1


@cache
def _finite(x: Fraction, kind: DType) -> float:
    return nearest(x, kind)


def converted(x: Number, kind: DType) -> Number:
    """What a cast of one number means."""
    if kind.is_bool:
        return x != 0
    if not kind.is_float and isinstance(x, int):
        return (x - kind.min) % (1 << kind.bits) + kind.min
    if math.isnan(x):
        return 0 if not kind.is_float else x if kind.has_nan else kind.max
    if math.isinf(x):
        limit = kind.max if x > 0 else kind.min
        return limit if kind.bits <= 8 or not kind.is_float else x
    if not kind.is_float:
        return min(max(math.trunc(x), kind.min), kind.max)
    if x == 0:
        return x if kind.is_signed else kind.min
    return _finite(Fraction(x), kind)


def assert_same(got: np.ndarray, want: list[Number], kind: DType, *inputs: object) -> None:
    """Equal values, equal signs of zeros, and held as the reference holds them."""
    expected = np.array(want, kind.reference)
    assert got.dtype == kind.reference and got.shape == expected.shape
    same = got == expected
    if kind.is_float:
        same = np.where(np.isnan(expected), np.isnan(got), same & (np.signbit(got) == np.signbit(expected)))
    wrong = np.flatnonzero(~same)[:3]
    assert not len(wrong), [(*(np.asarray(i)[at] for i in inputs), got[at], expected[at]) for at in wrong]


def codes_of(kind: DType) -> np.ndarray:
    return np.arange(2 if kind.is_bool else 1 << kind.bits, dtype=np.int64).astype(kind.code)


@cache
def samples(kind: DType) -> tuple[Number, ...]:
    """Every value of up to 6 bits; of wider types the ends, the middle and what lies between."""
    if kind.bits <= 6 or kind.is_bool:
        return tuple(codec.decode(codes_of(kind), kind).tolist())
    if kind.is_float:
        rng = np.random.default_rng(kind.bits)
        codes = rng.integers(0, kind.code_mask, 60, dtype=kind.code, endpoint=True).tolist()
        top = kind.code_mask - kind.sign_code
        codes += [at + i for at in (0, top // 2, kind.max_code) for i in range(-2, 3) if 0 <= at + i <= top]
        codes += [code | kind.sign_code for code in codes]
        return tuple(codec.decode(np.array(codes, np.uint64), kind).tolist())
    powers = [1 << i for i in range(kind.bits)]
    near = [s * p + i for p in powers for i in (-1, 0, 1, p // 2, p // 3) for s in (1, -1)]
    return tuple(sorted({n for n in near if kind.min <= n <= kind.max} | {kind.min, kind.max}))


@cache
def brinks(kind: DType) -> np.ndarray:
    """Numbers of a float type, the ties between them, and the float64s next to both."""
    one = kind.bias << kind.mantissa
    top = kind.max_code >> kind.unused
    some = [at + i for at in (0, 1 << kind.mantissa, one, top) for i in range(-3, 4)]
    codes = np.array(range(top + 1) if kind.bits <= 8 else [c for c in some if 0 <= c <= top], np.uint64)
    numbers = np.unique(codec.decode(codes << np.uint64(kind.unused), kind).astype(np.float64))
    last = min(kind.max * (1 + 2.0 ** -(kind.mantissa + 1)), np.finfo(np.float64).max)
    points = np.concatenate([numbers, (numbers[1:] / 2 + numbers[:-1] / 2), [last]])
    with np.errstate(over="ignore"):
        points = np.concatenate([points, np.nextafter(points, np.inf), np.nextafter(points, -np.inf)])
    return np.concatenate([points, -points])
