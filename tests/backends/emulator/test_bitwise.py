"""Bit instructions against Python's integers."""

import numpy as np
import pytest

from tests.backends.emulator.test_integer import check


@pytest.mark.parametrize("width", [16, 32, 64])
def test_logic(apply, width):
    mask = (1 << width) - 1
    for name, function in (
        ("and", lambda a, b: a & b),
        ("or", lambda a, b: a | b),
        ("xor", lambda a, b: a ^ b),
    ):
        check(apply, f"{name}.b{width} {{d}}, {{a}}, {{b}};", f"u{width}", function)
    check(apply, f"not.b{width} {{d}}, {{a}};", f"u{width}", lambda a: ~a & mask, 1)
    check(apply, f"cnot.b{width} {{d}}, {{a}};", f"u{width}", lambda a: int(a == 0), 1)


@pytest.mark.parametrize("kind", ["u16", "u32", "u64", "s16", "s32", "s64"])
def test_shifts_clamp(apply, kind):
    width = int(kind[1:])
    check(
        apply, f"shr.{kind} {{d}}, {{a}}, {{b}};", kind, lambda a, b: a >> min(b, width), kinds={"b": "u32"}
    )
    check(
        apply, f"shl.b{width} {{d}}, {{a}}, {{b}};", kind, lambda a, b: a << min(b, width), kinds={"b": "u32"}
    )


@pytest.mark.parametrize("mode", ["clamp", "wrap"])
def test_funnel_shift(apply, mode):
    def amount(c):
        return min(c, 32) if mode == "clamp" else c % 32

    check(apply, f"shf.l.{mode}.b32 {{d}}, {{a}}, {{b}}, {{c}};", "u32",
          lambda a, b, c: ((b << 32 | a) << amount(c)) >> 32, 3)  # fmt: skip
    check(
        apply,
        f"shf.r.{mode}.b32 {{d}}, {{a}}, {{b}}, {{c}};",
        "u32",
        lambda a, b, c: (b << 32 | a) >> amount(c),
        3,
    )


def field(a, b, c, width, signed):
    """The ISA's loop: bit by bit, beyond the word the sign."""
    msb = width - 1
    at, count = b & 0xFF, c & 0xFF
    u = a & ((1 << width) - 1)
    sign = 0 if not signed or count == 0 else u >> min(at + count - 1, msb) & 1
    bits = [u >> (at + i) & 1 if i < count and at + i <= msb else sign for i in range(msb + 1)]
    return sum(bit << i for i, bit in enumerate(bits))


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_extract(apply, kind):
    check(apply, f"bfe.{kind} {{d}}, {{a}}, {{b}}, {{c}};", kind,
          lambda a, b, c: field(a, b, c, int(kind[1:]), kind[0] == "s"), 3, kinds={"b": "u32",
          "c": "u32"})  # fmt: skip


@pytest.mark.parametrize("width", [32, 64])
def test_insert(apply, width):
    def insert(a, b, c):
        at, count, d = c & 0xFF, (c >> 3) & 0xFF, b
        for i in range(count):
            if at + i < width:
                d = d & ~(1 << at + i) | (a >> i & 1) << at + i
        return d

    text = f"{{{{ .reg .b32 n; shr.b32 n, {{c}}, 3; bfi.b{width} {{d}}, {{a}}, {{b}}, {{c}}, n; }}}}"
    check(apply, text, f"u{width}", insert, 3, kinds={"c": "u32"})


