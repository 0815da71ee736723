"""Where attention looks: the windows of queries along an axis, and boxes of positions, as kernel text.

    Axis(window=7, dilation=2, box=8, span=8)           7 keys, 2 apart; 8 queries at once, 8 keys at once
Positions are counted within a dilation group. What is written here works on tiles, on scalars of a kernel and
on Python integers, so that a plan counts with the very text that kernels run.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import tilec as tc


class Axis(NamedTuple):
    """What the queries along one axis see (window 0: every key), and how many positions are taken at once."""

    window: int
    stride: int = 1
    dilation: int = 1
    causal: bool = False
    shifts: bool = True  # at the border; else the window sticks out, and zeros stand there
    box: int = 1  # queries
    span: int = 1  # keys

    @property
    def behind(self) -> int:
        """How far the window of a leader begins before it."""
        return self.window - 1 if self.causal else self.window // 2

    @property
    def middle(self) -> int:
        """Which of `stride` positions is their leader, whose window all of them see."""
        return self.stride - 1 if self.causal else self.stride // 2


class Window(NamedTuple):
    """Keys first .. end - 1, per query."""

    first: Any
    end: Any


def window_of(p: Any, length: Any, axis: Axis) -> Window:
    """The window of position p (also one beyond the end) among `length` keys; both ends grow with p."""
    if axis.window == 0:
        return Window(0, tc.minimum(p + 1, length) if axis.causal else length)
    leader = tc.minimum(p // axis.stride * axis.stride + axis.middle, length - 1)
    first = leader - axis.behind
    if axis.shifts:
        first = tc.maximum(first if axis.causal else tc.minimum(first, length - axis.window), 0)
    return Window(first, tc.minimum(p + 1, length) if axis.causal else first + axis.window)


def queries_of(j: Any, length: Any, axis: Axis) -> Window:
    """The interval of the positions, among `length`, whose windows hold key j; both ends grow with j.

    Their leaders lie from j - ahead to j + behind. A border that shifts windows adds the queries near it, and
    the leader of the last ones, which is the last position, may be nearer than a whole stride.
    """
    if axis.window == 0:
        return Window(tc.minimum(j, length) if axis.causal else 0, length)
    ahead, stride = axis.window - 1 - axis.behind, axis.stride
    first = tc.maximum((j - ahead - axis.middle + stride - 1) // stride * stride, 0)
    if axis.causal:
        first = j
    elif axis.shifts:
        first = 0 if j < axis.window else first
    end = tc.minimum((j + axis.behind - axis.middle) // stride * stride + stride, length)
    near = j + (axis.window if axis.shifts else axis.behind + 1) >= length
    return Window(first, length if near else end)


def coordinates(extents: Sequence[int]) -> list[Any]:
    """Per axis of a box, the coordinate of each of its places in row-major order: i32 [prod(extents)]."""
    index = tc.arange(prod(extents))
    found: list[Any] = []
    for n in reversed(extents):
        found.insert(0, index % n)
        index = index // n
    return found


def unravel(t: Any, counts: Sequence[Any]) -> list[Any]:
    """The coordinates of place t, a scalar, of a box of these run-time extents."""
    found: list[Any] = []
    for n in reversed(counts[1:]):
        found.insert(0, t % n)
        t = t // n
    return [t, *found]


def down(at: Sequence[Any], extents: Sequence[int]) -> list[tc.Tile]:
    """The positions of a box that begins at `at`, per axis: one row each, [rows, 1]."""
    return [(x + place)[:, None] for x, place in zip(at, coordinates(extents), strict=True)]


def across(at: Sequence[Any], extents: Sequence[int]) -> list[tc.Tile]:
    """The same, one column each: [1, columns]."""
    return [(x + place)[None, :] for x, place in zip(at, coordinates(extents), strict=True)]


def visible(
    queries: Sequence[tc.Tile], keys: Sequence[tc.Tile], lengths: Sequence[Any], axes: Sequence[Axis]
) -> tc.Tile:
    """Which query sees which key: bool, over rows of the one and columns of the other."""
    seen = tc.full((), True, tc.bool)
    for query, key, n, axis in zip(queries, keys, lengths, axes, strict=False):
        first, end = window_of(query, n, axis)
        seen = seen & (key < end)
        if axis.window:
            seen = seen & (key >= first)
    return seen


class Seen(NamedTuple):
    """The keys that a box of queries sees, per axis, as scalars: those that some query sees are first .. last
    - 1, those that all of them see are common .. shared - 1."""

    first: list[Any]
    last: list[Any]
    common: list[Any]
    shared: list[Any]

    def counts(self, spans: Sequence[int]) -> list[Any]:
        """How many spans there are along each axis."""
        return [tc.cdiv(last - first, n) for first, last, n in zip(self.first, self.last, spans, strict=True)]

    def whole(self, at: Sequence[Any], axes: Sequence[Axis]) -> Any:
        """Whether all queries see all keys of the span that begins at `at`."""
        inside: Any = True
        for axis, u, common, shared in zip(axes, at, self.common, self.shared, strict=True):
            inside = inside & (u >= common) & (u + axis.span <= shared)
        return inside


def seen_by(at: Sequence[Any], boxes: Sequence[int], lengths: Sequence[Any], axes: Sequence[Axis]) -> Seen:
    """What the queries of a box, the first at `at`, see among so many keys."""
    low = [window_of(p, n, axis) for p, n, axis in zip(at, lengths, axes, strict=False)]
    ends = [p + box - 1 for p, box in zip(at, boxes, strict=True)]
    high = [window_of(p, n, axis) for p, n, axis in zip(ends, lengths, axes, strict=False)]
    first, last = [w.first for w in low], [w.end for w in high]
    return Seen(first, last, [w.first for w in high], [w.end for w in low])
