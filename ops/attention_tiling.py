"""Which boxes of queries and spans of keys attention is cut into, per target: data, never its meaning.

tiled((Axis(7), Axis(7)), (56, 56), 32, 2, "sm_80")       boxes and spans of (8, 8), warps=4
Of all boxes of a size, the one is taken whose blocks visit the fewest keys.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

from tilec.ops.attention_windows import Axis, window_of
from tilec.ops.tiling import has_threads

MANY = 64  # boxes that stand for all along an axis


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
        return Tiling(_cut(axes, lengths, 16, 64), stages=1)
    small = size > 2 or dim > 128 or (backward and dim > 64)
    keys = 64 if not small else 32 if size == 2 or dim <= 128 else 16
    return Tiling(_cut(axes, lengths, keys, keys), keys)


def _cut(axes: tuple[Axis, ...], lengths: Sequence[int], rows: int, keys: int) -> tuple[Axis, ...]:
    """The axes with the boxes of `rows` queries and spans of `keys` keys that visit the fewest keys; among
    equals those that are longest along the last axis, where memory is contiguous."""
    choices = product(_factors(rows, len(axes)), _factors(keys, len(axes)))
    cut = (
        tuple(axis._replace(box=b, span=s) for axis, b, s in zip(axes, boxes, spans, strict=True))
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
    boxes = range(0, length, axis.box)[:MANY]
    total = 0
    for p in boxes:
        first, end = window_of(p, length, axis).first, window_of(p + axis.box - 1, length, axis).end
        total += -(-(end - first) // axis.span) * axis.span * axis.box
    return total / min(length, len(boxes) * axis.box)
