"""Floats to f8e4m3 and back where the target has instructions for two: cvt.rn.satfinite.e4m3x2.f32 and
cvt.rn.f16x2.e4m3x2, sm_89 and up.

The first rounds to nearest even, ends at the largest number, infinities included, and gives 0x7f for NaN:
what casts mean (f8e5m2's NaN is another code than ours, so that its casts stay integer arithmetic). The
second takes two bytes as they lie in a register: those of a view need nothing before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilec.backends.convert import cast
from tilec.backends.ptx.emitter import Fragment
from tilec.backends.writer import held
from tilec.ir import dtype as dt
from tilec.ir.func import Inst
from tilec.ir.inst.arith import Cast

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

INSTRUCTION = "cvt.rn.satfinite.e4m3x2.f32 $0, $1, $2;"
WIDENING = "cvt.rn.f16x2.e4m3x2 $0, $1;"
BYTE, HALF = 8, 16  # bits
WIDE = ("float", "half", "bfloat")  # what f32 holds


def narrowed(e: Emitter, inst: Inst) -> Fragment | None:
    """A tile cast by it, four elements in a register if they go up; None for other casts."""
    if not isinstance(inst, Cast) or inst.dtype != dt.f8e4m3 or not e.target.has("cvt_f8"):
        return None
    x = e.fragment(inst.x)
    if held(x.dtype) not in WIDE or len(x.slots) % 2:
        return None
    wide = [cast(e.writer, slot, x.dtype, dt.f32) for slot in x.slots]
    halves = [_pair(e, *wide[i : i + 2]) for i in range(0, len(wide), 2)]
    if len(halves) % 2:
        return Fragment(inst.dtype, x.layout, [s for half in halves for s in e.unword(half, inst.dtype, 2)])
    words = [_word(e, *halves[i : i + 2]) for i in range(0, len(halves), 2)]
    return Fragment(inst.dtype, x.layout, [s for word in words for s in e.unword(word, inst.dtype)])


def _pair(e: Emitter, low: str, high: str) -> str:
    return e.let(f'call i16 asm "{INSTRUCTION}", "=h,f,f"(float {high}, float {low})')


def _word(e: Emitter, low: str, high: str) -> str:
    one = e.let(f"insertelement <2 x i16> poison, i16 {low}, i32 0")
    both = e.let(f"insertelement <2 x i16> {one}, i16 {high}, i32 1")
    return e.let(f"bitcast <2 x i16> {both} to i32")


def widened_by_two(e: Emitter, inst: Inst) -> Fragment | None:
    """A tile of f8e4m3 cast to f16 by it, neighbours in a register; None for other casts."""
    if not isinstance(inst, Cast) or inst.dtype != dt.f16 or inst.x.tile.dtype != dt.f8e4m3:
        return None
    x = e.fragment(inst.x)
    if not e.target.has("cvt_f8") or len(x.slots) % 2:
        return None
    halves = [_bytes(e, *x.slots[i : i + 2]) for i in range(0, len(x.slots), 2)]
    words = [e.let(f'call i32 asm "{WIDENING}", "=r,h"(i16 {half})') for half in halves]
    return Fragment(inst.dtype, x.layout, [s for word in words for s in e.unword(word, inst.dtype)])


def _bytes(e: Emitter, low: str, high: str) -> str:
    """Two codes side by side: half of a register where a view has them so."""
    first, second = (e.fields[slot].pieces if slot in e.fields else () for slot in (low, high))
    if len(first) == len(second) == 1:
        (word, start, _), (other, after, _) = *first, *second
        if word == other and start % HALF == 0 and after == start + BYTE:
            return e.let(f"trunc i32 {e.let(f'lshr i32 {word}, {start}') if start else word} to i16")
    a, b = (e.let(f"zext i8 {slot} to i16") for slot in (low, high))
    return e.let(f"or i16 {a}, {e.let(f'shl i16 {b}, {BYTE}')}")
