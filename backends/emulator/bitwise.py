"""Bits: and or xor not cnot shl shr shf bfe bfi bfind brev clz popc lop3 prmt fns bmsk szext.

prmt.b32 d, a, b, c     byte i of d is byte (c >> 4i & 7) of b:a, its sign spread where c >> 4i & 8
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.decode import Form, Step, full
from tilec.backends.emulator.integer import binary, ternary, unary
from tilec.backends.emulator.ptx_types import Sel, bits, numpy_type

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

WORDS = ("pred", "b16", "b32", "b64")


def logic(function: Callable[[Any, Any], Any]) -> Callable[[Form], Step]:
    return lambda f: binary(f, f.type(*WORDS), function)


def not_(f: Form) -> Step:
    return unary(f, f.type(*WORDS), np.invert)


def cnot(f: Form) -> Step:
    kind = f.type("b16", "b32", "b64")
    return unary(f, kind, lambda a: np.equal(a, 0).astype(numpy_type(kind)))


def shift(left: bool) -> Callable[[Form], Step]:
    """Shifts clamp: by the width or more the result is 0, or the sign for a signed right shift."""

    def build(f: Form) -> Step:
        kind = f.type("b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64")
        width, dtype = bits(kind), numpy_type(kind)
        f.count(3)
        put, a, b = f.target(0, kind), f.source(1, kind), f.source(2, "u32")
        return Step(lambda m, s: put(m, s, shifted(a(m, s), b(m, s), width, dtype, left)))

    return build


def shifted(a: Any, b: Any, width: int, dtype: np.dtype[Any], left: bool) -> Any:
    amount = np.minimum(b, np.uint32(width - 1)).astype(dtype)
    result = np.left_shift(a, amount) if left else np.right_shift(a, amount)
    over = np.greater_equal(b, width)
    if not np.any(over):
        return result
    fill = np.zeros_like(result) if left or dtype.kind == "u" else np.right_shift(a, dtype.type(width - 1))
    return np.where(over, fill, result)


def shf(f: Form) -> Step:
    """Funnel shift of b:a (b high): shf.l gives the upper word, shf.r the lower."""
    direction, mode = f.need("l", "r"), f.need("clamp", "wrap")
    f.type("b32")
    put, a, b, c = f.target(0, "b32"), f.source(1, "b32"), f.source(2, "b32"), f.source(3, "u32")

    def run(m: Machine, s: Sel) -> None:
        n = c(m, s)
        n = (np.minimum(n, np.uint32(32)) if mode == "clamp" else n & np.uint32(31)).astype(np.uint64)
        both = (np.asarray(b(m, s)).astype(np.uint64) << np.uint64(32)) | np.asarray(a(m, s)).astype(
            np.uint64
        )
        put(m, s, (((both << n) >> np.uint64(32)) if direction == "l" else (both >> n)).astype(np.uint32))

    return Step(run)


def bfe(f: Form) -> Step:
    kind = f.type("u32", "u64", "s32", "s64")
    f.count(4)
    put, a, b, c = f.target(0, kind), f.source(1, kind), f.source(2, "u32"), f.source(3, "u32")
    return Step(lambda m, s: put(m, s, extract(full(a(m, s), s), b(m, s), c(m, s), bits(kind))))


def extract(a: Any, position: Any, length: Any, width: int) -> Any:
    """The field, extended by its own top bit where a is signed; a field beyond the word reads the sign."""
    start = np.minimum(position & np.uint32(255), np.uint32(255)).astype(np.int64)
    count = (length & np.uint32(255)).astype(np.int64)
    signed = a.dtype.kind == "i"
    wide = a.astype(np.int64) if signed or width == 32 else a
    top = np.minimum(start + count - 1, width - 1)
    sign = ((wide >> top.astype(wide.dtype)) & wide.dtype.type(1)) != 0
    body = wide >> np.minimum(start, width - 1).astype(wide.dtype)
    inside = np.minimum(count, np.maximum(width - start, 0))
    mask = low_mask(inside, np.uint64)
    low = np.where(inside == 0, 0, body.astype(np.uint64) & mask)
    if signed:
        low = np.where(sign, low | ~mask, low)
    return np.where(count == 0, 0, low).astype(np.uint64).astype(a.dtype)


def low_mask(count: Any, dtype: Any) -> Any:
    """`count` ones; count from 0 to the width."""
    width = np.dtype(dtype).itemsize * 8
    ones = ~dtype(0) >> np.minimum(width - np.asarray(count), width - 1).astype(dtype)
    return np.where(np.asarray(count) == 0, dtype(0), ones)


def bfi(f: Form) -> Step:
    """Inserts the low bits of a into b."""
    kind = f.type("b32", "b64")
    f.count(5)
    width, dtype = bits(kind), numpy_type(kind)
    put, a, b = f.target(0, kind), f.source(1, kind), f.source(2, kind)
    c, d = f.source(3, "u32"), f.source(4, "u32")

    def run(m: Machine, s: Sel) -> None:
        start, count = (
            (c(m, s) & np.uint32(255)).astype(np.int64),
            (d(m, s) & np.uint32(255)).astype(np.int64),
        )
        count = np.minimum(count, np.maximum(width - start, 0))
        at = np.minimum(start, width - 1).astype(dtype)
        mask = low_mask(count, dtype.type) << at
        put(m, s, (b(m, s) & ~mask) | ((a(m, s) << at) & mask))

    return Step(run)


def bit_length(x: Any) -> Any:
    """Position of the highest one, plus one; 0 for 0. x unsigned."""
    x = np.asarray(x).astype(np.uint64)
    n = np.zeros(x.shape, np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        high = x >> np.uint64(step)
        n, x = n + step * (high != 0), np.where(high != 0, high, x)
    return n + (x != 0)


def clz(f: Form) -> Step:
    kind = f.type("b32", "b64")
    put, a = f.target(0, "u32"), f.source(1, kind)
    return Step(lambda m, s: put(m, s, (bits(kind) - bit_length(a(m, s))).astype(np.uint32)))


def popc(f: Form) -> Step:
    kind = f.type("b32", "b64")
    put, a = f.target(0, "u32"), f.source(1, kind)
    return Step(lambda m, s: put(m, s, np.bitwise_count(a(m, s)).astype(np.uint32)))


def brev(f: Form) -> Step:
    kind = f.type("b32", "b64")
    return unary(f, kind, lambda a: reverse(np.asarray(a), bits(kind)))


def reverse(x: Any, width: int) -> Any:
    """Swap neighbours, pairs, nibbles, ... up to halves."""
    t, step = x.dtype.type, 1
    while step < width:
        mask = t(sum(1 << n for n in range(width) if not n & step))
        x = ((x >> t(step)) & mask) | ((x & mask) << t(step))
        step *= 2
    return x


def bfind(f: Form) -> Step:
    amount, kind = f.take("shiftamt"), f.type("u32", "s32", "u64", "s64")
    put, a = f.target(0, "u32"), f.source(1, kind)

    def run(m: Machine, s: Sel) -> None:
        x = np.asarray(a(m, s))
        x = (np.where(x < 0, ~x, x) if x.dtype.kind == "i" else x).astype(np.uint64)
        n = bit_length(x)
        found = bits(kind) - n if amount else n - 1
        put(m, s, np.where(n == 0, -1, found).astype(np.int64).astype(np.uint32))

    return Step(run)


def lop3(f: Form) -> Step:
    """Bit i of d is bit (a_i b_i c_i) of the table; .BoolOp forms also give a predicate."""
    from tilec.backends.emulator.program import Immediate, Pair

    operation = f.take("or", "and")
    f.type("b32")
    table = f.operand(4)
    if not isinstance(table, Immediate):
        f.error("lop3 needs its table as a constant")
    where = f.operand(0)
    put = f.target(where.first if isinstance(where, Pair) else where, "b32")
    also = f.target(where.second, "pred") if isinstance(where, Pair) else None
    q = f.source(5, "pred") if operation else None
    a, b, c = (f.source(n, "b32") for n in (1, 2, 3))

    def run(m: Machine, s: Sel) -> None:
        d = lookup3(a(m, s), b(m, s), c(m, s), table.value)
        put(m, s, d)
        if also and q:
            also(m, s, (d != 0) | q(m, s) if operation == "or" else (d != 0) & q(m, s))

    return Step(run)


def lookup3(a: Any, b: Any, c: Any, table: int) -> Any:
    d = np.zeros(np.broadcast(a, b, c).shape, np.uint32)
    for row in range(8):
        if table >> row & 1:
            d = d | ((a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c))
    return d


MODES = {"f4e": lambda i, s: s + i, "b4e": lambda i, s: (s - i) & 7, "rc8": lambda i, s: s,
         "ecl": lambda i, s: np.maximum(i, s), "ecr": lambda i, s: np.minimum(i, s),
         "rc16": lambda i, s: (s & 1) * 2 + (i & 1)}  # fmt: skip


def prmt(f: Form) -> Step:
    mode = f.take(*MODES)
    f.type("b32")
    return ternary(f, "b32", lambda a, b, c: permuted(a, b, c, mode))


def permuted(a: Any, b: Any, c: Any, mode: str | None) -> Any:
    both = (np.asarray(b).astype(np.uint64) << np.uint64(32)) | np.asarray(a).astype(np.uint64)
    d = np.zeros(np.broadcast(a, b, c).shape, np.uint32)
    for i in range(4):
        if mode:
            pick = (MODES[mode](i, (c & np.uint32(3)).astype(np.int64)) & 7).astype(np.uint64)
            spread: Any = np.uint32(0)
        else:
            pick, spread = (
                ((c >> np.uint32(4 * i)) & np.uint32(7)).astype(np.uint64),
                (c >> np.uint32(4 * i)) & np.uint32(8),
            )
        byte = (both >> (pick * np.uint64(8))).astype(np.uint32) & np.uint32(255)
        byte = np.where(spread != 0, np.where(byte >= 128, np.uint32(255), np.uint32(0)), byte)
        d |= (byte << np.uint32(8 * i)).astype(np.uint32)
    return d


def bmsk(f: Form) -> Step:
    mode = f.need("clamp", "wrap")
    f.type("b32")

    def mask(a: Any, b: Any) -> Any:
        if mode == "wrap":
            a, b = a & np.uint32(31), b & np.uint32(31)
        start, count = np.minimum(a, 32).astype(np.int64), np.minimum(b, 32).astype(np.int64)
        return (low_mask(count, np.uint64) << start.astype(np.uint64)).astype(np.uint32)

    return binary(f, "b32", mask)


def szext(f: Form) -> Step:
    """Extends a from its low b bits."""
    mode, kind = f.need("clamp", "wrap"), f.type("u32", "s32")
    put, a, b = f.target(0, kind), f.source(1, kind), f.source(2, "u32")

    def run(m: Machine, s: Sel) -> None:
        n = b(m, s) & np.uint32(31) if mode == "wrap" else np.minimum(b(m, s), np.uint32(32))
        put(m, s, extract(full(a(m, s), s), np.uint32(0), n, 32))

    return Step(run)


def fns(f: Form) -> Step:
    """The position of the offset-th set bit of a mask, counted from a base upwards or downwards."""
    f.type("b32")
    put, mask, base, offset = f.target(0, "u32"), f.source(1, "b32"), f.source(2, "u32"), f.source(3, "s32")

    def run(m: Machine, s: Sel) -> None:
        each = np.broadcast_arrays(full(mask(m, s), s), base(m, s), offset(m, s))
        put(
            m,
            s,
            np.array([nth_set(int(x), int(y), int(z)) for x, y, z in zip(*each, strict=True)], np.uint32),
        )

    return Step(run)


def nth_set(mask: int, base: int, offset: int) -> int:
    if offset == 0:
        return base if base < 32 and mask >> base & 1 else 0xFFFFFFFF
    places = range(base, 32) if offset > 0 else range(min(base, 31), -1, -1)
    found = [n for n in places if mask >> n & 1]
    return found[abs(offset) - 1] if abs(offset) <= len(found) else 0xFFFFFFFF


BUILDERS: dict[str, Callable[[Form], Step]] = {
    "and": logic(np.bitwise_and), "or": logic(np.bitwise_or), "xor": logic(np.bitwise_xor), "not": not_,
    "cnot": cnot, "shl": shift(True), "shr": shift(False), "shf": shf, "bfe": bfe, "bfi": bfi, "clz": clz,
    "popc": popc, "brev": brev, "bfind": bfind, "lop3": lop3, "prmt": prmt, "bmsk": bmsk, "szext": szext,
    "fns": fns,
}  # fmt: skip
