"""Which boxes of queries and spans of keys attention is cut into, per target: data, never its meaning.

tiled((Axis(7), Axis(7)), (56, 56), 32, 2, "sm_80")       boxes and spans of (8, 8), warps=4
Of all boxes of a size, the one is taken whose blocks visit the fewest keys.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from math import inf, prod
from typing import NamedTuple

from tilec.ops.attention_windows import Axis, window_of
from tilec.ops.tiling import has_threads

MANY = 64  # boxes that stand for all along an axis
AT_ONCE = 128  # keys that a CPU takes in one span, which stay in its nearest cache
LANES = 16  # of a CPU's vector
COPIES = 12  # of keys and values into order, per span: as long as so many queries' products with them
# Queries, keys and warps of a GPU's block, for heads of up to so many: what registers hold, or nearly so. By
# whether elements have more than two bytes, whose products hold rows and columns whole, and for gradients.
TILES: dict[tuple[bool, bool], tuple[tuple[float, tuple[int, int, int]], ...]] = {
    (False, False): ((128, (64, 64, 4)), (256, (32, 32, 4)), (inf, (16, 16, 8))),
    (False, True): ((64, (64, 32, 4)), (128, (32, 32, 4)), (256, (32, 32, 8)), (inf, (16, 16, 8))),
    (True, False): ((32, (32, 32, 4)), (64, (32, 32, 8)), (256, (16, 16, 8)), (inf, (16, 8, 8))),
    (True, True): ((32, (16, 16, 4)), (256, (16, 16, 8)), (inf, (16, 8, 8))),
}


class Tiling(NamedTuple):
    """Axes with their boxes and spans, and the schedule."""

    axes: tuple[Axis, ...]
    more_span: int = 64  # additional keys at once
    stages: int = 2
    warps: int = 4


def group_lengths(extents: Sequence[int], axes: Sequence[Axis]) -> tuple[int, ...]:
    """Positions in a dilation group, rounded up to a power of two, so that like shapes share a kernel."""
    return tuple(
        1 << max(0, -(-n // axis.dilation) - 1).bit_length() for n, axis in zip(extents, axes, strict=True)
    )


@lru_cache(maxsize=1024)
def tiled(
    axes: tuple[Axis, ...], lengths: tuple[int, ...], dim: int, size: int, target: str, backward: bool = False
) -> Tiling:
    """For `lengths` positions in a dilation group (see group_lengths), heads of `dim`,
    elements of `size` bytes."""
    if not has_threads(target):
        return Tiling(_for_cpu(axes, lengths, dim), stages=1)
    rows, keys, warps = next(tile for most, tile in TILES[size > 2, backward] if dim <= most)
    return Tiling(_cut(axes, lengths, rows, keys), keys, warps=warps)


def _for_cpu(axes: tuple[Axis, ...], lengths: tuple[int, ...], dim: int) -> tuple[Axis, ...]:
    """Few queries with all keys that they see, where these are few; else more of them, and spans of 64."""

    def cost(tried: tuple[Axis, ...]) -> float:
        span, rows = prod(axis.span for axis in tried), prod(axis.box for axis in tried)
        lanes = prod(map(visited, tried, lengths)) / span * (-(-span // LANES) * LANES)
        return lanes * (1 + dim / LANES * (1 + COPIES / rows))

    whole = [_around(axes, lengths, rows) for rows in (8, 16, 32)]
    near = [tried for tried in whole if prod(axis.span for axis in tried) <= AT_ONCE]
    return min((*near, *(_cut(axes, lengths, rows, 64) for rows in (16, 32, 64))), key=cost)


def _around(axes: tuple[Axis, ...], lengths: Sequence[int], rows: int) -> tuple[Axis, ...]:
    """Boxes of `rows` queries, each with one span of all keys that it sees."""
    cut = (_boxed(axes, boxes) for boxes in _factors(rows, len(axes)))
    spanned = (
        tuple(axis._replace(span=longest(axis, n)) for axis, n in zip(tried, lengths, strict=True))
        for tried in cut
    )
    return min(spanned, key=lambda tried: (prod(axis.span for axis in tried), _shortness(tried)))


def _boxed(axes: Sequence[Axis], boxes: Sequence[int]) -> tuple[Axis, ...]:
    return tuple(axis._replace(box=box) for axis, box in zip(axes, boxes, strict=True))


def _cut(axes: tuple[Axis, ...], lengths: Sequence[int], rows: int, keys: int) -> tuple[Axis, ...]:
    """The axes with the boxes of `rows` queries and spans of `keys` keys that visit the fewest keys; among
    equals those that are longest along the last axis, where memory is contiguous."""
    choices = product(_factors(rows, len(axes)), _factors(keys, len(axes)))
    cut = (
        tuple(axis._replace(span=span) for axis, span in zip(_boxed(axes, boxes), spans, strict=True))
        for boxes, spans in choices
    )
    return min(cut, key=lambda tried: (prod(map(visited, tried, lengths)), _shortness(tried)))


def _factors(n: int, count: int) -> Iterator[tuple[int, ...]]:
    """n, a power of two, as products of `count` powers of two."""
    if count == 1:
        yield (n,)
        return
    first = 1
    while first <= n:
        yield from ((first, *rest) for rest in _factors(n // first, count - 1))
        first *= 2


def _shortness(axes: Sequence[Axis]) -> tuple[int, ...]:
    return tuple(-axis.span for axis in reversed(axes))


@lru_cache(maxsize=4096)
def visited(axis: Axis, length: int) -> float:
    """Keys that are walked over along an axis, per query that is there: the mean of its (first) boxes."""
    boxes = list(_keys(axis, length))
    spans = sum(-(-n // axis.span) for n in boxes)
    return spans * axis.span * axis.box / min(length, len(boxes) * axis.box)


@lru_cache(maxsize=4096)
def longest(axis: Axis, length: int) -> int:
    """The most keys that a (first) box of queries sees along an axis."""
    return max(_keys(axis, length))


def _keys(axis: Axis, length: int) -> Iterator[int]:
    """How many keys each of the boxes sees."""
    for p in range(0, length, axis.box)[:MANY]:
        yield window_of(p + axis.box - 1, length, axis).end - window_of(p, length, axis).first
