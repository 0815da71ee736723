"""Short convolutions as matrix products: all sequences of a channel times its Toeplitz matrix.

T[s, t] = k[t - s]          y [B, t] = x [B, s] @ T: exact products, no transform
"""

from typing import Any

import tilec as tc
from tilec.ir.dtype import DType


def toeplitz(
    k: tc.Array, k_reverse: tc.Array | None, channel: Any, later: tc.Tile, apart: int, kind: DType
) -> tc.Tile:
    """What an input counts for in an output that comes `later` than it."""
    found = k.gather(channel, later, other=0).to(kind)
    if k_reverse is None:
        return found
    return found + k_reverse.gather(channel, -later - apart, other=0).to(kind)


@tc.kernel
def direct_kernel(
    u: tc.Array, k: tc.Array, k_reverse: tc.Array | None, skip: tc.Array | None, pregate: tc.Array | None,
    postgate: tc.Array | None, y: tc.Array, *, circular: bool, apart: int, compute: DType,
    accumulator: DType = tc.f32, bm: int = 16, bn: int = 64, warps: int = 4,
) -> None:  # fmt: skip
    """y = postgate * (conv(pregate * u) + skip * pregate * u): arrays [B, H, L], k [H, taps], skip [H]."""
    length = u.shape[2]
    channel, i, j = tc.blocks(u.shape[1], tc.cdiv(u.shape[0], bm), tc.cdiv(length, bn))
    acc = tc.zeros((bm, bn), accumulator)
    outputs = j * bn + tc.arange(bn)[None, :]
    for s in tc.range(tc.cdiv(length, bn)):
        later = outputs - (s * bn + tc.arange(bn)[:, None])
        if circular:
            later = tc.where(later < 0, later + length, later)
        matrix = toeplitz(k, k_reverse, channel, later, apart, accumulator)
        x = gated(u, pregate, channel, (i * bm, s * bn), (bm, bn), accumulator)
        acc = tc.dot(x.to(compute), matrix.to(compute), acc)
    if skip is not None:
        x = gated(u, pregate, channel, (i * bm, j * bn), (bm, bn), accumulator)
        acc = acc + x * skip.at(channel).to(accumulator)
    if postgate is not None:
        acc = acc * gated(postgate, None, channel, (i * bm, j * bn), (bm, bn), accumulator)
    y.store((i * bm, channel, j * bn), acc.to(y.dtype).reshape(bm, 1, bn))


def gated(
    x: tc.Array, gate: tc.Array | None, channel: Any, at: tuple[Any, Any], shape: tuple[int, int], kind: DType
) -> tc.Tile:
    """x * gate from (row, place) `at` on, multiplied in `kind`."""
    first, box = (at[0], channel, at[1]), (shape[0], 1, shape[1])
    value = x.load(first, box).reshape(shape).to(kind)
    return value if gate is None else value * gate.load(first, box).reshape(shape).to(kind)
