"""cvt between every pair of types, against exact rationals."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from tests.backends.emulator.scalar import FORMATS, edges, encode, largest, special, value
from tests.backends.emulator.test_floating import RAW, WIDTH, agree, flushed
from tests.backends.emulator.test_integer import as_int, values

INTEGERS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
FLOATS = ("f16", "bf16", "f32", "f64")


def codes_of(name):
    return np.array(edges(name, count=120), np.uint64).astype(f"u{WIDTH[name]}")


def integers(kind):
    if kind[1:] != "8":
        return values(kind)[0]
    return np.arange(256).astype(np.uint8)


def limits(kind):
    width = int(kind[1:])
    return (-(1 << width - 1), (1 << width - 1) - 1) if kind[0] == "s" else (0, (1 << width) - 1)


@pytest.mark.parametrize("source", INTEGERS)
@pytest.mark.parametrize("to", INTEGERS)
def test_integers(apply, to, source):
    (low, high), (least, most) = limits(to), limits(source)
    for sat in ("", ".sat") if least < low or high < most else ("",):
        a = integers(source)
        found = apply(f"cvt{sat}.{to}.{source} {{d}}, {{a}};", to, a=(source, a))
        expected = [as_int(x, source) for x in a]
        expected = [max(low, min(high, x)) if sat else as_int(x, to) for x in expected]
        assert [int(x) for x in found] == expected


WHOLE = {"rni": lambda x: round(x), "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


@pytest.mark.parametrize("source", ["f16", "f32", "f64"])
@pytest.mark.parametrize("to", INTEGERS)
def test_float_to_integer(apply, to, source):
    width, signed = int(to[1:]), to[0] == "s"
    low, high = limits(to)
    nan = (-(1 << width - 1) if signed else 1 << width - 1) if source == "f64" or width == 64 else 0
    a = codes_of(source)
    more = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 127.5, 255.5, -128.5, 65503.5, 3e4, -6e4]).astype(
        {"f16": "f2", "f32": "f4", "f64": "f8"}[source])  # fmt: skip
    a = np.concatenate([a, more.view(a.dtype)])
    for mode, function in WHOLE.items():
        found = apply(f"cvt.{mode}.{to}.{source} {{d}}, {{a}};", to, a=(RAW[source], a))
        for f, code in zip(found, a, strict=True):
            x = value(int(code), source)
            if special(x):
                expected = nan if math.isnan(x) else (high if x > 0 else low)
            else:
                expected = max(low, min(high, int(function(Fraction(x)))))
            assert int(f) == expected, (mode, x)


@pytest.mark.parametrize("source", ["u16", "s16", "u32", "s32", "u64", "s64", "u8", "s8"])
@pytest.mark.parametrize("to", ["f16", "bf16", "f32", "f64"])
def test_integer_to_float(apply, to, source):
    a = integers(source)
    if to == "bf16" and source[1:] == "8":
        return  # the ISA has no such form
    for mode in ("rn", "rz", "rm", "rp"):
        found = apply(f"cvt.{mode}.{to}.{source} {{d}}, {{a}};", RAW[to], a=(source, a))
        expected = [encode(Fraction(as_int(x, source)), to, mode) for x in a]
        agree(found, expected, to, [()] * len(a))


@pytest.mark.parametrize(
    ("to", "source", "modes"),
    [("f16", "f32", ("rn", "rz")), ("bf16", "f32", ("rn", "rz")), ("f32", "f64", ("rn", "rz", "rm", "rp")),
     ("f16", "f64", ("rn", "rz", "rm", "rp")), ("f32", "f16", ("",)), ("f64", "f16", ("",)), ("f64", "f32",
     ("",)),
     ("f32", "bf16", ("",)), ("bf16", "f16", ("rn", "rz", "rm", "rp")),
     ("f16", "bf16", ("rn", "rz", "rm", "rp"))],
)  # fmt: skip
def test_floats(apply, to, source, modes):
    a = codes_of(source)
    for mode in modes:
        text = f"cvt{'.' + mode if mode else ''}.{to}.{source} {{d}}, {{a}};"
        found = apply(text, RAW[to], a=(RAW[source], a))
        expected = [encode(value(int(c), source), to, mode or "rn") for c in a]
        agree(found, expected, to, [(int(c) & 0,) for c in a])


def test_floats_to_whole_floats(apply):
    a = np.concatenate([codes_of("f32"), np.array([0.5, 1.5, 2.5, -0.5, 3.7, -3.7, 1e9], "f4").view("u4")])
    for mode, function in WHOLE.items():
        found = apply(f"cvt.{mode}.f32.f32 {{d}}, {{a}};", "b32", a=("b32", a))
        for f, code in zip(found, a, strict=True):
            x, y = value(int(code), "f32"), value(int(f), "f32")
            if special(x):
                assert (math.isnan(x) and math.isnan(y)) or x == y
            else:
                assert y == function(Fraction(x)) and (int(f) ^ int(code)) >> 31 == 0, (
                    mode,
                    float(x),
                    float(y),
                )


def test_flush_and_saturate(apply):
    a = codes_of("f32")
    found = apply("cvt.ftz.sat.f32.f32 {d}, {a};", "b32", a=("b32", a))
    for f, code in zip(found, a, strict=True):
        x = value(flushed(int(code), "f32"), "f32")
        expected = 0 if (special(x) and math.isnan(x)) or x <= 0 else min(int(code), 0x3F800000)
        assert int(f) == expected


@pytest.mark.parametrize("to", ["f16x2", "bf16x2"])
def test_pairs(apply, to):
    name = to.removesuffix("x2")
    a = codes_of("f32")
    b = np.roll(a, 7)
    for mode in ("rn", "rz", "rn.relu", "rz.relu"):
        found = apply(f"cvt.{mode}.{to}.f32 {{d}}, {{a}}, {{b}};", "b32", a=("b32", a), b=("b32", b))
        for half, codes in ((found >> np.uint32(16), a), (found & np.uint32(0xFFFF), b)):
            expected = [
                relu(encode(value(int(c), "f32"), name, mode[:2]), name, "relu" in mode) for c in codes
            ]
            agree(half.astype(np.uint16), expected, name, [()] * len(a))


def relu(code, name, on):
    e, m, _ = FORMATS[name]
    x = value(code, name)
    nan = special(x) and math.isnan(x)
    return 0 if on and code >> (e + m) and not nan else code


def test_tf32(apply):
    a = codes_of("f32")
    for mode in ("rna", "rn", "rz"):
        found = apply(f"cvt.{mode}.tf32.f32 {{d}}, {{a}};", "b32", a=("b32", a))
        expected = [encode(value(int(c), "f32"), "tf32", mode) << 13 for c in a]
        agree(found, expected, "f32", [()] * len(a))


def small_inputs(name):
    """Every midpoint and neighbour of a small format, and the edges of f32."""
    e, m, _ = FORMATS[name]
    grid = sorted({value(c, name) for c in range(1 << e + m) if not special(value(c, name))})
    middle = [(x + y) / 2 for x, y in pairwise(grid)]
    floats = [float(x) for x in grid + middle]
    near = [np.nextafter(np.float32(x), np.float32(s)) for x in floats for s in (0, 1e9)]
    found = np.array(
        floats + [float(x) for x in near] + [float(largest(name)) * s for s in (1.01, 1.2, 100.0)], np.float32
    )
    return np.concatenate([found, -found, codes_of("f32").view(np.float32)]).view(np.uint32)


SMALL = ("e4m3", "e5m2", "e2m3", "e3m2", "e2m1")


@pytest.mark.parametrize("name", SMALL)
def test_to_small(apply, name):
    a = small_inputs(name)
    b = np.roll(a, 3)
    width = 4 if name == "e2m1" else 8
    for mode in ("rn.satfinite", "rn.satfinite.relu"):
        text = f"cvt.{mode}.{name}x2.f32 {{d}}, {{a}}, {{b}};"
        if width == 4:
            text = "{{ .reg .b8 t; " + text.replace("{d}", "t") + " cvt.u16.u8 {d}, t; }}"
        found = apply(text, "u16", a=("b32", a), b=("b32", b))
        for half, codes in ((found >> width, a), (found & ((1 << width) - 1), b)):
            for f, c in zip(half, codes, strict=True):
                expected = relu(encode(value(int(c), "f32"), name, "rn", saturate=True), name, "relu" in mode)
                assert int(f) == expected, (mode, value(int(c), "f32"))


@pytest.mark.parametrize("name", SMALL)
def test_from_small(apply, name):
    """Every code in both halves; exact in f16."""
    width = 4 if name == "e2m1" else 8
    codes = np.arange(1 << sum(FORMATS[name][:2]) + 1, dtype=np.uint16)
    both = codes | np.roll(codes, 1) << width
    text = f"cvt.rn.f16x2.{name}x2 {{d}}, {{a}};"
    if width == 4:
        text = "{{ .reg .b8 t; cvt.u8.u16 t, {a}; " + text.replace("{a}", "t") + " }}"
    found = apply(text, "b32", a=("b16", both))
    for half, source in ((found & np.uint32(0xFFFF), codes), (found >> np.uint32(16), np.roll(codes, 1))):
        expected = [encode(value(int(c), name), "f16") for c in source]
        agree(half.astype(np.uint16), expected, "f16", [()] * len(codes))


def test_scales(apply):
    a = codes_of("f32")
    for mode in ("rz", "rp"):
        found = apply(f"cvt.{mode}.satfinite.ue8m0x2.f32 {{d}}, {{a}}, {{a}};", "b16", a=("b32", a)) & 0xFF
        for f, c in zip(found, a, strict=True):
            x = value(int(c), "f32")
            if special(x):
                assert int(f) == (255 if math.isnan(x) else 254)
                continue
            size = abs(Fraction(x))
            if size == 0 or size < Fraction(2) ** -127:
                assert int(f) == (0 if mode == "rz" or size <= Fraction(2) ** -127 else 1)
                continue
            power = Fraction(2) ** (int(f) - 127)
            assert (
                (power <= size < power * 2) if mode == "rz" else (power / 2 < size <= power or int(f) == 254)
            )
    codes = np.arange(256, dtype=np.uint16)
    found = apply("cvt.rn.bf16x2.ue8m0x2 {d}, {a};", "b32", a=("b16", codes)) & np.uint32(0xFFFF)
    expected = [0x7FFF if c == 255 else encode(Fraction(2) ** (int(c) - 127), "bf16") for c in codes]
    np.testing.assert_array_equal(found, expected)


def test_integer_pack(apply):
    a, b = values("s32")
    c = np.roll(a, 3)
    for to, low, high in (("u8", 0, 255), ("s8", -128, 127)):
        text = f"cvt.pack.sat.{to}.s32.b32 {{d}}, {{a}}, {{b}}, {{c}};"
        found = apply(text, "b32", a=("s32", a), b=("s32", b), c=("b32", c))
        for f, x, y, z in zip(found, a, b, c, strict=True):
            x, y = (max(low, min(high, as_int(v, "s32"))) & 0xFF for v in (x, y))
            assert int(f) == (int(z) << 16 | x << 8 | y) & 0xFFFFFFFF
    found = apply("cvt.pack.sat.s16.s32 {d}, {a}, {b};", "b32", a=("s32", a), b=("s32", b))
    for f, x, y in zip(found, a, b, strict=True):
        x, y = (max(-32768, min(32767, as_int(v, "s32"))) & 0xFFFF for v in (x, y))
        assert int(f) == x << 16 | y
