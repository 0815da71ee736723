"""Float arithmetic against exact rationals rounded once."""

import math
from fractions import Fraction

import numpy as np
import pytest

from tests.backends.emulator.scalar import FORMATS, edges, encode, exact, special, value

WIDTH = {"f16": 2, "bf16": 2, "f32": 4, "f64": 8}
RAW = {"f16": "b16", "bf16": "b16", "f32": "b32", "f64": "b64"}


def operands(name, count, limit=500):
    """`count` lists of codes: pairs of edge values in a random order, cut to `limit`."""
    rng = np.random.default_rng(7)
    codes = np.array(edges(name), np.uint64).astype(f"u{WIDTH[name]}")
    return [codes[rng.integers(0, len(codes), limit)] for _ in range(count)]


def is_nan(code, name):
    return isinstance(x := value(int(code), name), float) and math.isnan(x)


def agree(found, expected, name, rows):
    """Equal codes; any NaN equals any NaN."""
    for f, e, row in zip(found, expected, rows, strict=True):
        if is_nan(e, name) and is_nan(f, name):
            continue
        shown = [f"{int(c):#x}={value(int(c), name)}" for c in row]
        assert int(f) == e, f"found {int(f):#x}, expected {e:#x} for {shown}"


def check(apply, text, name, count, function, mode="rn", flush=False, saturate=False, limit=500):
    codes = operands(name, count, limit)
    found = apply(text, RAW[name], **{n: (RAW[name], c) for n, c in zip("abc", codes, strict=False)})
    rows = list(zip(*codes, strict=True))
    expected = [reference(function, row, name, mode, flush, saturate) for row in rows]
    agree(found, expected, name, rows)


def flushed(code, name):
    e, m, _ = FORMATS[name]
    return code & (1 << e + m) if code >> m & ((1 << e) - 1) == 0 else code


def reference(function, row, name, mode, flush, saturate):
    row = [flushed(int(c), name) if flush else int(c) for c in row]
    values = [value(c, name) for c in row]
    x = exact(function, *values)
    if not special(x) and not any(special(v) for v in values) and x == 0:
        code = encode(zero_result(function, values, mode), name)
    else:
        code = encode(x if isinstance(x, float) else Fraction(x), name, mode)
    if saturate:
        y = value(code, name)
        code = 0 if (special(y) and math.isnan(y)) or y <= 0 else min(code, encode(Fraction(1), name))
    return flushed(code, name) if flush else code


def zero_result(function, values, mode):
    """IEEE's zero: operands that are all zeros or signs decide; x - x is +0, or -0 when rounding down."""
    with np.errstate(all="ignore"):
        plain = float(
            function(*(np.float64(math.copysign(1, v)) * (np.float64(0) if v == 0 else 1) for v in values))
        )
    if plain == 0 and (any(v == 0 for v in values)):
        signs = zero_terms(function, values)
        if signs is not None:
            return signs
    return -0.0 if mode == "rm" else 0.0


def zero_terms(function, values):
    """Zero by a zero product or by zeros alone: float arithmetic keeps the sign there."""
    tiny = [
        np.float64(math.copysign(0.0, v)) if v == 0 else np.float64(math.copysign(1.0, v)) for v in values
    ]
    found = function(*tiny)
    return float(found) if found == 0 else None


NAMES = ("f16", "bf16", "f32", "f64")
FMA = "fma.{} {{d}}, {{a}}, {{b}}, {{c}};"


@pytest.mark.parametrize("name", NAMES)
def test_add_sub_mul(apply, name):
    check(apply, f"add.rn.{name} {{d}}, {{a}}, {{b}};", name, 2, lambda a, b: a + b)
    check(apply, f"sub.rn.{name} {{d}}, {{a}}, {{b}};", name, 2, lambda a, b: a - b)
    check(apply, f"mul.rn.{name} {{d}}, {{a}}, {{b}};", name, 2, lambda a, b: a * b)


@pytest.mark.parametrize("name", NAMES)
def test_fma(apply, name):
    check(apply, f"fma.rn.{name} {{d}}, {{a}}, {{b}}, {{c}};", name, 3, lambda a, b, c: a * b + c, limit=1200)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm.sat"])
