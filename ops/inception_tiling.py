"""How the blocks of InceptionNeXt's mixer share an image, per target: data for the kernels.

inception_parts((96, 56, 56), (12, 12, 12), sizes, False, f32, "cpu", False)      a Cut for each of the parts
"""

from functools import lru_cache
from math import prod
from typing import Any

from tilec.ir.dtype import DType
from tilec.ir.target import parse_target
from tilec.ops.arrays import Array
from tilec.ops.depthwise_call import Geometry, geometry_of
from tilec.ops.depthwise_kernel import Conv, Cut, spans
from tilec.ops.depthwise_tiling import depthwise_cut
from tilec.ops.inception_kernel import Part
from tilec.ops.tiling import has_threads
from tilec.places import element_strides

COPIED = 8192  # bytes that a block copies at once: 64 of a thread on GPUs
HELD = 64  # sums of a thread that stay in registers
ROOM = 96 * 1024  # bytes of shared memory of a block that has whole images, on a GPU
WARPS = 4


@lru_cache(maxsize=1024)
def inception_parts(
    image: tuple[int, int, int],
    counts: tuple[int, ...],
    sizes: tuple[tuple[int, int], ...],
    last: bool,
    accumulator: DType,
    target: str,
    in_place: bool,
) -> tuple[Part, ...] | None:
    """How each part is cut, for images [C, H, W]; None where it can't be done in place."""
    channels, first, parts = image[0], image[0] - sum(counts), []
    for count, size in zip(counts, sizes, strict=True):
        g = geometry_of(image[1:], size, 1, "same", 1)
        conv = Conv(before=(g.padding[0][0], g.padding[1][0]), channels_last=last)
        cut: Cut | None = depthwise_cut(g, count, conv, accumulator, target)
        if in_place:
            cut = _whole(cut, g, conv, accumulator, target)
        if cut is None:
            return None
        parts.append(Part(first, conv, cut))
        first += count
    assert first == channels, "the parts are the last channels"
    return tuple(parts)


def _whole(cut: Any, g: Geometry, conv: Conv, accumulator: DType, target: str) -> Cut | None:
    """The cut with all rows and columns that its outputs see; None where a block can't hold them."""
    rows, columns = g.extents
    if g.size[0] > 1:
        cut = cut._replace(rows=-(-rows // cut.sums))
    if g.size[1] > 1:
        wide = 1 << (columns - 1).bit_length() if has_threads(target) else columns
        cut = cut._replace(columns=max(cut.columns, wide))
    (groups, step), (lanes, right) = spans(g.size, conv, cut)
    shape = (groups + cut.gaps[0], step + cut.gaps[1], lanes + cut.gaps[2], right, cut.channels)
    room = ROOM if has_threads(target) else parse_target(target).target.shared_bytes_per_block >> 4  # type: ignore[union-attr]
    sums = cut.channels * cut.sums * cut.rows * cut.columns // (32 * WARPS)
    if not cut.staged or prod(shape) * accumulator.bytes > room or (has_threads(target) and sums > HELD):
        return None
    return cut  # type: ignore[no-any-return]


def joined_axes(x: Array, y: Array) -> tuple[Array, Array]:
    """x and y [N, a, b, c] with axes made one where the strides of both can say so: ones come first."""
    axes = [x.shape[3]]
    for axis in (2, 1):
        if all(_follow(each, axis) for each in (x, y)):
            axes[0] *= x.shape[axis]
        else:
            axes.insert(0, x.shape[axis])
    shape = (x.shape[0], *(1,) * (3 - len(axes)), *axes)
    return x.reshape(*shape), y.reshape(*shape)


def _follow(x: Array, axis: int) -> bool:
    """Does one element of the axis lie just behind all of the next axis?"""
    strides = element_strides(x)
    return x.shape[axis] == 1 or bool(strides[axis] == x.shape[axis + 1] * strides[axis + 1])


def copied_tile(shape: tuple[Any, ...], dtype: DType, target: str) -> tuple[int, int, int]:
    """What a block copies of an image [a, b, c]."""
    left, tile = COPIED * (1 if has_threads(target) else 8) // dtype.bytes, [1, 1, 1]
    for axis in (2, 1, 0):
        tile[axis] = min(left, 1 << (max(1, shape[axis]) - 1).bit_length())
        left //= tile[axis]
    return tile[0], tile[1], tile[2]
