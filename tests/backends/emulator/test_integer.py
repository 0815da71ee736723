"""Integer and bit instructions against Python's integers, over edge values and random ones."""

import numpy as np
import pytest

INTEGERS = ("u16", "s16", "u32", "s32", "u64", "s64")


def values(kind, seed=0, count=40):
    """Edge values of a type crossed with themselves, and random ones."""
    width, rng = int(kind[1:]), np.random.default_rng(seed)
    edges = [0, 1, 2, 3, 5, 7, 31, 32, 33, 63, 64, 255, (1 << width) - 1, (1 << width) - 2, 1 << (width - 1),
             (1 << (width - 1)) - 1, (1 << (width - 1)) + 1, 0x5555555555555555,
             0xAAAAAAAAAAAAAAAA]  # fmt: skip
    edges = [e & ((1 << width) - 1) for e in edges]
    a = [x for x in edges for _ in edges] + [int(x) for x in rng.integers(0, 1 << 63, count)]
    b = [x for _ in edges for x in edges] + [int(x) for x in rng.integers(0, 1 << 63, count)]
    dtype = np.dtype(f"u{width // 8}")
    return [np.array([x & ((1 << width) - 1) for x in v], np.uint64).astype(dtype) for v in (a, b)]


def as_int(x, kind):
    width = int(kind[1:])
    x = int(x) & ((1 << width) - 1)
    return x - (1 << width) if kind[0] == "s" and x >> (width - 1) else x


def check(apply, text, kind, function, count=2, result=None, kinds=None):
    """The instruction on every operand tuple equals `function` on Python integers, modulo the result's
    width."""
    result = result or kind
    a, b = values(kind)
    c = np.roll(a, 5)
    operands = {"a": (kind, a), "b": (kind, b), "c": (kind, c)}
    operands = {n: operands[n] for n in "abc"[:count]}
    for n, other in (kinds or {}).items():
        operands[n] = (other, operands[n][1].astype(np.dtype(f"u{int(other[1:]) // 8}")))
    found = apply(text, result, **operands)
    width = int(result[1:])
    rows = zip(*(v for _, v in operands.values()), strict=True)
    types = [k for k, _ in operands.values()]
    expected = [
        function(*(as_int(x, k) for x, k in zip(row, types, strict=True))) & ((1 << width) - 1)
        for row in rows
    ]
    np.testing.assert_array_equal(
        found.view(f"u{width // 8}"), np.array(expected, np.uint64).astype(f"u{width // 8}")
    )


def truncated(a, b, width):
    if b == 0:
        return -1
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize(
    ("name", "function"),
    [("add", lambda a, b: a + b), ("sub", lambda a, b: a - b), ("mul.lo", lambda a, b: a * b),
     ("min", min), ("max", max), ("div", None), ("rem", None)],
)  # fmt: skip
def test_arithmetic(apply, name, function, kind):
    width = int(kind[1:])
    function = (
        function
        or {
            "div": lambda a, b: truncated(a, b, width),
            "rem": lambda a, b: a if b == 0 else a - b * truncated(a, b, width),
        }[name]
    )
    check(apply, f"{name}.{kind} {{d}}, {{a}}, {{b}};", kind, function)


@pytest.mark.parametrize("kind", INTEGERS)
def test_high_and_mad(apply, kind):
    width = int(kind[1:])
    check(apply, f"mul.hi.{kind} {{d}}, {{a}}, {{b}};", kind, lambda a, b: (a * b) >> width)
    check(apply, f"mad.lo.{kind} {{d}}, {{a}}, {{b}}, {{c}};", kind, lambda a, b, c: a * b + c, 3)
    check(
        apply, f"mad.hi.{kind} {{d}}, {{a}}, {{b}}, {{c}};", kind, lambda a, b, c: ((a * b) >> width) + c, 3
    )
    check(apply, f"sad.{kind} {{d}}, {{a}}, {{b}}, {{c}};", kind, lambda a, b, c: abs(a - b) + c, 3)


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32"])
def test_wide(apply, kind):
    wide = f"{kind[0]}{int(kind[1:]) * 2}"
    check(apply, f"mul.wide.{kind} {{d}}, {{a}}, {{b}};", kind, lambda a, b: a * b, result=wide)
    check(
        apply,
        f"mad.wide.{kind} {{d}}, {{a}}, {{b}}, {{c}};",
        kind,
        lambda a, b, c: a * b + c,
        3,
        wide,
        {"c": wide},
    )


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
def test_signs(apply, kind):
    check(apply, f"abs.{kind} {{d}}, {{a}};", kind, abs, 1)
    check(apply, f"neg.{kind} {{d}}, {{a}};", kind, lambda a: -a, 1)


