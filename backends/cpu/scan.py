"""Running sums and extremes, and where an extreme is: one element after the other along an axis.

Across rows whole vectors of columns go together. Along a row, an index search keeps one candidate per lane.
"""

from __future__ import annotations

from tilec.backends.convert import to_memory, widened
from tilec.backends.cpu.lanes import Lanes, write
from tilec.backends.cpu.loops import loop, mul, step_pointer
from tilec.backends.cpu.lower import Lowering
from tilec.backends.cpu.nest import Body, Point, nest, ramp
from tilec.backends.cpu.places import Splat
from tilec.backends.cpu.reduce import Axis, Reducer, shuffled, without
from tilec.backends.writer import Writer
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.inst import reduce as red

NOWHERE = 0x7FFFFFFF  # an index after all others
Candidate = tuple[str, str]  # a value, widened, and its index


def scanned(lo: Lowering, inst: red.Scan) -> None:
    """Inclusive; sums are kept as in a reduction and rounded for each element."""
    kind = inst.x.tile
    if kind.size == 1:
        lo.define(inst, lo.place(inst.x))
        return lo.used(inst)
    reducer, axis = Reducer(lo, inst.op, kind.dtype), Axis(lo.memory(inst.x), inst.axis)
    into = lo.new(inst.tile, inst)
    target = Axis(into, inst.axis)

    def body(args: list[str], point: Point) -> list[str]:
        w = lo.w
        source, spot = axis.pointer(w, point.at), target.pointer(w, point.at)
        step = axis.columns() if kind.rank > 1 else 1
        with loop(w, 0, axis.extent, 1, [(w.vector(reducer.element), reducer.start())]) as run:
            value = axis.element(w, source, run.index, point.lanes, step)
            total = reducer.combine(run.values[0], reducer.widened(value))
            at = step_pointer(w, spot, into.element, mul(w, run.index, target.step))
            write(w, to_memory(w, reducer.rounded(total), into.dtype), at, into.element, 1, point.lanes)
            run.next = [total]
        return []

    rest = without(kind.shape, inst.axis)
    width = 1 if axis.last else lo.width(kind.dtype, reducer.total)
    nest(lo.w, rest or (1,), [], [], width, body if rest else _alone(body), merge=False)
    lo.define(inst, into)
    lo.used(inst)
    return None


def _alone(body: Body) -> Body:
    """A body for a tile without other axes."""
    return lambda args, point: body(args, Point((), point.lanes))


def argument(lo: Lowering, inst: red.ArgReduce) -> None:
    """The first of the extremes; NaN is more extreme than any number."""
    kind = inst.x.tile
    if kind.size == 1:
        lo.define(inst, Splat("0", dt.i32))
        return lo.used(inst)
    axis, search = Axis(lo.memory(inst.x), inst.axis), Search(lo, inst.op, kind.dtype)
    if inst.tile.size == 1:
        lo.define(inst, Splat(search.row(axis.ref.base, axis), dt.i32))
        return lo.used(inst)

    def body(args: list[str], point: Point) -> list[str]:
        pointer = axis.pointer(lo.w, point.at)
        return [search.row(pointer, axis) if axis.last else search.columns(pointer, axis, point.lanes)]

    into = lo.new(inst.tile, inst)
    width = 1 if axis.last else search.width
    nest(lo.w, inst.tile.shape, [], [into], width, body, merge=False)
    lo.define(inst, into)
    lo.used(inst)
    return None


