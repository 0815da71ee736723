"""Arrays cut into tiles: T[i, j] is tile number (i, j).

A = a.tiles((128, 32));  x = A[i, s];  A.shape == (cdiv(m, 128), cdiv(k, 32))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Value
from tilec.ir.inst import arith
from tilec.ir.inst.sync import BlockIndex
from tilec.literals import NUMBERS, plain
from tilec.tracing import current
from tilec.values import Operand, Tile, expand, place

if TYPE_CHECKING:
    from tilec.arrays import Array

Index = Any  # a Tile or a Python integer


class Tiles:
    """An array cut into tiles: T[i, j] reads tile number (i, j), T[i, j] = x writes it."""

    __slots__ = ("_counts", "array", "tile_shape")

    def __init__(self, array: Array, tile_shape: tuple[int, ...]) -> None:
        self.array = array
        self.tile_shape = tile_shape
        self._counts: tuple[Index, ...] | None = None

    @property
    def shape(self) -> tuple[Index, ...]:
        """How many tiles there are along each axis."""
        if self._counts is None:
            extents = self.array.shape
            with current().inside(self.array._scope):
                self._counts = tuple(cdiv(n, tile) for n, tile in zip(extents, self.tile_shape, strict=True))
        return self._counts

    @property
    def dtype(self) -> DType:
        """The type of its elements."""
        return self.array.dtype

    def __repr__(self) -> str:
        return f"{self.array!r} in tiles of {list(self.tile_shape)}"

    def __getitem__(self, index: Any) -> Tile:
        return self.array.load(self._offsets(index), self.tile_shape)

    def __setitem__(self, index: Any, tile: Operand) -> None:
        at = self._offsets(index)
        if isinstance(tile, NUMBERS):
            value = place(tile, self.dtype, self.tile_shape)
        elif isinstance(tile, Tile):
            value = self._fitted(tile)
        else:
            raise TilecError(
                f"{self.array.name} is written with a tile or a number, found {type(tile).__name__}"
            )
        self.array.store(at, Tile(value, current().scope))

    def _fitted(self, tile: Tile) -> Value:
        """The tile in this shape: missing leading axes, and extents of 1, are broadcast."""
        missing = len(self.tile_shape) - tile.rank
        pairs = zip((1,) * missing + tile.shape, self.tile_shape, strict=False)
        if missing < 0 or not all(n in (1, want) for n, want in pairs):
            raise TilecError(f"the tiles of {self.array.name} are {list(self.tile_shape)}, found {tile.type}")
        return expand(tile, self.tile_shape)

    def _offsets(self, index: Any) -> tuple[Index, ...]:
        numbers = index if isinstance(index, tuple) else (index,)
        if len(numbers) != len(self.tile_shape):
            raise TilecError(
                f"{self.array.name}.tiles({self.tile_shape}) takes {len(self.tile_shape)} tile numbers, "
                f"found {len(numbers)}"
            )
        for axis, x in enumerate(numbers):
            self._check_number(axis, x)
        return tuple(x * n for x, n in zip(numbers, self.tile_shape, strict=True))

    def _check_number(self, axis: int, x: Any) -> None:
        if isinstance(x, slice):
            raise TilecError(
                f"tiles of {self.array.name} are read one at a time, not by a slice; use "
                f"{self.array.name}.load(offsets, shape)"
            )
        if isinstance(x, Tile) and self._is_offset(axis, x.value):
            raise TilecError(
                f"{self.array.name}.tiles(...)[...] takes tile numbers, and index {axis} is a tile number "
                f"multiplied by {self.tile_shape[axis]} already: leave the factor out, or use "
                f"{self.array.name}.load(offsets, shape)"
            )

    def _is_offset(self, axis: int, x: Value) -> bool:
        """i * c, where block i counts tiles of extent c: an element offset where a tile number is meant."""
        match x:
            case arith.Mul(BlockIndex() as i, arith.Full(factor)):
                pass
            case _:
                return False
        count, ours = i.grid[i.axis], self.shape[axis]
        same = isinstance(ours, Tile) and ours.value is count
        return factor == self.tile_shape[axis] > 1 and (same or _tiles_of(count) == factor)


def _tiles_of(count: Value) -> int | None:
    """c, where the count is that of tiles of extent c: cdiv(n, c)."""
    match count:
        case arith.Add(arith.FloorDiv(_, arith.Full(extent)), arith.Full(1)):
            return int(extent)
    return None


def cdiv(x: Operand, y: Operand) -> Any:
    """x / y rounded up, of integers or integer scalars; never overflows. On constants a constant."""
    x, y = plain(x), plain(y)
    if isinstance(x, int) and isinstance(y, int):
        return -(-x // y)
    dtype = x.dtype if isinstance(x, Tile) else y.dtype
    if dtype.is_integer and not dtype.is_signed:
        return x // y + (x % y != 0).to(dtype)
    return (x - 1) // y + 1
