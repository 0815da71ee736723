"""Elementwise instructions on fragments: two elements at a time where 16-bit floats share a register.

%c = fadd <2 x half> %a, %b        one add.f16x2 instead of two add.f16
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilec.backends import emit
from tilec.backends.ptx.dequantise import HALVES, folded, partners, widened, widens
from tilec.backends.ptx.emitter import Fragment
from tilec.backends.ptx.mma import as_floats
from tilec.backends.ptx.narrow import narrowed, widened_by_two
from tilec.backends.ptx.quads import from_codes
from tilec.backends.writer import held
from tilec.ir.dtype import DType
from tilec.ir.func import Inst
from tilec.ir.inst.arith import Cast

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter


def elementwise(e: Emitter, inst: Inst) -> Any:
    """A fragment, or a scalar, from one element of each operand at a time."""
    assert type(inst) in emit.EMITTERS, f"{type(inst).__name__} has no emitter for PTX"
    if inst.tile.rank == 0:
        return emit.elementwise(e.writer, inst, [e.scalar(v) for v in inst.operands])
    at_once = from_codes(e, inst) or narrowed(e, inst) or widened_by_two(e, inst) or as_floats(e, inst)
    if at_once is not None:
        return at_once
    parts = [e.fragment(v) for v in inst.operands]
    halves = any(held(d) in HALVES for d in (inst.tile.dtype, *(p.dtype for p in parts)))
    pairs = _partners(e, parts) if halves else None
    if pairs is None:
        rows = zip(*(part.slots for part in parts), strict=True)
        slots = [emit.elementwise(e.writer, inst, row) for row in rows]
        return Fragment(inst.tile.dtype, parts[0].layout, slots)
    return _by_pairs(e, inst, parts, pairs)


def _partners(e: Emitter, parts: list[Fragment]) -> list[tuple[int, int]] | None:
    """How the elements go together: as in the first operand that has an opinion."""
    found = [partners(e, part) for part in parts]
    if found[0] is None:
        return None
    return next((pairs for pairs in found if pairs and pairs[0] != (0, 1)), found[0])


def _by_pairs(e: Emitter, inst: Inst, parts: list[Fragment], pairs: list[tuple[int, int]]) -> Fragment:
    dtype, slots = inst.tile.dtype, [""] * len(parts[0].slots)
    known = folded(inst)
    if known is not None:
        parts = [e.fragment(known[0])]
        pairs = partners(e, parts[0]) or pairs
    for i, j in pairs:
        if known is not None:
            both = widened(e, (parts[0].slots[i], parts[0].slots[j]), parts[0].dtype, dtype, *known[1:])
        elif isinstance(inst, Cast) and widens(parts[0].dtype, dtype):
            both = widened(e, (parts[0].slots[i], parts[0].slots[j]), parts[0].dtype, dtype)
        else:
            operands = [_pair(e, (part.slots[i], part.slots[j]), part.dtype) for part in parts]
            with e.writer.at_width(2):
                both = emit.elementwise(e.writer, inst, operands)
        slots[i], slots[j] = _unpair(e, both, dtype)
    return Fragment(dtype, parts[0].layout if known is None else e.fragment(inst.operands[0]).layout, slots)


def _pair(e: Emitter, slots: tuple[str, str], dtype: DType) -> str:
    """Two elements as an LLVM vector; the register that they came from, if they came from one."""
    kind = held(dtype)
    if kind in HALVES and slots in e.words:
        return e.let(f"bitcast i32 {e.words[slots]} to <2 x {kind}>")
    if slots[0] == slots[1] and not slots[0].startswith("%"):
        return f"splat ({kind} {slots[0]})"
    one = e.let(f"insertelement <2 x {kind}> poison, {kind} {slots[0]}, i32 0")
    return e.let(f"insertelement <2 x {kind}> {one}, {kind} {slots[1]}, i32 1")


def _unpair(e: Emitter, both: str, dtype: DType) -> tuple[str, str]:
    kind = held(dtype)
    low, high = (e.let(f"extractelement <2 x {kind}> {both}, i32 {i}") for i in range(2))
    if kind in HALVES:
        e.words[low, high] = e.let(f"bitcast <2 x {kind}> {both} to i32")
        e.upper[low] = high
    return low, high
