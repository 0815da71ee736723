"""Windows: the part of an array that a tile covers, and which of its elements lie inside the array."""

from __future__ import annotations

from collections.abc import Sequence

from tilec.backends.cpu.lanes import Lanes, memory_type
from tilec.backends.cpu.loops import Index, add, both, clamp, mul, step_pointer, sub, test
from tilec.backends.cpu.lower import ArrayPlace, Lowering
from tilec.backends.cpu.nest import ramp
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

    def vectors(self, width: int) -> list[tuple[int, Lanes]]:
        """A row in vectors: the first element of each, and the lanes that lie inside the array; the same for
        all rows."""
        found, extent = [], self.shape[-1]
        width = min(width, 1 << (extent - 1).bit_length())
        for first in range(0, extent, width):
            count = min(width, extent - first)
            lanes = Lanes(min(width, 1 << (count - 1).bit_length()), count)
            with self.lo.w.at_width(lanes.width):
                found.append((first, self.masked(first, lanes)))
        return found

    def place(self, at: Sequence[Index]) -> Index:
        """The element offset of a place in the tile."""
        offset: Index = 0 if not self.array.packed else self.offset
        for index, stride in zip(at, self.array.strides, strict=True):
            offset = add(self.lo.w, offset, mul(self.lo.w, index, stride))
        return offset

    def masked(self, first: Index, lanes: Lanes) -> Lanes:
        """The lanes of a row's vector that lie inside the array, for rows that do."""
        w, axis = self.lo.w, len(self.shape) - 1
        if axis in self.proven:
            return lanes
        place = w.op("add", "i64", spread(self.lo, add(w, self.at[axis], first)), ramp(w, "i64", 1))
        mask = w.compare("ult", "i64", place, spread(self.lo, self.array.extents[axis]))
        if lanes.count < lanes.width:
            mask = w.op("and", "i1", mask, lanes.text)
        return Lanes(lanes.width, lanes.count, mask)

    def element(self, offset: Index) -> str:
        return step_pointer(self.lo.w, self.base, memory_type(self.array.dtype), offset)


def spread(lo: Lowering, index: Index) -> str:
    return lo.w.integer(index, "i64") if isinstance(index, int) else lo.w.spread(index, "i64")
