"""Elementwise instructions on fragments: two elements at a time where 16-bit floats share a register.

Also the way from small integers to 16-bit floats: an integer of no more bits than the mantissa, put into the
mantissa of 2^mantissa, is that number plus the integer, so one subtraction makes the cast (the numbers are
exact throughout).
    u4 -> f16:  (0x6400 | q) - 1024        for both halves of a register at once
A float of fewer exponent bits, its fields moved to where the wider float has them, is right but for the
exponent's bias: one multiplication by a power of two, exact for subnormals too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tilec.backends import emit
from tilec.backends.ptx.emitter import Fragment
from tilec.backends.writer import held
from tilec.ir.dtype import DType
from tilec.ir.func import Inst, Value
from tilec.ir.inst.arith import Cast, Full, Sub
from tilec.ir.inst.shape import Broadcast

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

HALVES = ("half", "bfloat")  # what shares a 32-bit register with another, and has instructions on both


def elementwise(e: Emitter, inst: Inst) -> Any:
    """A fragment, or a scalar, from one element of each operand at a time."""
    assert type(inst) in emit.EMITTERS, f"{type(inst).__name__} has no emitter for PTX"
    if inst.tile.rank == 0:
        return emit.elementwise(e.writer, inst, [e.scalar(v) for v in inst.operands])
    parts = [e.fragment(v) for v in inst.operands]
    dtype, layout = inst.tile.dtype, parts[0].layout
    pairs = layout.slots % 2 == 0 and any(held(d) in HALVES for d in (dtype, *(p.dtype for p in parts)))
    if not pairs:
        rows = zip(*(part.slots for part in parts), strict=True)
        return Fragment(dtype, layout, [emit.elementwise(e.writer, inst, row) for row in rows])
    shifted = _shifted_integers(inst)
    if shifted is not None:
        return _less_constant(e, *shifted, dtype)
    slots: list[str] = []
    for i in range(0, layout.slots, 2):
        source = parts[0].dtype
        if isinstance(inst, Cast) and (_fits_mantissa(source, dtype) or _fits_exponent(source, dtype)):
            widen = _from_integers if source.is_integer else _from_floats
            slots += _unpair(e, widen(e, parts[0].slots[i : i + 2], source, dtype), dtype)
        else:
            slots += _two(e, inst, [part.slots[i : i + 2] for part in parts], [part.dtype for part in parts])
    return Fragment(dtype, layout, slots)


def _two(e: Emitter, inst: Inst, operands: list[Sequence[str]], dtypes: list[DType]) -> list[str]:
    pairs = [_pair(e, slots, dtype) for slots, dtype in zip(operands, dtypes, strict=True)]
    with e.writer.at_width(2):
        both = emit.elementwise(e.writer, inst, pairs)
    return _unpair(e, both, inst.tile.dtype)


def _pair(e: Emitter, slots: Sequence[str], dtype: DType) -> str:
    """Two elements as an LLVM vector; the register that they came from, if they came from one."""
    kind = held(dtype)
    if kind in HALVES and tuple(slots) in e.words:
        return e.let(f"bitcast i32 {e.words[tuple(slots)]} to <2 x {kind}>")
    if slots[0] == slots[1] and not slots[0].startswith("%"):
        return f"splat ({kind} {slots[0]})"
    one = e.let(f"insertelement <2 x {kind}> poison, {kind} {slots[0]}, i32 0")
    return e.let(f"insertelement <2 x {kind}> {one}, {kind} {slots[1]}, i32 1")


def _unpair(e: Emitter, both: str, dtype: DType) -> list[str]:
    kind = held(dtype)
    slots = [e.let(f"extractelement <2 x {kind}> {both}, i32 {i}") for i in range(2)]
    if kind in HALVES:
        e.words[tuple(slots)] = e.let(f"bitcast <2 x {kind}> {both} to i32")
    return slots


def _fits_mantissa(source: DType, into: DType) -> bool:
    """Whether every integer of a dtype, made non-negative, fits the mantissa of a 16-bit float."""
    return source.is_integer and source.bits <= into.mantissa and held(into) in HALVES


def _fits_exponent(source: DType, into: DType) -> bool:
    """Whether a float of at most 8 bits, finite in every code, has a narrower exponent and mantissa."""
    special = source.has_nan or source.has_infinity or not source.is_signed
    narrow = source.exponent < into.exponent and source.mantissa <= into.mantissa
    return source.is_float and source.bits <= 8 and not special and narrow and held(into) in HALVES


def _from_floats(e: Emitter, slots: Sequence[str], source: DType, into: DType) -> str:
    """Two codes of a small float as a pair of wider ones."""
    low, high = (e.let(f"zext i8 {s} to i32") for s in slots)
    both = e.let(f"or i32 {low}, {e.let(f'shl i32 {high}, 16')}")
    sign = (1 << (source.bits - 1)) * 0x10001
    signs = e.let(f"shl i32 {e.let(f'and i32 {both}, {sign}')}, {16 - source.bits}")
    rest = e.let(f"and i32 {both}, {sign - 0x10001}")
    placed = e.let(f"or i32 {signs}, {e.let(f'shl i32 {rest}, {into.mantissa - source.mantissa}')}")
    kind = held(into)
    with e.writer.at_width(2):
        factor = e.writer.constant(2.0 ** (into.bias - source.bias), into)
        return e.writer.op("fmul", kind, e.let(f"bitcast i32 {placed} to <2 x {kind}>"), factor)


def _shifted_integers(inst: Inst) -> tuple[Value, int] | None:
    """(x, c) of cast(x) - c for integers that fit the mantissa: one subtraction does both, exactly."""
    if not (isinstance(inst, Sub) and isinstance(inst.a, Cast)):
        return None
    constant = inst.b.x if isinstance(inst.b, Broadcast) else inst.b
    source, into = inst.a.x.tile.dtype, inst.tile.dtype
    if not (isinstance(constant, Full) and _fits_mantissa(source, into)):
        return None
    c = int(constant.value) if constant.value == constant.value // 1 else -1
    return (inst.a.x, c) if 0 <= c < 2 ** (into.mantissa - 1) else None


def _less_constant(e: Emitter, x: Value, constant: int, into: DType) -> Fragment:
    """cast(x) - constant, two elements at a time."""
    part = e.fragment(x)
    slots: list[str] = []
    for i in range(0, part.layout.slots, 2):
        both = _from_integers(e, part.slots[i : i + 2], part.dtype, into, constant)
        slots += _unpair(e, both, into)
    return Fragment(into, part.layout, slots)


def _from_integers(e: Emitter, slots: Sequence[str], source: DType, into: DType, less: int = 0) -> str:
    """Two integers as a pair of floats, less a constant."""
    offset = 1 << (source.bits - 1) if source.is_signed else 0
    magic = (into.bias + into.mantissa) << into.mantissa
    low, high = (e.let(f"zext {held(source)} {s} to i32") for s in slots)
    field = (1 << source.bits) - 1
    if source.is_signed:
        low, high = (e.let(f"and i32 {x}, {field}") for x in (low, high))
    both = e.let(f"or i32 {low}, {e.let(f'shl i32 {high}, 16')}")
    if source.is_signed:
        both = e.let(f"xor i32 {both}, {offset << 16 | offset}")
    biased = e.let(f"or i32 {both}, {magic << 16 | magic}")
    kind = held(into)
    with e.writer.at_width(2):
        base = e.writer.constant(float(2**into.mantissa + offset + less), into)
        return e.writer.op("fsub", kind, e.let(f"bitcast i32 {biased} to <2 x {kind}>"), base)
