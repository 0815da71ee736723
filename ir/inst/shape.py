"""Instructions that move elements without changing them.

Layouts: where a result's layout follows from the operand's, the type rule derives it; where it does not (a
broadcast, a conversion), it is a field that the layout pass fills in.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tilec.ir import codec, packing, placement
from tilec.ir.digits import Ints
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Inst, Value
from tilec.ir.layout import Layout
from tilec.ir.run import State
from tilec.ir.tile import TileType

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Reshape(Inst):
    """The same elements in row-major order under another shape."""

    x: Value
    shape: tuple[int, ...]
    layout: Layout | None = None

    def result(self) -> TileType:
        x = self.x.tile
        if prod(self.shape) != x.size:
            raise TilecError(
                f"reshape keeps the number of elements: {x} has {x.size}, {self.shape} has {prod(self.shape)}"
            )
        return TileType(x.dtype, self.shape, self.layout)

    def meaning(self, state: State, x: Array) -> Array:
        return x.reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Permute(Inst):
    """Axis i of the result is axis axes[i] of x."""

    x: Value
    axes: tuple[int, ...]

    def result(self) -> TileType:
        x = self.x.tile
        if sorted(self.axes) != list(range(x.rank)):
            raise TilecError(f"permute takes each axis of {x} once, not {self.axes}")
        layout = x.layout and x.layout.permute(self.axes)
        return TileType(x.dtype, tuple(x.shape[axis] for axis in self.axes), layout)

    def meaning(self, state: State, x: Array) -> Array:
        return x.transpose(self.axes)


@dataclass(frozen=True, eq=False)
class Broadcast(Inst):
    """Axes of extent 1 repeated; a scalar becomes a tile of any shape."""

    x: Value
    shape: tuple[int, ...]
    layout: Layout | None = None

    def result(self) -> TileType:
        x = self.x.tile
        fits = x.rank == 0 or (
            x.rank == len(self.shape) and all(a in (1, b) for a, b in zip(x.shape, self.shape, strict=True))
        )
        if not fits:
            raise TilecError(f"{x} does not broadcast to {list(self.shape)}: extents must be equal or 1")
        return TileType(x.dtype, self.shape, self.layout)

    def meaning(self, state: State, x: Array) -> Array:
        return np.broadcast_to(x, self.shape)


@dataclass(frozen=True, eq=False)
class Extract(Inst):
    """The part of x that starts at `start` and has `shape` (compile-time constants)."""

    x: Value
    start: tuple[int, ...]
    shape: tuple[int, ...]
    layout: Layout | None = None

    def result(self) -> TileType:
        x = self.x.tile
        inside = len(self.start) == len(self.shape) == x.rank and all(
            at >= 0 and at + n <= extent
            for at, n, extent in zip(self.start, self.shape, x.shape, strict=True)
        )
        if not inside:
            raise TilecError(
                f"a slice must lie inside its tile: start {self.start}, shape {self.shape} of {x}"
            )
        return TileType(x.dtype, self.shape, self.layout)

    def meaning(self, state: State, x: Array) -> Array:
        return x[tuple(slice(at, at + n) for at, n in zip(self.start, self.shape, strict=True))]


@dataclass(frozen=True, eq=False)
class Stack(Inst):
    """Tiles of one type side by side along a new axis."""

    tiles: tuple[Value, ...]
    axis: int
    layout: Layout | None = None

    def result(self) -> TileType:
        first = self.tiles[0].tile
        for other in self.tiles[1:]:
            if (other.tile.dtype, other.tile.shape) != (first.dtype, first.shape):
                raise TilecError(f"stack takes tiles of one dtype and shape: {first} and {other.tile}")
        shape = (*first.shape[: self.axis], len(self.tiles), *first.shape[self.axis :])
        return TileType(first.dtype, shape, self.layout)

    def meaning(self, state: State, *tiles: Array) -> Array:
        return np.stack(tiles, self.axis)


@dataclass(frozen=True, eq=False)
class Convert(Inst):
    """The same tile, held by other threads and slots."""

    x: Value
    layout: Layout

    def result(self) -> TileType:
        x = self.x.tile
        if self.layout.shape != x.shape:
            raise TilecError(f"a layout of {list(self.layout.shape)} cannot hold {x}")
        return TileType(x.dtype, x.shape, self.layout)

    def meaning(self, state: State, x: Array) -> Array:
        return x


@dataclass(frozen=True, eq=False)
class Annotate(Inst):
    """Asks the layout pass for this layout here; no instruction."""

    x: Value
    wanted: Layout

    def result(self) -> TileType:
        if self.wanted.shape != self.x.tile.shape:
            raise TilecError(f"a layout of {list(self.wanted.shape)} cannot hold {self.x.tile}")
        return self.x.tile

    def meaning(self, state: State, x: Array) -> Array:
        return x


@dataclass(frozen=True, eq=False)
class View(Inst):
    """For each thread, the bits of its slots in order, read as another dtype and layout; no instruction.

    Source: the register reinterpretation of Tilus. Both layouts are part of the meaning. The new codes'
    bits lie as tilec.ir.placement has them for casts to `placed`, if they are whole units.
    """

    x: Value
    dtype: DType
    layout: Layout
    source: Layout
    placed: DType | None = None

    def result(self) -> TileType:
        x, into = self.x.tile, self.layout
        if self.source.shape != x.shape:
            raise TilecError(
                f"view reads {list(self.source.shape)} through its source layout, but the tile is {x}"
            )
        if not (self.source.is_bijection and into.is_bijection):
            raise TilecError("view needs layouts in which every element has exactly one holder")
        old, new = (self.source.slots * x.dtype.bits, into.slots * self.dtype.bits)
        if self.source.threads != into.threads or old != new:
            raise TilecError(
                f"view keeps each thread's bits: {self.source.threads} threads of {old} bits as "
                f"{x.dtype.name}, {into.threads} threads of {new} bits as {self.dtype.name}"
            )
        return TileType(self.dtype, into.shape, into)

    @property
    def is_placed(self) -> bool:
        return self.placed is not None and placement.is_placed(self.dtype, self.layout.slots, self.placed)

    @property
    def places(self) -> Ints:
        """The bit of its thread's that each bit of each slot is: [slots, bits]."""
        bits, slots = self.dtype.bits, self.layout.slots
        if self.placed is not None and self.is_placed:
            return placement.positions(self.dtype, slots, self.placed)
        return np.arange(slots * bits, dtype=np.int32).reshape(slots, bits)

    def meaning(self, state: State, x: Array) -> Array:
        held = codec.encode(x, self.x.tile.dtype)[tuple(np.moveaxis(self.source.points(), -1, 0))]
        rows = [packing.pack_codes(row, self.x.tile.dtype.bits) for row in held]
        if self.is_placed:
            bits = np.unpackbits(np.stack(rows), axis=1, bitorder="little")[:, self.places]
            codes = (bits.astype(self.dtype.code) << np.arange(self.dtype.bits, dtype=self.dtype.code)).sum(2)
        else:
            codes = np.stack([packing.unpack(row, self.dtype, self.layout.slots) for row in rows])
        codes = codes.astype(self.dtype.code) & self.dtype.code.type(self.dtype.code_mask)
        out = np.empty(self.layout.shape, self.dtype.reference)
        out[tuple(np.moveaxis(self.layout.points(), -1, 0))] = codec.decode(codes, self.dtype)
        return out
