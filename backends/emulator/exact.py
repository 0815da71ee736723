"""Correctly rounded arithmetic on numpy arrays: fma, and the directed roundings that numpy lacks.

A sum is computed in float64 with its error (TwoSum, Knuth); nudging an inexact result to an odd last bit
makes a second rounding to a narrower type exact (Boldo and Melquiond, "Emulation of FMA and correctly rounded
sums", 2008).
    fma32(a, b, c) == float32(a * b + c rounded once)
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

F32, F64 = np.float32, np.float64
HUGE, TINY = 2.0**480, 2.0**-400


def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded sum and its exact error."""
    total = a + b
    shadow = total - a
    return total, (a - (total - shadow)) + (b - shadow)


def split(a: Any) -> tuple[Any, Any]:
    big = a * 134217729.0  # 2^27 + 1
    high = big - (big - a)
    return high, a - high


def two_product(a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded product and its exact error (Dekker); no overflow within the split."""
    product = a * b
    (ah, al), (bh, bl) = split(a), split(b)
    return product, ((ah * bh - product) + ah * bl + al * bh) + al * bl


def odd(total: Any, error: Any) -> Any:
    """`total` with an odd last bit where it is inexact: towards the side on which the true value lies."""
    total = np.asarray(total, F64)
    pattern = total.view(np.int64)
    fix = (error != 0) & np.isfinite(total) & np.isfinite(error) & (pattern & 1 == 0)
    if not fix.any():
        return total
    away = (error > 0) == (total > 0)
    return np.where(fix, pattern + np.where(away, 1, -1), pattern).view(F64)


def narrow(x: Any, mode: str, dtype: Any = F32) -> Any:
    """A float64 to `dtype` in one of the modes rn rz rm rp."""
    near = np.asarray(x).astype(dtype)
    if mode == "rn":
        return near
    back = near.astype(F64)
    infinity = dtype(np.inf)
    if mode == "rz":
        over = np.abs(back) > np.abs(x)
        return np.where(over & ~np.isinf(x), np.nextafter(near, dtype(0)), near)
    if mode == "rm":
        return np.where(back > x, np.nextafter(near, -infinity), near)
    return np.where(back < x, np.nextafter(near, infinity), near)


def directed(total: Any, error: Any, mode: str) -> Any:
    """A float64 result and its error, moved to the side that a directed rounding asks for."""
    if mode == "rn":
        return total
    down = (error < 0) & ((mode == "rm") | ((mode == "rz") & (total > 0)))
    up = (error > 0) & ((mode == "rp") | ((mode == "rz") & (total < 0)))
    return np.where(down, np.nextafter(total, -np.inf), np.where(up, np.nextafter(total, np.inf), total))


def add64(a: Any, b: Any, mode: str) -> Any:
    total, error = two_sum(a, b)
    if mode == "rm":  # an exact zero sum of unlike signs is -0 when rounding down
        total = np.where((total == 0) & (error == 0) & (np.signbit(a) != np.signbit(b)), -0.0, total)
    return directed(total, error, mode)


def add_odd(a: Any, b: Any) -> Any:
    return odd(*two_sum(np.asarray(a, F64), np.asarray(b, F64)))


def fma_odd(a: Any, b: Any, c: Any) -> Any:
    """a * b + c in float64 rounded to odd, for operands of at most 24 bits: their product is exact."""
    return odd(*two_sum(np.multiply(a, b, dtype=F64), np.asarray(c, F64)))


def fma32(a: Any, b: Any, c: Any, mode: str = "rn") -> Any:
    if mode != "rn":
        return narrow(fma_odd(a, b, c), mode)
    product = np.multiply(a, b, dtype=F64)
    total = np.asarray(product + c)
    half_way = (total.view(np.int64) & 0x1FFFFFFF) == 0x10000000
    if half_way.any() or (np.abs(total) < 2.0**-126).any():  # else the second rounding is innocent
        total = odd(*two_sum(product, np.asarray(c, F64)))
    return total.astype(F32)


def fma64(a: Any, b: Any, c: Any, mode: str = "rn") -> Any:
    """Boldo and Melquiond's fma where nothing over- or underflows; in rationals elsewhere."""
    a, b, c = np.broadcast_arrays(*(np.asarray(x, F64) for x in (a, b, c)))
    high, low = two_product(a, b)
    t_high, t_low = two_sum(c, low)
    v_high, v_low = two_sum(high, t_high)
    total, error = two_sum(v_high, odd(*two_sum(t_low, v_low)))
    easy = moderate(a, b, c, high) & (total != 0)
    return patch(directed(total, error, mode), easy, (a, b, c), lambda x, y, z: fma_slowly(x, y, z, mode))


def mul64(a: Any, b: Any, mode: str) -> Any:
    return fma64(a, b, np.copysign(0.0, np.asarray(a * b)), mode) if mode != "rn" else a * b


def div64(a: Any, b: Any, mode: str) -> Any:
    if mode == "rn":
        return a / b
    a, b = np.broadcast_arrays(np.asarray(a, F64), np.asarray(b, F64))
    quotient = a / b
    error = np.copysign(1.0, b) * fma64(-quotient, b, a)
    return patch(
        directed(quotient, error, mode), moderate(a, b, quotient), (a, b), lambda x, y: div_slowly(x, y, mode)
    )


def sqrt64(a: Any, mode: str) -> Any:
    a = np.asarray(a, F64)
    root = np.sqrt(a)
    if mode == "rn":
        return root
    scale = np.where(a < 2.0**-900, 2.0**200, 1.0)  # an exact power of two keeps the error's sign
    return directed(root, fma64(-root * scale, root * scale, a * scale * scale), mode)


def moderate(*values: Any) -> Any:
    """Where no intermediate result can over- or underflow."""
    sizes = [np.abs(x) for x in values]
    return np.logical_and.reduce([(x < HUGE) & (x > TINY) for x in sizes])


def patch(result: Any, easy: Any, operands: tuple[Any, ...], slowly: Callable[..., float]) -> Any:
    """`result`, computed one by one where it is not easy."""
    if np.all(easy):
        return result
    flat, columns = np.array(result).reshape(-1), [x.reshape(-1) for x in operands]
    for n in np.flatnonzero(~easy):
        flat[n] = slowly(*(float(x[n]) for x in columns))
    return flat.reshape(np.shape(result))


def div_slowly(a: float, b: float, mode: str) -> float:
    if not np.isfinite([a, b]).all() or a == 0 or b == 0:
        return float(np.float64(a) / np.float64(b))
    return rounded(Fraction(a) / Fraction(b), mode)


def fma_slowly(a: float, b: float, c: float, mode: str) -> float:
    """One fma in rationals; infinities, NaN and zeros by ordinary arithmetic, which is exact for them."""
    if not np.isfinite([a, b, c]).all():
        return c if np.isfinite([a, b]).all() else float(np.float64(a) * np.float64(b) + np.float64(c))
    true = Fraction(a) * Fraction(b) + Fraction(c)
    if true == 0:
        zero = a * b + c if Fraction(a) * Fraction(b) == 0 else 0.0
        return -0.0 if mode == "rm" and zero == 0 and np.signbit(a * b) != np.signbit(c) else zero
    return rounded(true, mode)


def rounded(true: Fraction, mode: str) -> float:
    """A rational to float64 in a mode."""
    try:
        near = float(true) or (0.0 if true > 0 else -0.0)
    except OverflowError:
        near = np.inf if true > 0 else -np.inf
    if near in (np.inf, -np.inf):
        back = 1 if near > 0 else -1
    else:
        back = (Fraction(near) > true) - (Fraction(near) < true)
    lower = mode == "rm" or (mode == "rz" and true > 0)
    upper = mode == "rp" or (mode == "rz" and true < 0)
    if back > 0 and lower:
        return float(np.nextafter(near, -np.inf))
    if back < 0 and upper:
        return float(np.nextafter(near, np.inf))
    return near
