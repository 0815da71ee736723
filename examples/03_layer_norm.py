"""Layer norm: rows of any length, a loop, and a scalar argument.

`tc.range` is a loop of the running kernel. It carries the names that exist before it: `total` grows by one
tile a step, and is summed up once, at the end. Past the end of a row x reads as 0; that is right for the
mean, but not for the variance, so there `tc.where` leaves it out.
"""

import numpy as np

import tilec as tc


@tc.kernel
def layer_norm(x: tc.Array, weight: tc.Array, bias: tc.Array, y: tc.Array, eps: tc.f32, *, block=256):
    """y[row] = (x[row] - mean) / sqrt(variance + eps) * weight + bias"""
    rows, n = x.shape
    tc.require(y.shape == x.shape, weight.shape[0] == n, bias.shape[0] == n)
    X, Y = x.tiles((1, block)), y.tiles((1, block))
    W, B = weight.tiles((block,)), bias.tiles((block,))
    row = tc.blocks(rows)
    steps = X.shape[1]

    total = tc.zeros((1, block), tc.f32)
    for s in tc.range(steps):
        total += X[row, s].to(tc.f32)
    mean = total.sum() / n.to(tc.f32)

    total = tc.zeros((1, block), tc.f32)
    for s in tc.range(steps):
        inside = s * block + tc.arange(block) < n
        centred = tc.where(inside, X[row, s].to(tc.f32) - mean, 0.0)
        total += centred * centred
    scale = tc.rsqrt(total.sum() / n.to(tc.f32) + eps)

    for s in tc.range(steps):
        z = (X[row, s].to(tc.f32) - mean) * scale
        Y[row, s] = (z * W[s].to(tc.f32) + B[s].to(tc.f32)).to(y.dtype)


def main() -> None:
    rng = np.random.default_rng(0)
    for n in (1000, 77):
        x = (3 + 2 * rng.standard_normal((64, n))).astype(np.float32)
        weight, bias = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
        y = np.empty_like(x)
        layer_norm(x, weight, bias, y, 1e-5)
        mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
        want = (x - mean) / np.sqrt(variance + 1e-5) * weight + bias
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
        print(f"layer norm of {len(x)} rows of {n}: off by {abs(y - want).max():.1e}")


if __name__ == "__main__":
    main()
