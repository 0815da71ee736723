"""Depthwise convolutions on the matrix units: rows of outputs are rows of the image times a band.

    y[i, 8k : 8k + 8] = sum over r of x[i + r, 8k : 8k + depth] @ band[r],   band[r][p, j] = weight[r, p - j]

        w0                  depth 16 rows, 8 columns: w stands under itself, one further down in each column,
        w1 w0               so that all groups of 8 columns and all rows of the image take the same band
        w2 w1 w0
           w2 w1 ..
What a block sees and its bands lie in shared memory, in rows whose chunks of 16 bytes meet no bank twice. For
kernels that are higher than wide everything is `turned`: rows are columns. Products with the zeros of a band
are made, so that an infinity or NaN reaches up to 7 columns (rows) further than in the direct sum.
"""

from math import prod
from typing import Any, NamedTuple

import tilec as tc
from tilec.ops.depthwise_kernel import Conv
from tilec.ops.epilogue import activated

GROUP, STEP = 8, 16  # columns of a product, and rows that one instruction takes of a band
HELD = 32 * 64  # elements that a warp copies at once


class Bands(NamedTuple):
    """What a block computes: rows of so many images, groups of 8 columns; again and again, `parts` blocks
    sharing the images of a channel.
    """

    images: int
    rows: int
    groups: int
    turned: bool = False
    parts: int = 1
    warps: int = 4

    def oriented(self, rows: Any, columns: Any) -> tuple[Any, Any]:
        return (columns, rows) if self.turned else (rows, columns)


def depth_of(across: int) -> int:
    """Rows of a band: what 8 columns see, in whole steps."""
    return -(-(across + GROUP - 1) // STEP) * STEP


def pitch_of(columns: int) -> int:
    """A row of shared memory for so many elements: an odd number of 16 bytes, so that 8 rows meet no bank
    twice.
    """
    chunks = -(-columns // GROUP)
    return (chunks | 1) * GROUP


def seen_shape(size: tuple[int, int], bands: Bands) -> tuple[int, int, int]:
    """Of the copy of what a block sees; size: (down, across)."""
    columns = GROUP * (bands.groups - 1) + depth_of(size[1])
    return bands.images, bands.rows + size[0] - 1, pitch_of(columns)


def band_shape(size: tuple[int, int]) -> tuple[int, int, int]:
    """Of the bands: for each row of the kernel, columns of the band, which lie in rows."""
    return size[0], GROUP, pitch_of(depth_of(size[1]))


def shared_bytes(size: tuple[int, int], bands: Bands) -> int:
    """What a block holds."""
    return 2 * (prod(seen_shape(size, bands)) + prod(band_shape(size)))


def copied_bands(filters: tc.Array, size: tuple[int, int], conv: Conv, bands: Bands) -> tc.Array:
    """The bands of one channel's kernel [kh, kw]."""
    made = tc.shared(band_shape(size), filters.dtype)

    for r in tc.range(size[0]):
        row = size[0] - 1 - r if conv.flipped else r

        def element(_: Any, j: Any, p: Any, row: Any = row) -> Any:
            tap = size[1] - 1 - p + j if conv.flipped else p - j
            return filters.at(*bands.oriented(row, tap), other=0)

        made.store((r, 0, 0), tc.from_function((1, *made.shape[1:]), element))
    return made


def copied(image: tc.Array, at: tuple[Any, Any, Any], seen: tc.Array, bands: Bands) -> None:
    """What lies from `at` (image, down, across) on, a few rows at a time: as much as registers take."""
    images, down, across = seen.shape
    rows = -(-down // -(-images * down * across // (bands.warps * HELD)))
    for i in tc.range(-(-down // rows)):
        place = (at[0], *bands.oriented(at[1] + i * rows, at[2]))
        found = image.load(place, (images, *bands.oriented(rows, across)))
        seen.store((0, i * rows, 0), found.permute(0, 2, 1) if bands.turned else found)


def multiplied(seen: tc.Array, band: tc.Array, size: tuple[int, int], bands: Bands) -> tuple[tc.Tile, ...]:
    """A tile [images * rows, 8] of f32 for each group of columns."""
    images, rows, groups = bands.images, bands.rows, bands.groups
    steps, acc = depth_of(size[1]) // STEP, (tc.zeros((images * rows, GROUP), tc.f32),) * groups
    for r in tc.range(size[0]):
        sums, parts = list(acc), {}
        for at in range(groups + 2 * (steps - 1)):
            part = seen.load((0, r, GROUP * at), (images, rows, STEP))
            parts[at] = part.reshape((images * rows, STEP))
        for k in range(steps):
            b = band.load((r, 0, STEP * k), (1, GROUP, STEP)).reshape((GROUP, STEP)).T
            for j in range(groups):
                sums[j] = tc.dot(parts[j + 2 * k], b, sums[j])
        acc = tuple(sums)
    return acc


@tc.kernel
def bands_kernel(
    x: tc.Array, weight: tc.Array, bias: tc.Array | None, scale: tc.Array | None, residual: tc.Array | None,
    y: tc.Array, *, conv: Conv, bands: Bands, warps: int = 4, max_registers: int = 128,
) -> None:  # fmt: skip
    """What depthwise_kernel computes, for strides and dilations of 1, f16 or bf16."""
    last, (c_axis, h_axis, w_axis) = conv.channels_last, conv.axes
    size = bands.oriented(*(tc.static(weight.shape[axis - last]) for axis in (1, 2)))
    high, wide = bands.rows, GROUP * bands.groups
    down, across = bands.oriented(y.shape[h_axis], y.shape[w_axis])
    part, o, i, w = tc.blocks(bands.parts, y.shape[c_axis], tc.cdiv(down, high), tc.cdiv(across, wide))
    image, result = channel(x, o // conv.multiplier, conv), channel(y, o, conv)
    band = copied_bands(weight[:, :, o] if last else weight[o], size, conv, bands)
    before = bands.oriented(*conv.before)
    seen = tc.shared(seen_shape(size, bands), x.dtype)
    for at in tc.range(part * bands.images, x.shape[0], bands.parts * bands.images):
        copied(image, (at, i * high - before[0], w * wide - before[1]), seen, bands)
        acc = tc.stack(multiplied(seen, band, size, bands), 1)
        done = acc.reshape((bands.images, high, wide))
        if scale is not None:
            done = done * scale.at(o).to(tc.f32)
        if bias is not None:
            done = done + bias.at(o).to(tc.f32)
        done = activated(done, conv.activation)
        done = done.permute(0, 2, 1) if bands.turned else done
        place = (at, *bands.oriented(i * high, w * wide))
        if residual is not None:
            done = done + channel(residual, o, conv).load(place, done.shape).to(tc.f32)
        result.store(place, done.to(y.dtype))


def channel(x: tc.Array, c: Any, conv: Conv) -> tc.Array:
    """[N, rows, columns] of one channel."""
    return x[:, :, :, c] if conv.channels_last else x[:, c]
