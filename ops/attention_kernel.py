"""Attention as a kernel, dense or over neighborhoods of 1 to 3 axes: one text for all of them.

A block takes a box of queries of one dilation group and head, walks over spans of the keys that any of them
sees, and keeps a running softmax (Milakov and Gimelshein, 2018; Dao et al., 2022). Only spans that some query
of the box does not see all of are masked. Logits are in base 2: exp2(x * log2 e).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ops.attention_windows import Axis, coordinates, seen_by, unravel

LOG2_E = math.log2(math.e)
LN_2 = math.log(2)


class Softmax(NamedTuple):
    """sum(2^logit * value) / sum(2^logit) so far, held relative to the largest logit of each row."""

    maximum: tc.Tile  # [rows]
    total: tc.Tile  # [rows]
    acc: tc.Tile  # [rows, dv]

    def add(self, logits: tc.Tile, values: tc.Tile) -> "Softmax":
        """With these keys too: logits [rows, keys], -inf for keys that are not there; values [keys, dv]."""
        maximum = tc.maximum(self.maximum, logits.max(1))
        shrink, p = tc.exp2(self.maximum - maximum), tc.exp2(logits - maximum[:, None])
        acc = tc.dot(p.to(values.dtype), values, self.acc * shrink[:, None])
        return Softmax(maximum, self.total * shrink + p.sum(1), acc)

    def result(self) -> tc.Tile:
        return self.acc / self.total[:, None]

    def lse(self) -> tc.Tile:
        """log(sum(e^score)) of each row."""
        return (self.maximum + tc.log2(self.total)) * LN_2


def empty(rows: int, dv: int, dtype: DType) -> Softmax:
    """Nothing seen. The maximum is not -inf, so that rows that have seen no key yet stay numbers."""
    return Softmax(tc.full(rows, dtype.min, dtype), tc.zeros(rows, dtype), tc.zeros((rows, dv), dtype))


class Options(NamedTuple):
    """What a kernel is made for besides its axes; `sharing`: heads of queries per head of keys."""

    sharing: int = 1
    more: bool = False  # additional keys and values
    bias: bool = False


class Box(NamedTuple):
    """Where a block stands: a box of positions of one batch, dilation group and head."""

    batch: Any
    groups: Sequence[Any]
    head: Any
    at: Sequence[Any]  # the first position along each axis

    def of(self, x: tc.Array, axes: Sequence[Axis], sharing: int = 1) -> tc.Array:
        """The block's dilation group and head of an array [B, X.., H] or [B, X.., H, D]."""
        cuts = [slice(g, None, axis.dilation) for g, axis in zip(self.groups, axes, strict=True)]
        head = self.head // sharing
        return x[self.batch, *cuts, head] if x.rank == len(axes) + 2 else x[self.batch, *cuts, head, :]


def box_of_block(shape: Sequence[Any], axes: Sequence[Axis], sizes: Sequence[int]) -> Box:
    """One block per box of these sizes of an array [B, X.., H, D]."""
    n = len(axes)
    boxes = [
        tc.cdiv(tc.cdiv(extent, axis.dilation), size)
        for extent, axis, size in zip(shape[1:], axes, sizes, strict=False)
    ]
    batch, *rest = tc.blocks(shape[0], *(axis.dilation for axis in axes), shape[n + 1], *boxes)
    at = [i * size for i, size in zip(rest[n + 1 :], sizes, strict=True)]
    return Box(batch, rest[:n], rest[n], at)


def bias_of(
    bias: tc.Array, head: Any, rows: Sequence[Any], at: Sequence[Any], axes: Sequence[Axis]
) -> tc.Tile:
    """bias[head] [2w - 1 ..] by how far each key of the span at `at` lies behind each query, [rows, keys]."""
    places = coordinates([axis.span for axis in axes])
    steps = [
        (u + place)[None, :] - row[:, None] + (axis.window - 1)
        for u, place, row, axis in zip(at, places, rows, axes, strict=True)
    ]
    return bias.gather(head, *steps, other=0)


@tc.kernel
def attention_kernel(
    q: tc.Array,
    k: tc.Array,
    v: tc.Array,
    out: tc.Array,
    lse: tc.Array,
    more_keys: tc.Array,
    more_values: tc.Array,
    bias: tc.Array,
    scale: tc.f64,  # type: ignore[valid-type]
    *,
    axes: tuple[Axis, ...],
    options: Options,
    more_span: int = 64,
    stages: int = 2,
    warps: int = 4,
) -> None:
    """out, lse = attention of q [B, X.., H, D] over k [B, Y.., Hkv, D] and v [B, Y.., Hkv, Dv].

    lse f32 [B, X.., H]; more_keys, more_values [B, T, Hkv, D or Dv], seen by all; bias [H, 2w - 1 ..]. Y is X
    but for an axis of window 0.
    """
    d, dv, kind = tc.static(q.shape[-1]), tc.static(v.shape[-1]), tc.f64 if q.dtype == tc.f64 else tc.f32
    boxes, spans = [axis.box for axis in axes], [axis.span for axis in axes]
    block = box_of_block(q.shape, axes, boxes)
    qs, ks, vs = block.of(q, axes), block.of(k, axes, options.sharing), block.of(v, axes, options.sharing)
    seen = seen_by(block.at, ks.shape, axes)
    rows, keys, factor = math.prod(boxes), math.prod(spans), (scale * LOG2_E).to(kind)  # type: ignore[attr-defined]
    query = qs.load((*block.at, 0), (*boxes, d)).reshape((rows, d))
    state = empty(rows, dv, kind)
    counts = [
        tc.cdiv(last - first, span) for first, last, span in zip(seen.first, seen.last, spans, strict=True)
    ]
    for t in tc.range(math.prod(counts), stages=stages):
        at = [first + i * span for first, i, span in zip(seen.first, unravel(t, counts), spans, strict=True)]
        key = ks.load((*at, 0), (*spans, d)).reshape((keys, d))
        value = vs.load((*at, 0), (*spans, dv)).reshape((keys, dv))
        logits = tc.dot(query, key.T, tc.zeros((rows, keys), kind)) * factor
        if options.bias:
            logits = logits + bias_of(bias, block.head, seen.rows, at, axes).to(kind) * LOG2_E
        if not seen.whole(at, axes):
            logits = tc.where(seen.mask(at, axes), logits, -float("inf"))
        state = state.add(logits, value)
    if options.more:
        head = block.head // options.sharing
        mk, mv = more_keys[block.batch, :, head, :], more_values[block.batch, :, head, :]
        for at in tc.range(0, mk.shape[0], more_span, stages=stages):
            logits = (
                tc.dot(query, mk.load((at, 0), (more_span, d)).T, tc.zeros((rows, more_span), kind)) * factor
            )
            there = at + tc.arange(more_span) < mk.shape[0]
            logits = tc.where(there[None, :], logits, -float("inf"))
            state = state.add(logits, mv.load((at, 0), (more_span, dv)))
    block.of(out, axes).store((*block.at, 0), state.result().to(out.dtype).reshape((*boxes, dv)))
    block.of(lse, axes).store(tuple(block.at), state.lse().to(lse.dtype).reshape(tuple(boxes)))
