"""Instructions that move elements: most are a choice among a thread's own registers, some shuffle within a
warp.

What would need shared memory has been written out as a store and a load by the exchange pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.convert import to_code
from tilec.backends.ptx.dequantise import merged_word
from tilec.backends.ptx.emitter import Field, Fragment, Remade, memory_bits
from tilec.backends.ptx.reduce import shuffle
from tilec.backends.ptx.swaps import swapped
from tilec.backends.ptx.threads import per_thread, predicate
from tilec.backends.ptx.words import as_words, from_words
from tilec.backends.writer import held
from tilec.ir import placement
from tilec.ir.conversion import Conversion, conversion
from tilec.ir.dtype import DType
from tilec.ir.inst import shape as moves
from tilec.ir.layout_ops import part_slots

BYTE, WORD = 8, 32  # bits

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter


def same_slots(e: Emitter, inst: moves.Permute) -> Fragment:
    """The layout's axes move; no register does."""
    x = e.fragment(inst.x)
    assert inst.tile.layout is not None, "the layout pass gives every tile a layout"
    return Fragment(x.dtype, inst.tile.layout, x.slots)


def reshape(e: Emitter, inst: moves.Reshape) -> Fragment | str:
    if inst.x.tile.rank == 0:
        assert inst.layout is not None, "the layout pass gives every tile a layout"
        return Fragment(inst.tile.dtype, inst.layout, [e.scalar(inst.x)] * inst.layout.slots)
    x = e.fragment(inst.x)
    if inst.tile.rank == 0:
        return x.slots[0]
    assert inst.layout is not None and inst.layout == x.layout.reshape(inst.shape), (
        "reshape keeps every register"
    )
    return Fragment(x.dtype, inst.layout, x.slots)


def broadcast(e: Emitter, inst: moves.Broadcast) -> Fragment:
    layout = inst.layout
    assert layout is not None, "the layout pass gives every tile a layout"
    if inst.x.tile.rank == 0:
        return Fragment(inst.tile.dtype, layout, [e.scalar(inst.x)] * layout.slots)
    x = e.fragment(inst.x)
    kept = np.array([1 if n == m else 0 for n, m in zip(x.layout.shape, layout.shape, strict=True)])
    slots = x.layout.find_slots(layout.slot_part() * kept)
    assert (slots >= 0).all(), "a broadcast's operand is held like its result"
    return Fragment(x.dtype, layout, [x.slots[s] for s in slots])


def extract(e: Emitter, inst: moves.Extract) -> Fragment:
    x = e.fragment(inst.x)
    assert inst.layout is not None, "the layout pass gives every tile a layout"
    return Fragment(x.dtype, inst.layout, [x.slots[s] for s in part_slots(x.layout, inst.start, inst.layout)])


def stack(e: Emitter, inst: moves.Stack) -> Fragment:
    """Tiles of one layout become the most significant slots; scalars are a slot each."""
    assert inst.layout is not None, "the layout pass gives every tile a layout"
    scalars = inst.tile.rank == 1
    slots = [slot for v in inst.tiles for slot in ([e.scalar(v)] if scalars else e.fragment(v).slots)]
    return Fragment(inst.tile.dtype, inst.layout, slots)


def convert(e: Emitter, inst: moves.Convert) -> Fragment:
    x = e.fragment(inst.x)
    way = conversion(x.layout, inst.layout, memory_bits(x.dtype))
    if way.slots is not None:
        slots = swapped(e, x, way.swaps) if way.swaps else x.slots
        return Fragment(x.dtype, inst.layout, [slots[s] for s in way.slots])
    assert way.kind == "shuffle", "the exchange pass has taken what needs shared memory"
    return Fragment(x.dtype, inst.layout, [_shuffled(e, x, way, s) for s in range(inst.layout.slots)])


def _shuffled(e: Emitter, x: Fragment, way: Conversion, s: int) -> str:
    assert way.lanes is not None and way.sources is not None and way.sent is not None, (
        "a shuffle has its tables"
    )
    kind, lanes, sources = held(x.dtype), way.lanes[s], way.sources[s]
    if way.shuffles[s] == 0:
        return _choose(e, x, sources, kind)
    lane = per_thread(e, lanes)
    if way.select_first[s]:
        return shuffle(e, _choose(e, x, way.sent[s], kind), x.dtype, "idx", lane)
    found = ""
    for source in sorted(set(sources.tolist())):
        moved = shuffle(e, x.slots[source], x.dtype, "idx", lane)
        mine = predicate(e, sources == source)
        found = (
            moved if not found or mine is None else e.let(f"select i1 {mine}, {kind} {moved}, {kind} {found}")
        )
    return found


def _choose(e: Emitter, x: Fragment, table: np.ndarray, kind: str) -> str:
    """Each thread's own slot, by a static table."""
    found = ""
    for source in sorted(set(table.tolist())):
        mine = predicate(e, table == source)
        mine_now = x.slots[source]
        found = (
            mine_now
            if not found or mine is None
            else e.let(f"select i1 {mine}, {kind} {mine_now}, {kind} {found}")
        )
    return found


