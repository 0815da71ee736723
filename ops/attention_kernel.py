"""Attention as a kernel, dense or over neighborhoods of 1 to 3 axes: one text for all of them.

A block takes a box of queries of one dilation group and head, walks over spans of the keys that any of them
sees, and keeps a running softmax (Milakov and Gimelshein, 2018; Dao et al., 2022). Only spans that some query
of the box does not see all of are masked. Logits are in base 2: exp2(x * log2 e).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ops.arrays import sums_in
from tilec.ops.attention_windows import Axis, across, down, seen_by, unravel, visible

LOG2_E = math.log2(math.e)
LN_2 = math.log(2)
State = TypeVar("State")


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

    def of(self, x: tc.Array, axes: Sequence[Axis], head: Any = None) -> tc.Array:
        """The block's dilation group of an array [B, X.., H] or [B, X.., H, D], of its head or this one."""
        cuts = [slice(g, None, axis.dilation) for g, axis in zip(self.groups, axes, strict=True)]
        chosen = self.head if head is None else head
        return x[self.batch, *cuts, chosen, ...]


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


class Keys(NamedTuple):
    """The arrays that a block's queries look at: k, v [B, Y.., Hkv, D or Dv], more of both [B, T, Hkv, ..],
    and bias [H, 2w - 1 ..]."""

    k: tc.Array
    v: tc.Array
    more_k: tc.Array
    more_v: tc.Array
    bias: tc.Array


class Queries(NamedTuple):
    """A block's queries [rows, d], and what they are multiplied with to be logits in base 2."""

    tile: tc.Tile
    factor: tc.Tile

    def logits(self, keys: tc.Tile) -> tc.Tile:
        """[rows, keys] for keys [keys, d]."""
        shape, kind = (self.tile.shape[0], keys.shape[0]), self.factor.dtype
        return tc.dot(self.tile, keys.T, tc.zeros(shape, kind)) * self.factor


def walk(
    queries: Queries, block: Box, keys: Keys, axes: Sequence[Axis], options: Options, more_span: int,
    stages: int, state: State, step: Callable[[State, tc.Tile, tc.Tile, tc.Tile, Sequence[Any]], State],
) -> State:  # fmt: skip
    """step(state, logits, key, value, at) over all spans that the block's queries see: logits [rows, keys],
    -inf where a query does not see a key; key [keys, d]; value [keys, dv]; `at` where the span begins."""
    head, d, dv = block.head // options.sharing, tc.static(keys.k.shape[-1]), tc.static(keys.v.shape[-1])
    ks, vs, spans = block.of(keys.k, axes, head), block.of(keys.v, axes, head), [axis.span for axis in axes]
    boxes = [axis.box for axis in axes]
    seen = seen_by(block.at, boxes, ks.shape, axes)
    counts = seen.counts(spans)
    for t in tc.range(math.prod(counts), stages=stages):
        at = [first + i * span for first, i, span in zip(seen.first, unravel(t, counts), spans, strict=True)]
        key = ks.load((*at, 0), (*spans, d)).reshape((-1, d))
        value = vs.load((*at, 0), (*spans, dv)).reshape((-1, dv))
        logits = queries.logits(key)
        if options.bias:
            found = bias_of(keys.bias, block.head, down(block.at, boxes), across(at, spans), axes)
            logits = logits + found.to(logits.dtype) * LOG2_E
        if not seen.whole(at, axes):
            inside = visible(down(block.at, boxes), across(at, spans), ks.shape, axes)
            logits = tc.where(inside, logits, -float("inf"))
        state = step(state, logits, key, value, at)
    if options.more:
        ks, vs = keys.more_k[block.batch, :, head, :], keys.more_v[block.batch, :, head, :]
        for u in tc.range(0, ks.shape[0], more_span, stages=stages):
            key, value = ks.load((u, 0), (more_span, d)), vs.load((u, 0), (more_span, dv))
            there = (u + tc.arange(more_span) < ks.shape[0])[None, :]
            state = step(state, tc.where(there, queries.logits(key), -float("inf")), key, value, (u,))
    return state


def bias_of(
    bias: tc.Array, head: Any, queries: Sequence[tc.Tile], keys: Sequence[tc.Tile], axes: Sequence[Axis]
) -> tc.Tile:
    """bias[head] by how far each key lies behind each query: rows of the one, columns of the other."""
    steps = [key - query + (axis.window - 1) for query, key, axis in zip(queries, keys, axes, strict=True)]
    return bias.gather(head, *steps, other=0)


class Softmax(NamedTuple):
    """sum(2^logit * value) / sum(2^logit) so far, held relative to the largest logit of each row."""

    maximum: tc.Tile  # [rows]
    total: tc.Tile  # [rows]
    acc: tc.Tile  # [rows, dv]

    @classmethod
    def empty(cls, rows: int, dv: int, dtype: DType) -> "Softmax":
        """Nothing seen. The maximum is not -inf, so that rows that have seen no key yet stay numbers."""
        return cls(tc.full(rows, dtype.min, dtype), tc.zeros(rows, dtype), tc.zeros((rows, dv), dtype))

    def add(self, logits: tc.Tile, _key: tc.Tile, value: tc.Tile, _at: Sequence[Any]) -> "Softmax":
        """With these keys too."""
        maximum = tc.maximum(self.maximum, logits.max(1))
        shrink = tc.exp2(self.maximum - maximum, approx=True)
        p = tc.exp2(logits - maximum[:, None], approx=True)
        acc = tc.dot(p.to(value.dtype), value, self.acc * shrink[:, None])
        return Softmax(maximum, self.total * shrink + p.sum(1), acc)

    def result(self) -> tc.Tile:
        """0 where biases of -inf left nothing to see."""
        found: tc.Tile = self.acc / tc.where(self.total > 0, self.total, 1.0)[:, None]
        return found

    def lse(self) -> tc.Tile:
        """log(sum(e^score)) of each row."""
        found: tc.Tile = (self.maximum + tc.log2(self.total)) * LN_2
        return found


@tc.kernel
def attention_kernel(
    q: tc.Array,
    k: tc.Array,
    v: tc.Array,
    out: tc.Array,
    lse: tc.Array,
    more_k: tc.Array,
    more_v: tc.Array,
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

    out [B, X.., H, Dv], lse [B, X.., H]; additional keys and values [B, T, Hkv, D or Dv], seen by all; bias
    [H, 2w - 1 ..]. Y is X but for an axis of window 0.
    """
    d, dv, kind = tc.static(q.shape[-1]), tc.static(v.shape[-1]), sums_in(q.dtype)
    boxes, keys = [axis.box for axis in axes], Keys(k, v, more_k, more_v, bias)
    block = box_of_block(q.shape, axes, boxes)
    tile = block.of(q, axes).load((*block.at, 0), (*boxes, d)).reshape((-1, d))
    queries = Queries(tile, (scale * LOG2_E).to(kind))  # type: ignore[attr-defined]
    state = Softmax.empty(math.prod(boxes), dv, kind)
    state = walk(queries, block, keys, axes, options, more_span, stages, state, Softmax.add)
    block.of(out, axes).store((*block.at, 0), state.result().to(out.dtype).reshape((*boxes, dv)))
    block.of(lse, axes).store(block.at, state.lse().to(lse.dtype).reshape(boxes))
