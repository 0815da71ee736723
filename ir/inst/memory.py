"""Arrays and what is read from them and written to them.

Reads outside an array give `other`, writes outside vanish; `inside` names the axes on which a pass has proven
that neither can happen.
    Load(a, (i, j), (128, 32), zero): a[i : i + 128, j : j + 32]
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from math import prod
from typing import Any, ClassVar

import numpy as np

from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Effects, Inst, Value
from tilec.ir.inst.rules import in_bounds, window
from tilec.ir.layout import Layout
from tilec.ir.run import Memory, State
from tilec.ir.tile import UNIT, ArrayType, Dim, Extent, TileType, TokenType, TupleType, dense_strides

Array = np.ndarray[Any, Any]
_fresh = count()


@dataclass(frozen=True, eq=False)
class Size(Inst):
    """The extent (i32) of an array along one axis."""

    array: Value
    axis: int

    def result(self) -> TileType:
        return TileType(dt.i32)

    def meaning(self, state: State, array: Memory) -> Any:
        return np.int32(array.data.shape[self.axis])


@dataclass(frozen=True, eq=False)
class ArraySlice(Inst):
    """A view: per axis of the array a start and stop (None: the whole axis) and a step; `dropped` axes keep
    one index.

    Starts and stops are clipped to the array; a dropped axis whose index lies outside leaves an empty view.
    """

    array: Value
    starts: tuple[Value | None, ...]
    stops: tuple[Value | None, ...]
    steps: tuple[int, ...]
    dropped: tuple[int, ...] = ()

    def result(self) -> ArrayType:
        a = self.array.array_type
        kept = [axis for axis in range(a.rank) if axis not in self.dropped]
        shape = tuple(a.shape[axis] if self.whole(axis) else Dim(f"view{next(_fresh)}") for axis in kept)
        strides = tuple(_times(a.strides[axis], self.steps[axis]) for axis in kept)
        return ArrayType(a.dtype, shape, strides, max(1, a.dtype.bits // 8), a.space, None, a.packed)

    def whole(self, axis: int) -> bool:
        return self.starts[axis] is None and self.stops[axis] is None and self.steps[axis] == 1

    def meaning(self, state: State, array: Memory, *bounds: Array) -> Memory:
        given = iter(bounds)
        starts = [None if v is None else int(next(given)) for v in self.starts]
        stops = [None if v is None else int(next(given)) for v in self.stops]
        data = array.data
        for axis, (start, stop, step) in enumerate(zip(starts, stops, self.steps, strict=True)):
            extent = data.shape[axis]
            low = min(max(start or 0, 0), extent)
            high = extent if stop is None else min(max(stop, 0), extent)
            if axis in self.dropped and start is not None and not 0 <= start < extent:
                high = low
            data = data[(slice(None),) * axis + (slice(low, max(low, high), step),)]
        return Memory(_drop(data, self.dropped), array.dtype)


def _times(stride: Extent, step: int) -> Extent:
    if isinstance(stride, int):
        return stride * step
    return stride if step == 1 else Dim(f"{stride.name}*{step}", stride.multiple * step)


def _drop(data: Array, dropped: tuple[int, ...]) -> Array:
    """Takes index 0 of each dropped axis; a view with nothing there is empty on every axis."""
    if any(data.shape[axis] == 0 for axis in dropped):
        kept = [extent for axis, extent in enumerate(data.shape) if axis not in dropped]
        return data.reshape(-1)[:0].reshape([0] * len(kept)) if kept else np.empty((0,), data.dtype)
    return data[tuple(0 if axis in dropped else slice(None) for axis in range(data.ndim))]


@dataclass(frozen=True, eq=False)
class Alloc(Inst):
    """Shared memory of one block; it starts uninitialised.

    `layout`: where each element lies (None: row-major). `count` above 1: that many buffers in a row, one more
    axis in front, told apart by `Stage`. `offset`: the first byte, once shared memory is planned.
    """

    dtype: DType
    shape: tuple[int, ...]
    layout: Layout | None = None
    count: int = 1
    offset: int | None = None
    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> ArrayType:
        shape = self.tile_shape
        return ArrayType(self.dtype, shape, dense_strides(shape), 128, "shared", self.layout)

    @property
    def stage_bytes(self) -> int:
        """Bytes of one buffer: gaps of its layout included, what a swizzle moves past its last element, and
        between several what keeps each aligned.
        """
        elements = self.layout.size if self.layout else prod(self.shape)
        swizzle = self.layout.swizzle if self.layout else None
        step = max(swizzle.block if swizzle else 1, self.array_type.align if self.count > 1 else 1)
        return -(-elements * max(8, self.dtype.bits) // (8 * step)) * step

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return self.count * self.stage_bytes

    @property
    def tile_shape(self) -> tuple[int, ...]:
        """The shape of all buffers as one array."""
        return self.shape if self.count == 1 else (self.count, *self.shape)

    def meaning(self, state: State) -> Memory:
        return Memory.poisoned(self.tile_shape, self.dtype)


@dataclass(frozen=True, eq=False)
class Stage(Inst):
    """One of the buffers of an allocation with several."""

    array: Value
    index: Value

    def result(self) -> ArrayType:
        a = self.array.array_type
        shape = tuple(n for n in a.shape[1:] if isinstance(n, int))
        return ArrayType(a.dtype, shape, dense_strides(shape), a.align, a.space, a.layout)

    def meaning(self, state: State, array: Memory, index: Array) -> Memory:
        return Memory(array.data[int(index)], array.dtype)


@dataclass(frozen=True, eq=False)
class ArrayReshape(Inst):
    """The same dense shared memory seen under another shape."""

    array: Value
    shape: tuple[int, ...]

    def result(self) -> ArrayType:
        a = self.array.array_type
        assert a.space == "shared" and a.layout is None, "only a dense shared array has other shapes"
        return ArrayType(a.dtype, self.shape, dense_strides(self.shape), a.align, a.space)

    def meaning(self, state: State, array: Memory) -> Memory:
        seen = array.data.view()
        seen.shape = self.shape
        return Memory(seen, array.dtype)


def _check_window(what: str, array: ArrayType, at: tuple[Value, ...], shape: tuple[int, ...]) -> None:
    if not array.rank == len(at) == len(shape):
        raise TilecError(f"{what} needs one offset and one extent per axis: "
                         f"the array is {array}, {len(at)} offsets, shape {list(shape)}")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Load(Inst):
    """The tile at element offsets `at`; `other` (a scalar) outside the array. `written`: the user gave
    `other`.
    """

    array: Value
    at: tuple[Value, ...]
    shape: tuple[int, ...]
    other: Value
    written: bool = False
    inside: tuple[int, ...] = ()
    layout: Layout | None = None
    effects: ClassVar[Effects] = Effects(reads=("array",))

    def result(self) -> TileType:
        a = self.array.array_type
        _check_window("a load", a, self.at, self.shape)
        assert self.other.tile == TileType(a.dtype), "`other` is a scalar of the array's dtype"
        return TileType(a.dtype, self.shape, self.layout)

    @property
    def masked(self) -> tuple[int, ...]:
        """The axes on which the window may leave the array."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.inside)

    def meaning(self, state: State, array: Memory, *rest: Array) -> Array:
        *at, other = rest
        out = np.full(self.shape, other, array.dtype.reference)
        theirs, ours = window(array.data.shape, [int(x) for x in at], self.shape)
        out[ours] = array.read(theirs)
        return out


