"""Arrays of elements of fewer than 8 bits, one after the other without padding.

A thread's element is a field of one or two bytes. Stores write whole bytes: each thread's run must be proven
to be some, or it is an error, as two threads may not share a byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.convert import from_code, to_code
from tilec.backends.ptx import access
from tilec.backends.ptx.address import Coordinates, Window, conjunction, neighbours, offset_multiple
from tilec.backends.ptx.emitter import Fragment
from tilec.backends.ptx.threads import predicate
from tilec.backends.writer import held
from tilec.ir.errors import TilecError
from tilec.ir.func import Value, root
from tilec.ir.inst.arith import Full

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter


def _element(e: Emitter, w: Window, place: Coordinates, slot: Sequence[int]) -> str:
    """The number (i64) of an element in the array."""
    total = place.ref.offset
    for start, c, stride in zip(place.starts, slot, place.ref.strides, strict=True):
        at = e.let(f"add i32 {start}, {int(c)}") if c else start
        step = e.let(f"mul i64 {e.let(f'sext i32 {at} to i64')}, {stride}")
        total = e.let(f"add i64 {total}, {step}")
    return str(total)


def load(e: Emitter, w: Window, other: Value) -> Fragment:
    """A fragment of a packed array, `other` outside it."""
    dtype, place, pad = w.type.dtype, Coordinates(e, w), w.layout.pad_mask()
    slots = []
    for s, slot in enumerate(w.layout.slot_part()):
        who = predicate(e, ~pad[:, s]) if pad[:, s].any() else None
        condition = conjunction(e, [*place.inside(slot), *([who] if who else [])])
        slots.append(load_one(e, w.array, _element(e, w, place, slot), condition or "true", other))
    return Fragment(dtype, w.layout, slots)


def load_one(e: Emitter, array: Value, element: str, condition: str, other: Value) -> str:
    """Element number `element` (i64) of a packed array where the condition holds, else `other`."""
    dtype, read_only, base = array.array_type.dtype, root(array) in e.read_only, e.array(array).base
    bit = e.let(f"mul i64 {element}, {dtype.bits}")
    low = e.let(f"trunc i64 {e.let(f'and i64 {bit}, 7')} to i16")
    first = e.let(f"getelementptr i8, ptr addrspace(1) {base}, i64 {e.let(f'lshr i64 {bit}, 3')}")
    byte = access.load_if(e, condition, first, 1, "global", ["0"], read_only)[0]
    wide = e.let(f"zext i8 {byte} to i16")
    if 8 % dtype.bits:
        over = e.let(f"icmp ugt i16 {low}, {8 - dtype.bits}")
        both = e.let(f"and i1 {condition}, {over}")
        second = e.let(f"getelementptr i8, ptr addrspace(1) {first}, i64 1")
        high = access.load_if(e, both, second, 1, "global", ["0"], read_only)[0]
        upper = e.let(f"shl i16 {e.let(f'zext i8 {high} to i16')}, 8")
        wide = e.let(f"or i16 {wide}, {upper}")
    field = e.let(f"trunc i16 {e.let(f'lshr i16 {wide}, {low}')} to i8")
    found = from_code(e.writer, field, dtype)
    if isinstance(other, Full) and other.value == 0:  # what the byte that is not read has
        return found
    kind = held(dtype)
    return e.let(f"select i1 {condition}, {kind} {found}, {kind} {e.scalar(other)}")


def store(e: Emitter, w: Window, tile: Fragment) -> None:
    """A fragment into a packed array: whole bytes per thread, by their owner."""
    dtype, place, taking = w.type.dtype, Coordinates(e, w), w.layout.owner_mask()
    run = 8 // int(np.gcd(8, dtype.bits))
    if not _whole_bytes(e, w, run):
        raise TilecError(
            f"a store to packed {dtype.name} needs each thread to write whole bytes: {run} neighbouring "
            f"elements that start at a multiple of {run}; make the last extent and the offsets such multiples"
        )
    for first in range(0, w.layout.slots, run):
        if not taking[:, first].any():
            continue
        slot, who = w.layout.slot_part()[first], predicate(e, taking[:, first])
        condition = conjunction(e, [*place.inside(slot), *([who] if who else [])]) or "true"
        codes = [to_code(e.writer, x, dtype)[0] for x in tile.slots[first : first + run]]
        bit = e.let(f"mul i64 {_element(e, w, place, slot)}, {dtype.bits}")
        start = e.let(
            f"getelementptr i8, ptr addrspace(1) {place.ref.base}, i64 {e.let(f'lshr i64 {bit}, 3')}"
        )
        whole = "0"
        for i, code in enumerate(codes):
            kind = held(dtype) if held(dtype).startswith("i") else "i8"
            part = e.let(f"and i64 {e.let(f'zext {kind} {code} to i64')}, {(1 << dtype.bits) - 1}")
            whole = e.let(f"or i64 {whole}, {e.let(f'shl i64 {part}, {i * dtype.bits}')}")
        for i in range(run * dtype.bits // 8):
            byte = e.let(f"trunc i64 {e.let(f'lshr i64 {whole}, {8 * i}')} to i8")
            at = e.let(f"getelementptr i8, ptr addrspace(1) {start}, i64 {i}")
            access.store_if(e, condition, at, [byte], 1, "global")


def _whole_bytes(e: Emitter, w: Window, run: int) -> bool:
    """Whether slots come in runs of `run` neighbours that start at whole bytes, all inside or all outside."""
    if run == 1:
        return True
    if w.layout.slots % run or not neighbours(e, w, run, w.layout.owner_mask()):
        return False
    bits = w.type.dtype.bits
    steps = offset_multiple(e, w, w.layout.slot_part()[::run])
    return e.facts.align(w.array) > 0 and steps * bits % 8 == 0
