"""Softmax over rows: one block a row, the whole row in registers.

`tc.static` makes the row's length a constant, for which the kernel is compiled; tiles may have any shape, so
a row of 781 is a tile of 781. `.max()` and `.sum()` of a tile are scalars, the same for the whole block.
"""

import numpy as np

import tilec as tc


@tc.kernel
def softmax(x: tc.Array, y: tc.Array, *, warps=4):
    """y[row] = exp(x[row]) / sum(exp(x[row])), without overflow"""
    n = tc.static(x.shape[1])
    tc.require(y.shape == x.shape)
    row = tc.blocks(x.shape[0])
    z = x.load((row, 0), (1, n)).to(tc.f32)
    e = tc.exp(z - z.max())
    y.store((row, 0), (e / e.sum()).to(y.dtype))


def main() -> None:
    rng = np.random.default_rng(0)
    for dtype, tolerance in ((np.float32, 1e-6), (np.float16, 1e-3)):
        x = (10 * rng.standard_normal((183, 781))).astype(dtype)
        y = np.empty_like(x)
        softmax(x, y)
        e = np.exp(x - x.max(axis=1, keepdims=True), dtype=np.float32)
        want = e / e.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(y, want, rtol=tolerance, atol=tolerance)
        off = abs(y - want).max()
        print(f"softmax of {x.shape[0]} rows of {x.shape[1]} {dtype.__name__}: off by {off:.1e}")


if __name__ == "__main__":
    main()
