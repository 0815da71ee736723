"""From codes placed for it to bytes, four in a register: the operands of products of i8 and of small floats.

What a kernel writes is recognised as a whole, and made from the words of codes (tilec.ir.byte_placement):
    (w.to(i8) << 4) - 128                      (w & 0xf0f0f0f0) ^ 0x80808080
    w.to(i8) - zero                            ((w & 0x0f0f0f0f | 0x80808080) - zeros) ^ 0x80808080
    w.to(f8e4m3) * 2^-6, w a float             w & 0x9c9c9c9c
    (w.to(i8) - 8).to(f8e4m3) * 2^-9           sign and magnitude: the least codes of f8e4m3 count in 2^-9
Each of them after a rotation that brings the fields to their places; zeros are bytes that a column shares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tilec.backends import emit
from tilec.backends.ptx.dequantise import MASK_XOR, SELECT, lop3, signed
from tilec.backends.ptx.emitter import Fragment, Remade
from tilec.ir.byte_placement import LANE, LANES, WORD, Code, quads, wanted
from tilec.ir.dtype import DType
from tilec.ir.func import Inst, Value
from tilec.ir.inst.arith import Cast, Full, Mul, Shl, Sub
from tilec.ir.inst.shape import Broadcast, View

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

EACH, TOP, FULL = 0x01010101, 0x80, 0xFF  # a 1 at the foot of each byte; of a byte, its top bit and all
SIGNS = 0xBA98  # prmt: every byte's top bit, all over it
XOR_AND, XNOR_AND = 0x28, 0x82  # lop3: (a ^ b) & c, ~(a ^ b) & c
Quad = Callable[[Code, int], str]  # from the pieces of four codes, and the number of the first


@dataclass(frozen=True)
class Recipe:
    """Bytes of a view's codes: (code << up) + more - less, mod 256, of integers; as `into`, times `times`."""

    view: View
    into: DType
    up: int = 0
    more: int = 0
    less: Value | None = None
    times: float = 1.0


def recipe(v: Value) -> Recipe | None:
    """What a tile is made of, if that is codes placed for bytes."""
    match v:
        case Cast(x=View() as x) if x.is_placed and x.placed and x.placed.bits == LANE == v.dtype.bits:
            return Recipe(x, v.dtype) if x.dtype.is_float == v.dtype.is_float else None
        case Cast(x=x) if v.dtype.is_float and v.dtype.bits == LANE:
            found = recipe(x)
            return replace(found, into=v.dtype) if found and found.into.is_integer else None
        case Shl(a, b) | Sub(a, b) | Mul(a, b) if v.tile.dtype.bits == LANE:
            found = recipe(a)
            return _further(found, v, b) if found else None
    return None


def _further(found: Recipe, v: Value, b: Value) -> Recipe | None:
    """One step more: << constant, - constant, - a tile on integers, * constant on floats."""
    constant = b.x if isinstance(b, Broadcast) else b
    n = constant.value if isinstance(constant, Full) else None
    if isinstance(v, Mul) or found.into.is_float:
        fits = isinstance(v, Mul) and found.into.is_float and n is not None
        return replace(found, times=found.times * float(n or 0)) if fits else None
    if found.less is not None:
        return None
    if n is None:
        return replace(found, less=b) if isinstance(v, Sub) and not found.more else None
    if isinstance(v, Sub):
        return replace(found, more=int(found.more - n) % 256)
    return replace(found, up=found.up + int(n), more=(found.more << int(n)) % 256)


def from_codes(e: Emitter, inst: Inst) -> Fragment | Remade | None:
    """A tile made of codes, four at once; None where this is no way to make it. A step on the way to others
    is made only where something else needs it.
    """
    found = recipe(inst) if inst.tile.rank and inst.tile.dtype.bits == LANE else None
    if found is None or found.view not in e.codes:
        return None
    if e.users.get(inst) and all(recipe(user) for user in e.users[inst]):
        assert inst.tile.layout is not None, "the layout pass gives every tile a layout"
        return Remade(inst.tile.dtype, inst.tile.layout, lambda: _one_by_one(e, inst))
    make = _floats(e, found) if found.into.is_float else _integers(e, found)
    if make is None:
        return None
    codes = quads(found.view.dtype, found.view.layout.slots, _lanes(found.view))
    words = [make(code, LANES * i) for i, code in enumerate(codes)]
    slots = [slot for word in words for slot in e.unword(word, inst.tile.dtype)]
    return Fragment(inst.tile.dtype, found.view.layout, slots)


def _one_by_one(e: Emitter, inst: Inst) -> list[str]:
    parts = [e.fragment(v).slots for v in inst.operands]
    return [emit.elementwise(e.writer, inst, row) for row in zip(*parts, strict=True)]


def _lanes(view: View) -> DType:
    assert view.placed is not None, "the codes are placed"
    return view.placed


# Integers.


