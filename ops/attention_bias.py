"""The gradient of attention's bias by relative position, as kernels. The same bits every time.

d_bias[h, offset] = the sum of dS over all pairs of a query and a key that lies so far behind it
A block takes every so many boxes of queries of a head. It puts dS of a box and a span of keys into shared
memory, gathers it by offset, sums over the queries, and adds what it finds to its own part of the result.
"""

import math
from collections.abc import Sequence
from typing import Any

import tilec as tc
from tilec.ops.arrays import sums_in
from tilec.ops.attention_backward import known_of
from tilec.ops.attention_kernel import LOG2_E, Box, Keys, Options, Queries, walk
from tilec.ops.attention_windows import Axis, across, down, unravel


@tc.kernel
def bias_parts_kernel(
    q: tc.Array,
    k: tc.Array,
    v: tc.Array,
    lse: tc.Array,
    delta: tc.Array,
    d_out: tc.Array,
    parts: tc.Array,
    bias: tc.Array,
    scale: tc.f64,  # type: ignore[valid-type]
    *,
    axes: tuple[Axis, ...],
    options: Options,
    warps: int = 4,
) -> None:
    """parts [P, H, 2w - 1 ..]: of every P-th box of queries; their sum is d_bias."""
    n, d, kind = len(axes), tc.static(q.shape[-1]), sums_in(q.dtype)
    boxes, spans = [axis.box for axis in axes], [axis.span for axis in axes]
    counts = [
        tc.cdiv(tc.cdiv(extent, axis.dilation), axis.box)
        for extent, axis in zip(q.shape[1:], axes, strict=False)
    ]
    extents = (q.shape[0], *(axis.dilation for axis in axes), *counts)
    part, head = tc.blocks(parts.shape[0], q.shape[n + 1])
    mine, slopes = parts[part, head, ...], tc.shared((*boxes, *spans), kind)
    clear(mine, [2 * axis.window - 1 for axis in axes], kind)
    keys, factor = Keys(k, v, k, v, bias), (scale * LOG2_E).to(kind)  # type: ignore[attr-defined]

    def add(block: Box) -> None:
        known = known_of(block, axes, lse, delta, d_out, kind)
        tile = block.of(q, axes).load((*block.at, 0), (*boxes, d)).reshape((-1, d))

        def step(state: tc.Tile, logits: tc.Tile, _: tc.Tile, value: tc.Tile, at: Sequence[Any]) -> tc.Tile:
            slopes.store((0,) * (2 * n), known.slopes(logits, value).reshape((*boxes, *spans)))
            add_by_offset(mine, slopes, block.at, at, axes)
            return state

        walk(Queries(tile, factor), block, keys, axes, options, 1, 1, tc.zeros((1,), kind), step)

    for i in tc.range(tc.cdiv(math.prod(extents) - part, parts.shape[0])):
        batch, *places = unravel(part + i * parts.shape[0], extents)
        at = [place * box for place, box in zip(places[n:], boxes, strict=True)]
        add(Box(batch, places[:n], head, at))


def clear(x: tc.Array, extents: Sequence[int], kind: Any) -> None:
    """Zeros, a row at a time."""
    *outer, last = extents
    for i in tc.range(math.prod(outer)):
        x.store((*unravel(i, outer), 0) if outer else 0, tc.zeros((*(1 for _ in outer), last), kind))


def add_by_offset(
    mine: tc.Array, slopes: tc.Array, at: Sequence[Any], first: Sequence[Any], axes: Sequence[Axis]
) -> None:
    """Adds slopes [boxes.., spans..], of queries from `at` on and keys from `first` on."""
    boxes, ends = [axis.box for axis in axes], [axis.box + axis.span - 1 for axis in axes]
    rows, steps = down([0] * len(axes), boxes), across([1 - box for box in boxes], ends)
    columns = [row + step for row, step in zip(rows, steps, strict=True)]
    found = slopes.gather(*rows, *columns, other=0).sum(0).reshape(ends)
    nearest = [u - p - axis.box + axis.window for u, p, axis in zip(first, at, axes, strict=True)]
    mine.store(nearest, mine.load(nearest, ends) + found)
