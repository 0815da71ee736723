"""Bytes in quads: four rows of a column in the four bytes of a 32-bit lane, as products of bytes take them.

    lanes of a vector:   (r, c) (r+1, c) (r+2, c) (r+3, c)   (r, c+1) ...    16 columns of 4 rows
A view lies so where 64 neighbouring codes of a stream are 16 columns of 4 rows: it is left packed, and
unpacked by three instructions: bytes are spread over 64-bit lanes, shifted lane by lane, and masked. Or where
64 bytes are, and those that share a byte are four rows apart: then by a shift and a mask.
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
from tilec.backends.cpu.waiting import Waiting
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
from tilec.ir.tile import dense_strides

if TYPE_CHECKING:
    from tilec.backends.cpu.lower import Lowering

Table = np.ndarray[Any, np.dtype[Any]]
ROWS, COLUMNS, BYTES = 4, 16, 64
NEEDS = frozenset({"avx512vnni", "avx512vbmi", "avx512bw"})


@dataclass(frozen=True)
class Quads:
    """Groups of 64 codes, or of 64 bytes of `planes` codes: `down` bytes from one group to that below it,
    `across` to that of the next 16 columns.
    """

    inst: shape.View
    source: Ref
    down: int
    across: int
    planes: int = 1

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

    def group(self, w: Writer, block: Index, column: Index) -> str:
        """The 64 codes of a group, or bytes, lowest in theirs; other bits above them."""
        along = mul(w, column, self.across)
        along = along // COLUMNS if isinstance(along, int) else w.let(f"lshr exact i64 {along}, 4")
        pointer = step_pointer(w, self.source.base, "i8", add(w, mul(w, block, self.down), along))
        if self.root:  # weights are read once, and in order: the same place in the next tile
            prefetch(w, pointer, self.source.shape[0])
        with w.at_width(BYTES):
            return spread(w, pointer, 8 if self.planes > 1 else self.dtype.bits)

    def codes(self, w: Writer, group: str, plane: int, flip: int = 0) -> str:
        """64 codes of a group, some of their bits turned over."""
        bits = self.dtype.bits
        if plane:
            words, bytes_ = f"<{COLUMNS} x i32>", f"<{BYTES} x i8>"
            held = w.let(f"bitcast {bytes_} {group} to {words}")
            moved = w.let(f"lshr {words} {held}, splat (i32 {plane * bits})")
            group = w.let(f"bitcast {words} {moved} to {bytes_}")
        with w.at_width(BYTES):
            found = w.op("and", "i8", group, w.integer(self.dtype.code_mask, "i8")) if bits < 8 else group
            return w.op("xor", "i8", found, w.integer(flip, "i8")) if flip else found


Packed = Codes | Quads
Outside = Place | Packed | Waiting  # what a cluster may read


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
    flat = inst.layout.points().reshape(-1, 2) @ np.array(dense_strides(kind))
    at = np.argsort(flat).reshape(kind[0] // ROWS, ROWS, kind[1] // COLUMNS, COLUMNS).transpose(0, 2, 3, 1)
    for planes in {1, 8 // bits} if 8 % bits == 0 else {1}:
        found = _steps(at, planes)
        if found:
            return Quads(inst, source, found[0] * bits // 8, found[1] * bits // 8, planes)
    return None


def _steps(at: Table, planes: int) -> tuple[int, int] | None:
    """How many codes on the group below is, and that beside, given the number of each code in the stream
    [quads of rows, groups of columns, columns, rows]; None where it does not lie so.
    """
    if at.shape[0] % planes:
        return None
    first = at[::planes, :, 0, 0]
    down, across = (int(x[1] - x[0]) if len(x) > 1 else 0 for x in (first[:, 0], first[0]))
    quad = np.arange(at.shape[0])
    groups = (quad // planes * down + quad % planes)[:, None] + np.arange(at.shape[1]) * across
    inside = np.arange(BYTES).reshape(COLUMNS, ROWS) * planes
    return (down, across) if (at == groups[:, :, None, None] + inside).all() else None


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
            given = [found[v] if v in found else _one(v) for v in operands]
            with np.errstate(all="ignore"):
                found[inst] = np.asarray(inst.meaning(State(), *given))
    return found


At = tuple[Index, int, Index]  # the first block of groups, a quad of rows from there, a column


def _one(value: Value) -> Table:
    """A constant, one element of it."""
    assert isinstance(value, Full), "other operands are constants"
    return value.meaning(State()).reshape(-1)[:1]


class FusedQuads:
    """Instructions over one tile of quads, computed where they are used."""

    def __init__(self, lo: Lowering, insts: Sequence[Inst], outside: dict[Value, Outside]) -> None:
        self.lo, self.w, self.outside = lo, lo.w, outside
        self.codes = next(place for place in outside.values() if isinstance(place, Quads))
        self.tables = tables(lo, insts, outside)
        self.constant: dict[tuple[Value, Index], str] = {}
        self.groups: dict[tuple[int, Index], str] = {}

    def next_columns(self, columns: Sequence[Index]) -> None:
        """Reads what is the same in all rows."""
        self.constant.clear()
        for value, place in self.outside.items():
            for column in columns:
                if isinstance(place, Ref):
                    self.constant[value, column] = self._repeated(place, column)

    def next_rows(self) -> None:
        """Groups that were read are forgotten."""
        self.groups.clear()

    def codes_at(self, at: At, flip: int = 0) -> str:
        """Codes of four rows of 16 columns."""
        block, quad, column = at
        group = quad // self.codes.planes
        if (group, column) not in self.groups:
            below = add(self.w, block, group)
            self.groups[group, column] = self.codes.group(self.w, below, column)
        return self.codes.codes(self.w, self.groups[group, column], quad % self.codes.planes, flip)

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

    def vector(self, value: Value, at: At, known: dict[Value, str]) -> str:
        """64 bytes of a value."""
        if value not in known:
            known[value] = self._computed(value, at, known)
        return known[value]

    def _computed(self, value: Value, at: At, known: dict[Value, str]) -> str:
        place = self.outside.get(value)
        with self.w.at_width(BYTES):
            if isinstance(place, Quads):
                return from_code(self.w, self.codes_at(at), place.dtype)
            if isinstance(place, Splat):
                return self.w.spread(place.register, self.w.held(place.dtype))
            if isinstance(place, Ref):
                return self.constant[value, at[2]]
            assert isinstance(value, Inst), "what is not from outside is computed here"
            args = [self.vector(self.lo.same(v), at, known) for v in reads(value)]
            return elementwise(self.w, value, args)
