"""Integer arithmetic in every type: add sub mul mad mul24 sad div rem abs neg min max, carries, dp4a, dp2a.

mul.hi.u32 d, a, b      d = (a * b) >> 32
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.decode import Form, Step
from tilec.backends.emulator.ptx_types import Sel, bits, numpy_type

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

INTEGERS = ("u16", "u32", "u64", "s16", "s32", "s64")


def binary(f: Form, kind: str, function: Callable[[Any, Any], Any]) -> Step:
    f.count(3)
    put, a, b = f.target(0, kind), f.source(1, kind), f.source(2, kind)
    return Step(lambda m, s: put(m, s, function(a(m, s), b(m, s))))


def unary(f: Form, kind: str, function: Callable[[Any], Any]) -> Step:
    f.count(2)
    put, a = f.target(0, kind), f.source(1, kind)
    return Step(lambda m, s: put(m, s, function(a(m, s))))


def ternary(f: Form, kind: str, function: Callable[[Any, Any, Any], Any]) -> Step:
    f.count(4)
    put, a, b, c = f.target(0, kind), f.source(1, kind), f.source(2, kind), f.source(3, kind)
    return Step(lambda m, s: put(m, s, function(a(m, s), b(m, s), c(m, s))))


def saturate32(wide: Any) -> Any:
    return np.clip(wide, -(2**31), 2**31 - 1).astype(np.int32)


def add(f: Form) -> Step:
    kind = f.type(*INTEGERS)
    if f.take("sat"):
        return binary(f, kind, lambda a, b: saturate32(np.add(a, b, dtype=np.int64)))
    return carrying(f, kind, False) if f.take("cc") else binary(f, kind, np.add)


def sub(f: Form) -> Step:
    kind = f.type(*INTEGERS)
    if f.take("sat"):
        return binary(f, kind, lambda a, b: saturate32(np.subtract(a, b, dtype=np.int64)))
    return carrying(f, kind, True) if f.take("cc") else binary(f, kind, np.subtract)


def unsigned_kind(kind: str) -> str:
    return f"u{bits(kind)}"


def carrying(f: Form, kind: str, borrow: bool) -> Step:
    """add.cc and sub.cc: the carry-out (or borrow) goes to the condition code."""
    kind = unsigned_kind(kind)
    put, a, b = f.target(0, kind), f.source(1, kind), f.source(2, kind)

    def run(m: Machine, s: Sel) -> None:
        x, y = a(m, s), b(m, s)
        m.carry[s] = x < y if borrow else np.add(x, y) < x
        put(m, s, np.subtract(x, y) if borrow else np.add(x, y))

    return Step(run)


def extended(f: Form, borrow: bool) -> Step:
    """addc and subc: with the carry in, and out when .cc is there."""
    kind, out = unsigned_kind(f.type(*INTEGERS)), f.take("cc")
    put, a, b = f.target(0, kind), f.source(1, kind), f.source(2, kind)

    def run(m: Machine, s: Sel) -> None:
        x, y, c = a(m, s), b(m, s), m.carry[s].astype(numpy_type(kind))
        total = np.subtract(np.subtract(x, y), c) if borrow else np.add(np.add(x, y), c)
        if out:
            m.carry[s] = (
                ((x < y) | ((x == y) & (c != 0))) if borrow else ((total < x) | ((total == x) & (c != 0)))
            )
        put(m, s, total)

    return Step(run)


def addc(f: Form) -> Step:
    return extended(f, False)


def subc(f: Form) -> Step:
    return extended(f, True)


def high(a: Any, b: Any, width: int) -> Any:
    """The upper half of the product of two integers of `width` bits."""
    dtype = np.result_type(a, b)
    if width <= 32:
        wide = np.dtype(f"{dtype.kind}{width // 4}")
        return (np.multiply(a, b, dtype=wide) >> wide.type(width)).astype(dtype)
    unsigned = high64(np.asarray(a).view(np.uint64), np.asarray(b).view(np.uint64))
    if dtype.kind == "u":
        return unsigned
    minus = np.where(np.less(a, 0), b, 0) + np.where(np.less(b, 0), a, 0)
    return unsigned.view(np.int64) - minus


def high64(a: Any, b: Any) -> Any:
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a0, a1, b0, b1 = a & mask, a >> half, b & mask, b >> half
    middle = a1 * b0 + ((a0 * b0) >> half)
    other = a0 * b1 + (middle & mask)
    return a1 * b1 + (middle >> half) + (other >> half)


def wide_type(kind: str) -> str:
    return f"{kind[0]}{bits(kind) * 2}"


def mul(f: Form) -> Step:
    kind, form = f.type(*INTEGERS), f.need("lo", "hi", "wide")
    if form == "wide":
        put, a, b = f.target(0, wide_type(kind)), f.source(1, kind), f.source(2, kind)
        wide = numpy_type(wide_type(kind))
        return Step(lambda m, s: put(m, s, np.multiply(a(m, s), b(m, s), dtype=wide)))
    if form == "hi":
        return binary(f, kind, lambda a, b: high(a, b, bits(kind)))
    return binary(f, kind, np.multiply)


def mad(f: Form) -> Step:
    kind, form = f.type(*INTEGERS), f.need("lo", "hi", "wide")
    saturating, out = f.take("sat"), f.take("cc")
    if form == "wide":
        return mad_wide(f, kind)
    if saturating:
        return ternary(f, kind, lambda a, b, c: saturate32(high(a, b, 32).astype(np.int64) + c))
    product: Callable[[Any, Any], Any] = np.multiply if form == "lo" else lambda a, b: high(a, b, bits(kind))
    if out:
        return mad_carry(f, kind, product, False, True)
    return ternary(f, kind, lambda a, b, c: np.add(product(a, b), c))


def mad_wide(f: Form, kind: str) -> Step:
    wide = wide_type(kind)
    put, a, b, c = f.target(0, wide), f.source(1, kind), f.source(2, kind), f.source(3, wide)
    dtype = numpy_type(wide)
    return Step(lambda m, s: put(m, s, np.multiply(a(m, s), b(m, s), dtype=dtype) + c(m, s)))


def madc(f: Form) -> Step:
    kind, form, out = f.type(*INTEGERS), f.need("lo", "hi"), f.take("cc")
    product: Callable[[Any, Any], Any] = np.multiply if form == "lo" else lambda a, b: high(a, b, bits(kind))
    return mad_carry(f, kind, product, True, bool(out))


def mad_carry(f: Form, kind: str, product: Callable[[Any, Any], Any], into: bool, out: bool) -> Step:
    dtype = numpy_type(unsigned_kind(kind))
    put, a, b, c = f.target(0, kind), f.source(1, kind), f.source(2, kind), f.source(3, kind)

    def run(m: Machine, s: Sel) -> None:
        x = np.asarray(product(a(m, s), b(m, s))).view(dtype)
        y, carry = np.asarray(c(m, s)).view(dtype), m.carry[s].astype(dtype) * into
        total = np.add(np.add(x, y), carry)
        if out:
            m.carry[s] = (total < x) | ((total == x) & (carry != 0))
        put(m, s, total.view(numpy_type(kind)))

    return Step(run)


def low24(x: Any) -> Any:
    """The low 24 bits, sign- or zero-extended."""
    eight = x.dtype.type(8)
    return (x << eight) >> eight


def mul24(f: Form) -> Step:
    kind, form = f.type("u32", "s32"), f.need("lo", "hi")
    return binary(f, kind, lambda a, b: product24(a, b, form))


def product24(a: Any, b: Any, form: str) -> Any:
    wide = low24(np.asarray(a)).astype(np.int64) * low24(np.asarray(b)).astype(np.int64)
    return (wide if form == "lo" else wide >> 16).astype(np.result_type(a))


def mad24(f: Form) -> Step:
    kind, form = f.type("u32", "s32"), f.need("lo", "hi")
    if f.take("sat"):
        return ternary(f, kind, lambda a, b, c: saturate32(product24(a, b, form).astype(np.int64) + c))
    return ternary(f, kind, lambda a, b, c: np.add(product24(a, b, form), c))


def sad(f: Form) -> Step:
    return ternary(f, f.type(*INTEGERS), lambda a, b, c: np.maximum(a, b) - np.minimum(a, b) + c)


def quotient(a: Any, b: Any) -> Any:
    """Division towards zero; by zero every bit is set, and the smallest over -1 wraps."""
    zero = np.equal(b, 0)
    safe = np.where(zero, np.ones_like(b), b)
    if np.result_type(a).kind == "u":
        result = a // safe
    else:
        magnitude = magnitude_of(a) // magnitude_of(safe)
        result = np.where(np.less(a, 0) != np.less(safe, 0), -magnitude, magnitude)
        result = result.astype(np.result_type(a))
    return np.where(zero, ~np.zeros_like(a), result)


def magnitude_of(x: Any) -> Any:
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    return np.where(np.less(x, 0), -np.asarray(x).view(unsigned), np.asarray(x).view(unsigned))


def remainder(a: Any, b: Any) -> Any:
    """a - quotient * b: the sign is the dividend's; by zero the dividend."""
    return np.where(np.equal(b, 0), a, a - quotient(a, b) * b)