@dataclass(frozen=True, eq=False)
class Store(Inst):
    """Writes a tile at element offsets `at`; what lies outside the array vanishes."""

    array: Value
    at: tuple[Value, ...]
    tile_: Value
    inside: tuple[int, ...] = ()
    effects: ClassVar[Effects] = Effects(writes=("array",))

    def result(self) -> TupleType:
        a, tile = self.array.array_type, self.tile_.tile
        _check_window("a store", a, self.at, tile.shape)
        if a.dtype != tile.dtype:
            raise TilecError(
                f"a store keeps the dtype: the array is {a}, the tile is {tile}; "
                f"cast it with .to({a.dtype.name})"
            )
        return UNIT

    @property
    def masked(self) -> tuple[int, ...]:
        """The axes on which the window may leave the array."""
        return tuple(axis for axis in range(len(self.at)) if axis not in self.inside)

    def meaning(self, state: State, array: Memory, *rest: Array) -> None:
        *at, tile = rest
        theirs, ours = window(array.data.shape, [int(x) for x in at], tile.shape)
        array.write(theirs, tile[ours])


@dataclass(frozen=True, eq=False)
class Gather(Inst):
    """One element per place: integer tiles of one shape, one per axis; `other` outside the array."""

    array: Value
    indices: tuple[Value, ...]
    other: Value
    written: bool = False
    effects: ClassVar[Effects] = Effects(reads=("array",))

    def result(self) -> TileType:
        a = self.array.array_type
        first = _check_indices("gather", a, self.indices)
        return TileType(a.dtype, first.shape, first.layout)

    def meaning(self, state: State, array: Memory, *rest: Array) -> Array:
        *indices, other = rest
        inside, clipped = in_bounds(array.data.shape, indices)
        out = np.full(np.shape(inside), other, array.dtype.reference)
        out[inside] = array.read(tuple(index[inside] for index in clipped))
        return out


