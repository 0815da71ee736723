"""float64 sums and products without a second rounding.

A result that is rounded twice can be wrong: first to float64, then to f16, a value just over a tie becomes
the tie. Rounded to odd the first time (if inexact, to the neighbour with an odd last bit), it never does, as
long as two bits are left to drop:
    odd_sum(1.0, 2.0**-80) == 1.0 + 2.0**-52  # not 1.0: it says "and a little more"

Sources: two_sum is Knuth's, two_product Dekker's; rounding to odd and fma are from Boldo and Melquiond,
"Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd" (2008).
"""

from fractions import Fraction
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = np.ndarray[Any, Any]
Float64 = NDArray[np.float64]


def odd_sum(a: Array, b: Array) -> Float64:
    """a + b in float64, rounded to odd. Every sum of two f32 products, or of f32s, is within its range."""
    with np.errstate(all="ignore"):
        return _to_odd(*_two_sum(a.astype(np.float64), b.astype(np.float64)))


def odd_float(values: Array) -> Float64:
    """64-bit integers as float64, rounded to odd."""
    half = values.dtype.type(32)
    high = (values >> half).astype(np.float64) * 2.0**32
    return odd_sum(high, values & values.dtype.type(2**32 - 1))


def fma(a: Array, b: Array, c: Array) -> Float64:
    """a * b + c in float64, rounded once: overflow, subnormals and signed zeros included."""
    a, b, c = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (a, b, c)))
    with np.errstate(all="ignore"):
        product = a * b
        exponents = np.frexp(a)[1] + np.frexp(b)[1]
        special = (a == 0) | (b == 0) | ~(np.isfinite(a) & np.isfinite(b) & np.isfinite(c))
        safe = (np.abs(exponents) < 900) & _moderate(a) & _moderate(b) & (_moderate(c) | (c == 0))
        result = np.where(safe, _safe_fma(a, b, c), product + c)
        # A finite product may overflow here, where only c's infinity should show.
        result = np.where(np.isinf(c) & np.isfinite(a) & np.isfinite(b), c, result)
    rest = ~(safe | special)
    result[rest] = [_exact_fma(*map(float, abc)) for abc in zip(a[rest], b[rest], c[rest], strict=True)]
    return result


def _two_sum(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    """The rounded sum and its error, which is a float64 too."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def _two_product(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    """The rounded product and its error; exact while nothing over- or underflows."""
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    product = a * b
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _split(a: Float64) -> tuple[Float64, Float64]:
    """Two halves of 26 bits whose products are exact."""
    shifted = a * (2.0**27 + 1)
    high = shifted - (shifted - a)
    return high, a - high


def _to_odd(total: Float64, error: Float64) -> Float64:
    """total + error rounded to odd, where total is rounded to nearest; of two neighbours one is odd."""
    bits = np.asarray(total).view(np.int64)
    to_neighbour = np.where((error > 0) == (total > 0), 1, -1)
    leave = ~np.isfinite(total) | (error == 0) | (bits & 1 == 1)
    return np.where(leave, bits, bits + to_neighbour).view(np.float64)


def _moderate(x: Float64) -> NDArray[np.bool_]:
    """Far enough from both ends of float64 for products and errors of errors to be exact."""
    return (np.abs(x) < 2.0**900) & (np.abs(x) > 2.0**-900)


def _safe_fma(a: Float64, b: Float64, c: Float64) -> Float64:
    """Boldo and Melquiond's Fmac; operands finite, nonzero but for c, and moderate."""
    product, product_error = _two_product(a, b)
    low, low_error = _two_sum(c, product_error)
    high, high_error = _two_sum(product, low)
    return high + _to_odd(*_two_sum(low_error, high_error))


def _exact_fma(a: float, b: float, c: float) -> float:
    """One a * b + c through rationals; Python rounds their division once. All finite, a and b not zero."""
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c  # a * b is -c and so has no error: the hardware knows the sign of this zero
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return inf if exact > 0 else -inf
