"""Gradients of attention, as kernels: of queries, of keys and values, of the bias. The same bits every time.

With P = exp(scores - lse), of out = P @ V and lse:
    delta = rowsum(d_out * out) - d_lse        dS = P * (d_out @ V^T - delta)
    dQ = scale * dS @ K        dK = scale * dS^T @ Q        dV = P^T @ d_out        d_bias = dS, summed
P is computed again from lse (Dao et al., 2022). The third kernel walks over the queries that see a key; that
of the bias is in attention_bias.py.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ops.arrays import sums_in
from tilec.ops.attention_kernel import LOG2_E, Box, Keys, Options, Queries, bias_of, box_of_block, walk
from tilec.ops.attention_windows import (
    Axis,
    Seen,
    Window,
    across,
    down,
    queries_of,
    seen_by,
    unravel,
    visible,
)


@tc.kernel
def delta_kernel(
    out: tc.Array, d_out: tc.Array, d_lse: tc.Array, delta: tc.Array, *, rows: int = 32, warps: int = 4
) -> None:
    """delta [N], from rows of out and d_out [N, D] and d_lse [N]."""
    n, d, kind = out.shape[0], tc.static(out.shape[1]), sums_in(out.dtype)
    at = tc.blocks(tc.cdiv(n, rows)) * rows
    products = out.load((at, 0), (rows, d)).to(kind) * d_out.load((at, 0), (rows, d)).to(kind)
    delta.store(at, (products.sum(1) - d_lse.load(at, rows).to(kind)).to(delta.dtype))


class Known(NamedTuple):
    """Of a block's queries: d_out [rows, dv], delta [rows], log2(sum(e^score)) [rows]."""

    given: tc.Tile
    less: tc.Tile
    base: tc.Tile

    def slopes(self, logits: tc.Tile, value: tc.Tile) -> tc.Tile:
        """dS [rows, keys]."""
        p = tc.exp2(logits - self.base[:, None], approx=True)
        dp = tc.dot(self.given, value.T, tc.zeros(logits.shape, self.base.dtype))
        found: tc.Tile = p * (dp - self.less[:, None])
        return found


def known_of(
    block: Box, axes: Sequence[Axis], lse: tc.Array, delta: tc.Array, d_out: tc.Array, kind: DType
) -> Known:
    """What lse, delta [B, X.., H] and d_out [B, X.., H, Dv] hold of a block's queries."""
    boxes, dv = [axis.box for axis in axes], tc.static(d_out.shape[-1])
    given = block.of(d_out, axes).load((*block.at, 0), (*boxes, dv)).reshape((-1, dv))
    less = block.of(delta, axes).load(block.at, boxes).to(kind).reshape((-1,))
    base = block.of(lse, axes).load(block.at, boxes).to(kind).reshape((-1,))
    return Known(given, less, in_base_2(base))


