"""Reductions along an axis.

Along a row: a vector of partial results, then halves are combined until one is left. Across rows: whole
vectors of columns, one row after the other. Sums of floats are kept in f32 (f64 for f64) and rounded once
at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tilec.backends.convert import cast
from tilec.backends.cpu.lanes import Lanes, read
from tilec.backends.cpu.loops import Index, add, loop, mul, step_pointer
from tilec.backends.cpu.lower import Lowering
from tilec.backends.cpu.nest import Body, Point, held_from, nest
from tilec.backends.cpu.places import Place, Ref, Splat
from tilec.backends.emit import elementwise
from tilec.backends.writer import Writer
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.func import Arg, Inst
from tilec.ir.inst import arith
from tilec.ir.inst import reduce as red
from tilec.ir.tile import TileType

Combine = Callable[[str, str], str]
PARTS = 4  # vectors of partial results along a row: as many additions in flight


class Reducer:
    """How one reduction combines: the dtype it accumulates in, what it starts from."""

    def __init__(self, lo: Lowering, op: str, dtype: DType) -> None:
        self.lo, self.op, self.dtype = lo, op, dtype
        self.total = total_dtype(dtype) if op == "sum" else dtype
        x = Arg(TileType(self.total))
        kinds = {
            "sum": arith.Add,
            "max": arith.Maximum,
            "min": arith.Minimum,
            "any": arith.Or,
            "all": arith.And,
        }
        self.inst: Inst = kinds[op](x, x)

    def combine(self, a: str, b: str) -> str:
        return elementwise(self.lo.w, self.inst, [a, b])

    def widened(self, register: str) -> str:
        return cast(self.lo.w, register, self.dtype, self.total)

    def rounded(self, register: str) -> str:
        return cast(self.lo.w, register, self.total, self.dtype)

    def start(self) -> str:
        """What changes nothing: -0 for a sum of floats."""
        if self.op == "sum" and self.total.is_float:
            return self.lo.w.constant(-0.0, self.total)
        return self.lo.w.constant(red.identity(self.op, self.total), self.total)

    @property
    def element(self) -> str:
        return self.lo.w.held(self.total)


def total_dtype(dtype: DType) -> DType:
    """What a sum is kept in."""
    return dtype if not dtype.is_float or dtype.bits == 64 else dt.f32


def reduced(lo: Lowering, inst: red.Reduce) -> None:
    kind = inst.x.tile
    if kind.size == 1:
        return _finish(lo, inst, lo.place(inst.x))
    axis, reducer = Axis(lo.memory(inst.x), inst.axis), Reducer(lo, inst.op, kind.dtype)
    if inst.tile.size == 1:
        total = reducer.rounded(_row(reducer, axis.ref.base, axis))
        return _finish(lo, inst, Splat(total, kind.dtype))
    into = lo.new(inst.tile, inst)
    nest(lo.w, inst.tile.shape, [], [into], axis.width(reducer), axis.body(reducer), merge=False)
    return _finish(lo, inst, into)


def _finish(lo: Lowering, inst: Inst, place: Place) -> None:
    lo.define(inst, place)
    lo.used(inst)


@dataclass(frozen=True)
class Axis:
    """The axis of a tile in memory along which something runs."""

    ref: Ref
    axis: int

    @property
    def extent(self) -> int:
        return self.ref.shape[self.axis]

    @property
    def step(self) -> Index:
        return self.ref.strides[self.axis]

    @property
    def last(self) -> bool:
        """Do neighbours in memory follow each other along this axis?"""
        return all(n == 1 for n in self.ref.shape[self.axis + 1 :])

    def pointer(self, w: Writer, at: Sequence[Index]) -> str:
        """Where it starts, at a place of the other axes."""
        offset: Index = 0
        for index, stride in zip(at, without(self.ref.strides, self.axis), strict=True):
            offset = add(w, offset, mul(w, index, stride))
        return step_pointer(w, self.ref.base, self.ref.element, offset)

    def columns(self) -> Index:
        """Elements between neighbouring results."""
        last: Index = without(self.ref.strides, self.axis)[-1]
        return last

    def element(self, w: Writer, pointer: str, index: Index, lanes: Lanes, step: Index) -> str:
        """A vector at a place along the axis, as it is held."""
        here = step_pointer(w, pointer, self.ref.element, mul(w, index, self.step))
        return held_from(w, read(w, here, self.ref.element, step, lanes), self.ref)

    def width(self, reducer: Reducer) -> int:
        """Results are computed one by one along a row, by vectors across rows."""
        return 1 if self.last else reducer.lo.width(self.ref.dtype, reducer.total)

    def body(self, reducer: Reducer) -> Body:
        """The result at one place of the other axes, or a vector of them."""

        def row(args: list[str], point: Point) -> list[str]:
            return [reducer.rounded(_row(reducer, self.pointer(reducer.lo.w, point.at), self))]

        def column(args: list[str], point: Point) -> list[str]:
            w = reducer.lo.w
            pointer = self.pointer(w, point.at)
            with loop(w, 0, self.extent, 1, [(w.vector(reducer.element), reducer.start())]) as run:
                value = self.element(w, pointer, run.index, point.lanes, self.columns())
                run.next = [reducer.combine(run.values[0], reducer.widened(value))]
            return [reducer.rounded(run.values[0])]

        return row if self.last else column


def without(items: Sequence[Any], axis: int) -> tuple[Any, ...]:
    return (*items[:axis], *items[axis + 1 :])


def _row(reducer: Reducer, pointer: str, axis: Axis) -> str:
    """All elements of a row: PARTS vectors of partial results, the rest masked with what changes nothing."""
    w, extent = reducer.lo.w, axis.extent
    width = min(reducer.lo.width(axis.ref.dtype, reducer.total), 1 << (extent - 1).bit_length())
    block = width * PARTS
    with w.at_width(width):
        looped = extent - extent % block if extent >= 2 * block else 0
        parts = _blocks(reducer, pointer, axis, looped) if looped else []
        for first in range(looped, extent, width):
            parts.append(_piece(reducer, pointer, axis, first, Lanes(width, min(width, extent - first))))
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=False)
            parts = [reducer.combine(a, b) for a, b in pairs] + parts[len(parts) // 2 * 2 :]
    return halves(w, parts[0], reducer.element, width, reducer.combine)


def _blocks(reducer: Reducer, pointer: str, axis: Axis, until: int) -> list[str]:
    """The whole blocks of a long row, in a loop."""
    w = reducer.lo.w
    carried = [(w.vector(reducer.element), reducer.start())] * PARTS
    with loop(w, 0, until, w.width * PARTS, carried) as run:
        here = step_pointer(w, pointer, axis.ref.element, mul(w, run.index, axis.step))
        lanes = Lanes(w.width, w.width)
        for i, value in enumerate(run.values):
            run.next.append(reducer.combine(value, _piece(reducer, here, axis, i * w.width, lanes)))
    return run.values


def _piece(reducer: Reducer, pointer: str, axis: Axis, first: int, lanes: Lanes) -> str:
    """One vector of a row, widened; lanes past its end change nothing."""
    w = reducer.lo.w
    value = reducer.widened(axis.element(w, pointer, first, lanes, axis.step))
    return value if lanes.all else w.select(lanes.text, reducer.element, value, reducer.start())


def halves(w: Writer, vector: str, element: str, width: int, combine: Combine) -> str:
    """The upper half combined with the lower, until one element is left."""
    while width > 1:
        half = width // 2
        low, high = (shuffled(w, vector, element, width, range(i * half, i * half + half)) for i in (0, 1))
        with w.at_width(half):
            if half == 1:
                low, high = (w.let(f"extractelement <1 x {element}> {x}, i64 0") for x in (low, high))
            vector = combine(low, high)
        width = half
    return vector


def shuffled(w: Writer, vector: str, element: str, width: int, order: Sequence[int]) -> str:
    """The lanes of a vector in another order."""
    mask = ", ".join(f"i32 {i}" for i in order)
    kind = f"<{width} x {element}>"
    return w.let(f"shufflevector {kind} {vector}, {kind} poison, <{len(order)} x i32> <{mask}>")
