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
from tilec.backends.cpu.cluster import Taken, taken
from tilec.backends.cpu.fused import Fused
from tilec.backends.cpu.lanes import Lanes, read, write
from tilec.backends.cpu.loops import Index, loop, mul, step_pointer
from tilec.backends.cpu.lower import Lowering
from tilec.backends.cpu.nest import Point, held_from, nest
from tilec.backends.cpu.places import Place, Ref, Splat
from tilec.backends.cpu.right import InMemory, Panels, Right, Unpacked
from tilec.backends.cpu.transpose import transposed
from tilec.backends.cpu.waiting import Finish, Waiting, wait
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.inst import mma
from tilec.ir.tile import TileType

ROWS = 8  # as many as this or fewer are a panel
TEXT = 128  # vectors that are unpacked in the text of one loop


@dataclass(frozen=True)
class Panel:
    """Rows and vectors of columns that are computed together."""

    rows: int
    lanes: tuple[Lanes, ...]


def dot(lo: Lowering, inst: mma.Dot) -> None:
    """At once, or where it is read."""
    wait(lo, Waiting(inst, taken(lo, inst.b) if summed_in(inst) == dt.f32 else None, _write))


def _write(lo: Lowering, inst: mma.Dot, packed: Taken | None, finish: Finish | None) -> None:
    (m, k), n = inst.a.tile.shape, inst.b.tile.shape[1]
    total = summed_in(inst)
    period = packed.fused.codes.period if packed and isinstance(packed.fused, Fused) else 0
    product = Product(lo, total, (m, n, k), period)
    product.a = left(lo, inst, total)
    product.b = _right(lo, inst, total, packed, product.step)
    computed(product, inst, finish)
    if packed:
        packed.done()
    lo.used(inst)


def computed(product: Product, inst: mma.Dot, finish: Finish | None) -> None:
    """Writes the product, over its accumulator or somewhere new; or it goes to whoever finishes it."""
    lo, total, kind = product.lo, product.total, inst.tile
    if finish:
        product.start, product.finish = start_of(lo, inst, total), finish
        product.run()
        return
    into, product.start = accumulator(lo, inst, total)
    product.into = into if into.dtype == total else lo.temporary(TileType(total, kind.shape))
    if product.start is None and product.into is not into:
        converted(lo, into, product.into)
    product.run()
    if product.into is not into:
        converted(lo, product.into, into)
    lo.define(inst, into)


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
        return lo.new(kind, inst), start_of(lo, inst, total)
    if _dies(lo, inst, place):
        assert isinstance(place, Ref), "only memory dies"
        return Ref(place.base, kind.dtype, kind.shape, place.strides, place.buffer), None
    return lo.copy(place, kind, lo.new(kind, inst)), None


def start_of(lo: Lowering, inst: mma.Dot, total: DType) -> str:
    """The constant that all sums begin with."""
    place = lo.place(inst.c)
    assert isinstance(place, Splat), "only constants are no memory"
    return cast(lo.w, place.register, inst.tile.dtype, total)


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


def left(lo: Lowering, inst: mma.Dot, total: DType) -> Ref:
    """a, read one element at a time: its own memory if it is of the right type and k runs along it.

    Many rows of an array are copied, since they may lie so far apart that they push each other out of the
    cache: a power of two.
    """
    place = lo.place(inst.a)
    near = place.strides[1] == 1 and inst.a.tile.shape[0] < ROWS if isinstance(place, Ref) else False
    if isinstance(place, Ref) and place.dtype == total and (near or not place.root):
        return place
    return packed_copy(lo, place, inst.a.tile, total)


def _right(lo: Lowering, inst: mma.Dot, total: DType, packed: Taken | None, step: int) -> Right:
    """b, by vectors of columns: each panel of `step` is copied near where that is worth it."""
    (k, n), few = inst.b.tile.shape, inst.a.tile.shape[0] <= registers(lo) // 2
    if packed:
        assert isinstance(packed.fused, Fused), "floats are taken in fields"
        found = Unpacked(packed.fused, lo.same(inst.b), total)
        return found if few else Panels(lo, found, k, step, total)
    place = lo.place(inst.b)
    if not isinstance(place, Ref) or not (1 in place.strides or n == 1):
        place = packed_copy(lo, place, inst.b.tile, total)
    if (place.strides[1] == 1 or n == 1) and (few or (place.dtype == total and not place.root and n <= step)):
        return InMemory(lo.w, place, total)
    return Panels(lo, InMemory(lo.w, place, total), k, step, total)


def packed_copy(lo: Lowering, place: Place, kind: TileType, total: DType) -> Ref:
    """A dense copy in the type of the registers."""
    into = lo.temporary(TileType(total, kind.shape))
    if isinstance(place, Ref) and place.strides[0] == 1 and min(kind.shape) >= 8:
        transposed(lo, place, into)
    else:
        converted(lo, place, into)
    return into


def converted(lo: Lowering, place: Place, into: Ref) -> None:
    def body(args: list[str], point: Point) -> list[str]:
        return [cast(lo.w, args[0], place.dtype, into.dtype)]

    nest(lo.w, into.shape, [place], [into], lo.width(place.dtype, into.dtype), body)


def registers(lo: Lowering) -> int:
    """Vector registers of the machine."""
    return 32 if lo.vector_bytes == 64 or lo.w.arch == "aarch64" else 16