@pytest.mark.parametrize("width", [32, 64])
def test_counts(apply, width):
    kind = f"u{width}"
    check(apply, f"clz.b{width} {{d}}, {{a}};", kind, lambda a: width - a.bit_length(), 1, "u32")
    check(apply, f"popc.b{width} {{d}}, {{a}};", kind, lambda a: a.bit_count(), 1, "u32")
    check(apply, f"brev.b{width} {{d}}, {{a}};", kind, lambda a: int(f"{a:0{width}b}"[::-1], 2), 1)
    check(apply, f"bfind.{kind} {{d}}, {{a}};", kind, lambda a: a.bit_length() - 1, 1, "u32")
    check(apply, f"bfind.shiftamt.{kind} {{d}}, {{a}};", kind,
          lambda a: width - a.bit_length() if a else -1, 1, "u32")  # fmt: skip
    check(apply, f"bfind.s{width} {{d}}, {{a}};", f"s{width}",
          lambda a: (a if a >= 0 else ~a).bit_length() - 1, 1, "u32")  # fmt: skip


@pytest.mark.parametrize("table", [0x00, 0x80, 0xFE, 0x96, 0xCA, 0xE8, 0x1B, 0xFF])
def test_lop3(apply, table):
    def bitwise(a, b, c):
        return sum(
            (table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1) << i for i in range(32)
        )

    check(apply, f"lop3.b32 {{d}}, {{a}}, {{b}}, {{c}}, {table};", "u32", bitwise, 3)


def test_permute(apply):
    def bytes_of(a, b):
        return [x >> 8 * i & 0xFF for x in (a, b) for i in range(4)]

    def generic(a, b, c):
        picks = [c >> 4 * i & 15 for i in range(4)]
        found = [bytes_of(a, b)[p & 7] for p in picks]
        found = [(255 if x >> 7 else 0) if p & 8 else x for x, p in zip(found, picks, strict=True)]
        return sum(x << 8 * i for i, x in enumerate(found))

    def mode(picks):
        return lambda a, b, c: sum(bytes_of(a, b)[picks[c & 3][i]] << 8 * i for i in range(4))

    text = "prmt.b32{} {{d}}, {{a}}, {{b}}, {{c}};"
    check(apply, text.format(""), "u32", generic, 3)
    tables = {  # the ISA's table, low byte first
        "f4e": [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]],
        "b4e": [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]],
        "rc8": [[n] * 4 for n in range(4)],
        "ecl": [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]],
        "ecr": [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]],
        "rc16": [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]],
    }
    for name, picks in tables.items():
        check(apply, text.format(f".{name}"), "u32", mode(picks), 3)


def test_mask_and_sign_extension(apply):
    check(apply, "bmsk.clamp.b32 {d}, {a}, {b};", "u32", lambda a, b: ((1 << min(b, 32)) - 1) << min(a, 32))
    check(apply, "bmsk.wrap.b32 {d}, {a}, {b};", "u32", lambda a, b: ((1 << b % 32) - 1) << a % 32)

    def extended(a, n, signed):
        if n == 0:
            return 0
        low = a & ((1 << n) - 1)
        return low - (1 << n) if signed and low >> n - 1 else low

    check(
        apply,
        "szext.clamp.s32 {d}, {a}, {b};",
        "s32",
        lambda a, b: extended(a, min(b & 0xFFFFFFFF, 32), True),
    )
    check(apply, "szext.wrap.u32 {d}, {a}, {b};", "u32", lambda a, b: extended(a, b % 32, False))


def test_nth_set_bit(apply):
    def find(mask, base, offset):
        base %= 32
        steps = range(base, 32) if offset > 0 else range(base, -1, -1)
        if offset == 0:
            return base if mask >> base & 1 else -1
        found = [n for n in steps if mask >> n & 1]
        return found[abs(offset) - 1] if abs(offset) <= len(found) else -1

    text = "{{ .reg .b32 n; and.b32 n, {b}, 31; fns.b32 {d}, {a}, n, {c}; }}"
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 1 << 32, 200, dtype=np.uint32), rng.integers(0, 32, 200, dtype=np.uint32)
    c = rng.integers(-12, 13, 200).astype(np.int32)
    found = apply(text, "u32", a=("u32", a), b=("u32", b), c=("s32", c))
    rows = zip(a, b, c, strict=True)
    np.testing.assert_array_equal(found, [find(int(x), int(y), int(z)) & 0xFFFFFFFF for x, y, z in rows])
