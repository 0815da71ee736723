"""Windows: the part of an array that a tile covers, and which of its elements lie inside the array."""

from __future__ import annotations

from collections.abc import Sequence

from tilec.backends.cpu.lanes import Lanes, memory_type
from tilec.backends.cpu.loops import Index, add, both, clamp, mul, step_pointer, sub, test
from tilec.backends.cpu.lower import ArrayPlace, Lowering
from tilec.backends.cpu.nest import Point, ramp
from tilec.backends.cpu.places import Ref, Shape
from tilec.ir.func import Value, root


class Window:
    """A tile's place in an array: where it starts, and whether all of it is inside."""

    def __init__(
        self, lo: Lowering, array: ArrayPlace, at: Sequence[Value], shape: Shape, proven: Sequence[int]
    ):
        self.lo, self.array, self.shape = lo, array, shape
        self.at: list[Index] = [lo.index(v) for v in at]
        self.proven = proven
        self.inside = self._inside()
        offset = array.offset
        for start, stride in zip(self.at, array.strides, strict=True):
            offset = add(lo.w, offset, mul(lo.w, start, stride))
        self.offset = offset
        self.base = (
            array.base if array.packed else step_pointer(lo.w, array.base, memory_type(array.dtype), offset)
        )

    def _inside(self) -> str:
        conditions = []
        for axis, (start, n, extent) in enumerate(zip(self.at, self.shape, self.array.extents, strict=True)):
            if axis not in self.proven:
                conditions.append(test(self.lo.w, "sge", start, 0))
                conditions.append(test(self.lo.w, "sle", add(self.lo.w, start, n), extent))
        return both(self.lo.w, *conditions)

    @property
    def plain(self) -> bool:
        """Can its elements be used where they are: addressable, and neighbours along the last axis of the
        tile?
        """
        axes = [axis for axis, n in enumerate(self.shape) if n != 1]
        return not self.array.packed and (not axes or self.array.strides[axes[-1]] == 1)

    def ref(self, owner: Value) -> Ref:
        return Ref(
            self.base, self.array.dtype, self.shape, self.array.strides, None, self.array.raw, root(owner)
        )

    def clipped(self, axis: int) -> tuple[Index, Index]:
        """The first place of the tile along an axis that lies inside the array, and the first behind it."""
        w, n = self.lo.w, self.shape[axis]
        if axis in self.proven:
            return 0, n
        first = clamp(w, sub(w, 0, self.at[axis]), 0, n)
        return first, clamp(w, sub(w, self.array.extents[axis], self.at[axis]), first, n)

    def lanes(self, point: Point, clipped: bool = False) -> tuple[Index, Lanes]:
        """The element offset of a vector's first lane, and which lanes lie inside the array; `clipped`: along
        the other axes it does.
        """
        w, valid = self.lo.w, "true"
        offset: Index = 0 if not self.array.packed else self.offset
        for axis, (at, stride) in enumerate(zip(point.at, self.array.strides, strict=True)):
            offset = add(w, offset, mul(w, at, stride))
            if axis not in self.proven and axis < len(self.shape) - 1 and not clipped:
                place = add(w, self.at[axis], at)
                valid = both(
                    w, valid, test(w, "sge", place, 0), test(w, "slt", place, self.array.extents[axis])
                )
        return offset, self._masked(point, valid)

    def _masked(self, point: Point, valid: str) -> Lanes:
        w, axis, lanes = self.lo.w, len(self.shape) - 1, point.lanes
        if axis in self.proven:
            if valid == "true":
                return lanes
            mask = w.spread(valid, "i1")
        else:
            first = add(w, self.at[axis], point.at[axis])
            place = w.op("add", "i64", spread(self.lo, first), ramp(w, "i64", 1))
            mask = w.compare("ult", "i64", place, spread(self.lo, self.array.extents[axis]))
            mask = mask if valid == "true" else w.op("and", "i1", mask, w.spread(valid, "i1"))
        if lanes.count < lanes.width:
            mask = w.op("and", "i1", mask, lanes.text)
        return Lanes(lanes.width, lanes.count, mask)

    def element(self, offset: Index) -> str:
        return step_pointer(self.lo.w, self.base, memory_type(self.array.dtype), offset)


def spread(lo: Lowering, index: Index) -> str:
    return lo.w.integer(index, "i64") if isinstance(index, int) else lo.w.spread(index, "i64")