def _integers(e: Emitter, found: Recipe) -> Quad | None:
    bits, up, lanes = found.view.dtype.bits, found.up, _lanes(found.view)
    if lanes.is_float:
        return None
    down = wanted(found.view.dtype, lanes)[0] - up
    if found.less is not None:
        return _less_a_tile(e, found, down) if bits + up < LANE else None
    if bits + up != LANE or found.more >> up << up not in (0, TOP):
        return None
    return lambda code, _: _masked(e, _gathered(e, found, code, down), FULL >> up << up, found.more)


def _less_a_tile(e: Emitter, found: Recipe, down: int) -> Quad | None:
    """Less bytes that four slots share: their top bits are kept apart, so that nothing is borrowed. A code's
    sign counts as if it were 0 for minus, on both sides.
    """
    assert found.less is not None
    source, up, slots = found.view.dtype, found.up, e.fragment(found.less).slots
    shared = [set(slots[i : i + LANES]) for i in range(0, len(slots), LANES)]
    if any(len(each) != 1 for each in shared):
        return None
    sign, mask = source.sign_code << up, source.code_mask << up
    zeros = {slot: _spread(e, slot, sign) for each in shared for slot in each}

    def make(code: Code, first: int) -> str:
        low, top = zeros[slots[first]]
        word = _masked(e, _gathered(e, found, code, down), mask, sign | TOP)
        return e.let(f"xor i32 {e.let(f'sub i32 {word}, {low}')}, {top}")

    return make


def _spread(e: Emitter, byte: str, sign: int) -> tuple[str, str]:
    """A byte plus `sign` in every lane: without the top bits, and those, the other way around."""
    moved = e.let(f"add i8 {byte}, {sign - 256 if sign >= TOP else sign}") if sign else byte
    all_ = e.let(f"mul i32 {e.let(f'zext i8 {moved} to i32')}, {EACH}")
    top = signed(TOP * EACH)
    return e.let(f"and i32 {all_}, {~top}"), e.let(f"and i32 {e.let(f'xor i32 {all_}, -1')}, {top}")


# Floats.


def _floats(e: Emitter, found: Recipe) -> Quad | None:
    source, into, lanes = found.view.dtype, found.into, _lanes(found.view)
    if found.less is not None and lanes.is_integer and found.times == into.smallest_subnormal:
        return _differences(e, found, wanted(source, lanes)[0] - found.up)
    if lanes != into:
        return None
    if source.is_float:
        mask = sum(1 << bit for bit in wanted(source, into))
        fits = found.times == 2.0 ** (source.bias - into.bias)
        return (lambda code, _: _masked(e, _gathered(e, found, code), mask, 0)) if fits else None
    if found.less is not None or found.times != into.smallest_subnormal:
        return None
    if (source.name, found.up, found.more) == ("u1", 1, FULL):  # 1 and -1
        return lambda code, _: _masked(e, _gathered(e, found, code), TOP, TOP | 1)
    if found.up or found.more != (0 if source.is_signed else 256 - (1 << source.bits - 1)):
        return None
    low = source.code_mask >> 1
    return lambda code, _: _sign_and_magnitude(e, _gathered(e, found, code), low, source.is_signed)


def _differences(e: Emitter, found: Recipe, down: int) -> Quad | None:
    """Codes less bytes that four slots share, of at most 16 units."""
    make = _less_a_tile(e, found, down)
    return make and (lambda code, first: _sign_and_magnitude(e, make(code, first), FULL >> 1, True))


def _sign_and_magnitude(e: Emitter, word: str, low: int, is_signed: bool) -> str:
    """-x = ~x + 1: the bits `low` turned over where the top one is set (of unsigned codes, where it is not),
    and 1 added with the sign.
    """
    signs = e.call("llvm.nvvm.prmt", "i32", f"i32 {word}", "i32 0", f"i32 {SIGNS}")
    turned = lop3(e, word, signs, low * EACH, XOR_AND if is_signed else XNOR_AND)
    minus = signs if is_signed else e.let(f"xor i32 {signs}, -1")
    return e.let(f"add i32 {turned}, {e.let(f'and i32 {minus}, {signed((TOP | 1) * EACH)}')}")


# Words.


def _gathered(e: Emitter, found: Recipe, code: Code, down: int = 0) -> str:
    """A word with the pieces of four codes `down` bits below where they are wanted, and anything around."""
    words = e.codes[found.view]
    (merged, _), *others = [(_rotated(e, words[p.word], p.turn + down), p.mask) for p in code]
    for word, mask in others:
        shifted = mask >> down if down >= 0 else mask << -down
        merged = lop3(e, word, merged, shifted * EACH, SELECT)
    return merged


def _rotated(e: Emitter, word: str, turn: int) -> str:
    """A word rotated to the right."""
    turn %= WORD
    return e.call("llvm.fshr.i32", "i32", f"i32 {word}", f"i32 {word}", f"i32 {turn}") if turn else word


def _masked(e: Emitter, word: str, mask: int, flipped: int) -> str:
    """(word & mask) ^ flipped, of each byte."""
    if mask == FULL:
        return e.let(f"xor i32 {word}, {signed(flipped * EACH)}") if flipped else word
    if not flipped:
        return e.let(f"and i32 {word}, {signed(mask * EACH)}")
    return lop3(e, word, mask * EACH, flipped * EACH, MASK_XOR)
