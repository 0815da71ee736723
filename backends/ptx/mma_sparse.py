"""Products whose left operand keeps two of each four elements: mma.sp.

    mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {d..}, {a..}, {b..}, {c..}, places, 1;
Registers of a hold its kept elements, like a dense operand of half the columns. A register of places has
them for k of 64; the selector says which lanes give an instruction's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilec.backends.convert import to_code
from tilec.backends.ptx.emitter import Fragment
from tilec.backends.ptx.mma import Kept, Sparse, by_coordinates, multiplied, offsets
from tilec.ir.atoms import sparse_atom
from tilec.ir.inst.sparse import GROUP, KEPT, SparseDot

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

PER = GROUP // KEPT
ORDERED = 85  # the PTX version from which an instruction can say that places are in order, as ours are


def dot(e: Emitter, inst: SparseDot) -> Fragment:
    """As mma.dot, of whose layouts these are made."""
    a, b, c = (e.fragment(v) for v in (inst.values, inst.b, inst.c))
    atom = sparse_atom(a.dtype.bits)
    parts = offsets(atom.values), offsets(atom.b), offsets(atom.c)
    kept = held_places(e, e.fragment(inst.places), inst.atom, a.dtype.bits)
    return multiplied(e, (a, b, c), inst.atom, parts, kept)


def held_places(e: Emitter, places: Fragment, shape: tuple[int, int, int], bits: int) -> Sparse:
    """Places of a left operand with elements of `bits`, as instructions of this shape (m, n, k) take them."""
    (m, _, k), atom = shape, sparse_atom(bits).places
    form = "sp::ordered_metadata" if e.target.ptx_version >= ORDERED else "sp"
    at, wide = by_coordinates(places.layout), atom.shape[1]
    registers: dict[tuple[int, int], str] = {}

    def kept(i: int, step: int) -> Kept:
        word, selector = divmod(step * k // PER, wide)
        if (i, word) not in registers:
            slots = [places.slots[at[i * m + r, word * wide + s]] for r, s in offsets(atom)]
            registers[i, word] = _register(e, slots, places)
        return Kept(form, registers[i, word], selector * PER // k)

    return Sparse(PER, kept)


def _register(e: Emitter, slots: list[str], places: Fragment) -> str:
    """Places side by side: the word that they were read from, where it has them so."""
    bits = places.dtype.bits
    first = e.fields.get(slots[0])
    if first is not None and len(first.pieces) == 1 and first.pieces[0][1] == 0:
        word = first.pieces[0][0]
        if all(e.at_field.get(((word, i * bits, bits),)) == slot for i, slot in enumerate(slots)):
            return word
    word = "0"
    for i, slot in enumerate(slots):
        code, kind = to_code(e.writer, slot, places.dtype)
        up = e.let(f"shl i32 {e.let(f'zext {kind} {code} to i32')}, {i * bits}")
        word = e.let(f"or i32 {word}, {up}")
    return word