def clamp(x):
    return max(-(2**31), min(2**31 - 1, x))


def test_saturating(apply):
    check(apply, "add.sat.s32 {d}, {a}, {b};", "s32", lambda a, b: clamp(a + b))
    check(apply, "sub.sat.s32 {d}, {a}, {b};", "s32", lambda a, b: clamp(a - b))
    check(apply, "mad.hi.sat.s32 {d}, {a}, {b}, {c};", "s32", lambda a, b, c: clamp((a * b >> 32) + c), 3)


@pytest.mark.parametrize("kind", ["u32", "u64"])
def test_carries(apply, kind):
    mask = (1 << int(kind[1:])) - 1
    text = f"add.cc.{kind} {{d}}, {{a}}, {{b}}; addc.{kind} {{d}}, {{c}}, 0;"
    check(apply, text, kind, lambda a, b, c: c + (a + b > mask), 3)
    text = (
        f"sub.cc.{kind} {{d}}, {{a}}, {{b}}; subc.cc.{kind} {{d}}, {{c}}, 0; subc.{kind} {{d}}, {{d}}, {{a}};"
    )
    check(apply, text, kind, lambda a, b, c: c - (a < b) - a - (c - (a < b) < 0), 3)
    text = f"mad.lo.cc.{kind} {{d}}, {{a}}, {{b}}, {{c}}; madc.hi.{kind} {{d}}, {{a}}, {{b}}, 0;"
    check(apply, text, kind, lambda a, b, c: (a * b + c) >> int(kind[1:]), 3)


def test_24_bits(apply):
    def low(x, signed):
        x &= 0xFFFFFF
        return x - (1 << 24) if signed and x >> 23 else x

    for kind in ("u32", "s32"):
        s = kind == "s32"
        check(apply, f"mul24.lo.{kind} {{d}}, {{a}}, {{b}};", kind, lambda a, b, s=s: low(a, s) * low(b, s))
        check(
            apply,
            f"mul24.hi.{kind} {{d}}, {{a}}, {{b}};",
            kind,
            lambda a, b, s=s: low(a, s) * low(b, s) >> 16,
        )
        check(apply, f"mad24.lo.{kind} {{d}}, {{a}}, {{b}}, {{c}};", kind,
              lambda a, b, c, s=s: low(a, s) * low(b, s) + c, 3)  # fmt: skip


def parts(x, width, signed):
    mask = (1 << width) - 1
    found = [(x >> shift) & mask for shift in range(0, 32, width)]
    return [p - (1 << width) if signed and p >> (width - 1) else p for p in found]


@pytest.mark.parametrize("first", ["u32", "s32"])
@pytest.mark.parametrize("second", ["u32", "s32"])
def test_dot_products(apply, first, second):
    def four(a, b, c):
        return (
            sum(x * y for x, y in zip(parts(a, 8, first == "s32"), parts(b, 8, second == "s32"), strict=True))
            + c
        )

    def two(a, b, c, half):
        return sum(x * y for x, y in zip(parts(a, 16, first == "s32"), parts(b, 8,
        second == "s32")[half:half + 2],
                                         strict=True)) + c  # fmt: skip

    check(apply, f"dp4a.{first}.{second} {{d}}, {{a}}, {{b}}, {{c}};", "u32", four, 3)
    check(
        apply,
        f"dp2a.lo.{first}.{second} {{d}}, {{a}}, {{b}}, {{c}};",
        "u32",
        lambda a, b, c: two(a, b, c, 0),
        3,
    )
    check(
        apply,
        f"dp2a.hi.{first}.{second} {{d}}, {{a}}, {{b}}, {{c}};",
        "u32",
        lambda a, b, c: two(a, b, c, 2),
        3,
    )


def halves(x, signed):
    return parts(x, 16, signed)


@pytest.mark.parametrize("kind", ["u16x2", "s16x2"])
@pytest.mark.parametrize(("name", "function"), [("add", lambda a, b: a + b), ("min", min), ("max", max)])
def test_pairs(apply, kind, name, function):
    signed = kind[0] == "s"

    def both(a, b):
        low, high = (
            function(x, y) & 0xFFFF for x, y in zip(halves(a, signed), halves(b, signed), strict=True)
        )
        return low | high << 16

    check(apply, f"{name}.{kind} {{d}}, {{a}}, {{b}};", "u32", both)