class Product:
    """One product's loops."""

    a: Ref
    b: Right
    into: Ref
    start: str | None  # what sums begin with; None: they are added to what `into` holds
    finish: Finish | None = None  # who takes them instead

    def __init__(self, lo: Lowering, total: DType, shape: tuple[int, int, int], period: int) -> None:
        self.lo, self.w, self.total = lo, lo.w, total
        self.m, self.n, self.k = shape
        self.element = self.w.held(total)
        self.registers = registers(lo)
        self.width = self.lanes()
        self.period = period  # of codes, 0 where b is no such
        self.at_once = period > 0 and self.m <= self.registers // 2  # unpacked for all rows
        self.across = self.vectors(-(-self.n // self.width))
        self.step = self.across * self.width

    def run(self) -> None:
        """Columns outside, so that a panel of b stays in the nearest cache."""
        whole = self.n - self.n % self.step
        if whole:
            with loop(self.w, 0, whole, self.step) as run:
                self.columns(run.index, tuple([Lanes(self.width, self.width)] * self.across))
        if whole < self.n:
            self.columns(whole, self.last(self.n - whole, self.width))

    def lanes(self) -> int:
        """Columns of a vector: no more than there are."""
        return min(self.lo.vector_bytes // self.total.bytes, 1 << (self.n - 1).bit_length())

    def vectors(self, there: int) -> int:
        """How many across: of few rows many, else about as many as rows, so that least is read."""
        if self.at_once:
            return min(there, max(1, TEXT // self.period), max(1, (self.registers - 4) // (self.m + 1)), 8)
        if self.m < 4:
            return min(there, 8)
        return next(v for v in (self.registers // 8, 2, 1) if there % v == 0 or there > 2 * v)

    def last(self, left: int, width: int) -> tuple[Lanes, ...]:
        """The vectors of what is left of the columns."""
        return tuple(Lanes(width, min(width, left - first)) for first in range(0, left, width))

    def rows(self) -> int:
        """How many rows fit into the registers, preferably a divisor of m."""
        if self.at_once:
            return self.m
        most = min(self.m, max(1, (self.registers - self.across - 2) // self.across))
        enough = min(16, self.m * self.across)
        even = [r for r in range(most, 0, -1) if self.m % r == 0 and r * self.across >= enough]
        return even[0] if even and self.m < 16 * most else most

    def columns(self, first: Index, lanes: tuple[Lanes, ...]) -> None:
        """All rows of some columns."""
        down = self.rows()
        whole = self.m - self.m % down
        self.b.at_panel(first, lanes)
        with loop(self.w, 0, whole, down) as run:
            self.block(run.index, first, Panel(down, lanes))
        if whole < self.m:
            self.block(whole, first, Panel(self.m - whole, lanes))

    def block(self, row: Index, column: Index, panel: Panel) -> None:
        """One block of the result."""
        w = self.w
        a = [self.moved(self.a, self.a.base, 0, row), *[""] * (panel.rows - 1)]
        for r in range(1, panel.rows):
            a[r] = self.moved(self.a, a[0], 0, r)
        with w.at_width(panel.lanes[0].width):
            self.b.at_columns(column, panel.lanes)
            values = self.initial(row, panel)
            kind, unroll = w.vector(self.element), self.b.unroll
            whole = self.k - self.k % unroll
            if whole > unroll:
                with loop(w, 0, whole, unroll, [(kind, v) for v in values]) as run:
                    run.next = self.steps(a, run.index, unroll, list(run.values), panel)
                values = run.values
            else:
                whole = 0
            values = self.steps(a, whole, self.k - whole, values, panel)
            self.put(values, row, column, panel)

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

    def initial(self, row: Index, panel: Panel) -> list[str]:
        """What the sums begin with: not what memory holds, so that they need not wait for it."""
        w, begun = self.w, self.start is not None
        start = w.spread(str(self.start), self.element) if begun else w.constant(0, self.total)
        return [start] * (panel.rows * len(panel.lanes))

    def put(self, sums: list[str], row: Index, column: Index, panel: Panel) -> None:
        """Sums leave the registers."""
        w = self.w
        if self.finish:
            given = [cast(w, x, self.total, self.finish.dtype) for x in sums]
            self.finish.block(row, column, panel.rows, panel.lanes, given)
            return
        for value, (pointer, lanes) in zip(sums, self.pointers(self.into, row, column, panel), strict=True):
            if self.start is None:
                value = self.added(read(w, pointer, self.element, 1, lanes), value)
            write(w, value, pointer, self.element, 1, lanes)

    def added(self, x: str, y: str) -> str:
        return self.w.op("fadd" if self.total.is_float else "add", self.element, x, y)

    def steps(self, a: list[str], first: Index, count: int, values: list[str], panel: Panel) -> list[str]:
        """Some consecutive steps of k."""
        if not count:
            return values
        w = self.w
        rows = [self.moved(self.a, pointer, 1, first) for pointer in a]
        self.b.at_rows(first)
        for i in range(count):
            across = [self.b.vector(i, v) for v in range(len(panel.lanes))]
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

    def multiply(self, x: str, y: str, total: str) -> str:
        if self.total.is_float:
            return self.w.call("llvm.fma", self.element, x, y, total)
        return self.w.op("add", self.element, total, self.w.op("mul", self.element, x, y))
