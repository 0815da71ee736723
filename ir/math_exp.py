"""exp, exp2, and what is made of them: sigmoid, tanh, erf. f32 and f64.

Exponentials, after P. T. P. Tang, "Table-driven implementation of the exponential function" (1989), without
a table:
    base^x = 2^n * 2^f,  n = round(x * log2 base),  |f| <= 1/2
n comes from adding 1.5 * 2^mantissa, which leaves it in the low bits; ln 2 is taken off in two parts (W. J.
Cody, W. Waite, "Software Manual for the Elementary Functions", 1980); 2^f is a minimax polynomial (Remez).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.func import Value
from tilec.ir.inst.arith import Abs, Neg
from tilec.ir.spell import (
    add,
    bits_of,
    compare,
    div,
    float_of,
    fma,
    horner,
    maximum,
    minimum,
    mul,
    shl,
    shr,
    sub,
    where,
    with_sign_of,
)

Coefficients = tuple[float, ...]


@dataclass(frozen=True)
class Base:
    """A base: log2 of it, ln 2 / ln base in parts whose sum is more exact than each, and (base^r - 1) / r."""

    log2: float
    parts: tuple[float, ...]
    polynomial: Coefficients
    lowest: float  # results round to 0, and both factors 2^n are 0: subnormal products are slow on CPUs
    highest: float  # above it they overflow


E = {
    dt.f32: Base(
        1.4426950408889634,
        (0.693147182464599609375, -1.904654299957767878541e-9),
        (1.0, 0.4999999403953552, 0.1666652113199234, 0.041668254882097244, 0.008368661627173424,
         0.001382144633680582),
        -176.0,
        89.0,
    ),
    dt.f64: Base(
        1.4426950408889634,
        (0.693147180559945286226764, 2.319046813846299558417771e-17),
        (1.00000000000000002, 0.500000000000001251, 0.166666666666662167, 0.0416666666665177041,
         0.00833333333354988861, 0.00138888889463884847, 0.000198412694365177236, 0.0000248014905965365641,
         2.7557626845513348285e-6, 2.7631049233649032395e-7, 2.4991414130839444582e-8),
        -1418.0,
        710.0,
    ),
}  # fmt: skip

TWO = {
    dt.f32: Base(
        1.0,
        (1.0,),
        (0.6931471824645996, 0.24022647738456726, 0.05550359934568405, 0.009618505835533142,
         0.001339081209152937, 0.000153264933032915),
        -254.0,
        129.0,
    ),
    dt.f64: Base(
        1.0,
        (1.0,),
        (0.69314718055994532585, 0.24022650695910131384, 0.055504108664820079996, 0.0096181291075940639964,
         0.0013333558146775214406, 0.00015403530457189874388, 0.000015252733492725246859,
         1.321543524047396602e-6, 1.0178199672257241358e-7, 7.0737909039073969669e-9,
         4.4347658310756391393e-10),
        -2046.0,
        1025.0,
    ),
}  # fmt: skip


def exp(x: Value) -> Value:
    """e^x; at most 1 ulp."""
    return _everywhere(x, E[x.tile.dtype])


def exp2(x: Value) -> Value:
    """2^x; at most 1 ulp."""
    return _everywhere(x, TWO[x.tile.dtype])


def _everywhere(x: Value, base: Base) -> Value:
    """base^x with overflow and subnormal results: 2^n in two factors, the second of which rounds."""
    inside = minimum(maximum(x, base.lowest), base.highest)
    power, n = _reduced(inside, base, 2 * x.tile.dtype.bias)
    half = shr(n, 1)
    return mul(mul(power, _two_to(half, x.tile.dtype)), _two_to(sub(n, half), x.tile.dtype))


def _normal(x: Value, base: Base) -> Value:
    """base^x where the result is known to be a normal number."""
    power, n = _reduced(x, base, x.tile.dtype.bias)
    return mul(power, _two_to(n, x.tile.dtype))


def _reduced(x: Value, base: Base, bias: int) -> tuple[Value, Value]:
    """2^f near 1, and an integer whose low bits are n + bias."""
    shift = 1.5 * 2.0**x.tile.dtype.mantissa + bias
    shifted = add(x, shift) if base.log2 == 1 else fma(x, base.log2, shift)
    n, rest = sub(shifted, shift), x
    for part in base.parts:
        rest = sub(rest, n) if part == 1 else fma(n, -part, rest)
    return fma(horner(rest, base.polynomial), rest, 1.0), bits_of(shifted)


def _two_to(biased: Value, dtype: DType) -> Value:
    """2^n from the low bits n + bias: they become the exponent field, all others fall out."""
    return float_of(shl(biased, dtype.mantissa), dtype)


def sigmoid(x: Value) -> Value:
    """1 / (1 + e^-x), as e^x / (1 + e^x) below 0, where e^-x would overflow; at most 2 ulp."""
    t = exp(Neg(Abs(x)))
    return div(where(compare("ge", x, 0.0), 1.0, t), add(t, 1.0))


Program = tuple[float, float, Coefficients]
TANH: dict[DType, Program] = {  # the polynomial's end, from where tanh is 1, (tanh r - r) / r^3 in r^2
    dt.f32: (0.65, 10.0, (
        -0.333332598570583983, 0.13330830547714824, -0.053688037692458813, 0.0204694614107711702,
        -0.00551520438475448995)),
    dt.f64: (0.7, 22.0, (
        -0.33333333333333086654, 0.13333333333298885798, -0.053968253951440273178, 0.02186948812350808363,
        -0.0088632295758849354124, 0.0035920731067354359644, -0.0014554944219369402345,
        0.00058857880018072288317, -0.00023483825282149520449, 0.000088124900138039495116,
        -0.000027067618445053856149, 4.8003641244790167017e-6)),
}  # fmt: skip


def tanh(x: Value) -> Value:
    """A polynomial near 0, 1 - 2 / (e^2x + 1) beyond; at most 2 ulp."""
    border, most, polynomial = TANH[x.tile.dtype]
    a = Abs(x)
    square = mul(a, a)
    near = fma(mul(horner(square, polynomial), square), a, a)
    doubled = minimum(add(a, a), 2 * most)
    far = sub(1.0, div(2.0, add(_normal(doubled, E[x.tile.dtype]), 1.0)))
    return with_sign_of(x, where(compare("lt", a, border), near, far))


ERF: dict[DType, Program] = {  # the polynomial's end, from where erf is 1, erf r / r - 1 in r^2
    dt.f32: (0.9, 4.0, (
        0.128379155188883599, -0.37612526642259624, 0.112821637118703277, -0.0267795470730266791,
        0.0050127428801786313, -0.000609383391204728926)),
    dt.f64: (1.0, 6.0, (
        0.12837916709551257377, -0.37612638903183747769, 0.11283791670954862507, -0.026866170645073601683,
        0.0052239776247864514287, -0.00085483269790153546846, 0.00012055331045638292461,
        -0.000014925593694999319972, 1.6460975561976604805e-6, -1.6350052004326960828e-7,
        1.4658047138804961169e-8, -1.1366270899216343142e-9, 5.9462247151356537094e-11)),
}  # fmt: skip
LOG2_ERFC: dict[DType, Coefficients] = {  # between the two
    dt.f32: (
        -0.000238322981899591266, -1.6270750690211151359, -0.918949312852639197, -0.150215760220368529,
        0.0321996348090189174, -0.00442398246220445315, 0.000286115939505702058),
    dt.f64: (
        3.8668488250295526117e-8, -1.627907514804706135, -0.91844529157863169565, -0.14828040781627082032,
        0.027625439859112216528, 0.00024395788231040065361, -0.0023567485846676329195,
        0.00073847336764065740131, 0.000077179586278211379321, -0.000188080788244706591,
        0.00010746994311515655179, -0.000040549160732848229187, 0.000011463080593435838611,
        -2.4898044750147008033e-6, 4.0615812314439271926e-7, -4.5084260185274142386e-8,
        2.0075455578731076982e-9, 3.7445597432048897212e-10, -9.8328615513803659039e-11,
        1.1889118337839795209e-11, -8.7058639408156709404e-13, 3.7243231811057162995e-14,
        -7.2191919100438149583e-16),
}  # fmt: skip


def erf(x: Value) -> Value:
    """A polynomial near 0, 1 - 2^p beyond, p a polynomial for log2 of erfc; at most 2 ulp."""
    border, most, polynomial = ERF[x.tile.dtype]
    a = Abs(x)
    near = fma(horner(mul(a, a), polynomial), a, a)
    exponent = horner(minimum(a, most), LOG2_ERFC[x.tile.dtype])
    far = sub(1.0, _normal(exponent, TWO[x.tile.dtype]))
    return with_sign_of(x, where(compare("lt", a, border), near, far))


assert math.isclose(sum(E[dt.f64].parts), math.log(2), rel_tol=1e-16), "ln 2 in two parts"
