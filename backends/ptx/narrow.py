"""Floats to f8e4m3 where the target has an instruction for two: cvt.rn.satfinite.e4m3x2.f32, sm_89 and up.

It rounds to nearest even, ends at the largest number, infinities included, and gives 0x7f for NaN: what casts
mean (f8e5m2's NaN is another code than ours, so that its casts stay integer arithmetic).
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