@tc.kernel
def query_gradient_kernel(
    q: tc.Array,
    k: tc.Array,
    v: tc.Array,
    lse: tc.Array,
    delta: tc.Array,
    d_out: tc.Array,
    dq: tc.Array,
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
    """dq like q; lse, delta [B, X.., H], d_out [B, X.., H, Dv], the others as in attention_kernel."""
    d, kind = tc.static(q.shape[-1]), sums_in(q.dtype)
    boxes, keys = [axis.box for axis in axes], Keys(k, v, more_k, more_v, bias)
    block = box_of_block(q.shape, axes, boxes)
    at = (*block.at, 0)
    tile = block.of(q, axes).load(at, (*boxes, d)).reshape((-1, d))
    known = known_of(block, axes, lse, delta, d_out, kind)

    def step(acc: tc.Tile, logits: tc.Tile, key: tc.Tile, value: tc.Tile, _: Sequence[Any]) -> tc.Tile:
        return tc.dot(known.slopes(logits, value).to(key.dtype), key, acc)

    queries = Queries(tile, (scale * LOG2_E).to(kind))  # type: ignore[attr-defined]
    acc = tc.zeros((math.prod(boxes), d), kind)
    acc = walk(queries, block, keys, axes, options, more_span, stages, acc, step)
    acc = acc * scale.to(kind)  # type: ignore[attr-defined]
    block.of(dq, axes).store(at, acc.to(dq.dtype).reshape((*boxes, d)))


def in_base_2(lse: tc.Tile) -> tc.Tile:
    """log2(sum(e^score)), a number also where nothing was seen, so that all of 2^(logit - it) is 0 there."""
    found: tc.Tile = tc.maximum(lse * LOG2_E, lse.dtype.min)
    return found


class KeyGradients(NamedTuple):
    """Sums so far: dk [keys, d], dv [keys, dv]."""

    dk: tc.Tile
    dv: tc.Tile


@tc.kernel
def key_gradient_kernel(
    q: tc.Array,
    k: tc.Array,
    v: tc.Array,
    lse: tc.Array,
    delta: tc.Array,
    d_out: tc.Array,
    dk: tc.Array,
    dv: tc.Array,
    bias: tc.Array,
    scale: tc.f64,  # type: ignore[valid-type]
    *,
    axes: tuple[Axis, ...],
    options: Options,
    stages: int = 2,
    warps: int = 4,
) -> None:
    """dk like k and dv like v; an axis' `box` is of keys here, its `span` of queries."""
    d, d_value, kind = tc.static(q.shape[-1]), tc.static(v.shape[-1]), sums_in(q.dtype)
    boxes, spans = [axis.box for axis in axes], [axis.span for axis in axes]
    rows, columns = math.prod(boxes), math.prod(spans)
    block = box_of_block(k.shape, axes, boxes)
    key = block.of(k, axes).load((*block.at, 0), (*boxes, d)).reshape((-1, d))
    value = block.of(v, axes).load((*block.at, 0), (*boxes, d_value)).reshape((-1, d_value))
    first = block.of(q, axes, block.head * options.sharing)
    looking, lengths = queries_of_box(block.at, first.shape, axes), block.of(k, axes).shape
    counts = [tc.cdiv(w.end - w.first, span) for w, span in zip(looking, spans, strict=True)]
    factor = (scale * LOG2_E).to(kind)  # type: ignore[attr-defined]
    total = KeyGradients(tc.zeros((rows, d), kind), tc.zeros((rows, d_value), kind))
    for t in tc.range(options.sharing * math.prod(counts), stages=stages):
        member, *places = unravel(t, (options.sharing, *counts))
        head = block.head * options.sharing + member
        at = [w.first + i * span for w, i, span in zip(looking, places, spans, strict=True)]
        query = block.of(q, axes, head).load((*at, 0), (*spans, d)).reshape((-1, d))
        given = block.of(d_out, axes, head).load((*at, 0), (*spans, d_value)).reshape((-1, d_value))
        base = in_base_2(block.of(lse, axes, head).load(at, spans).to(kind).reshape((1, -1)))
        less = block.of(delta, axes, head).load(at, spans).to(kind).reshape((1, -1))
        logits = tc.dot(key, query.T, tc.zeros((rows, columns), kind)) * factor
        if options.bias:
            found = bias_of(bias, head, across(at, spans), down(block.at, boxes), axes)
            logits = logits + found.to(kind) * LOG2_E
        if not whole_box(block.at, seen_by(at, spans, lengths, axes), axes):
            inside = visible(across(at, spans), down(block.at, boxes), lengths, axes)
            logits = tc.where(inside, logits, -float("inf"))
        p = tc.exp2(logits - base, approx=True)
        dp = tc.dot(value, given.T, tc.zeros((rows, columns), kind))
        total = KeyGradients(
            tc.dot((p * (dp - less)).to(query.dtype), query, total.dk),
            tc.dot(p.to(given.dtype), given, total.dv),
        )
    scaled = total.dk * scale.to(kind)  # type: ignore[attr-defined]
    block.of(dk, axes).store((*block.at, 0), scaled.to(dk.dtype).reshape((*boxes, d)))
    block.of(dv, axes).store((*block.at, 0), total.dv.to(dv.dtype).reshape((*boxes, d_value)))


def queries_of_box(at: Sequence[Any], lengths: Sequence[Any], axes: Sequence[Axis]) -> list[Window]:
    """The queries that see some key of the box at `at`, per axis."""
    return [
        Window(queries_of(j, n, axis).first, queries_of(j + axis.box - 1, n, axis).end)
        for j, n, axis in zip(at, lengths, axes, strict=False)
    ]


def whole_box(keys: Sequence[Any], seen: Seen, axes: Sequence[Axis]) -> Any:
    """Whether all queries of a span, which see so much, see all of the box of keys."""
    whole: Any = True
    for j, common, shared, axis in zip(keys, seen.common, seen.shared, axes, strict=True):
        whole = whole & (j >= common) & (j + axis.box <= shared)
    return whole