def div(f: Form) -> Step:
    return binary(f, f.type(*INTEGERS), quotient)


def rem(f: Form) -> Step:
    return binary(f, f.type(*INTEGERS), remainder)


def absolute(f: Form) -> Step:
    return unary(f, f.type("s16", "s32", "s64"), np.abs)


def neg(f: Form) -> Step:
    return unary(f, f.type("s16", "s32", "s64"), np.negative)


def extremum(function: Callable[[Any, Any], Any]) -> Callable[[Form], Step]:
    def build(f: Form) -> Step:
        kind = f.type(*INTEGERS, "u16x2", "s16x2")
        relu = f.take("relu")
        if kind.endswith("x2"):
            return pairs(f, kind, function, bool(relu))
        return binary(f, kind, (lambda a, b: np.maximum(function(a, b), 0)) if relu else function)

    return build


def pairs(f: Form, kind: str, function: Callable[[Any, Any], Any], relu: bool) -> Step:
    dtype = numpy_type(kind[:3])

    def both(a: Any, b: Any) -> Any:
        x = function(np.atleast_1d(a).view(dtype), np.atleast_1d(b).view(dtype))
        return (np.maximum(x, 0) if relu else x).astype(dtype).view(np.uint32)

    f.count(3)
    put, a, b = f.target(0, "b32"), f.source(1, "b32"), f.source(2, "b32")
    return Step(lambda m, s: put(m, s, both(np.ascontiguousarray(a(m, s)), np.ascontiguousarray(b(m, s)))))


