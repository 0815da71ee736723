"""sin and cos over the full range, f32 and f64.

The argument is reduced with as many digits of 2/pi as its exponent asks for, in integer arithmetic: M. H.
Payne, R. N. Hanek, "Radian reduction for trigonometric functions" (SIGNUM Newsletter 18, 1983). For x = M *
2^E the digits of 2/pi whose product with x is a multiple of 4 are left out; what is left is x * 2/pi modulo
4 as a fixed-point number:
    q = the nearest integer, the quadrant;   r = the rest * pi/2, |r| <= pi/4
On |r| <= pi/4 sine and cosine are minimax polynomials (Remez). Arguments up to pi/4 are their own rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.func import Value
from tilec.ir.inst.arith import Abs, Bitcast
from tilec.ir.spell import (
    add,
    bit_and,
    bit_or,
    bit_xor,
    bits_of,
    cast,
    compare,
    float_of,
    fma,
    full,
    horner,
    maximum,
    mul,
    shl,
    shr,
    sub,
    where,
)

Coefficients = tuple[float, ...]
SINE: dict[DType, Coefficients] = {  # (sin r - r) / r^3 in r^2
    dt.f32: (-0.1666665459588098, 0.0083321598727386319938, -0.00019515158795930051484),
    dt.f64: (-0.1666666666666663064, 0.0083333333333220955491, -0.00019841269829570450448,
             2.7557313614543205178e-6, -2.505074665821136297e-8, 1.5896164276562101224e-10),
}  # fmt: skip
COSINE: dict[DType, Coefficients] = {  # (cos r - 1 + r^2/2) / r^4 in r^2
    dt.f32: (0.041666645657405126792, -0.0013887314980864670067, 0.000024433008496481565503),
    dt.f64: (0.04166666666666659274, -0.0013888888888873023959, 0.000024801587288830888335,
             -2.7557314173129087035e-7, 2.0875699983347965133e-9, -1.1358491049368695574e-11),
}  # fmt: skip
DIGITS = 1280
TWO_OVER_PI = int(  # floor(2/pi * 2^1280)
    "a2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163abdebbc561b7246e3a424dd2e0"
    "06492eea09d1921cfe1deb1cb129a73ee88235f52ebb4484e99c7026b45f7e413991d639835339f4"
    "9c845f8bbdf9283b1ff897ffde05980fef2f118b5a0a6d1f6d367ecf27cb09b74f463f669e5fea2d"
    "7527bac7ebe5f17b3d0739f78a5292ea6bfb5fb11f8d5d0856033046fc7b6babf0cfbc209af4361d",
    16,
)
PARTS = 1.5707963267948966, 6.123233995736766e-17  # of pi/2


def sin(x: Value) -> Value:
    """The sine; at most 2 ulp for every finite x."""
    sine, cosine, quadrant = _parts(x)
    sign = bit_and(bits_of(x), -(1 << (x.tile.dtype.bits - 1)))
    return _turned(x, sine, cosine, quadrant, sign)


def cos(x: Value) -> Value:
    """The cosine, the sine a quadrant further; at most 2 ulp for every finite x."""
    sine, cosine, quadrant = _parts(x)
    return _turned(x, sine, cosine, add(quadrant, 1), None)


def _turned(x: Value, sine: Value, cosine: Value, quadrant: Value, sign: Value | None) -> Value:
    """Odd quadrants swap sine and cosine, the upper two change the sign."""
    dtype = x.tile.dtype
    y = bits_of(where(compare("eq", bit_and(quadrant, 1), 1), cosine, sine))
    y = bit_xor(y, shl(bit_and(quadrant, 2), dtype.bits - 2))
    y = float_of(y if sign is None else bit_xor(y, sign), dtype)
    return where(compare("lt", Abs(x), math.inf), y, math.nan)


def _parts(x: Value) -> tuple[Value, Value, Value]:
    """sin r, cos r and the quadrant of |x|."""
    r, quadrant = _rest(Abs(x))
    square = mul(r, r)
    sine = fma(mul(horner(square, SINE[x.tile.dtype]), square), r, r)
    tail = mul(horner(square, COSINE[x.tile.dtype]), mul(square, square))
    return sine, add(fma(square, -0.5, 1.0), tail), quadrant


def _rest(a: Value) -> tuple[Value, Value]:
    """r and the quadrant of a number that is not negative."""
    dtype, integer = a.tile.dtype, bits_of(a).tile.dtype
    high, *lower = _turns(a)
    quadrant = shr(add(high, 1 << 61), 62)
    whole = Bitcast(sub(high, shl(quadrant, 62)), dt.i64)  # in units of 2^-62, without the quadrant
    first = cast(whole, dtype)
    left = cast(sub(whole, cast(first, dt.i64)), dtype)
    for word in lower:
        left = fma(cast(word, dtype), 2.0**-64, left)
    big, small = _half_pi(dtype)
    r = fma(first, big, fma(first, small, mul(left, big)))
    near = compare("lt", a, math.pi / 4)
    return where(near, a, r), where(near, 0, cast(quadrant, integer))


def _half_pi(dtype: DType) -> tuple[float, float]:
    """pi/2 * 2^-62 in two parts of the dtype."""
    big = float(dtype.reference.type(PARTS[0]))
    return big * 2.0**-62, (PARTS[0] - big + PARTS[1]) * 2.0**-62


def _turns(a: Value) -> list[Value]:
    """a * 2/pi modulo 4 in words of 64 bits; the first has 62 bits after the point."""
    dtype, bits = a.tile.dtype, bits_of(a)
    hidden = 1 << dtype.mantissa
    significand = cast(bit_or(bit_and(bits, hidden - 1), hidden), dt.u64)
    exponent = sub(shr(bits, dtype.mantissa), dtype.bias - 1)
    first, *rest = _digits(exponent, dtype)
    total = mul(significand, first)
    if dtype.mantissa < 32:
        return [add(total, shr(mul(significand, shr(rest[0], 32)), 32))]
    low = mul(significand, rest[0])
    sum_ = add(low, _high_product(significand, rest[1]))
    carry = where(compare("lt", sum_, low), full(1, low), 0)
    return [add(total, add(_high_product(significand, rest[0]), carry)), sum_]


def _digits(exponent: Value, dtype: DType) -> list[Value]:
    """The digits of 2/pi that matter for numbers of this exponent (2^(e-1) <= a < 2^e), as words of
    64 bits.
    """
    wide = dtype.mantissa >= 32
    steps, count = (4, 4) if wide else (1, 3)
    place = shr(maximum(sub(exponent, 1), 0), 6)
    shift = cast(sub(exponent, shl(place, 6)), dt.u64)
    words = _pick([full(w, shift) for w in _words(dtype, count + (1 << steps) - 1)], place, steps)
    back = sub(64, shift)
    return [bit_or(shl(a, shift), shr(b, back)) for a, b in pairwise(words)]


def _words(dtype: DType, count: int) -> list[int]:
    """Zeros in front of the point, as many as the smallest exponent needs, then 2/pi."""
    digits = TWO_OVER_PI >> (DIGITS + dtype.mantissa + 3 - 64 * count)
    return [(digits >> 64 * i) & (2**64 - 1) for i in reversed(range(count))]


def _pick(words: Sequence[Value], place: Value, steps: int) -> list[Value]:
    """The words from `place` on, one bit of it after another."""
    found = list(words)
    for step in reversed(range(steps)):
        taken = compare("ne", bit_and(place, 1 << step), 0)
        found = [where(taken, b, a) for a, b in zip(found, found[1 << step :], strict=False)]
    return found


def _high_product(a: Value, b: Value) -> Value:
    """The upper 64 of the 128 bits of a product, from products of halves."""
    low = (1 << 32) - 1
    a0, a1, b0, b1 = bit_and(a, low), shr(a, 32), bit_and(b, low), shr(b, 32)
    inner, outer = mul(a1, b0), mul(a0, b1)
    middle = add(add(shr(mul(a0, b0), 32), bit_and(inner, low)), bit_and(outer, low))
    return add(add(mul(a1, b1), shr(middle, 32)), add(shr(inner, 32), shr(outer, 32)))
