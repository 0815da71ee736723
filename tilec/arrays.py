"""Arrays as the user holds them: memory that tiles are read from and written to.

    A = a.tiles((bm, bk));  x = A[i, s]             tile number (i, s)
    x = a.load((i * bm, s * bk), (bm, bk))          the same tile, by element offsets
    row = a[b, g::2]                                a view, with bounds of its own
Reads outside an array give `other` (0), writes outside vanish.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from tilec.indexing import split_ellipsis
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Inst, Value
from tilec.ir.inst import arith, memory, sync
from tilec.ir.inst.sync import BlockIndex
from tilec.ir.tile import ArrayType, Dim
from tilec.literals import constant_shape, number, plain, zero
from tilec.tiles import Tiles
from tilec.tracing import Scope, current
from tilec.values import OPERANDS, Operand, Tile, broadcast_shape, emit, expand, place, reshape, scalar, table

Index = Any  # a Tile or a Python integer


class Array:
    """Global or shared memory seen as an n-dimensional array."""

    __slots__ = ("_scope", "_shape", "_value", "name")

    def __init__(self, value: Value, scope: Scope, name: str) -> None:
        self._value = value
        self._scope = scope
        self.name = name
        self._shape: tuple[Index, ...] | None = None

    @property
    def value(self) -> Value:
        """The array in the IR."""
        if not self._scope.open:
            raise TilecError(
                f"this view of {self.name} was made inside a {self._scope.what} that has ended: make it again"
            )
        return self._value

    @property
    def type(self) -> ArrayType:
        """Its dtype, extents and strides."""
        return self._value.array_type

    @property
    def dtype(self) -> DType:
        """The type of its elements."""
        return self.type.dtype

    @property
    def rank(self) -> int:
        """The number of axes."""
        return self.type.rank

    @property
    def shape(self) -> tuple[Index, ...]:
        """Per axis a Python integer where the extent is a constant, else an i32 scalar."""
        if self._shape is None:
            self._shape = tuple(self._extent(axis) for axis in range(self.rank))
        return self._shape

    def _extent(self, axis: int) -> Index:
        extent, tracer = self.type.shape[axis], current()
        if not isinstance(extent, Dim):
            return extent
        with tracer.inside(self._scope):  # where the array comes from, so that every later block may use it
            if extent.name not in tracer.sizes:
                tracer.sizes[extent.name] = tracer.emit(memory.Size, self.value, axis)
            return Tile(tracer.sizes[extent.name], self._scope)

    def __repr__(self) -> str:
        return f"array {self.name}: {self.type}"

    def tiles(self, shape: Sequence[int]) -> Tiles:
        """The array cut into tiles of this shape; the last ones may stick out."""
        return Tiles(self, self._per_axis(constant_shape(shape, f"{self.name}.tiles"), "tiles"))

    # Reading.

    def read_once(self) -> None:
        """A hint: blocks read what they read of this array once, and no two the same, like a layer's weights
        for few rows of x. A GPU's caches then keep other data in its stead; elsewhere it does nothing.
        """
        current().emit(sync.ReadOnce, self.value)

    def load(self, at: Sequence[Index] | Index, shape: Sequence[int] | int, other: Operand = None) -> Tile:
        """The tile whose first element is at element offsets `at`; `other` outside the array."""
        extents = self._per_axis(constant_shape(shape, f"{self.name}.load"), "load")
        offsets = self._offsets(at, "load")
        return emit(memory.Load, self.value, offsets, extents, self._other(other), other is not None)

    def at(self, *index: Index, other: Operand = None) -> Tile:
        """One element, as a scalar; with places known while compiling (tc.from_function) one element each."""
        if any(isinstance(x, np.ndarray) for x in index):
            return self.gather(*index, other=other)
        return emit(
            memory.Gather, self.value, self._offsets(index, "at"), self._other(other), other is not None
        )

    def gather(self, *indices: Operand, other: Operand = None) -> Tile:
        """One element per place: integer tiles, one per axis, broadcast to one shape."""
        return emit(
            memory.Gather, self.value, self._indices(indices, "gather"), self._other(other), other is not None
        )

    # Writing.

    def store(self, at: Sequence[Index] | Index, tile: Operand) -> None:
        """Writes a tile, its first element at offsets `at`; leading axes of extent 1 may be left out."""
        offsets = self._offsets(at, "store")
        value = self._written(tile, None)
        self._check_not_block_numbers(offsets, value)
        current().emit(memory.Store, self.value, offsets, value)

    def scatter(self, indices: Sequence[Operand] | Operand, tile: Operand) -> None:
        """Writes one element per place; where two places are the same, either is kept."""
        current().emit(memory.Scatter, self.value, *self._scattered(indices, tile, "scatter"))

    def atomic_add(self, indices: Sequence[Operand] | Operand, tile: Operand) -> None:
        """array[place] += element, indivisibly, for each place inside the array. The others likewise."""
        self._atomic("add", indices, tile)

    def atomic_min(self, indices: Sequence[Operand] | Operand, tile: Operand) -> None:
        """array[place] = min(array[place], element), indivisibly, as atomic_add does."""
        self._atomic("min", indices, tile)

    def atomic_max(self, indices: Sequence[Operand] | Operand, tile: Operand) -> None:
        """array[place] = max(array[place], element), indivisibly, as atomic_add does."""
        self._atomic("max", indices, tile)

    def atomic_and(self, indices: Sequence[Operand] | Operand, tile: Operand) -> None:
        """array[place] = array[place] & element, indivisibly, as atomic_add does."""
        self._atomic("and", indices, tile)

    def atomic_or(self, indices: Sequence[Operand] | Operand, tile: Operand) -> None:
        """array[place] = array[place] | element, indivisibly, as atomic_add does."""
        self._atomic("or", indices, tile)

    def atomic_xor(self, indices: Sequence[Operand] | Operand, tile: Operand) -> None:
        """array[place] = array[place] ^ element, indivisibly, as atomic_add does."""
        self._atomic("xor", indices, tile)

    def _atomic(self, op: str, indices: Sequence[Operand] | Operand, tile: Operand) -> None:
        current().emit(memory.Atomic, op, self.value, *self._scattered(indices, tile, f"atomic_{op}"))

    # Views.

    def __getitem__(self, index: Any) -> Array:
        """A view: integers and scalars drop an axis, slices have any bounds and a constant step."""
        items = split_ellipsis(index, self.rank, repr(self))
        if any(item is None for item in items):
            raise TilecError("an array takes no new axes: load a tile, then write tile[:, None]")
        if not any(isinstance(item, slice) for item in items):
            raise TilecError(
                f"{self.name}[...] with an index on every axis is one element: write {self.name}.at(...) "
                "to read it"
            )
        cuts = [self._cut(axis, item) for axis, item in enumerate(items)]
        starts, stops, steps = (tuple(part) for part in zip(*cuts, strict=True))
        dropped = tuple(axis for axis, item in enumerate(items) if not isinstance(item, slice))
        tracer = current()
        view = tracer.emit(memory.ArraySlice, self.value, starts, stops, steps, dropped)
        return self._with_shape(Array(view, tracer.scope, self.name), view)

    def _with_shape(self, view: Array, made: memory.ArraySlice) -> Array:
        """Whole axes of a view have the extents of its array."""
        kept = [axis for axis in range(self.rank) if axis not in made.dropped]
        shape = self.shape if any(made.whole(axis) for axis in kept) else ()
        view._shape = tuple(
            shape[axis] if made.whole(axis) else view._extent(i) for i, axis in enumerate(kept)
        )
        return view

    def _cut(self, axis: int, item: Any) -> tuple[Value | None, Value | None, int]:
        if not isinstance(item, slice):
            return offset(self._from_end(axis, item), f"{self.name}[...]"), None, 1
        step = plain(1 if item.step is None else item.step)
        if not isinstance(step, int) or step < 1:
            raise TilecError(f"the step of an array's slice is a constant of 1 or more, found {step!r}")
        start, stop = (
            None if bound is None else self._from_end(axis, bound) for bound in (item.start, item.stop)
        )
        return self._bound(None if isinstance(start, int) and start == 0 else start), self._bound(stop), step

    def _bound(self, x: Any) -> Value | None:
        return None if x is None else offset(x, f"{self.name}[...]")

    def _from_end(self, axis: int, bound: Any) -> Any:
        bound = plain(bound)
        return self.shape[axis] + bound if isinstance(bound, int) and bound < 0 else bound

    def __setitem__(self, index: Any, tile: Any) -> NoReturn:
        raise TilecError(
            f"{self.name} is an array: write {self.name}.store(offsets, tile), or cut it into tiles, "
            f"T = {self.name}.tiles(shape), and assign T[i, j] = tile"
        )

    def __iter__(self) -> NoReturn:
        raise TilecError(
            f"{self.name} is an array, whose extents are run-time values: loop with tc.range and load tiles"
        )

    # What the methods above share.

    def _per_axis(self, items: tuple[Any, ...], what: str) -> tuple[Any, ...]:
        if len(items) != self.rank:
            raise TilecError(
                f"{self.name}.{what} takes one entry per axis: {self.name} is {self.type}, of rank "
                f"{self.rank}, found {len(items)}"
            )
        return items

    def _offsets(self, at: Sequence[Index] | Index, what: str) -> tuple[Value, ...]:
        given = tuple(at) if isinstance(at, Sequence) else (at,)
        return tuple(offset(x, f"{self.name}.{what}") for x in self._per_axis(given, what))

    def _other(self, other: Operand) -> Value:
        if other is None:
            return current().constant(zero(self.dtype), self.dtype)
        return scalar(other, self.dtype, "other=")

    def _indices(self, indices: Sequence[Operand], what: str) -> tuple[Value, ...]:
        given = self._per_axis(tuple(map(_tile, indices)), what)
        tiles = [x for x in given if isinstance(x, Tile)]
        shape = broadcast_shape(what, tiles) if tiles else ()
        return tuple(place(x, x.dtype if isinstance(x, Tile) else dt.i32, shape) for x in given)

    def _scattered(self, indices: Any, tile: Operand, what: str) -> tuple[tuple[Value, ...], Value]:
        """Index tiles and the elements, of one shape."""
        given = tuple(indices) if isinstance(indices, tuple | list) else (indices,)
        tiles = [_tile(x) for x in (*given, tile) if isinstance(x, Tile | np.ndarray)]
        shape = broadcast_shape(what, tiles) if tiles else ()
        places = self._indices(given, what)
        scope = current().scope
        return tuple(expand(Tile(x, scope), shape) for x in places), self._written(tile, shape)

    def _written(self, tile: Operand, shape: tuple[int, ...] | None) -> Value:
        """Literals take the array's dtype, a scalar is one element, missing leading axes are 1."""
        if not isinstance(tile, OPERANDS):
            raise TilecError(f"{self.name} is written with a tile or a number, found {type(tile).__name__}")
        if isinstance(tile, np.ndarray):
            tile = table(tile, self.dtype)
        if not isinstance(tile, Tile):
            return place(number(tile, self.dtype), self.dtype, (1,) * self.rank if shape is None else shape)
        if shape is not None:
            return expand(tile, shape)
        return reshape(tile, (1,) * (self.rank - tile.rank) + tile.shape).value

    def _check_not_block_numbers(self, offsets: tuple[Value, ...], tile: Value) -> None:
        """A tile number where an offset is meant: neighbouring blocks store tiles one element apart."""
        for axis, (at, extent) in enumerate(zip(offsets, tile.tile.shape, strict=False)):
            if isinstance(at, BlockIndex) and extent > 1 and not _is_one(at.grid[at.axis]):
                raise TilecError(
                    f"{self.name}.store takes element offsets, and axis {axis} is given a block's number: "
                    f"neighbouring blocks would write tiles of {extent} one element apart; "
                    f"multiply it by {extent}, or use {self.name}.tiles(shape)[...]"
                )


def _tile(x: Any) -> Any:
    """Places known while compiling as a tile."""
    return table(x) if isinstance(x, np.ndarray) else x


def _is_one(count: Value) -> bool:
    return isinstance(count, arith.Full) and count.value == 1


def offset(x: Any, what: str) -> Value:
    """A place along an axis: an i32 scalar."""
    x = plain(x)
    if not isinstance(x, Tile):
        if not isinstance(x, int):
            raise TilecError(f"{what} takes integers or integer scalars as offsets, found {x!r}")
        return current().constant(number(x, dt.i32), dt.i32)
    if x.shape:
        raise TilecError(
            f"{what} takes scalar offsets, found {x.type}: a tile of places is for .gather and .scatter"
        )
    if not x.dtype.is_integer or (x.dtype.bits >= 32 and x.dtype != dt.i32):
        raise TilecError(f"{what} takes i32 offsets, found {x.type}: cast with .to(tc.i32)")
    return x.to(dt.i32).value


def allocate(shape: Any, dtype: DType) -> Array:
    """Shared memory of this block, uninitialised."""
    tracer = current()
    made: Inst = tracer.emit(memory.Alloc, dtype, constant_shape(shape, "tc.shared"))
    return Array(made, tracer.scope, "shared")
