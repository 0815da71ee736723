"""Layouts of memory, and how registers reach them.

A memory layout has one group of digits per axis, from coordinates to an element's offset:
    row_major((8, 64), Swizzle(3, 4, 3)).byte_offset((1, 0), element_bits=16) == 128 ^ 16
`vectors` says which slots go in one wide access, `bank_conflicts` what accesses cost in shared memory,
`exchange_layout` where to put a tile that changes hands.
"""

from collections.abc import Iterator
from functools import lru_cache
from math import prod

import numpy as np

from tilec.ir.digits import Digit, Ints
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout, Shape, memory
from tilec.ir.swizzle import CHUNK, Swizzle, swizzle_for, wavefronts

WARP = 32
Slots = tuple[tuple[int, ...], ...]


def strided(shape: Shape, strides: Shape, swizzle: Swizzle | None = None) -> Layout:
    """Memory: element c of an axis at c * stride."""
    axes = tuple((Digit(n, (s,)),) for n, s in zip(shape, strides, strict=True))
    return memory(axes, 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)), swizzle)


def row_major(shape: Shape, swizzle: Swizzle | None = None) -> Layout:
    """Memory: the last axis fastest."""
    return strided(shape, _dense(shape), swizzle)


def column_major(shape: Shape, swizzle: Swizzle | None = None) -> Layout:
    """Memory: the first axis fastest."""
    return strided(shape, _dense(shape[::-1])[::-1], swizzle)


def padded(shape: Shape, pad: int) -> Layout:
    """Memory: row-major, every row `pad` elements longer than it needs to be."""
    return strided(shape, _dense((*shape[:-1], shape[-1] + pad)))


