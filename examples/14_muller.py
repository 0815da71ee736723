"""MULLER's resizer: a smaller picture with the details that a network asks for, in one pass over the large.

    y = R(x) + sum over layers of tanh(weight * R(blur(x) - x) + bias), x = blur(x) from layer to layer
R resizes bilinearly, blur is 5 x 5. A block reads what its outputs see, blurs and all; each layer stays in
shared memory. The layers' numbers are learned (Tu et al., 2023); those here are chosen.
"""

import numpy as np

import tilec as tc

TAPS, LAYERS = (0.0545, 0.2442, 0.4026, 0.2442, 0.0545), ((2.0, -0.01), (-11.0, 0.005))


def kept(tile: tc.Tile) -> tc.Array:
    copy = tc.shared(tile.shape, tile.dtype)
    copy.store((0, 0), tile)
    return copy


def resized(image: tc.Array, rows: tuple, columns: tuple) -> tc.Tile:
    """Between four neighbours of each place; rows and columns: the first neighbours, how far behind them."""
    (i, down), (j, right) = (rows[0][:, None], rows[1][:, None]), (columns[0][None, :], columns[1][None, :])
    upper, lower = (image.gather(k, j) * (1.0 - right) + image.gather(k, j + 1) * right for k in (i, i + 1))
    return upper * (1.0 - down) + lower * down


def places(start, count: int, n: int, m: int) -> tuple:
    """Where `count` of m outputs look among n inputs: the first's neighbour, offsets from it, fractions."""
    first, at = ((2 * k + 1) * n - m for k in (start, tc.arange(count) + start))
    return first // (2 * m), at // (2 * m) - first // (2 * m), (at % (2 * m)).to(tc.f32) / float(2 * m)


@tc.kernel
def muller(x: tc.Array, y: tc.Array, *, layers=LAYERS, taps=TAPS, tile=(8, 16), warps=4):
    """y [C, h, w] of x [C, H, W], h <= H and w <= W."""
    (_, H, W), (c, h, w) = (tuple(tc.static(n) for n in a.shape) for a in (x, y))
    c, i, j = tc.blocks(c, tc.cdiv(h, tile[0]), tc.cdiv(w, tile[1]))
    top, rows, down = places(i * tile[0], tile[0], H, h)
    left, columns, right = places(j * tile[1], tile[1], W, w)
    room = 2 * len(layers)  # what is left of the halo
    high, wide = (tc.cdiv(t * n, m) + 2 + 2 * room for t, n, m in zip(tile, (H, W), (h, w), strict=True))
    seen = kept(x[c].load((top - room, left - room), (high, wide)))
    net = resized(seen, (rows + room, down), (columns + room, right))
    for weight, bias in layers:
        high, wide, room = high - 4, wide - 4, room - 2
        across = kept(sum(seen.load((0, k), (high + 4, wide)) * float(t) for k, t in enumerate(taps)))
        blurred = sum(across.load((k, 0), (high, wide)) * float(t) for k, t in enumerate(taps))
        row, column = tc.arange(high)[:, None] + (top - room), tc.arange(wide)[None, :] + (left - room)
        inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)  # the next blur sees zeros outside
        found = kept(blurred - seen.load((2, 2), (high, wide)))
        details = resized(found, (rows + room, down), (columns + room, right))
        net = net + tc.tanh(details * float(weight) + float(bias))
        seen = kept(tc.where(inside, blurred, tc.zeros((high, wide), tc.f32)))
    y[c].store((i * tile[0], j * tile[1]), net)


def matrices(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Blurring n values, and resizing them to m: what the kernel is held against."""
    at = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    blur, far = sum(t * np.eye(n, k=k - 2) for k, t in enumerate(TAPS)), np.abs(at[:, None] - np.arange(n))
    return blur, np.maximum(1 - far, 0)


def main() -> None:
    for (rows, columns), (h, w) in (((48, 64), (24, 32)), ((45, 61), (28, 40))):
        x = np.random.default_rng(0).random((3, rows, columns), np.float32)
        muller(x, y := np.full((3, h, w), np.nan, np.float32))
        (blur_down, down), (blur_right, right) = matrices(rows, h), matrices(columns, w)
        image, wanted = x, down @ x @ right.T
        for weight, bias in LAYERS:
            image, last = blur_down @ image @ blur_right.T, image
            wanted += np.tanh(weight * (down @ (image - last) @ right.T) + bias)
        np.testing.assert_allclose(y, wanted, atol=1e-5)
        print(f"{rows} x {columns} became {h} x {w}, by {len(LAYERS)} layers in one kernel")


if __name__ == "__main__":
    main()
