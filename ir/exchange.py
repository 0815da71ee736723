"""Where in shared memory a tile changes hands: written as one register layout, read as another.

    place = exchange_layout(a, b, element_bits=32)
Every order of axes that makes a or b wide is tried, dense and swizzled, then with padded rows, and priced by
the trips that the first warp makes (the others differ in high digits only).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import numpy as np

from tilec.ir.layout import Layout, Shape
from tilec.ir.memory_layout import WARP, Slots, byte_addresses, grouped, strided, trips
from tilec.ir.swizzle import CHUNK, LINE, Swizzle
from tilec.ir.tile import dense_strides

Family = tuple[Swizzle | None, ...]  # swizzles of one base, which allow accesses of one width
Floats = np.ndarray[Any, np.dtype[np.float64]]
SAMPLE = 8  # accesses of a thread that are priced
ISSUE = 0.25  # trips' worth of issuing one access: of equals, fewer and wider ones


@lru_cache(256)
def exchange_layout(a: Layout, b: Layout, element_bits: int) -> Layout:
    """The cheapest memory layout found for writing the tile as a and reading it as b; elements under 8 bits
    take a byte. It stops at the first without a conflict.
    """
    bits = max(8, element_bits)
    best: tuple[float, Layout] | None = None
    for plain, families in _places(a, b, bits // 8):
        sides = [_Side(plain, tile, bits) for tile in (a, b)]
        ideal = sum(side.ideal for side in sides)
        for swizzles in families:
            if best is not None and best[0] <= ideal:
                break
            costs: Floats = np.sum([side.costs(swizzles) for side in sides], axis=0)
            cheapest = int(np.argmin(costs))
            if best is None or costs[cheapest] < best[0]:
                best = costs[cheapest], replace(plain, swizzle=swizzles[cheapest])
    assert best is not None, "a tile has at least one order of axes"
    return best[1]


def _places(a: Layout, b: Layout, element_bytes: int) -> Iterator[tuple[Layout, Iterable[Family]]]:
    """Dense places with the swizzles to try, then padded ones."""
    orders = [_order(a.rank, last) for last in dict.fromkeys([a.rank - 1, *_fast_axes(a), *_fast_axes(b)])]
    for order in orders:
        place = _ordered(a.shape, order, 0)
        yield place, [(None,), *_swizzles(place.size * element_bytes, element_bytes)]
    for order in orders:
        for pad in (16, 8, 4):
            if pad >= element_bytes:
                yield _ordered(a.shape, order, pad // element_bytes), [(None,)]


def _fast_axes(tile: Layout) -> list[int]:
    """The axes along which a thread's slots, or neighbouring threads, are neighbours."""
    return [axis for part in tile.parts for d in part[-1:] for axis, step in enumerate(d.stride) if step == 1]


def _order(rank: int, last: int) -> list[int]:
    return [*(axis for axis in range(rank) if axis != last), last]


def _ordered(shape: Shape, order: list[int], pad: int) -> Layout:
    """Row-major over the axes in this order, with rows `pad` elements longer."""
    extents = [shape[axis] for axis in order]
    strides = dense_strides((*extents[:-1], extents[-1] + pad))
    return strided(shape, tuple(strides[order.index(axis)] for axis in range(len(shape))))


def _swizzles(size: int, element_bytes: int) -> Iterator[Family]:
    """All that move chunks of 4 to 64 bytes among the banks, by higher bits of offsets under `size`."""
    for base in (4, 5, 3, 2, 6):
        bits = LINE.bit_length() - 1 - base
        family = tuple(Swizzle(bits, base, shift) for shift in range(bits, size.bit_length() - base))
        if family and 1 << base >= element_bytes:
            yield family


class _Side:
    """The first warp's accesses of a tile to a place, for any swizzle."""

    def __init__(self, place: Layout, tile: Layout, bits: int) -> None:
        missing = max(0, WARP - tile.threads)  # a block of less than a warp
        self.points = np.pad(tile.points()[:WARP], ((0, missing), (0, 0), (0, 0)), mode="edge")
        self.pad = np.pad(tile.pad_mask()[:WARP], ((0, missing), (0, 0)), constant_values=True)
        self.plain = byte_addresses(place, self.points, bits)
        self.groups = cache(lambda width: grouped(place, self.points, self.pad, bits, width))
        self.bits = bits

    @property
    def ideal(self) -> float:
        """The cost without conflicts: 4 bytes a lane in each trip."""
        groups: Slots = self.groups(CHUNK)
        return len(groups) * (ISSUE + max(1.0, len(groups[0]) * self.bits / 32))

    def costs(self, swizzles: Family) -> Floats:
        """Trips and accesses for each of some swizzles with one base, from a sample of the accesses (they
        differ in high bits, which swap banks at most).
        """
        first = swizzles[0]
        groups: Slots = self.groups(min(CHUNK, 1 << first.base) if first else CHUNK)
        some = groups[:: -(-len(groups) // SAMPLE)]
        moved = np.concatenate([swizzle.apply(self.plain) if swizzle else self.plain for swizzle in swizzles])
        made = trips(moved, np.tile(self.pad, (len(swizzles), 1)), some, self.bits).reshape(len(swizzles), -1)
        return np.asarray(made.sum(axis=1) * len(groups) / len(some) + ISSUE * len(groups))
