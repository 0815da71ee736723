"""Sub-pixel convolution: a picture of twice the size, whose pixels are moved as they are stored.

ESPCN's last layer computes r * r channels for each colour at the small size, and its output is a permutation
of them: y[c, h * r + i, w * r + j] = z[c * r * r + i * r + j, h, w]. Here that is `permute` on the tile of
sums, before the only store: z is nowhere in memory, and no second kernel moves it.
From Shi et al., "Real-time single image and video super-resolution", 2016.
"""

import numpy as np

import tilec as tc


@tc.kernel
def subpixel(x: tc.Array, weight: tc.Array, bias: tc.Array, y: tc.Array, *, r=2, rows=4, columns=16, warps=4):
    """y [C, H * r, W * r] of x [K, H, W], weight [C * r * r, K, kh, kw] of odd extents, bias [C * r * r]."""
    (outs, k, kh, kw), (_, h, w) = (tc.static(n) for n in weight.shape), x.shape
    tc.require(x.shape[0] == k, y.shape[0] * r * r == outs, y.shape[1] == h * r, y.shape[2] == w * r)
    i, j = tc.blocks(tc.cdiv(h, rows), tc.cdiv(w, columns))
    acc = tc.zeros((outs, rows * columns), tc.f32)
    for p in tc.static_range(kh):
        for q in tc.static_range(kw):
            tap = weight[:, :, p, q].load((0, 0), (outs, k))
            seen = x.load((0, i * rows + p - kh // 2, j * columns + q - kw // 2), (k, rows, columns))
            acc = tc.dot(tap, seen.reshape((k, rows * columns)), acc)
    z = acc + bias.load(0, outs)[:, None]
    z = z.reshape((outs // (r * r), r, r, rows, columns)).permute(0, 3, 1, 4, 2)  # c, h, i, w, j
    y.store((0, i * rows * r, j * columns * r), z.reshape((outs // (r * r), rows * r, columns * r)))


def expected(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, r: int) -> np.ndarray:
    """Convolution first, the permutation of its result after."""
    kh, kw = weight.shape[2:]
    padded = np.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(1, 2))
    z = np.einsum("okpq,khwpq->ohw", weight, seen, optimize=True) + bias[:, None, None]
    outs, h, w = z.shape
    parts = z.reshape(outs // (r * r), r, r, h, w)
    return parts.transpose(0, 3, 1, 4, 2).reshape(-1, h * r, w * r)


def main() -> None:
    rng = np.random.default_rng(0)
    for r, (h, w) in ((2, (20, 30)), (3, (9, 17))):
        x = rng.standard_normal((16, h, w), np.float32)
        weight = rng.standard_normal((3 * r * r, 16, 3, 3), np.float32) / 12
        bias = rng.standard_normal(3 * r * r, np.float32)
        y = np.full((3, h * r, w * r), np.nan, np.float32)
        subpixel(x, weight, bias, y, r=r)
        np.testing.assert_allclose(y, expected(x, weight, bias, r), atol=1e-5)
        print(f"16 channels of {h} x {w} became 3 of {h * r} x {w * r}, by one kernel")


if __name__ == "__main__":
    main()