@pytest.mark.parametrize("half", ["f16", "bf16"])
def test_halves_into_f32(apply, half, mode):
    """Of sm_100 and up: all operands but the last are halves, and as if they were f32."""
    (a, b), (c,) = operands(half, 2), operands("f32", 1)
    wide = [apply(f"cvt.f32.{half} {{d}}, {{a}};", "b32", a=("b16", x)) for x in (a, b)]
    halves, whole = {"a": ("b16", a), "b": ("b16", b)}, {"a": ("b32", wide[0]), "b": ("b32", wide[1])}
    for text in ("add.{} {{d}}, {{a}}, {{c}};", "sub.{} {{d}}, {{a}}, {{c}};", FMA):
        found, wanted = (
            apply(text.format(f"{mode}.{kind}"), "b32", **given, c=("b32", c))
            for kind, given in ((f"f32.{half}", halves), ("f32", whole))
        )
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
@pytest.mark.parametrize("name", ["f32", "f64"])
def test_directed(apply, name, mode):
    check(apply, f"add.{mode}.{name} {{d}}, {{a}}, {{b}};", name, 2, lambda a, b: a + b, mode)
    check(apply, f"mul.{mode}.{name} {{d}}, {{a}}, {{b}};", name, 2, lambda a, b: a * b, mode)
    check(apply, f"fma.{mode}.{name} {{d}}, {{a}}, {{b}}, {{c}};", name, 3, lambda a, b, c: a * b + c, mode)


def quotient(a, b):
    if b == 0:
        with np.errstate(all="ignore"):
            return float(np.float64(float(a)) / np.float64(float(b)))
    return a / b


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("name", ["f32", "f64"])
def test_div_and_sqrt(apply, name, mode):
    codes = operands(name, 2)
    rows = [
        (a, b) for a, b in zip(*codes, strict=True) if value(int(b), name) != 0 and value(int(a), name) != 0
    ]
    a, b = (np.array(c) for c in zip(*rows, strict=True))
    found = apply(f"div.{mode}.{name} {{d}}, {{a}}, {{b}};", RAW[name], a=(RAW[name], a), b=(RAW[name], b))
    agree(found, [reference(quotient, r, name, mode, False, False) for r in rows], name, rows)
    ones = encode(Fraction(1), name)
    found = apply(f"rcp.{mode}.{name} {{d}}, {{b}};", RAW[name], b=(RAW[name], b))
    agree(found, [reference(quotient, (ones, c), name, mode, False, False) for c in b], name, rows)
    found = apply(f"sqrt.{mode}.{name} {{d}}, {{a}};", RAW[name], a=(RAW[name], a))
    agree(found, [root(int(c), name, mode) for c in a], name, rows)


def root(code, name, mode):
    """The square root, rounded: a rational within 2^-300 of it rounds the same way unless it is exact."""
    x = value(code, name)
    if special(x) or x == 0:
        return encode(math.nan if x < 0 else x, name) if x != math.inf else encode(math.inf, name)
    if x < 0:
        return encode(math.nan, name)
    scale = 1 << 2400
    n = math.isqrt(int(x * scale * scale))
    exactly = Fraction(n, scale) ** 2 == x
    return encode(Fraction(n, scale) + (0 if exactly else Fraction(1, scale * 4)), name, mode)


def test_flush_and_saturate(apply):
    check(apply, "add.ftz.f32 {d}, {a}, {b};", "f32", 2, lambda a, b: a + b, flush=True)
    check(apply, "mul.ftz.sat.f32 {d}, {a}, {b};", "f32", 2, lambda a, b: a * b, flush=True, saturate=True)
    check(apply, "fma.rn.sat.f32 {d}, {a}, {b}, {c};", "f32", 3, lambda a, b, c: a * b + c, saturate=True)


def extreme(a, b, name, largest, propagate):
    x, y = value(a, name), value(b, name)
    if (special(x) and math.isnan(x)) or (special(y) and math.isnan(y)):
        both = all(special(v) and math.isnan(v) for v in (x, y))
        return encode(math.nan, name) if both or propagate else (b if special(x) and math.isnan(x) else a)
    if x == y == 0:
        signs = [a >> sum(FORMATS[name][:2]), b >> sum(FORMATS[name][:2])]
        return (a if signs[0] <= signs[1] else b) if largest else (a if signs[0] >= signs[1] else b)
    return (a if x >= y else b) if largest else (a if x <= y else b)


@pytest.mark.parametrize("name", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("operation", ["min", "max"])
def test_min_max(apply, name, operation):
    for nan in ("", ".NaN") if name != "f64" else ("",):
        a, b = operands(name, 2)
        found = apply(
            f"{operation}{nan}.{name} {{d}}, {{a}}, {{b}};", RAW[name], a=(RAW[name], a), b=(RAW[name], b)
        )
        rows = list(zip(a, b, strict=True))
        expected = [extreme(int(x), int(y), name, operation == "max", bool(nan)) for x, y in rows]
        agree(found, expected, name, rows)


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_packed(apply, name):
    """The packed form is the scalar form on both halves."""
    a, b, c = (np.ascontiguousarray(x).view(np.uint32) for x in operands(name, 3))
    found = apply(
        f"fma.rn.{name}x2 {{d}}, {{a}}, {{b}}, {{c}};", "b32", a=("b32", a), b=("b32", b), c=("b32", c)
    )
    rows = list(zip(*(x.view(np.uint16) for x in (a, b, c)), strict=True))
    expected = [reference(lambda x, y, z: x * y + z, r, name, "rn", False, False) for r in rows]
    agree(found.view(np.uint16), expected, name, rows)


def test_approximations(apply):
    x = np.concatenate([np.linspace(-8, 8, 401), np.geomspace(1e-30, 1e30, 200)]).astype(np.float32)
    for name, function in (
        ("ex2.approx.f32", lambda v: 2.0**v if v < 128 else math.inf), ("sin.approx.f32", math.sin),
        ("cos.approx.f32", math.cos), ("tanh.approx.f32", math.tanh),
        ("lg2.approx.f32", lambda v: math.log2(v) if v > 0 else (-math.inf if v == 0 else math.nan)),
        ("rsqrt.approx.f32", lambda v: v**-0.5 if v > 0 else (math.inf if v == 0 else math.nan)),
    ):  # fmt: skip
        found = apply(f"{name} {{d}}, {{a}};", "f32", a=("f32", x))
        expected = np.array([function(float(v)) for v in x]).astype(np.float32)
        np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-45, err_msg=name)