def view(e: Emitter, inst: moves.View) -> Fragment | Remade:
    """The same bits as other elements: words of the old ones, fields of those."""
    x, dtype = e.fragment(inst.x), inst.dtype
    assert x.layout == inst.source, "the layout pass brings a view its source layout"
    words = _packed(e, x) if x.dtype.bits % 8 or x.dtype.unused else _whole(e, x)
    if inst.placed is not None and inst.is_placed:
        if inst.placed.bits == BYTE:
            e.codes[inst] = words
            return Remade(dtype, inst.layout, lambda: _assembled(e, words, inst))
        return Fragment(dtype, inst.layout, _placed(e, words, dtype, inst.layout.slots, inst.placed))
    slots = [_field(e, words, i * dtype.bits, dtype) for i in range(inst.layout.slots)]
    if dtype.bits == BYTE and not dtype.is_bool:
        whole = len(slots) // 4  # a word that is not full is no i32
        e.words.update((tuple(slots[4 * i : 4 * i + 4]), word) for i, word in enumerate(words[:whole]))
    if dtype.bits <= BYTE:
        for i, slot in enumerate(slots):
            word, low = divmod(i * dtype.bits, WORD)
            if low + dtype.bits <= WORD:
                _remember(e, slot, Field(((words[word], low, dtype.bits),)))
    return Fragment(dtype, inst.layout, slots)


def _remember(e: Emitter, slot: str, found: Field) -> None:
    e.fields[slot], e.at_field[found.pieces] = found, slot


def _placed(e: Emitter, words: list[str], dtype: DType, count: int, into: DType) -> list[str]:
    """Codes whose bits are not side by side: put together one by one, for who does not read pairs of them."""
    slots, unit, codes = [], len(placement.codes_of(dtype, into)), placement.pieces(dtype, count, into)
    words = _with_merged(e, words, dtype, into)
    held = [tuple((words[word], first, size) for word, first, size in code) for code in codes]
    for i, pieces in enumerate(held):
        found = Field(pieces, i // 2 % unit, () if i % 2 else held[i + 1])
        whole, up = "0", 0
        for word, first, size in found.pieces:
            moved = e.let(f"lshr i32 {word}, {first}")
            moved = e.let(f"shl i32 {e.let(f'and i32 {moved}, {(1 << size) - 1}')}, {up}")
            whole, up = e.let(f"or i32 {whole}, {moved}"), up + size
        slots.append(_field(e, [whole], 0, dtype))
        _remember(e, slots[-1], found)
    return slots


def _with_merged(e: Emitter, words: list[str], dtype: DType, into: DType) -> list[str]:
    """The words, and behind each unit's those that are merged of them."""
    own, merged = placement.unit_words(dtype.bits), placement.merged_of(dtype, into)
    found = []
    for at in range(0, len(words), own):
        unit = words[at : at + own]
        found += [*unit, *(merged_word(e, unit, each) for each in merged)]
    return found


def _assembled(e: Emitter, words: list[str], inst: moves.View) -> list[str]:
    """The elements of a view placed for bytes, one by one, for who does not make four of them at once."""
    if inst.dtype.bits == BYTE:
        return [slot for word in words for slot in e.unword(word, inst.dtype)]
    slots = []
    for places in inst.places.tolist():
        whole = "0"
        for bit, (word, first) in enumerate(divmod(at, WORD) for at in places):
            one = e.let(f"and i32 {e.let(f'lshr i32 {words[word]}, {first}')}, 1")
            whole = e.let(f"or i32 {whole}, {e.let(f'shl i32 {one}, {bit}')}")
        slots.append(_field(e, [whole], 0, inst.dtype))
    return slots


def _whole(e: Emitter, x: Fragment) -> list[str]:
    """A thread's elements of whole bytes as 32-bit words; the last is filled up with zeros."""
    missing = -x.layout.slots % max(1, 32 // x.dtype.bits)
    return as_words(e, [*x.slots, *[e.writer.constant(0, x.dtype)] * missing], x.dtype)


def _packed(e: Emitter, x: Fragment) -> list[str]:
    """A thread's codes one after the other in 32-bit words."""
    words = ["0"] * -(-x.layout.slots * x.dtype.bits // 32)
    for i, slot in enumerate(x.slots):
        code, kind = to_code(e.writer, slot, x.dtype)
        wide, (at, low) = e.let(f"zext {kind} {code} to i32"), divmod(i * x.dtype.bits, 32)
        words[at] = e.let(f"or i32 {words[at]}, {e.let(f'shl i32 {wide}, {low}')}")
        if low + x.dtype.bits > 32:
            words[at + 1] = e.let(f"lshr i32 {wide}, {32 - low}")
    return words


def _field(e: Emitter, words: list[str], start: int, dtype: DType) -> str:
    """`dtype.bits` bits from bit `start` of a row of 32-bit words, as registers hold the dtype."""
    bits, kind = dtype.bits, held(dtype)
    if bits >= 32:
        return from_words(e, words[start // 32 : (start + bits) // 32], 1, dtype)[0]
    word, low = words[start // 32], start % 32
    if low + bits > 32:
        wide = e.call("llvm.fshr.i32", "i32", f"i32 {words[start // 32 + 1]}", f"i32 {word}", f"i32 {low}")
        word, low = wide, 0
    up = 32 - low - bits
    if dtype.is_integer and dtype.is_signed and bits < 8:
        word = e.let(f"shl i32 {word}, {up}") if up else word
        field = e.let(f"ashr i32 {word}, {32 - bits}")
    else:
        field = e.let(f"lshr i32 {word}, {low}") if low else word
        field = e.let(f"and i32 {field}, {(1 << bits) - 1}") if bits < 8 else field
    small = f"i{max(8, bits)}"
    field = e.let(f"trunc i32 {field} to {small}")
    if dtype.is_bool:
        return e.let(f"icmp ne i8 {field}, 0")
    return field if small == kind else e.let(f"bitcast {small} {field} to {kind}")
