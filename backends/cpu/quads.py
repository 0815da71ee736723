"""Bytes in quads: four rows of a column in the four bytes of a 32-bit lane, as products of bytes take them.

    lanes of a vector:   (r, c) (r+1, c) (r+2, c) (r+3, c)   (r, c+1) ...    16 columns of 4 rows
A view lies so where 64 neighbouring codes of a stream are 16 columns of 4 rows: it is left packed, and
unpacked by three instructions: bytes are spread over 64-bit lanes, shifted lane by lane, and masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.convert import from_code
from tilec.backends.cpu.arena import Buffer
from tilec.backends.cpu.codes import Codes, prefetch
from tilec.backends.cpu.lanes import Lanes, memory_type, read
from tilec.backends.cpu.loops import Index, add, mul, step_pointer
from tilec.backends.cpu.places import Place, Ref, Shape, Splat
from tilec.backends.cpu.uses import reads
from tilec.backends.emit import elementwise
from tilec.backends.writer import Writer
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.func import Inst, Value
from tilec.ir.inst import shape
from tilec.ir.inst.arith import Full
from tilec.ir.inst.memory import Gather
from tilec.ir.run import State
from tilec.ir.tile import row_major

if TYPE_CHECKING:
    from tilec.backends.cpu.lower import Lowering

Table = np.ndarray[Any, np.dtype[Any]]
ROWS, COLUMNS, BYTES = 4, 16, 64
NEEDS = frozenset({"avx512vnni", "avx512vbmi", "avx512bw"})


@dataclass(frozen=True)
class Quads:
    """Groups of 64 codes: `down` bytes from one to the next four rows, `across` to the next 16 columns."""

    inst: shape.View
    source: Ref
    down: int
    across: int

    @property
    def dtype(self) -> DType:
        return self.inst.dtype

    @property
    def shape(self) -> Shape:
        return self.inst.tile.shape

    @property
    def buffer(self) -> Buffer | None:
        return self.source.buffer

    @property
    def root(self) -> Value | None:
        return self.source.root

    @property
    def values(self) -> Table:
        """What each code stands for."""
        return np.asarray(codec.decode(np.arange(1 << self.dtype.bits), self.dtype))

    def vector(self, w: Writer, quad: Index, column: Index) -> str:
        """Codes of 16 columns of four rows: 64 bytes, each with its code lowest and other bits above it."""
        along = mul(w, column, self.across)
        along = along // COLUMNS if isinstance(along, int) else w.let(f"lshr exact i64 {along}, 4")
        pointer = step_pointer(w, self.source.base, "i8", add(w, mul(w, quad, self.down), along))
        if self.root:  # weights are read once, and in order: the same place in the next tile
            prefetch(w, step_pointer(w, pointer, "i8", self.source.shape[0]))
        with w.at_width(BYTES):
            return spread(w, pointer, self.dtype.bits)

    def bytes(self, w: Writer, quad: Index, column: Index, flip: int = 0) -> str:
        """The codes alone, some of their bits turned over."""
        with w.at_width(BYTES):
            found = self.vector(w, quad, column)
            if self.dtype.bits < 8:
                found = w.op("and", "i8", found, w.integer(self.dtype.code_mask, "i8"))
            return w.op("xor", "i8", found, w.integer(flip, "i8")) if flip else found


Packed = Codes | Quads
Outside = Place | Packed  # what a cluster may read


def spread(w: Writer, pointer: str, bits: int) -> str:
    """Fields that follow each other in memory, each of 64 at the lowest bits of a byte."""
    bytes_ = f"<{BYTES} x i8>"
    if bits == 8:
        return w.let(f"load {bytes_}, ptr {pointer}, align 1")
    shifts = _bytes([bits * (lane % 8) for lane in range(BYTES)])
    name = "llvm.x86.avx512.pmultishift.qb.512"
    w.declare(name, bytes_, bytes_, bytes_)
    return w.let(f"call {bytes_} @{name}({bytes_} {shifts}, {bytes_} {_apart(w, pointer, bits)})")


def _apart(w: Writer, pointer: str, bits: int) -> str:
    """Each eight fields, that many bytes, in a 64-bit lane."""
    bytes_ = f"<{BYTES} x i8>"
    if bits in (1, 2, 4):
        small = w.let(f"load <8 x i{8 * bits}>, ptr {pointer}, align 1")
        return w.let(f"bitcast <8 x i64> {w.let(f'zext <8 x i{8 * bits}> {small} to <8 x i64>')} to {bytes_}")
    packed = read(w, pointer, "i8", 1, Lanes(BYTES, bits * 8))
    places = _bytes([min(bits * (lane // 8) + lane % 8, BYTES - 1) for lane in range(BYTES)])
    name = "llvm.x86.avx512.permvar.qi.512"
    w.declare(name, bytes_, bytes_, bytes_)
    return w.let(f"call {bytes_} @{name}({bytes_} {packed}, {bytes_} {places})")


def _bytes(values: Sequence[int]) -> str:
    return f"<{', '.join(f'i8 {value}' for value in values)}>"


def quads(lo: Lowering, inst: shape.View, source: Ref) -> Quads | None:
    """The place of a view of bytes one after the other; None where it does not lie so, or the machine lacks
    the instructions.
    """
    bits, kind = inst.dtype.bits, inst.tile.shape
    plain = inst.dtype.is_integer and bits <= 8 and not inst.is_placed and inst.x.tile.dtype == dt.u8
    if not (plain and lo.w.features >= NEEDS and inst.layout.threads == 1 and len(kind) == 2):
        return None
    ordered = np.array_equal(inst.source.points().reshape(-1), np.arange(source.shape[0]))
    if kind[0] % ROWS or kind[1] % COLUMNS or not ordered:
        return None
    flat = inst.layout.points().reshape(-1, 2) @ np.array(row_major(kind))
    at = np.argsort(flat).reshape(kind[0] // ROWS, ROWS, kind[1] // COLUMNS, COLUMNS).transpose(0, 2, 3, 1)
    first = at[:, :, 0, 0]
    down, across = (int(x[1] - x[0]) if len(x) > 1 else 0 for x in (first[:, 0], first[0]))
    groups = np.arange(first.shape[0])[:, None] * down + np.arange(first.shape[1]) * across
    if (at != groups[:, :, None, None] + np.arange(BYTES).reshape(COLUMNS, ROWS)).any():
        return None
    return Quads(inst, source, down * bits // 8, across * bits // 8)


def fusible(insts: Sequence[Inst], outside: dict[Value, Outside]) -> bool:
    """Can a cluster be computed in quads: of bytes, from one tile of quads, registers, and memory that is the
    same in all rows?
    """
    small = all(inst.tile.dtype.is_integer and inst.tile.dtype.bits <= 8 for inst in insts)
    packed = [place for place in outside.values() if isinstance(place, Quads)]
    rest = (place for place in outside.values() if not isinstance(place, Quads))
    plain = all(isinstance(place, Splat) or (isinstance(place, Ref) and _in_row(place)) for place in rest)
    return small and plain and len(packed) == 1 and not any(isinstance(inst, Gather) for inst in insts)


def _in_row(place: Ref) -> bool:
    return place.strides == (0, 1) and place.dtype.is_integer and place.dtype.bits <= 8


def tables(lo: Lowering, insts: Sequence[Inst], outside: dict[Value, Outside]) -> dict[Value, Table]:
    """The values, by code, of what depends on the code alone."""
    found = {value: place.values for value, place in outside.items() if isinstance(place, Packed)}
    for inst in insts:
        operands = [lo.same(v) for v in reads(inst)]
        if any(v in found for v in operands) and all(v in found or isinstance(v, Full) for v in operands):
            given = [found[v] if v in found else v.meaning(State()).reshape(-1)[:1] for v in operands]
            with np.errstate(all="ignore"):
                found[inst] = np.asarray(inst.meaning(State(), *given))
    return found


class FusedQuads:
    """Instructions over one tile of quads, computed where they are used."""

    def __init__(self, lo: Lowering, insts: Sequence[Inst], outside: dict[Value, Outside]) -> None:
        self.lo, self.w, self.outside = lo, lo.w, outside
        self.codes = next(place for place in outside.values() if isinstance(place, Quads))
        self.tables = tables(lo, insts, outside)
        self.constant: dict[tuple[Value, Index], str] = {}

    def next_columns(self, columns: Sequence[Index]) -> None:
        """Reads what is the same in all rows."""
        self.constant.clear()
        for value, place in self.outside.items():
            for column in columns:
                if isinstance(place, Ref):
                    self.constant[value, column] = self._repeated(place, column)

    def _repeated(self, place: Ref, column: Index) -> str:
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
        codes = np.arange(len(table))
        starts = table.astype(np.int64) - (codes ^ flip)
        return (flip, int(starts[0])) if (starts == starts[0]).all() else None

    def vector(self, value: Value, quad: Index, column: Index, known: dict[Value, str]) -> str:
        """64 bytes of a value."""
        if value not in known:
            known[value] = self._computed(value, quad, column, known)
        return known[value]

    def _computed(self, value: Value, quad: Index, column: Index, known: dict[Value, str]) -> str:
        place = self.outside.get(value)
        if isinstance(place, Quads):
            with self.w.at_width(BYTES):
                return from_code(self.w, place.bytes(self.w, quad, column), place.dtype)
        with self.w.at_width(BYTES):
            if isinstance(place, Splat):
                return self.w.spread(place.register, self.w.held(place.dtype))
            if isinstance(place, Ref):
                return self.constant[value, column]
            assert isinstance(value, Inst), "what is not from outside is computed here"
            args = [self.vector(self.lo.same(v), quad, column, known) for v in reads(value)]
            return elementwise(self.w, value, args)
