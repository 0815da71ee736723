"""A real picture, filtered: what a wide lens makes of a background, by ops.depthwise_conv.

A point out of focus becomes a disc, so that a picture out of focus is a convolution with one: hundreds of
products for each value. A picture lies in memory as [rows, columns, colours], which is layout="NHWC" and is
read as it is. Bright points have to win, as they do on film: they are raised before and lowered after.
Saves a PNG with the picture beside what became of it.
"""

import struct
import tempfile
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tilec import ops

RADIUS, GAMMA = 5, 4


def picture() -> np.ndarray:
    """Part of a photograph that comes with scikit-learn, [rows, columns, 3] of 8 bits; else of our own."""
    if find_spec("sklearn") and find_spec("PIL"):
        from sklearn.datasets import load_sample_image

        return load_sample_image("flower.jpg")[170:266, 260:388]
    y, x = np.mgrid[0:96, 0:128]
    lamps = np.exp(-((x % 32 - 16) ** 2 + (y % 24 - 12) ** 2) / 6)
    return (255 * np.stack([lamps, lamps * (x / 128), lamps * (y / 96)], 2)).astype(np.uint8)


def disc(radius: int) -> np.ndarray:
    """What a point becomes, [2 * radius + 1, 2 * radius + 1], of sum 1."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    inside = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return inside / inside.sum()


def saved(image: np.ndarray) -> Path:
    """The image [rows, columns, 3] of 8 bits as a PNG file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows, columns, _ = image.shape
    head = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), image.reshape(rows, -1)], 1)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines.tobytes())) + chunk(b"IEND", b"")
    path = Path(tempfile.mkdtemp(), "bokeh.png")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def main() -> None:
    sharp = picture()
    light = (sharp.astype(np.float32) / 255) ** GAMMA
    lens = np.broadcast_to(disc(RADIUS).astype(np.float32), (3, 1, 2 * RADIUS + 1, 2 * RADIUS + 1)).copy()
    soft = ops.depthwise_conv(light[None], lens, padding="same", layout="NHWC")[0]

    shape = [n + 2 * RADIUS for n in light.shape[:2]]  # the same by spectra, which have room for the edges
    spectrum = np.fft.rfft2(light.transpose(2, 0, 1), shape) * np.fft.rfft2(disc(RADIUS), shape)
    wanted = np.fft.irfft2(spectrum, shape)[:, RADIUS:-RADIUS, RADIUS:-RADIUS]
    np.testing.assert_allclose(soft, wanted.transpose(1, 2, 0), atol=1e-5)

    shown = np.rint(255 * np.clip(soft, 0, 1) ** (1 / GAMMA)).astype(np.uint8)
    if (
        not 0
        < np.abs(np.diff(shown.astype(int), axis=1)).mean()
        < np.abs(np.diff(sharp.astype(int), axis=1)).mean()
    ):
        raise SystemExit("wrong: out of focus there is less difference between neighbours")
    path = saved(np.concatenate([sharp, shown], 1))
    print(f"{sharp.shape[0]} x {sharp.shape[1]}, a disc of {2 * RADIUS + 1} across: {path}")


if __name__ == "__main__":
    main()
