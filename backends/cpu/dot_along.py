"""The product of few rows with columns whose elements are neighbours: by vectors along k, nothing is turned.

    sums[r][c]  +=  a[r, k .. k+15] * b[k .. k+15, c]        for all k; then the lanes of each are summed
So a vector is multiplied by x @ w.T, whose weights are read once and in order, and a matrix by a vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tilec.backends.convert import cast
from tilec.backends.cpu import dot as general
from tilec.backends.cpu.cluster import Cluster
from tilec.backends.cpu.lanes import Lanes, lane, read, write
from tilec.backends.cpu.loops import Index, add, loop, mul, step_pointer
from tilec.backends.cpu.lower import Lowering
from tilec.backends.cpu.nest import held_from
from tilec.backends.cpu.places import Ref
from tilec.ir.dtype import DType
from tilec.ir.inst import mma
from tilec.ir.tile import TileType

FEW = 16  # rows
LONG = 8  # elements of a column for each row, from which summing lanes costs less than turning columns


def dot(lo: Lowering, inst: mma.Dot) -> None:
    """Along k where that fits, else as all products are."""
    if not _fits(lo, inst):
        general.dot(lo, inst)
        return
    total = general.summed_in(inst)
    into, start = general.accumulator(lo, inst, total)
    sums = into if into.dtype == total else lo.temporary(TileType(total, inst.tile.shape))
    if start is None and sums is not into:
        general.converted(lo, into, sums)
    _product(lo, inst, total, sums, start).run()
    if sums is not into:
        general.converted(lo, sums, into)
    lo.define(inst, into)
    lo.used(inst)


def _fits(lo: Lowering, inst: mma.Dot) -> bool:
    """Floats, few rows or one column, and columns that lie along memory."""
    (m, k), n = inst.a.tile.shape, inst.b.tile.shape[1]
    place = lo.env[lo.same(inst.b)]
    if not (general.summed_in(inst).is_float and isinstance(place, Ref) and place.strides[0] == 1):
        return False
    few = m <= FEW and k >= LONG * m
    return k >= lo.vector_bytes and (few or (n == 1 and _lies_along(lo, inst)))


def _lies_along(lo: Lowering, inst: mma.Dot) -> bool:
    """Are the elements of a row of a neighbours, without computing it?"""
    found = lo.env[lo.same(inst.a)]
    return not isinstance(found, Cluster) and isinstance(found, Ref) and found.strides[1] == 1


def _product(lo: Lowering, inst: mma.Dot, total: DType, into: Ref, start: str | None) -> _Along:
    """Its operands; with one column those of the transposed product, of one row."""
    a, b = lo.place(inst.a), lo.place(inst.b)
    assert isinstance(b, Ref), "it was so a moment ago"
    if inst.tile.shape[1] == 1 and isinstance(a, Ref) and a.strides[1] == 1:
        return _Along(lo, total, _turned(b), _turned(a), _turned(into), start)
    return _Along(lo, total, general.left(lo, inst, total), b, into, start)


def _turned(ref: Ref) -> Ref:
    """The same elements, columns for rows."""
    return replace(ref, shape=ref.shape[::-1], strides=ref.strides[::-1])


@dataclass
class _Along:
    """a (m, k) and b (k, n), both along k; `start`: what all sums begin with, else what `into` holds."""

    lo: Lowering
    total: DType
    a: Ref
    b: Ref
    into: Ref
    start: str | None

    def __post_init__(self) -> None:
        self.w, self.element = self.lo.w, self.lo.w.held(self.total)
        self.width = self.lo.vector_bytes // self.total.bytes
        (self.m, self.k), self.n = self.a.shape, self.b.shape[1]
        sums = general.registers(self.lo) // 2
        self.down = min(self.m, 4 if sums > 8 else 2)
        self.across = min(8, self.width, 1 << (sums // self.down).bit_length() - 1)

    def run(self) -> None:
        """Columns outside: a few of them stay in the nearest cache for all rows."""
        first, across = 0, self.across
        while first < self.n:
            count = (self.n - first) // across
            if count:
                with loop(self.w, first, first + count * across, across) as run:
                    self.columns(run.index, across)
            first, across = first + count * across, across // 2

    def columns(self, column: Index, across: int) -> None:
        whole = self.m - self.m % self.down
        with loop(self.w, 0, whole, self.down) as run:
            self.block(run.index, column, (self.down, across))
        if whole < self.m:
            self.block(whole, column, (self.m - whole, across))

    def block(self, row: Index, column: Index, size: tuple[int, int]) -> None:
        """The sums of some rows and columns, and where they belong."""
        w, (down, across) = self.w, size
        rows = [self.moved(self.a, add(w, row, r), 0) for r in range(down)]
        columns = [self.moved(self.b, 0, add(w, column, c)) for c in range(across)]
        with w.at_width(self.width):
            kind, whole = w.vector(self.element), self.k - self.k % self.width
            zeros = [(kind, "zeroinitializer")] * (down * across)
            with loop(w, 0, whole, self.width, zeros) as run:
                run.next = self.step(rows, columns, run.index, self.width, run.values)
            sums = run.values
            if whole < self.k:
                sums = self.step(rows, columns, whole, self.k - whole, sums)
        for r in range(down):
            total = self.folded(sums[r * across : (r + 1) * across])
            self.put(total, self.moved(self.into, add(w, row, r), column), across)

    def step(self, rows: list[str], columns: list[str], at: Index, count: int, sums: list[str]) -> list[str]:
        """One vector of each, all with all."""
        lanes = Lanes(self.width, count)
        left = [self.vector(self.a, row, at, lanes) for row in rows]
        right = [self.vector(self.b, column, at, lanes) for column in columns]
        pairs = [(x, y) for x in left for y in right]
        fma, kind = "llvm.fma", self.element
        return [self.w.call(fma, kind, x, y, z) for (x, y), z in zip(pairs, sums, strict=True)]

    def vector(self, ref: Ref, line: str, at: Index, lanes: Lanes) -> str:
        pointer = step_pointer(self.w, line, ref.element, at)
        value = held_from(self.w, read(self.w, pointer, ref.element, 1, lanes), ref)
        return cast(self.w, value, ref.dtype, self.total)

    def moved(self, ref: Ref, row: Index, column: Index) -> str:
        line = step_pointer(self.w, ref.base, ref.element, mul(self.w, row, ref.strides[0]))
        return step_pointer(self.w, line, ref.element, mul(self.w, column, ref.strides[1]))

    def folded(self, sums: list[str]) -> str:
        """The sum over each one's lanes, as lanes of one vector: neighbours are added, level by level."""
        count, width = len(sums), self.width
        while len(sums) > 1:
            sums = [self.neighbours(x, y, width, width) for x, y in zip(sums[::2], sums[1::2], strict=True)]
        while width > count:
            sums, width = [self.neighbours(sums[0], "poison", width, width // 2)], width // 2
        return sums[0]

    def neighbours(self, x: str, y: str, width: int, out: int) -> str:
        """x0 + x1, x2 + x3, ... y0 + y1, ...: so many of these."""
        with self.w.at_width(width):
            parts = [self.every_other(first, x, y, out) for first in (0, 1)]
        with self.w.at_width(out):
            return self.w.op("fadd", self.element, *parts)

    def every_other(self, first: int, x: str, y: str, out: int) -> str:
        """Lanes of both, of which a scalar is one."""
        if out == 1:
            return lane(self.w, x, self.element, first)
        kind, order = self.w.vector(self.element), ", ".join(f"i32 {i}" for i in range(first, 2 * out, 2))
        return self.w.let(f"shufflevector {kind} {x}, {kind} {y}, <{out} x i32> <{order}>")

    def put(self, total: str, pointer: str, across: int) -> None:
        """Adds what was there, and writes."""
        w = self.w
        with w.at_width(across):
            lanes, kind = Lanes(across, across), self.element
            held = self.start is None
            before = read(w, pointer, kind, 1, lanes) if held else w.spread(str(self.start), kind)
            write(w, w.op("fadd", kind, before, total), pointer, kind, 1, lanes)
