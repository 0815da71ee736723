"""Where in shared memory a tile changes hands: written as one register layout, read as another.

    place = exchange_layout(a, b, element_bits=32)
Every order of axes that makes a or b wide is tried, dense and swizzled, then with padded rows, and priced by
the trips that the first warp makes (the others differ in high digits only).
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, lru_cache

from tilec.ir.layout import Layout, Shape
from tilec.ir.memory_layout import WARP, Slots, byte_addresses, dense_strides, grouped, strided, trips
from tilec.ir.swizzle import CHUNK, LINE, Swizzle

ISSUE = 0.25  # trips' worth of issuing one access: of equals, fewer and wider ones


@lru_cache(256)
def exchange_layout(a: Layout, b: Layout, element_bits: int) -> Layout:
    """The cheapest memory layout found for writing the tile as a and reading it as b; elements under 8 bits
    take a byte. It stops at the first without any conflict.
    """
    bits = max(8, element_bits)
    best: tuple[float, Layout] | None = None
    for plain, swizzles in _places(a, b, bits // 8):
        sides = [_Side(plain, tile, bits) for tile in (a, b)]
        for swizzle in swizzles:
            made, accesses = map(sum, zip(*(side.cost(swizzle) for side in sides), strict=True))
            if best is None or made + ISSUE * accesses < best[0]:
                best = (made + ISSUE * accesses, replace(plain, swizzle=swizzle))
            if made <= sum(side.ideal for side in sides):
                return replace(plain, swizzle=swizzle)
    assert best is not None, "a tile has at least one order of axes"
    return best[1]


def _places(a: Layout, b: Layout, element_bytes: int) -> Iterator[tuple[Layout, list[Swizzle | None]]]:
    """Dense places with the swizzles to try, then padded ones."""
    orders = [_order(a.rank, last) for last in dict.fromkeys([a.rank - 1, *_fast_axes(a), *_fast_axes(b)])]
    for order in orders:
        place = _ordered(a.shape, order, 0)
        yield place, [None, *_swizzles(place.size * element_bytes, element_bytes)]
    for order in orders:
        for pad in (16, 8, 4):
            if pad >= element_bytes:
                yield _ordered(a.shape, order, pad // element_bytes), [None]


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


def _swizzles(size: int, element_bytes: int) -> Iterator[Swizzle]:
    """All that move whole chunks of 4 to 64 bytes within the banks by higher bits of an offset under
    `size`.
    """
    for base in (4, 5, 3, 2, 6):
        bits = LINE.bit_length() - 1 - base
        for shift in range(bits, size.bit_length() - base):
            if 1 << base >= element_bytes:
                yield Swizzle(bits, base, shift)


class _Side:
    """The first warp's accesses of a tile to a place, for any swizzle."""

    def __init__(self, place: Layout, tile: Layout, bits: int) -> None:
        self.points, self.pad = tile.points()[:WARP], tile.pad_mask()[:WARP]
        self.plain = byte_addresses(place, self.points, bits)
        self.groups = cache(lambda width: grouped(place, self.points, self.pad, bits, width))
        self.bits = bits

    @property
    def ideal(self) -> float:
        """Trips without conflicts: 4 bytes a lane in each."""
        groups: Slots = self.groups(CHUNK)
        return len(groups) * max(1.0, len(groups[0]) * self.bits / 32)

    def cost(self, swizzle: Swizzle | None) -> tuple[int, int]:
        """Trips and accesses."""
        groups: Slots = self.groups(min(CHUNK, 1 << swizzle.base) if swizzle else CHUNK)
        moved = swizzle.apply(self.plain) if swizzle else self.plain
        return int(trips(moved, self.pad, groups, self.bits).sum()), len(groups)
