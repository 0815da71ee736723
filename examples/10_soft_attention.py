"""Attention without a softmax: SOFT (Lu et al., NeurIPS 2021), linear in the number of tokens.

Its kernel is a Gaussian, k(x, y) = exp(-|x - y|^2 / 2), of rank as low as a few landmarks allow:
    out = K(x, landmarks) @ K(landmarks, landmarks)^-1 @ K(landmarks, x) @ values
The inverse is found by Newton's iteration, V <- 2 V - V P V, which are products, and so runs where they run.
No matrix of all tokens by all landmarks is ever in memory: `gaussian` makes its tiles in registers.
"""

import numpy as np

import tilec as tc


def gaussian(x: tc.Tile, y: tc.Tile) -> tc.Tile:
    """k(x, y) of every row of x with every row of y, by |x - y|^2 = |x|^2 + |y|^2 - 2 x . y"""
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1)[None, :]
    return tc.exp(x @ y.T - squares * 0.5)


@tc.kernel
def summarise(x: tc.Array, marks: tc.Array, v: tc.Array, z: tc.Array, *, bn=32, steps=20, warps=4):
    """z [H, M, E] = K(marks, marks)^-1 @ K(marks, x) @ v: x [H, N, D], marks [H, M, D], v [H, N, E]"""
    m, d, e = (tc.static(n) for n in (marks.shape[1], marks.shape[2], v.shape[2]))
    h = tc.blocks(x.shape[0])
    mark, acc = marks[h].load((0, 0), (m, d)), tc.zeros((m, e), tc.f32)
    for s in tc.range(tc.cdiv(x.shape[1], bn)):
        acc = tc.dot(gaussian(mark, x[h].load((s * bn, 0), (bn, d))), v[h].load((s * bn, 0), (bn, e)), acc)
    p = gaussian(mark, mark)
    one = (tc.arange(m)[:, None] == tc.arange(m)[None, :]).to(tc.f32)
    largest = p.sum(1).max()
    inverse = p * (2.0 / (largest * largest))
    while tc.abs(one - p @ inverse).sum(1).max() > 1.01:  # from where the iteration converges
        inverse = inverse * 0.5
    for _ in tc.range(steps):
        inverse = inverse * 2.0 - inverse @ (p @ inverse)
    z[h].store((0, 0), inverse @ acc)


@tc.kernel
def spread(x: tc.Array, marks: tc.Array, z: tc.Array, out: tc.Array, *, bn=32, warps=4):
    """out = K(x, marks) @ z per head"""
    m, d, e = (tc.static(n) for n in (marks.shape[1], marks.shape[2], z.shape[2]))
    h, i = tc.blocks(x.shape[0], tc.cdiv(x.shape[1], bn))
    near = gaussian(x[h].load((i * bn, 0), (bn, d)), marks[h].load((0, 0), (m, d)))
    out[h].store((i * bn, 0), near @ z[h].load((0, 0), (m, e)))


def soft_attention(x: np.ndarray, v: np.ndarray, ratio: int) -> np.ndarray:
    """x, queries and keys at once, [H, N, D]; v [H, N, E]. Every so many tokens one is a landmark."""
    x = x / np.float32(x.shape[2] ** 0.25)
    marks, out = x[:, ::ratio], np.empty_like(v)
    z = np.empty((*marks.shape[:2], v.shape[2]), np.float32)
    summarise(x, marks, v, z)
    spread(x, marks, z, out)
    return out


def main() -> None:
    rng = np.random.default_rng(0)
    x, v = (rng.standard_normal((2, 100, 16)).astype(np.float32) for _ in range(2))
    out = soft_attention(x, v, ratio=6)
    y = x.astype(np.float64) / 2
    marks = y[:, ::6]
    k = [np.exp(-((a[:, :, None] - marks[:, None]) ** 2).sum(-1) / 2) for a in (y, marks)]
    want = k[0] @ np.linalg.inv(k[1]) @ (k[0].swapaxes(1, 2) @ v)
    error = np.linalg.norm(out - want) / np.linalg.norm(want)
    assert error < 1e-4
    print(f"SOFT attention, 100 tokens over 17 landmarks: {out.shape}, relative error {error:.1e}")


if __name__ == "__main__":
    main()
