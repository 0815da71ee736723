"""A cluster over codes, computed where it is used: a vector of a row at a time, unpacked on the way.

    fused = Fused(lo, cluster, codes)
    fused.vector(value, f32, block, row, column, lanes)     # columns of row `block * codes.period + row`
What depends on a code alone is a table of all codes, evaluated by the instructions' own meaning; so
casting and subtracting a constant zero cost what one of them does. What is the same in all rows is read once
per column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.convert import cast, from_code, to_memory
from tilec.backends.cpu.codes import Codes
from tilec.backends.cpu.fields import can_look_up, code, line, looked_up, number
from tilec.backends.cpu.lanes import Lanes, read, write
from tilec.backends.cpu.loops import Index, add, loop, mul, step_pointer
from tilec.backends.cpu.nest import held_from
from tilec.backends.cpu.places import Place, Ref, Splat
from tilec.backends.cpu.uses import reads
from tilec.backends.cpu.waiting import Waiting
from tilec.backends.emit import elementwise
from tilec.backends.writer import Writer
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.func import Inst, Value
from tilec.ir.inst.arith import Full
from tilec.ir.inst.memory import Gather
from tilec.ir.run import State

if TYPE_CHECKING:
    from tilec.backends.cpu.lower import Lowering

F32_MANTISSA = 23
Table = np.ndarray[Any, np.dtype[Any]]
Outside = Place | Codes | Waiting  # what a cluster may read


def fusible(insts: Sequence[Inst], outside: dict[Value, Outside]) -> Codes | None:
    """The codes that a cluster is about, if it reads one such tile, and else only registers and memory."""
    packed = [place for place in outside.values() if isinstance(place, Codes)]
    plain = all(isinstance(place, Codes | Splat | Ref) for place in outside.values())
    gathers = any(isinstance(inst, Gather) for inst in insts)
    return packed[0] if len(packed) == 1 and plain and not gathers else None


def tables(lo: Lowering, insts: Sequence[Inst], outside: dict[Value, Outside]) -> dict[Value, Table]:
    """The values, by code, of what depends on the code alone."""
    found = {value: place.values for value, place in outside.items() if isinstance(place, Codes)}
    for inst in insts:
        operands = [lo.same(v) for v in reads(inst)]
        if any(v in found for v in operands) and all(v in found or isinstance(v, Full) for v in operands):
            given = [found[v] if v in found else _one(v) for v in operands]
            with np.errstate(all="ignore"):
                found[inst] = np.asarray(inst.meaning(State(), *given))
    return found


def _one(value: Value) -> Table:
    """A constant, one element of it."""
    assert isinstance(value, Full), "other operands are constants"
    return value.meaning(State()).reshape(-1)[:1]


class Fused:
    """Instructions over one tile of codes."""

    in_order = True  # words are prefetched one by one: LLVM would put all that at the loop's end

    def __init__(self, lo: Lowering, insts: Sequence[Inst], outside: dict[Value, Outside]) -> None:
        codes = fusible(insts, outside)
        assert codes, "only what was found fusible is fused"
        self.lo, self.w, self.codes, self.outside = lo, lo.w, codes, outside
        self.tables = tables(lo, insts, outside)
        self.constant: dict[tuple[Value, Index], str] = {}  # operands that are the same in all rows
        self.words: dict[tuple[Index, int, Index], str] = {}

    @property
    def period(self) -> int:
        """After so many rows, as products count them, fields lie as before."""
        return self.codes.period

    def vectors(
        self, values: Sequence[tuple[Value, DType]], block: Index, row: int, column: Index, lanes: Lanes
    ) -> list[str]:
        """Values of one row, each cast to a dtype. Call `next_block` before another block."""
        point = _Point(self, block, row, column, lanes)
        return [point.cast(value, dtype) for value, dtype in values]

    def next_columns(self) -> None:
        """What was read of the columns is forgotten."""
        self.constant.clear()
        self.next_block()

    def next_block(self) -> None:
        self.words.clear()

    def write(self, values: Sequence[tuple[Value, DType]], refs: Sequence[Ref]) -> None:
        """All rows and columns to memory."""
        rows, columns = self.codes.shape
        width = min(self.lo.width(dt.f32), 1 << (columns - 1).bit_length())
        for first, stop, lanes in _pieces(columns, width):
            with self.w.at_width(lanes.width), loop(self.w, first, stop, width) as across:
                self.next_columns()
                self.read_constants(across.index, lanes)
                with loop(self.w, 0, rows // self.codes.period) as down:
                    self.next_block()
                    for row in range(self.codes.period):
                        self._row(values, refs, down.index, row, across.index, lanes)

    def _row(self, values: Sequence[tuple[Value, DType]], refs: Sequence[Ref], block: Index, row: int,
             column: Index, lanes: Lanes) -> None:  # fmt: skip
        found = self.vectors(values, block, row, column, lanes)
        whole = add(self.w, mul(self.w, block, self.codes.period), row)
        for register, (_, dtype), ref in zip(found, values, refs, strict=True):
            pointer = moved(self.w, ref, whole, column)
            write(self.w, to_memory(self.w, register, dtype), pointer, ref.element, ref.strides[1], lanes)

    def read_constants(self, column: Index, lanes: Lanes) -> None:
        """Reads what is the same in all rows, where the code for all rows will see it."""
        for value, place in self.outside.items():
            if isinstance(place, Ref) and place.strides[0] == 0:
                self.constant[value, column] = self._read(place, 0, column, lanes)

    def _read(self, place: Ref, row: Index, column: Index, lanes: Lanes) -> str:
        pointer = moved(self.w, place, row, column)
        return held_from(self.w, read(self.w, pointer, place.element, place.strides[1], lanes), place)

    def operand(self, value: Value, block: Index, row: int, column: Index, lanes: Lanes) -> str:
        """What is read from outside, but for the codes."""
        place = self.outside[value]
        if isinstance(place, Splat):
            return self.w.spread(place.register, self.w.held(place.dtype))
        if (value, column) in self.constant:
            return self.constant[value, column]
        assert isinstance(place, Ref), "only registers and memory are fused"
        whole = add(self.w, mul(self.w, block, self.codes.period), row)
        return self._read(place, whole, column, lanes)

    def fields(self, block: Index, row: int, column: Index, lanes: Lanes) -> list[str]:
        """The words that a row's bits are in."""
        field = self.codes.fields[row]
        return [self._word(block, at, column, lanes) for at in (field.first, field.second) if at is not None]

    def _word(self, block: Index, at: int, column: Index, lanes: Lanes) -> str:
        if (block, at, column) not in self.words:
            self.words[block, at, column] = self.codes.word(self.w, block, at, column, lanes)
            if self.in_order and self.codes.root:
                self.w.line('fence syncscope("singlethread") seq_cst')  # tells LLVM alone
        return self.words[block, at, column]