def test_signs_and_classes(apply):
    a, b = operands("f32", 2)
    kinds = {"a": ("b32", a), "b": ("b32", b)}
    expected = [
        reference(lambda x: -x, (c,), "f32", "rn", False, False) if c & 0x7FFFFFFF else int(c) ^ 1 << 31
        for c in a
    ]
    agree(apply("neg.f32 {d}, {a};", "b32", a=("b32", a)), expected, "f32", list(zip(a)))
    np.testing.assert_array_equal(apply("copysign.f32 {d}, {a}, {b};", "b32", **kinds),
                                  (b & np.uint32(0x7FFFFFFF)) | (a & np.uint32(1 << 31)))  # fmt: skip
    floats = a.view(np.float32)
    tests = {"finite": math.isfinite, "infinite": math.isinf, "number": lambda x: x == x,
    "notanumber": math.isnan,
             "normal": lambda x: math.isfinite(x) and abs(x) >= 2.0**-126,
             "subnormal": lambda x: 0 < abs(x) < 2.0**-126}  # fmt: skip
    for name, function in tests.items():
        found = apply(f"testp.{name}.f32 {{d}}, {{a}};", "pred", a=("b32", a))
        assert found.tolist() == [function(float(x)) for x in floats], name


COMPARISONS = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a < b or a > b, "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "num": lambda a, b: a == a and b == b, "nan": lambda a, b: a != a or b != b,
}  # fmt: skip


@pytest.mark.parametrize("name", ["f32", "f64", "f16", "bf16"])
def test_comparisons(apply, name):
    a, b = operands(name, 2)
    floats = [[float(value(int(c), name)) for c in x] for x in (a, b)]
    for test, function in COMPARISONS.items():
        for unordered in (False, True) if test not in ("num", "nan") else (False,):
            text = f"setp.{test}{'u' if unordered else ''}.{name} {{d}}, {{a}}, {{b}};"
            found = apply(text, "pred", a=(RAW[name], a), b=(RAW[name], b))
            expected = [
                function(x, y) or (unordered and (x != x or y != y)) for x, y in zip(*floats, strict=True)
            ]
            assert found.tolist() == expected, text


def test_compare_and_combine(apply):
    rng = np.random.default_rng(3)
    a, b = rng.integers(-3, 3, (2, 200)).astype(np.int32)
    c = rng.integers(0, 2, 200).astype(bool)
    for name, function in (("and", np.logical_and), ("or", np.logical_or), ("xor", np.logical_xor)):
        p, q = apply(f"setp.lt.{name}.s32 {{d}}|{{e}}, {{a}}, {{b}}, !{{c}};", "pred", ("d", "e"),
                     a=("s32", a), b=("s32", b), c=("pred", c))  # fmt: skip
        np.testing.assert_array_equal(p, function(a < b, ~c))
        np.testing.assert_array_equal(q, function(a >= b, ~c))


def test_select(apply):
    rng = np.random.default_rng(4)
    a, b, c = rng.integers(-9, 9, (3, 100)).astype(np.int32)
    p = rng.integers(0, 2, 100).astype(bool)
    kinds = {"a": ("s32", a), "b": ("s32", b)}
    found = apply("selp.b32 {d}, {a}, {b}, {c};", "s32", **kinds, c=("pred", p))
    np.testing.assert_array_equal(found, np.where(p, a, b))
    found = apply("slct.s32.s32 {d}, {a}, {b}, {c};", "s32", **kinds, c=("s32", c))
    np.testing.assert_array_equal(found, np.where(c >= 0, a, b))
    found = apply("set.gt.u32.s32 {d}, {a}, {b};", "u32", **kinds)
    np.testing.assert_array_equal(found, np.where(a > b, 0xFFFFFFFF, 0))
    found = apply("set.gt.f32.s32 {d}, {a}, {b};", "f32", **kinds)
    np.testing.assert_array_equal(found, np.where(a > b, 1.0, 0.0))
