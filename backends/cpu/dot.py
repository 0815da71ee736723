"""The matrix product: a block of rows x vectors of the result stays in registers while k runs.

    for each panel of columns:  for each panel of rows:  acc[r][v] += a[r, k] * b[k, v]  for all k

Floats are multiplied and summed in f32 by FMA (f64 where an operand or the result is), integers in the
result's type. Operands of other types are converted first: `a` to an array of its own, `b` to one too,
unless there are so few rows that it is read only once or twice. The result is written over the
accumulator's tile if nobody else reads that.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilec.backends.convert import cast
from tilec.backends.cpu.lanes import Lanes, read, write
from tilec.backends.cpu.loops import Index, loop, mul, step_pointer
from tilec.backends.cpu.lower import Lowering
from tilec.backends.cpu.nest import Point, held_from, nest
from tilec.backends.cpu.places import Place, Ref, Splat
from tilec.backends.cpu.transpose import transposed
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.inst import mma
from tilec.ir.tile import TileType

ROWS = 8  # as many as this or fewer are a panel
UNROLL = 4  # steps of k in the text of the inner loop


@dataclass(frozen=True)
class Panel:
    """Rows and vectors of columns that are computed together."""

    rows: int
    lanes: tuple[Lanes, ...]


def dot(lo: Lowering, inst: mma.Dot) -> None:
    (m, k), n = inst.a.tile.shape, inst.b.tile.shape[1]
    total = summed_in(inst)
    into, start = accumulator(lo, inst, total)
    product = Product(lo, total, k, start)
    product.a = _left(lo, inst, total)
    product.b = _right(lo, inst, total, m)
    product.into = into if into.dtype == total else lo.temporary(TileType(total, (m, n)))
    if start is None and product.into is not into:
        _converted(lo, into, product.into)
    product.run(m, n)
    if product.into is not into:
        _converted(lo, product.into, into)
    lo.define(inst, into)
    lo.used(inst)


def summed_in(inst: mma.Dot) -> DType:
    """The type of the registers."""
    wanted = inst.c.tile.dtype
    if wanted.is_integer:
        return wanted
    return dt.f64 if 64 in (wanted.bits, inst.a.tile.dtype.bits) else dt.f32


def accumulator(lo: Lowering, inst: mma.Dot, total: DType) -> tuple[Ref, str | None]:
    """Where the result goes, holding the accumulator, or the constant that all of it is."""
    place, kind = lo.place(inst.c), inst.tile
    if isinstance(place, Splat):
        return lo.new(kind, inst), cast(lo.w, place.register, kind.dtype, total)
    if _dies(lo, inst, place):
        assert isinstance(place, Ref), "only memory dies"
        return Ref(place.base, kind.dtype, kind.shape, place.strides, place.buffer), None
    return lo.copy(place, kind, lo.new(kind, inst)), None


def _dies(lo: Lowering, inst: mma.Dot, place: Place) -> bool:
    """Is this product the last to read the accumulator, alone in its buffer?"""
    c = lo.same(inst.c)
    own = (
        isinstance(place, Ref)
        and place.dense
        and not place.root
        and place.buffer
        and place.buffer.holders == 1
    )
    return bool(own) and c in lo.local[-1] and lo.uses[c] == 1


def _left(lo: Lowering, inst: mma.Dot, total: DType) -> Ref:
    """a, read one element at a time: its own memory if it is of the right type and k runs along it."""
    place = lo.place(inst.a)
    if isinstance(place, Ref) and place.dtype == total and (place.strides[1] == 1 or not place.root):
        return place
    return _packed(lo, place, inst.a.tile, total)


def _right(lo: Lowering, inst: mma.Dot, total: DType, m: int) -> Ref:
    """b, read by vectors of columns, from memory of our own where that is worth a copy."""
    place = lo.place(inst.b)
    rowwise = isinstance(place, Ref) and (place.strides[1] == 1 or place.shape[1] == 1)
    if isinstance(place, Ref) and rowwise and (m <= 2 * ROWS or (place.dtype == total and not place.root)):
        return place
    return _packed(lo, place, inst.b.tile, total)


def _packed(lo: Lowering, place: Place, kind: TileType, total: DType) -> Ref:
    """A dense copy in the type of the registers."""
    into = lo.temporary(TileType(total, kind.shape))
    if isinstance(place, Ref) and place.strides[0] == 1 and min(kind.shape) >= 8:
        transposed(lo, place, into)
    else:
        _converted(lo, place, into)
    return into


def _converted(lo: Lowering, place: Place, into: Ref) -> None:
    def body(args: list[str], point: Point) -> list[str]:
        return [cast(lo.w, args[0], place.dtype, into.dtype)]

    nest(lo.w, into.shape, [place], [into], lo.width(place.dtype, into.dtype), body)


class Product:
    """One product's loops."""

    a: Ref
    b: Ref
    into: Ref

    def __init__(self, lo: Lowering, total: DType, k: int, start: str | None) -> None:
        self.lo, self.w, self.total, self.k, self.start = lo, lo.w, total, k, start
        self.element = self.w.held(total)
        self.width = lo.vector_bytes // total.bytes
        self.registers = 32 if lo.vector_bytes == 64 or lo.w.arch == "aarch64" else 16

    def run(self, m: int, n: int) -> None:
        """Columns outside, so that a panel of b stays in the nearest cache."""
        width = min(self.width, 1 << (n - 1).bit_length())
        vectors = -(-n // width)
        across = next(v for v in (2, 1) if vectors % v == 0 or vectors > 2 * v)
        if m < 4:
            across = min(vectors, 8)
        down = self.rows(m, across)
        step = across * width
        whole = n - n % step
        if whole:
            with loop(self.w, 0, whole, step) as run:
                self.columns(m, down, run.index, tuple([Lanes(width, width)] * across))
        if whole < n:
            self.columns(m, down, whole, self.last(n - whole, width))

    def last(self, left: int, width: int) -> tuple[Lanes, ...]:
        """The vectors of what is left of the columns."""
        return tuple(Lanes(width, min(width, left - first)) for first in range(0, left, width))

    def rows(self, m: int, across: int) -> int:
        """How many rows fit into the registers, preferably a divisor of m."""
        most = max(1, (self.registers - across - 2) // across)
        most = min(most, 12 if across > 1 else 16, m)
        even = [rows for rows in range(most, 0, -1) if m % rows == 0 and rows * across >= min(8, m * across)]
        return even[0] if even else most

    def columns(self, m: int, down: int, first: Index, lanes: tuple[Lanes, ...]) -> None:
        """All rows of some columns."""
        whole = m - m % down
        with loop(self.w, 0, whole, down) as run:
            self.block(run.index, first, Panel(down, lanes))
        if whole < m:
            self.block(whole, first, Panel(m - whole, lanes))

    def block(self, row: Index, column: Index, panel: Panel) -> None:
        """One block of the result."""
        w = self.w
        targets = self.pointers(self.into, row, column, panel)
        a = [self.moved(self.a, self.a.base, 0, row), *[""] * (panel.rows - 1)]
        for r in range(1, panel.rows):
            a[r] = self.moved(self.a, a[0], 0, r)
        b = self.moved(self.b, self.b.base, 1, column)
        with w.at_width(panel.lanes[0].width):
            values = self.initial(targets, panel)
            kind = w.vector(self.element)
            whole = self.k - self.k % UNROLL
            if whole > UNROLL:
                with loop(w, 0, whole, UNROLL, [(kind, v) for v in values]) as run:
                    run.next = self.steps(a, b, run.index, UNROLL, list(run.values), panel)
                values = run.values
            else:
                whole = 0
            values = self.steps(a, b, whole, self.k - whole, values, panel)
            for target, value in zip(targets, values, strict=True):
                write(w, value, target[0], self.element, 1, target[1])

    def moved(self, ref: Ref, pointer: str, axis: int, by: Index) -> str:
        return step_pointer(self.w, pointer, ref.element, mul(self.w, by, ref.strides[axis]))

    def pointers(self, ref: Ref, row: Index, column: Index, panel: Panel) -> list[tuple[str, Lanes]]:
        """Addresses of the block's vectors in the result."""
        corner = self.moved(ref, self.moved(ref, ref.base, 0, row), 1, column)
        found = []
        for r in range(panel.rows):
            start = self.moved(ref, corner, 0, r)
            found += [(self.moved(ref, start, 1, v * x.width), x) for v, x in enumerate(panel.lanes)]
        return found

    def initial(self, targets: list[tuple[str, Lanes]], panel: Panel) -> list[str]:
        if self.start is not None:
            return [self.w.spread(self.start, self.element)] * len(targets)
        return [read(self.w, pointer, self.element, 1, lanes) for pointer, lanes in targets]

    def steps(
        self, a: list[str], b: str, first: Index, count: int, values: list[str], panel: Panel
    ) -> list[str]:
        """Some consecutive steps of k."""
        w = self.w
        rows = [self.moved(self.a, pointer, 1, first) for pointer in a] if count else []
        line = self.moved(self.b, b, 0, first) if count else b
        for i in range(count):
            here = self.moved(self.b, line, 0, i)
            across = [self.right(here, v, lanes) for v, lanes in enumerate(panel.lanes)]
            for r, pointer in enumerate(rows):
                x = w.spread(self.left(self.moved(self.a, pointer, 1, i)), self.element)
                for v, y in enumerate(across):
                    place = r * len(across) + v
                    values[place] = self.multiply(x, y, values[place])
        return values

    def left(self, pointer: str) -> str:
        """One element of a, as a scalar of the registers' type."""
        with self.w.at_width(1) as w:
            return cast(
                w,
                held_from(w, read(w, pointer, self.a.element, 1, Lanes(1, 1)), self.a),
                self.a.dtype,
                self.total,
            )

    def right(self, line: str, v: int, lanes: Lanes) -> str:
        """A vector of b."""
        pointer = self.moved(self.b, line, 1, v * lanes.width)
        value = held_from(self.w, read(self.w, pointer, self.b.element, 1, lanes), self.b)
        return cast(self.w, value, self.b.dtype, self.total)

    def multiply(self, x: str, y: str, total: str) -> str:
        if self.total.is_float:
            return self.w.call("llvm.fma", self.element, x, y, total)
        return self.w.op("add", self.element, total, self.w.op("mul", self.element, x, y))
