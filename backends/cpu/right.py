"""The right operand of a product, by vectors of columns: from memory, or unpacked on the way.

right.at_panel(column, lanes)         before the loop over the rows of the result
right.at_columns(column, lanes)       in it, before that over k
right.at_rows(k)                      in that; then up to `unroll` rows may be asked for
right.vector(i, v)                    row k + i, v-th vector
"""

from __future__ import annotations

from typing import Protocol

from tilec.backends.convert import cast
from tilec.backends.cpu.fused import Fused, moved
from tilec.backends.cpu.lanes import Lanes, read, write
from tilec.backends.cpu.loops import Index, add, loop, mul, step_pointer
from tilec.backends.cpu.lower import Lowering
from tilec.backends.cpu.nest import held_from
from tilec.backends.cpu.places import Ref
from tilec.backends.cpu.transpose import transposed
from tilec.backends.writer import Writer
from tilec.ir.dtype import DType
from tilec.ir.func import Value
from tilec.ir.tile import TileType

UNROLL = 4  # steps of k in the text of the inner loop


class Right(Protocol):
    """What a product asks for, in this order."""

    unroll: int

    def at_panel(self, column: Index, lanes: tuple[Lanes, ...]) -> None: ...

    def at_columns(self, column: Index, lanes: tuple[Lanes, ...]) -> None: ...

    def at_rows(self, first: Index) -> None: ...

    def vector(self, i: int, v: int) -> str: ...


class InMemory:
    """Elements in memory, cast one vector at a time."""

    unroll = UNROLL

    def __init__(self, w: Writer, ref: Ref, total: DType) -> None:
        self.w, self.ref, self.total = w, ref, total

    def at_panel(self, column: Index, lanes: tuple[Lanes, ...]) -> None:
        """Nothing: it is where it is."""

    def at_columns(self, column: Index, lanes: tuple[Lanes, ...]) -> None:
        self.lanes, self.corner = lanes, moved(self.w, self.ref, 0, column)

    def at_rows(self, first: Index) -> None:
        by = mul(self.w, first, self.ref.strides[0])
        self.line = step_pointer(self.w, self.corner, self.ref.element, by)

    def vector(self, i: int, v: int) -> str:
        ref, lanes = self.ref, self.lanes[v]
        here = step_pointer(self.w, self.line, ref.element, mul(self.w, i, ref.strides[0]))
        here = step_pointer(self.w, here, ref.element, mul(self.w, v * lanes.width, ref.strides[1]))
        value = held_from(self.w, read(self.w, here, ref.element, 1, lanes), ref)
        return cast(self.w, value, ref.dtype, self.total)


class Unpacked:
    """Computed from codes, a repetition of their pattern at a time."""

    def __init__(self, fused: Fused, value: Value, total: DType) -> None:
        self.w, self.fused, self.value, self.total = fused.w, fused, value, total
        self.unroll = -(-UNROLL // fused.period) * fused.period

    def at_panel(self, column: Index, lanes: tuple[Lanes, ...]) -> None:
        """Nothing: it is unpacked where it is used."""

    def at_columns(self, column: Index, lanes: tuple[Lanes, ...]) -> None:
        self.columns = [add(self.w, column, v * x.width) for v, x in enumerate(lanes)]
        self.lanes = lanes
        self.fused.next_columns()
        for at, each in zip(self.columns, lanes, strict=True):
            self.fused.read_constants(at, each)

    def at_rows(self, first: Index) -> None:
        self.fused.next_block()
        period = self.fused.period
        block = first // period if isinstance(first, int) else self.w.let(f"udiv exact i64 {first}, {period}")
        self.blocks = [add(self.w, block, after) for after in range(self.unroll // period)]

    def at(self, i: int, v: int) -> tuple[Index, int, Index]:
        """Where row k + i is: the repetition of fields, the row in it, the column."""
        block, row = divmod(i, self.fused.period)
        return self.blocks[block], row, self.columns[v]

    def vector(self, i: int, v: int) -> str:
        return self.fused.vectors([(self.value, self.total)], *self.at(i, v), self.lanes[v])[0]


class Panels(InMemory):
    """Copied to memory of our own, of the nearest cache's size, for all rows that use some columns."""

    def __init__(self, lo: Lowering, source: Right, rows: int, columns: int, total: DType) -> None:
        super().__init__(lo.w, lo.temporary(TileType(total, (rows, columns))), total)
        self.lo, self.source, self.rows = lo, source, rows

    def at_panel(self, column: Index, lanes: tuple[Lanes, ...]) -> None:
        if isinstance(self.source, InMemory) and self.source.ref.strides[1] != 1:
            self._turned(self.source.ref, column, lanes)
            return
        with self.w.at_width(lanes[0].width):
            self.source.at_columns(column, lanes)
            whole = self.rows - self.rows % self.source.unroll
            with loop(self.w, 0, whole, self.source.unroll) as run:
                self._copied(run.index, self.source.unroll, lanes)
            if whole < self.rows:
                self._copied(whole, self.rows - whole, lanes)

    def _copied(self, first: Index, count: int, lanes: tuple[Lanes, ...]) -> None:
        self.source.at_rows(first)
        for i in range(count):
            line = moved(self.w, self.ref, add(self.w, first, i), 0)
            for v, each in enumerate(lanes):
                place = step_pointer(self.w, line, self.ref.element, v * each.width)
                full = Lanes(each.width, each.width)
                write(self.w, self.source.vector(i, v), place, self.ref.element, 1, full)

    def _turned(self, ref: Ref, column: Index, lanes: tuple[Lanes, ...]) -> None:
        """From columns that lie one after the other."""
        shape = self.rows, sum(each.count for each in lanes)
        corner = moved(self.w, ref, 0, column)
        source = Ref(corner, ref.dtype, shape, ref.strides, ref.buffer, ref.raw, ref.root)
        transposed(self.lo, source, Ref(self.ref.base, self.total, shape, self.ref.strides))

    def at_columns(self, column: Index, lanes: tuple[Lanes, ...]) -> None:
        super().at_columns(0, tuple(Lanes(each.width, each.width) for each in lanes))
