"""Neighborhood attention on a picture: it removes noise, and shows what one pixel sees.

`ops.na2d` lets each query look at a window of keys around it. With the patch around a pixel as query and key
and the pixel as value this is non-local means (Buades, Coll and Morel, 2005): a pixel becomes the mean of
those whose surroundings look like its own, weighted exp(-|patch - other|^2 / h^2); of the square, the softmax
leaves |other|^2 - 2 patch . other. `return_lse` gives the weights of any query.
"""

from pathlib import Path
from tempfile import gettempdir

import numpy as np

from tilec import ops

SIZE, WINDOW, NOISE, DIM = 48, 13, 0.1, 16
STRENGTH = 1 / (9 * NOISE**2)  # of 9 pixels in a patch
PIXEL = (SIZE // 2, SIZE // 2)


def picture() -> np.ndarray:
    """A part of scikit-image's camera man, or circles where that is not installed; in 0..1."""
    try:
        from skimage import data
    except ImportError:
        y, x = np.mgrid[:SIZE, :SIZE] / SIZE
        return (np.floor(6 * np.hypot(x - 0.3, y - 0.4)) % 2 * 0.6 + 0.2).astype(np.float32)
    return (data.camera()[60 : 60 + 2 * SIZE : 2, 200 : 200 + 2 * SIZE : 2] / 255).astype(np.float32)


def patches(image: np.ndarray) -> np.ndarray:
    """The 3x3 surroundings of every pixel, [X, Y, 9]."""
    padded = np.pad(image, 1, mode="edge")
    return np.stack([padded[i : i + SIZE, j : j + SIZE] for i in range(3) for j in range(3)], axis=-1)


def features(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """query and key [1, X, Y, 1, DIM] whose products are 2 patch . other - |other|^2."""
    found = patches(image - image.mean())
    query, key = np.zeros((2, 1, SIZE, SIZE, 1, DIM), np.float32)
    query[0, :, :, 0, :9], query[..., 9] = 2 * found, -1
    key[0, :, :, 0, :9], key[0, :, :, 0, 9] = found, (found**2).sum(-1)
    return query, key


def decibels(image: np.ndarray, truth: np.ndarray) -> float:
    """The peak signal to noise ratio."""
    return float(-10 * np.log10(np.mean((image - truth) ** 2)))


def main() -> None:
    truth = picture()
    noisy = truth + NOISE * np.random.default_rng(0).standard_normal(truth.shape).astype(np.float32)
    query, key = features(noisy)
    value = noisy[None, :, :, None, None]
    out, lse = ops.na2d(query, key, value, WINDOW, scale=STRENGTH, return_lse=True)
    clean = out[0, :, :, 0, 0]
    before, after = decibels(noisy, truth), decibels(clean, truth)
    print(f"noisy {before:.1f} dB, with na2d {after:.1f} dB")
    assert after > before + 2

    x, y = PIXEL
    near = slice(x - WINDOW // 2, x + WINDOW // 2 + 1), slice(y - WINDOW // 2, y + WINDOW // 2 + 1)
    weights = np.exp(STRENGTH * key[0][near][:, :, 0] @ query[0, x, y, 0] - lse[0, x, y, 0])
    np.testing.assert_allclose((weights * noisy[near]).sum(), clean[x, y], rtol=1e-4)
    path = Path(gettempdir()) / "tilec_what_a_pixel_sees.pgm"
    shown = (255 * weights / weights.max()).astype(np.uint8)
    path.write_bytes(b"P5 %d %d 255\n" % shown.shape[::-1] + shown.tobytes())
    print(f"the weights of pixel {PIXEL}, which sum to {weights.sum():.3f}, are in {path}")


if __name__ == "__main__":
    main()
