"""Floating point by definition: exact rationals, rounded once. Slow, scalar, and written apart from the
emulator."""

import math
from fractions import Fraction

import numpy as np

# name -> (exponent bits, mantissa bits, "ieee" | "fn" (no infinity, one NaN) | "finite")
FORMATS = {
    "f16": (5, 10, "ieee"), "bf16": (8, 7, "ieee"), "f32": (8, 23, "ieee"), "f64": (11, 52, "ieee"),
    "tf32": (8, 10, "ieee"), "e4m3": (4, 3, "fn"), "e5m2": (5, 2, "ieee"), "e2m3": (2, 3, "finite"),
    "e3m2": (3, 2, "finite"), "e2m1": (2, 1, "finite"),
}  # fmt: skip


def value(code, name):
    """A code as Fraction, math.inf, -math.inf, math.nan, or -0.0 for negative zero."""
    e, m, special = FORMATS[name]
    sign = -1 if code >> (e + m) & 1 else 1
    exponent, fraction = code >> m & ((1 << e) - 1), code & ((1 << m) - 1)
    bias, top = (1 << e - 1) - 1, (1 << e) - 1
    if special == "ieee" and exponent == top:
        return math.nan if fraction else sign * math.inf
    if special == "fn" and exponent == top and fraction == (1 << m) - 1:
        return math.nan
    if exponent == 0 and fraction == 0:
        return -0.0 if sign < 0 else Fraction(0)
    size = Fraction(fraction, 1 << m) + (exponent > 0)
    return sign * size * Fraction(2) ** (max(exponent, 1) - bias)


def largest(name):
    e, m, special = FORMATS[name]
    code = {"ieee": (((1 << e) - 1) << m) - 1, "fn": (1 << e + m) - 2, "finite": (1 << e + m) - 1}[special]
    return value(code, name)


def whole(x, mode, negative):
    """A non-negative rational to an integer, in a mode that may depend on the sign."""
    low = math.floor(x)
    rest = x - low
    if mode == "rn":
        return low + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2 == 1))
    if mode == "rna":
        return low + (rest >= Fraction(1, 2))
    up = {"rz": False, "rm": negative, "rp": not negative}[mode]
    return low + (up and rest > 0)


def encode(x, name, mode="rn", saturate=False):
    """A value (as `value` gives them) to the code of a format."""
    e, m, special = FORMATS[name]
    top = 1 << e + m
    if isinstance(x, float) and (x == 0 or not math.isfinite(x)):
        if math.isnan(x):
            return {"ieee": nan_code(name), "fn": top - 1, "finite": top - 1}[special]
        if x == 0:
            return top if math.copysign(1, x) < 0 else 0
        sign = top if x < 0 else 0
        return sign | (encode(largest(name), name) if saturate or special == "finite" else infinity(name))
    x = Fraction(x)
    if x == 0:
        return 0
    negative, size = x < 0, abs(x)
    bias = (1 << e - 1) - 1
    exponent = max(math.floor(math.log2(size.numerator) - math.log2(size.denominator)) - 1, 1 - bias)
    while size >= Fraction(2) ** (exponent + 1):
        exponent += 1
    quantum = Fraction(2) ** (exponent - m)
    size = whole(size / quantum, mode, negative) * quantum
    sign = top if negative else 0
    if size > largest(name):
        stays = saturate or special == "finite" or mode == "rz" or (mode == "rm" and not negative) or (
            mode == "rp" and negative)  # fmt: skip
        return sign | (encode(largest(name), name) if stays else infinity(name))
    if size == 0:
        return sign
    if size >= Fraction(2) ** (exponent + 1):
        exponent += 1
    if size < Fraction(2) ** (1 - bias):
        return sign | int(size / Fraction(2) ** (1 - bias - m))
    return sign | (exponent + bias) << m | int((size / Fraction(2) ** exponent - 1) * (1 << m))


def infinity(name):
    e, m, special = FORMATS[name]
    return ((1 << e) - 1) << m if special == "ieee" else (1 << e + m) - 1


def nan_code(name):
    return {
        "f16": 0x7FFF,
        "bf16": 0x7FFF,
        "f32": 0x7FFFFFFF,
        "e5m2": 0x7F,
        "f64": 0x7FFFFFFFFFFFFFFF,
        "tf32": 0x3FFFF,
    }.get(name, -1)


def special(x):
    return isinstance(x, float) and (math.isnan(x) or math.isinf(x))


def exact(function, *values):
    """A rational function of values; where one is infinite or NaN, float arithmetic on signs decides."""
    if any(special(x) for x in values):
        signs = [np.float64(x if special(x) or x == 0 else math.copysign(1.0, x)) for x in values]
        with np.errstate(all="ignore"):
            return float(function(*signs))
    return function(*(Fraction(x) for x in values))


def edges(name, seed=0, count=60):
    """Codes worth trying: zeros, subnormals, ones, neighbours of powers, largest, infinities, NaN, random
    ones."""
    e, m, _ = FORMATS[name]
    top, one = 1 << e + m, ((1 << e - 1) - 1) << m
    codes = [0, 1, 2, (1 << m) - 1, 1 << m, (1 << m) + 1, one - 1, one, one + 1, one + (1 << m),
    one + (1 << m - 1),
             (((1 << e) - 1) << m) - 1, ((1 << e) - 1) << m, nan_code(name)]  # fmt: skip
    codes = [c for c in codes if c >= 0]
    near = np.random.default_rng(seed).integers(max(0, one - (6 << m)), one + (6 << m), count)
    far = np.random.default_rng(seed + 1).integers(0, top - 1, count)
    codes += [int(c) for c in near] + [int(c) for c in far]
    return codes + [c | top for c in codes]