class Search:
    """Looks for the largest or smallest of a dtype's values."""

    def __init__(self, lo: Lowering, op: str, dtype: DType) -> None:
        self.w, self.op, self.dtype = lo.w, op, dtype
        self.compared = dt.f32 if dtype.is_float and dtype.bits < 64 else dtype
        self.element = self.w.held(self.compared)
        self.width = lo.width(dtype, self.compared, dt.i32)

    def start(self) -> Candidate:
        return self.w.constant(red.identity(self.op, self.compared), self.compared), self.w.integer(
            NOWHERE, "i32"
        )

    def value(self, register: str) -> str:
        return widened(self.w, register, self.dtype)[0] if self.dtype.is_float else register

    def better(self, a: str, b: str) -> str:
        """Is a more extreme than b?"""
        if not self.dtype.is_float:
            how = ("s" if self.dtype.is_signed else "u") + ("gt" if self.op == "max" else "lt")
            return self.w.compare(how, self.element, a, b)
        beyond = self.w.compare("ogt" if self.op == "max" else "olt", self.element, a, b)
        a_nan, b_number = (self.w.compare(how, self.element, x, x) for how, x in (("uno", a), ("ord", b)))
        return self.w.op("or", "i1", beyond, self.w.op("and", "i1", a_nan, b_number))

    def best(self, a: Candidate, b: Candidate) -> Candidate:
        """The more extreme, or of equals the earlier."""
        worse = self.better(a[0], b[0])
        equal = self.w.op("xor", "i1", worse, self.w.splat("true", "i1"))
        earlier = self.w.op("and", "i1", equal, self.w.compare("slt", "i32", b[1], a[1]))
        take = self.w.op("or", "i1", self.better(b[0], a[0]), earlier)
        return self.w.select(take, self.element, b[0], a[0]), self.w.select(take, "i32", b[1], a[1])

    def columns(self, pointer: str, axis: Axis, lanes: Lanes) -> str:
        w = self.w
        value, index = self.start()
        with loop(w, 0, axis.extent, 1, [(w.vector(self.element), value), (w.vector("i32"), index)]) as run:
            new = self.value(axis.element(w, pointer, run.index, lanes, axis.columns()))
            place = w.spread(w.let(f"trunc i64 {run.index} to i32"), "i32")
            run.next = list(self.best((run.values[0], run.values[1]), (new, place)))
        return run.values[1]

    def row(self, pointer: str, axis: Axis) -> str:
        """A candidate per lane, then the best of them."""
        w, extent = self.w, axis.extent
        width = min(self.width, 1 << (extent - 1).bit_length())
        whole = extent - extent % width
        with w.at_width(width):
            value, index = self.start()
            with loop(w, 0, whole, width, [(w.vector(self.element), value), (w.vector("i32"), index)]) as run:
                found = (run.values[0], run.values[1])
                run.next = list(self.best(found, self.piece(pointer, axis, run.index, Lanes(width, width))))
            found = (run.values[0], run.values[1])
            if whole < extent:
                found = self.best(found, self.piece(pointer, axis, whole, Lanes(width, extent - whole)))
        return self.halves(found, width)

    def piece(self, pointer: str, axis: Axis, first: str | int, lanes: Lanes) -> Candidate:
        w = self.w
        here = step_pointer(w, pointer, axis.ref.element, mul(w, first, axis.step))
        value = self.value(axis.element(w, here, 0, lanes, axis.step))
        base = (
            w.integer(first, "i32")
            if isinstance(first, int)
            else w.spread(w.let(f"trunc i64 {first} to i32"), "i32")
        )
        index = w.op("add", "i32", base, ramp(w, "i32", 1))
        if lanes.all:
            return value, index
        start = self.start()
        return w.select(lanes.text, self.element, value, start[0]), w.select(
            lanes.text, "i32", index, start[1]
        )

    def halves(self, found: Candidate, width: int) -> str:
        w = self.w
        while width > 1:
            half = width // 2
            parts = [
                tuple(
                    _half(w, x, kind, width, i) for x, kind in zip(found, (self.element, "i32"), strict=True)
                )
                for i in (0, 1)
            ]
            with w.at_width(half):
                found = self.best((parts[0][0], parts[0][1]), (parts[1][0], parts[1][1]))
            width = half
        return found[1]


def _half(w: Writer, vector: str, element: str, width: int, which: int) -> str:
    half = width // 2
    if half == 1:
        return w.let(f"extractelement <2 x {element}> {vector}, i64 {which}")
    return shuffled(w, vector, element, width, range(which * half, which * half + half))