def _check_indices(what: str, array: ArrayType, indices: tuple[Value, ...]) -> TileType:
    if len(indices) != array.rank:
        raise TilecError(f"{what} needs one index tile per axis: the array is {array}, {len(indices)} given")
    first = indices[0].tile
    for index in indices:
        if not index.tile.dtype.is_integer or index.tile.shape != first.shape:
            raise TilecError(f"{what} takes integer index tiles of one shape: {first} and {index.tile}")
    return first


@dataclass(frozen=True, eq=False)
class Scatter(Inst):
    """Writes one element per place; places outside the array vanish; one place written twice keeps either
    value.
    """

    array: Value
    indices: tuple[Value, ...]
    tile_: Value
    effects: ClassVar[Effects] = Effects(writes=("array",))

    def result(self) -> TupleType:
        _check_scatter("scatter", self.array.array_type, self.indices, self.tile_.tile)
        return UNIT

    def meaning(self, state: State, array: Memory, *rest: Array) -> None:
        *indices, tile = rest
        inside, clipped = in_bounds(array.data.shape, indices)
        array.write(tuple(index[inside] for index in clipped), tile[inside])


def _check_scatter(what: str, array: ArrayType, indices: tuple[Value, ...], tile: TileType) -> None:
    first = _check_indices(what, array, indices)
    if array.packed:
        raise TilecError(
            f"{what} cannot write to packed {array.dtype.name}: "
            "elements of different threads share a byte; store whole tiles"
        )
    if (tile.dtype, tile.shape) != (array.dtype, first.shape):
        raise TilecError(f"{what} writes a tile of the array's dtype and the indices' shape: "
                         f"the array is {array}, the indices are {first}, the tile is {tile}")  # fmt: skip


ATOMICS = {"add": np.add, "min": np.minimum, "max": np.maximum,
           "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Atomic(Inst):
    """array[place] = op(array[place], element), indivisibly, for each place inside the array; no result."""

    op: str
    array: Value
    indices: tuple[Value, ...]
    tile_: Value
    effects: ClassVar[Effects] = Effects(reads=("array",), writes=("array",))

    def result(self) -> TupleType:
        _check_scatter(f"atomic_{self.op}", self.array.array_type, self.indices, self.tile_.tile)
        dtype = self.tile_.tile.dtype
        native = dtype.bits in (32, 64) or (self.op == "add" and dtype.bits == 16 and dtype.is_float)
        if not native or (dtype.is_float and self.op != "add"):
            raise TilecError(
                f"atomic_{self.op} works on 32- and 64-bit integers, and add on floats of 16 bits or more; "
                f"not on {dtype.name}"
            )
        return UNIT

    def meaning(self, state: State, array: Memory, *rest: Array) -> None:
        *indices, tile = rest
        inside, clipped = in_bounds(array.data.shape, indices)
        for *place, value in zip(*(index[inside] for index in clipped), tile[inside], strict=True):
            array.update(tuple(place), ATOMICS[self.op], value)


@dataclass(frozen=True, eq=False)
class Copy(Inst):
    """Starts moving the window of `array` at `at` into the shared `buffer`; the data is there after `Wait`.

    Where `when` is false nothing is read, and what the buffer holds is undefined.
    """

    array: Value
    at: tuple[Value, ...]
    buffer: Value
    other: Value
    when: Value | None = None
    inside: tuple[int, ...] = ()
    effects: ClassVar[Effects] = Effects(reads=("array",), writes=("buffer",))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(extent for extent in self.buffer.array_type.shape if isinstance(extent, int))

    @property
    def masked(self) -> tuple[int, ...]:
        """The axes on which the window may leave the array."""
        return tuple(axis for axis in range(len(self.at)) if axis not in self.inside)

    def result(self) -> TokenType:
        _check_window("a copy", self.array.array_type, self.at, self.shape)
        assert self.array.array_type.dtype == self.buffer.array_type.dtype, "a copy keeps the dtype"
        return TokenType()

    def meaning(self, state: State, array: Memory, *rest: Any) -> Any:
        rank = len(self.at)
        at, (buffer, other, *when) = rest[:rank], rest[rank:]
        buffer.poison()
        if when and not bool(when[0]):
            return None
        out = np.full(self.shape, other, array.dtype.reference)
        theirs, ours = window(array.data.shape, [int(x) for x in at], self.shape)
        out[ours] = array.read(theirs)
        return buffer, out


@dataclass(frozen=True, eq=False)
class Wait(Inst):
    """Makes the data of these copies visible to later reads of the block, with the barrier that follows.

    `pending`: how many copies, started after these, may still be under way.
    """

    tokens: tuple[Value, ...]
    pending: int = 0
    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> TupleType:
        return UNIT

    def meaning(self, state: State, *tokens: Any) -> None:
        for buffer, data in (token for token in tokens if token):
            buffer.write((slice(None),) * data.ndim, data)
