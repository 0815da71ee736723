"""Bytes in quads: four rows of a column in the four bytes of a 32-bit lane, as products of bytes take them.

    lanes of a vector:   (r, c) (r+1, c) (r+2, c) (r+3, c)   (r, c+1) ...    16 columns of 4 rows
Codes in fields of words (codes.py) become such where those of four rows lie in 32 neighbouring bits, of one
word or of two put together: one instruction moves them to bytes, and a mask leaves them.
    u3, rows 8 to 11:   (the second word : the first) >> 24,   bits 0, 3, 6, 9 to bits 0, 8, 16, 24,   & 7
Where they lie in bytes already they are shifted at most: u4, rows 4 to 7:   word >> 4 & 15 in each byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilec.backends.convert import from_code
from tilec.backends.cpu.codes import WORD, Codes, Field
from tilec.backends.cpu.fields import moved
from tilec.backends.cpu.fused import Fused, Outside
from tilec.backends.cpu.fused import fusible as fields_fusible
from tilec.backends.cpu.lanes import Lanes, memory_type
from tilec.backends.cpu.loops import Index, step_pointer
from tilec.backends.cpu.places import Ref, Splat
from tilec.backends.cpu.uses import reads
from tilec.backends.emit import elementwise
from tilec.backends.writer import Writer
from tilec.ir.func import Inst, Value

if TYPE_CHECKING:
    from tilec.backends.cpu.lower import Lowering

ROWS, COLUMNS, BYTES = 4, 16, 64
NEEDS = frozenset({"avx512vnni", "avx512vbmi", "avx512bw"})
ALL = Lanes(COLUMNS, COLUMNS)
IN_BYTES = (0, 8, 16, 24)


@dataclass(frozen=True)
class Quad:
    """Where four rows are: in the 32 bits from bit `shift` of the first word on, at these bits of them."""

    words: tuple[int, ...]
    shift: int
    bits: tuple[int, ...]


def quads(codes: Codes) -> list[Quad] | None:
    """Those of one repetition of the fields; None where rows do not lie so."""
    fields, whole = codes.fields, codes.shape[1] % COLUMNS == 0 and codes.dtype.is_integer
    found = [_quad(fields[r : r + ROWS], codes.dtype.bits) for r in range(0, len(fields), ROWS)]
    return [q for q in found if q] if whole and all(found) and len(fields) % ROWS == 0 else None


def _quad(fields: Sequence[Field], bits: int) -> Quad | None:
    words = tuple(dict.fromkeys(word for f in fields for word in (f.first, f.second) if word is not None))
    at = [f.shift + WORD * words.index(f.first) for f in fields]
    shift = at[0] if len(words) == 2 or tuple(bit - at[0] for bit in at) == IN_BYTES else 0
    fits = len(words) <= 2 and min(at) >= shift and max(at) + bits - shift <= WORD
    return Quad(words, shift, tuple(bit - shift for bit in at)) if fits else None


def fusible(insts: Sequence[Inst], outside: dict[Value, Outside]) -> bool:
    """Can a cluster be computed in quads: of bytes, from one tile of codes, registers, and memory that is the
    same in all rows?
    """
    codes = fields_fusible(insts, outside)
    small = all(inst.tile.dtype.is_integer and inst.tile.dtype.bits <= 8 for inst in insts)
    plain = all(_in_row(place) for place in outside.values() if isinstance(place, Ref))
    return small and plain and codes is not None and quads(codes) is not None


def _in_row(place: Ref) -> bool:
    return place.strides == (0, 1) and place.dtype.is_integer and place.dtype.bits <= 8


At = tuple[Index, int, Index]  # a repetition of the fields, a quad of rows in it, a column


class FusedQuads(Fused):
    """Instructions over one tile of quads, computed where they are used."""

    in_order = False  # few products lie between words, and what they share is to stay in registers

    def __init__(self, lo: Lowering, insts: Sequence[Inst], outside: dict[Value, Outside]) -> None:
        super().__init__(lo, insts, outside)
        self.quads = quads(self.codes) or []

    @property
    def period(self) -> int:
        return len(self.quads)

    def codes_at(self, at: At, flip: int = 0) -> str:
        """Codes of four rows of 16 columns, some of their bits turned over."""
        (block, row, column), dtype = at, self.codes.dtype
        quad = self.quads[row]
        with self.w.at_width(COLUMNS):
            words = [self._word(block, word, column, ALL) for word in quad.words]
        with self.w.at_width(BYTES):
            found = in_bytes(self.w, quad, words)
            if dtype.bits < 8:
                found = self.w.op("and", "i8", found, self.w.integer(dtype.code_mask, "i8"))
            return self.w.op("xor", "i8", found, self.w.integer(flip, "i8")) if flip else found

    def _read(self, place: Ref, row: Index, column: Index, lanes: Lanes) -> str:
        """16 bytes, each four times."""
        pointer = step_pointer(self.w, place.base, memory_type(place.dtype), column)
        few = self.w.let(f"load <{COLUMNS} x i8>, ptr {pointer}, align 1")
        order = ", ".join(f"i32 {lane // ROWS}" for lane in range(BYTES))
        kind = f"<{COLUMNS} x i8>"
        return self.w.let(f"shufflevector {kind} {few}, {kind} poison, <{BYTES} x i32> <{order}>")

    def steps(self, value: Value) -> tuple[int, int] | None:
        """(flip, start) where a value is (code ^ flip) + start; None where it is nothing so simple."""
        table, dtype = self.tables.get(value), self.codes.dtype
        if table is None:
            return None
        flip = 1 << dtype.bits - 1 if dtype.is_signed else 0
        starts = table.astype(int) - [code ^ flip for code in range(len(table))]
        return (flip, int(starts[0])) if (starts == starts[0]).all() else None

    def vector(self, value: Value, at: At, known: dict[Value, str]) -> str:
        """64 bytes of a value."""
        if value not in known:
            known[value] = self._computed(value, at, known)
        return known[value]

    def _computed(self, value: Value, at: At, known: dict[Value, str]) -> str:
        place = self.outside.get(value)
        with self.w.at_width(BYTES):
            if place is self.codes:
                return from_code(self.w, self.codes_at(at), self.codes.dtype)
            if isinstance(place, Splat):
                return self.w.spread(place.register, self.w.held(place.dtype))
            if isinstance(place, Ref):
                return self.constant[value, at[2]]
            assert isinstance(value, Inst), "what is not from outside is computed here"
            args = [self.vector(self.lo.same(v), at, known) for v in reads(value)]
            return elementwise(self.w, value, args)


def in_bytes(w: Writer, quad: Quad, words: list[str]) -> str:
    """The four fields of each of 16 lanes at the lowest bits of its bytes, with others above them."""
    bytes_ = f"<{BYTES} x i8>"
    with w.at_width(COLUMNS):
        found = w.let(f"bitcast <{COLUMNS} x i32> {moved(w, words, quad.shift, 0)} to {bytes_}")
    if quad.bits == IN_BYTES:
        return found
    places = ", ".join(f"i8 {bit + half}" for half in (0, WORD) for bit in quad.bits)
    name = "llvm.x86.avx512.pmultishift.qb.512"
    w.declare(name, bytes_, bytes_, bytes_)
    repeated = ", ".join([places] * (BYTES // (2 * ROWS)))
    return w.let(f"call {bytes_} @{name}({bytes_} <{repeated}>, {bytes_} {found})")