def _dense(shape: Shape) -> Shape:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def memory_bytes(layout: Layout, element_bits: int) -> int:
    """What a buffer needs: the elements' bytes, up to whole blocks of the swizzle (it stays within them)."""
    block = layout.swizzle.block if layout.swizzle else 1
    plain = -(-layout.size * element_bits // 8)
    return -(-plain // block) * block


@lru_cache(512)
def vectors(place: Layout, tile: Layout, element_bits: int, max_bytes: int = CHUNK) -> Slots:
    """The slots of a register layout in groups that one access each can move, all of the largest power of
    two.

    A group's elements are neighbours in memory, aligned to their size, in every thread, swizzled or not, and
    all inside the tile or all pad. Groups are in the order of their first slots; elements in the order of
    memory.
    """
    return _vectors(place, tile.points(), tile.pad_mask(), element_bits, max_bytes)


def _vectors(place: Layout, points: Ints, pad: Ints, element_bits: int, max_bytes: int) -> Slots:
    """`vectors` for the given threads' points int32 [threads, slots, rank] and pad bool [threads, slots]."""
    offsets = np.asarray(place.offset(np.moveaxis(points, -1, 0)) + np.zeros(points.shape[:2], np.int64))
    if place.swizzle:
        max_bytes = min(max_bytes, 1 << place.swizzle.base)
    order = np.argsort(offsets[0], kind="stable")
    offsets, pad = offsets[:, order], pad[:, order]
    width = min(1 << (len(order) & -len(order)).bit_length() - 1, max_bytes * 8 // element_bits)
    while width > 1 and not _fit(offsets, pad, width, element_bits):
        width //= 2
    groups = order.reshape(-1, max(width, 1)).tolist()
    return tuple(sorted(map(tuple, groups)))


def _fit(offsets: Ints, pad: Ints, width: int, element_bits: int) -> bool:
    """Whether each `width` columns are one aligned access in every row."""
    if width * element_bits % 8:
        return False
    runs, pads = (x.reshape(len(x), -1, width) for x in (offsets, pad))
    aligned = (runs[..., 0] % width == 0).all()
    return bool(
        aligned and (runs - runs[..., :1] == np.arange(width)).all() and (pads == pads[..., :1]).all()
    )


def bank_conflicts(place: Layout, tile: Layout, element_bits: int, vector: int = 1) -> float:
    """Trips to shared memory per warp-wide access of `vector` elements a thread, on average.

    The best is 1 for up to 4 bytes, 2 for 8, 4 for 16. TilecError where such accesses are not possible.
    """
    groups = vectors(place, tile, element_bits, vector * element_bits // 8)
    if len(groups[0]) < vector:
        raise TilecError(
            f"accesses of {vector} elements need {vector} neighbouring, aligned elements in each thread: "
            f"{tile} in {place} has {len(groups[0])}"
        )
    trips = _trips(place, tile.points(), tile.pad_mask(), groups, element_bits)
    return float(trips.sum() / max(1, np.count_nonzero(trips)))


def _trips(place: Layout, points: Ints, pad: Ints, groups: Slots, element_bits: int) -> Ints:
    """Wavefronts of every access of every warp, int64 [warps * groups]."""
    heads = [group[0] for group in groups]
    missing = -len(points) % WARP
    points = np.pad(points[:, heads], ((0, missing), (0, 0), (0, 0)))
    active = np.pad(~pad[:, heads], ((0, missing), (0, 0)))
    address = np.zeros(active.shape, np.int64) + place.byte_offset(np.moveaxis(points, -1, 0), element_bits)
    address, active = (
        x.reshape(-1, WARP, len(heads)).swapaxes(1, 2).reshape(-1, WARP) for x in (address, active)
    )
    return wavefronts(address, active, len(groups[0]) * element_bits // 8)


@lru_cache(256)
def exchange_layout(a: Layout, b: Layout, element_bits: int) -> Layout:
    """Where in shared memory to write a tile held as a, to read it as b: the cheapest for the first warp.

    Elements under 8 bits take a byte. Tried are the orders of axes that give a or b (or nobody) the widest
    accesses, each dense, swizzled and padded; of equals the first.
    """
    bits = max(8, element_bits)
    ideal = (
        (a.slots + b.slots) * bits / 32
    )  # a trip moves 4 bytes a lane, more only where lanes read the same
    best: tuple[float, Layout] | None = None
    for place in _candidates(a, b, bits // 8):
        cost = exchange_cost(place, a, b, bits)
        best = (cost, place) if best is None or cost < best[0] else best
        if cost <= ideal:
            break
    assert best is not None, "a scalar is held by every thread and goes nowhere"
    return best[1]


def exchange_cost(place: Layout, a: Layout, b: Layout, element_bits: int) -> int:
    """Wavefronts of the first warp for writing the tile as a and reading it as b."""
    return sum(_first_warp(place, tile, element_bits) for tile in (a, b))


def _first_warp(place: Layout, tile: Layout, element_bits: int) -> int:
    points, pad = tile.points()[:WARP], tile.pad_mask()[:WARP]
    groups = _vectors(place, points, pad, element_bits, CHUNK)
    return int(_trips(place, points, pad, groups, element_bits).sum())


def _candidates(a: Layout, b: Layout, element_bytes: int) -> Iterator[Layout]:
    fast = dict.fromkeys([a.rank - 1, *(axis for tile in (a, b) for axis in _run_axes(tile))])
    for last in fast:
        order = [*(axis for axis in range(a.rank) if axis != last), last]
        extents = tuple(a.shape[axis] for axis in order)
        back = [order.index(axis) for axis in range(a.rank)]
        for swizzle, pad in _spreads(extents, element_bytes):
            strides = _dense((*extents[:-1], extents[-1] + pad))
            yield strided(a.shape, tuple(strides[i] for i in back), swizzle)


def _run_axes(tile: Layout) -> list[int]:
    """The axes along which slots or threads are neighbours."""
    return [axis for part in tile.parts for d in part[-1:] for axis, s in enumerate(d.stride) if s == 1]


def _spreads(extents: Shape, element_bytes: int) -> Iterator[tuple[Swizzle | None, int]]:
    """Ways to keep rows out of each other's banks: (swizzle, padding in elements)."""
    yield None, 0
    for chunk in (16, 8, 4):
        if chunk >= element_bytes:
            swizzle = swizzle_for(extents, element_bytes, chunk)
            if swizzle:
                yield swizzle, 0
            yield None, chunk // element_bytes