class _Point:
    """One vector: what has been computed of it."""

    def __init__(self, of: Fused, block: Index, row: int, column: Index, lanes: Lanes) -> None:
        self.of, self.w = of, of.w
        self.at = (block, row, column)
        self.lanes = lanes
        self.known: dict[Value, str] = {}

    def cast(self, value: Value, dtype: DType) -> str:
        """A value in another type; floats of 32 bits straight from the table, if there is one."""
        if dtype == dt.f32 and value in self.of.tables and value.tile.dtype.mantissa <= F32_MANTISSA:
            found = self._number(self.of.tables[value])
            if found:
                return found
        return cast(self.w, self.value(value), value.tile.dtype, dtype)

    def value(self, value: Value) -> str:
        if value not in self.known:
            self.known[value] = self._computed(value)
        return self.known[value]

    def _computed(self, value: Value) -> str:
        if value.tile.dtype == dt.f32 and value in self.of.tables:
            found = self._number(self.of.tables[value])
            if found:
                return found
        if isinstance(self.of.outside.get(value), Codes):
            found = code(self.w, self.words(), self.of.codes.fields[self.at[1]], value.tile.dtype.bits)
            return from_code(self.w, self.w.convert("trunc", "i32", found, "i8"), value.tile.dtype)
        if value in self.of.outside:
            return self.of.operand(value, *self.at, self.lanes)
        assert isinstance(value, Inst), "what is not from outside is computed here"
        return elementwise(self.w, value, [self.value(self.of.lo.same(v)) for v in reads(value)])

    def words(self) -> list[str]:
        return self.of.fields(*self.at, self.lanes)

    def _number(self, values: Table) -> str | None:
        """The f32 in the table; None where arithmetic is as good."""
        field, bits = self.of.codes.fields[self.at[1]], self.of.codes.dtype.bits
        if can_look_up(self.w, bits):
            return looked_up(self.w, self.words(), field, bits, values)
        on = line(values, self.of.codes)
        return number(self.w, self.words(), field, bits, on) if on else None


def moved(w: Writer, ref: Ref, row: Index, column: Index) -> str:
    """The address of an element."""
    line = step_pointer(w, ref.base, ref.element, mul(w, row, ref.strides[0]))
    return step_pointer(w, line, ref.element, mul(w, column, ref.strides[1]))


def _pieces(extent: int, width: int) -> list[tuple[int, int, Lanes]]:
    """Columns in whole vectors, and what is left: (from, to, lanes)."""
    whole = extent - extent % width
    pieces = [(0, whole, Lanes(width, width)), (whole, extent, Lanes(width, extent - whole))]
    return [piece for piece in pieces if piece[0] < piece[1]]
