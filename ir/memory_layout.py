"""Layouts of memory, and how registers reach them.

A memory layout has one group of digits per axis, from coordinates to an element's offset:
    row_major((8, 64), Swizzle(3, 4, 3)).byte_offset((1, 0), element_bits=16) == 128 ^ 16
`vectors` says which slots go in one wide access, `bank_conflicts` what accesses cost in shared memory,
`exchange.exchange_layout` where to put a tile that changes hands.
"""

from functools import lru_cache

import numpy as np

from tilec.ir.digits import Digit, Ints
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout, Shape, memory
from tilec.ir.swizzle import CHUNK, Swizzle, wavefronts
from tilec.ir.tile import dense_strides

WARP = 32
Slots = tuple[tuple[int, ...], ...]


def strided(shape: Shape, strides: Shape, swizzle: Swizzle | None = None) -> Layout:
    """Memory: element c of an axis at c * stride."""
    axes = tuple((Digit(n, (s,)),) for n, s in zip(shape, strides, strict=True))
    return memory(axes, 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)), swizzle)


def row_major(shape: Shape, swizzle: Swizzle | None = None) -> Layout:
    """Memory: the last axis fastest."""
    return strided(shape, dense_strides(shape), swizzle)


def column_major(shape: Shape, swizzle: Swizzle | None = None) -> Layout:
    """Memory: the first axis fastest."""
    return strided(shape, dense_strides(shape[::-1])[::-1], swizzle)


def padded(shape: Shape, pad: int) -> Layout:
    """Memory: row-major, every row `pad` elements longer than it needs to be."""
    return strided(shape, dense_strides((*shape[:-1], shape[-1] + pad)))


@lru_cache(512)
def vectors(place: Layout, tile: Layout, element_bits: int, max_bytes: int = CHUNK) -> Slots:
    """The slots of a register layout in groups that one access moves, all of the largest power of two.

    A group's elements are neighbours in memory, aligned to their size, in every thread, swizzled or not, and
    all inside the tile or all pad. Groups come in the order of their first slots, elements as in memory.
    """
    swizzled = min(max_bytes, 1 << place.swizzle.base) if place.swizzle else max_bytes
    return grouped(place, tile.points(), tile.pad_mask(), element_bits, swizzled)


def grouped(place: Layout, points: Ints, pad: Ints, element_bits: int, max_bytes: int) -> Slots:
    """`vectors` for the given threads' points int32 [threads, slots, rank] and pad bool [threads, slots]."""
    offsets = np.zeros(pad.shape, np.int64) + place.offset(np.moveaxis(points, -1, 0).astype(np.int64))
    order = np.argsort(offsets[0], kind="stable")
    offsets, pad = offsets[:, order], pad[:, order]
    width = min(len(order) & -len(order), max(1, max_bytes * 8 // element_bits))
    while width > 1 and not _fit(offsets, pad, width, element_bits):
        width //= 2
    return tuple(sorted(map(tuple, order.reshape(-1, width).tolist())))


def _fit(offsets: Ints, pad: Ints, width: int, element_bits: int) -> bool:
    """Whether each `width` columns are one aligned access in every row."""
    if width * element_bits % 8:
        return False
    runs, pads = (x.reshape(len(x), -1, width) for x in (offsets, pad))
    aligned = (runs[..., 0] % width == 0).all()
    return bool(
        aligned and (runs - runs[..., :1] == np.arange(width)).all() and (pads == pads[..., :1]).all()
    )


def byte_addresses(place: Layout, points: Ints, element_bits: int) -> Ints:
    """Where points int32 [threads, slots, rank] lie, [threads, slots]."""
    at = place.byte_offset(np.moveaxis(points, -1, 0).astype(np.int64), element_bits)
    return np.asarray(np.zeros(points.shape[:2], np.int64) + at)


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
    made = trips(byte_addresses(place, tile.points(), element_bits), tile.pad_mask(), groups, element_bits)
    return float(made.sum() / max(1, np.count_nonzero(made)))


def trips(addresses: Ints, pad: Ints, groups: Slots, element_bits: int) -> Ints:
    """Wavefronts of every access of every warp, [warps * groups], from byte addresses [threads, slots]."""
    heads = [group[0] for group in groups]
    filler = ((0, -len(addresses) % WARP), (0, 0))
    by_warp = [
        np.pad(x[:, heads], filler).reshape(-1, WARP, len(heads)).swapaxes(1, 2).reshape(-1, WARP)
        for x in (addresses, ~pad)
    ]
    return wavefronts(by_warp[0], by_warp[1], len(groups[0]) * element_bits // 8)
