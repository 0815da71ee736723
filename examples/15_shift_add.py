"""Layers without multiplications: weights that are powers of two, queries and keys that are signs.

ShiftAddViT's two layers. A shift layer's weights are +-2^p, here a sign and four bits of exponent, f5e4m0, of
which one code is 0, with a power of two for each row; `ops.linear` reads them like any others. An add layer's
attention is linear, with signs of the queries and keys: q (k^T v) adds and subtracts rows of v, and rows of
sums of them, which a product of 1-bit weights is; k^T v is one too.
From You et al., "ShiftAddViT: Mixture of Multiplication Primitives Towards Efficient Vision
Transformer", 2023.
"""

import numpy as np

import tilec as tc
from tilec import ops


@tc.kernel
def add_attention(q: tc.Array, k: tc.Array, v: tc.Array, out: tc.Array, *, rows=32, warps=2):
    """out [H, L, D] = sign(q) (sign(k)^T v) / L of q, k [H, L, E], v [H, L, D], 0 a positive number."""
    (h, length, e), d = q.shape, tc.static(v.shape[2])
    tc.require(k.shape == (h, length, e), v.shape[:2] == (h, length), out.shape == v.shape)
    head, width = tc.blocks(h), tc.static(q.shape[2])
    total = tc.zeros((width, d), tc.f32)
    for i in tc.range(tc.cdiv(length, rows)):
        keys, values = (t[head].load((i * rows, 0), (rows, n)) for t, n in ((k, width), (v, d)))
        total = tc.dot(signs(keys).T, values, total)
    total = (total / length.to(tc.f32)).to(v.dtype)
    for i in tc.range(tc.cdiv(length, rows)):
        found = tc.dot(signs(q[head].load((i * rows, 0), (rows, width))), total)
        out[head].store((i * rows, 0), found.to(out.dtype))


def signs(x: tc.Tile) -> tc.Tile:
    return tc.where(x < 0, -1.0, 1.0).to(x.dtype)


def shift_layer(weight: np.ndarray) -> ops.QuantizedWeight:
    """The nearest powers of two, of a row's largest weight's size and below."""
    return ops.quantize(weight, "f5e4m0", group_size=None, scale_dtype="e8m0")


def bits(x: np.ndarray) -> ops.QuantizedWeight:
    """Signs as a weight of one bit: u1 stands for -1/2 and 1/2, times 2."""
    two = np.full((len(x), 1), 2, np.float32)
    return ops.QuantizedWeight((x >= 0).astype(np.uint8), two, None, tc.u1, tc.f32, x.shape[1])


def expected(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    plus = np.float32([-1, 1])
    return plus[(q >= 0) + 0] @ (plus[(k >= 0) + 0].transpose(0, 2, 1) @ v) / q.shape[1]


def main() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((50, 192)).astype(np.float16), rng.standard_normal((96, 192), np.float32)
    held = shift_layer(weight)
    shifted = held.dequantize()
    assert (np.abs(np.frexp(shifted)[0][shifted != 0]) == 0.5).all(), "a power of two"
    y = ops.linear(x, held, activation="relu")
    np.testing.assert_allclose(y, np.maximum(x.astype(np.float32) @ shifted.T, 0), rtol=2e-3, atol=2e-2)
    error = np.linalg.norm(shifted - weight) / np.linalg.norm(weight)
    print(f"shifts: {held.nbytes} bytes for {weight.nbytes}, {error:.0%} off the weights")

    q, k, v = rng.standard_normal((3, 2, 100, 32), np.float32)
    add_attention(q, k, v, out := np.full_like(v, np.nan))
    np.testing.assert_allclose(out, expected(q, k, v), atol=1e-4)
    sums = ops.linear(np.ascontiguousarray(v[0].T), bits(k[0].T))  # [D, E]: (k^T v)^T
    np.testing.assert_allclose(ops.linear(sums / 100, bits(q[0])).T, out[0], atol=1e-4)
    print("adds: attention of 100 signs by 100, with a kernel and with 1-bit weights")


if __name__ == "__main__":
    main()