def add_pairs(f: Form) -> Step:
    return pairs(f, f.type("u16x2", "s16x2"), np.add, False)


def dot_product(count: int) -> Callable[[Form], Step]:
    """dp4a, dp2a: bytes of b times bytes (dp4a) or halves (dp2a, .lo or .hi) of a, summed onto c."""

    def build(f: Form) -> Step:
        half = f.need("lo", "hi") if count == 2 else "lo"
        first, second = f.type("u32", "s32"), f.type("u32", "s32")
        result = "s32" if "s32" in (first, second) else "u32"
        put, a, b, c = f.target(0, result), f.source(1, "b32"), f.source(2, "b32"), f.source(3, result)
        x_type, y_type = (
            np.dtype(f"{first[0].replace('s', 'i')}{4 // count}"),
            np.dtype(second[0].replace("s", "i") + "1"),
        )

        def run(m: Machine, s: Sel) -> None:
            x = np.ascontiguousarray(np.atleast_1d(a(m, s))).view(x_type).reshape(-1, count).astype(np.int64)
            y = np.ascontiguousarray(np.atleast_1d(b(m, s))).view(y_type).reshape(-1, 4).astype(np.int64)
            y = y[:, 2:] if half == "hi" else y[:, :count]
            put(m, s, ((x * y).sum(1) + c(m, s)).astype(numpy_type(result)))

        return Step(run)

    return build


BUILDERS: dict[str, Callable[[Form], Step]] = {
    "addc": addc, "subc": subc, "madc": madc, "mul24": mul24, "mad24": mad24, "sad": sad, "rem": rem,
    "dp4a": dot_product(4), "dp2a": dot_product(2),
}  # fmt: skip
