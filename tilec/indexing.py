"""What x[...] means: indices of a tile are constants, those of an array may be known at run time only.

extract((slice(None), None, 3), f32[4, 8]) == ((0, 3), (4, 1), (4, 1)): start, extents, shape after
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tilec.ir.errors import TilecError
from tilec.ir.tile import TileType
from tilec.literals import plain


def split_ellipsis(index: Any, rank: int, what: str) -> list[Any]:
    """The items of an index, one per axis (and None for new axes), `...` and missing axes filled with `:`."""
    items = list(index) if isinstance(index, tuple) else [index]
    dots = [i for i, item in enumerate(items) if item is Ellipsis]
    used = sum(item is not None and item is not Ellipsis for item in items)
    if used > rank or len(dots) > 1:
        raise TilecError(f"{used} indices into {what}, which has {rank} axes")
    at = dots[0] if dots else len(items)
    return items[:at] + [slice(None)] * (rank - used) + items[at + 1 :]


def extract(index: Any, tile: TileType) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Start and extents of the part that an index of a tile names, and the shape of the result."""
    start, extents, result = [], [], []
    axes = iter(enumerate(tile.shape))
    for item in split_ellipsis(index, tile.rank, str(tile)):
        if item is None:
            result.append(1)
            continue
        axis, extent = next(axes)
        low, high, kept = _part(plain(item), axis, extent, tile)
        start.append(low)
        extents.append(high - low)
        result += [high - low] if kept else []
    return tuple(start), tuple(extents), tuple(result)


def _part(item: Any, axis: int, extent: int, tile: TileType) -> tuple[int, int, bool]:
    """First, last + 1, and whether the axis stays."""
    if isinstance(item, int) and not isinstance(item, bool):
        if not -extent <= item < extent:
            raise TilecError(f"index {item} on axis {axis} of {tile}, which has {extent} elements there")
        return item % extent, item % extent + 1, False
    if not isinstance(item, slice):
        raise TilecError(
            f"a tile is indexed with constants, found {item!r}: elements at run-time places come from an "
            "array (x.at, x.gather) or from tc.shared memory"
        )
    low, high = _bounds(item, axis, extent, tile)
    return low, high, True


def _bounds(item: slice, axis: int, extent: int, tile: TileType) -> tuple[int, int]:
    for bound in _given(item):
        if not isinstance(bound, int):
            raise TilecError(
                f"a slice of a tile has constant bounds, found {bound!r}; slice the array instead"
            )
    if item.step not in (None, 1):
        raise TilecError(
            f"a slice of a tile has step 1, not {item.step}: reshape, then index, or slice the array"
        )
    low, high, _ = item.indices(extent)
    beyond = [b for b in (item.start, item.stop) if b is not None and not -extent <= b <= extent]
    if beyond or low >= high:
        asked = f"{'' if item.start is None else item.start}:{'' if item.stop is None else item.stop}"
        raise TilecError(f"the slice {asked} of axis {axis} must lie inside {tile} and not be empty")
    return low, high


def _given(item: slice) -> Iterator[Any]:
    return (plain(x) for x in (item.start, item.stop, item.step) if x is not None)
