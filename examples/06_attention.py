"""Fused attention: state that a loop carries, as a class of your own.

A NamedTuple of tiles is a value like a tile: a loop carries it, and its methods are inlined. `Softmax` is a
running softmax-weighted sum, which takes keys and values block by block, so that the logits of a whole row
never exist at once. `causal` is a constant: the kernel without it is another kernel.
"""

from typing import NamedTuple

import numpy as np

import tilec as tc


class Softmax(NamedTuple):
    """sum(exp(logits) * values) / sum(exp(logits)) so far, held relative to the largest logit of each row."""

    maximum: tc.Tile  # [rows]
    total: tc.Tile  # [rows]
    acc: tc.Tile  # [rows, d]

    @classmethod
    def empty(cls, rows: int, d: int) -> "Softmax":
        return cls(tc.full(rows, -float("inf"), tc.f32), tc.zeros(rows, tc.f32), tc.zeros((rows, d), tc.f32))

    def add(self, logits: tc.Tile, values: tc.Tile) -> "Softmax":
        maximum = tc.maximum(self.maximum, logits.max(1))
        shrink, p = tc.exp(self.maximum - maximum), tc.exp(logits - maximum[:, None])
        acc = tc.dot(p.to(values.dtype), values, self.acc * shrink[:, None])
        return Softmax(maximum, self.total * shrink + p.sum(1), acc)

    def result(self) -> tc.Tile:
        return self.acc / self.total[:, None]


@tc.kernel
def attention(q: tc.Array, k: tc.Array, v: tc.Array, out: tc.Array, scale: tc.f32,
              *, causal=False, bq=64, bk=32, stages=2, warps=4):  # fmt: skip
    """out = softmax(q @ k.T * scale) @ v per head; all are [heads, length, d]"""
    heads, length, d = q.shape[0], q.shape[1], tc.static(q.shape[2])
    h, i = tc.blocks(heads, tc.cdiv(length, bq))
    query = q[h].load((i * bq, 0), (bq, d))
    row = i * bq + tc.arange(bq)[:, None]
    state = Softmax.empty(bq, d)
    end = tc.minimum((i + 1) * bq, length) if causal else length
    for start in tc.range(0, end, bk, stages=stages):
        keys, values = k[h].load((start, 0), (bk, d)), v[h].load((start, 0), (bk, d))
        column = start + tc.arange(bk)[None, :]
        seen = (column <= row) & (column < length) if causal else column < length
        state = state.add(tc.where(seen, (query @ keys.T) * scale, -float("inf")), values)
    out[h].store((i * bq, 0), state.result().to(out.dtype))


def main() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 150, 64)).astype(np.float16) for _ in range(3))
    for causal in (False, True):
        out = np.empty_like(q)
        attention(q, k, v, out, 64**-0.5, causal=causal)
        logits = np.einsum("hqd,hkd->hqk", q, k, dtype=np.float32) / 8
        logits = np.where(np.tri(150, dtype=bool) | (not causal), logits, -np.inf)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        want = p / p.sum(-1, keepdims=True) @ v.astype(np.float32)
        np.testing.assert_allclose(out, want, rtol=2e-3, atol=2e-3)
        print(f"attention, {causal = }: {out.shape}, off by {abs(out - want).max():.1e}")


if __name__ == "__main__":
    main()
