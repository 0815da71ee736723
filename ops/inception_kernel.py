"""The kernel of InceptionNeXt's mixer: channels that are copied, and three parts that are filtered.

    channels   0 .. C - 3g    C - 3g .. C - 2g    C - 2g .. C - g    C - g .. C
               as they are    k x k               1 x b              b x 1
One launch: the first blocks of an image copy, the next ones filter the square's part, and so on; each element
is read where it is needed and written once. In place nothing is copied, and a block has all of the rows and
columns that its outputs see, so that no other block reads what it writes.
"""

from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ops.depthwise_kernel import Conv, Cut, filtered, kernels, of_channels, window


class Part(NamedTuple):
    """The channels from `first` on that one of the weights filters, and how blocks share them."""

    first: int
    conv: Conv
    cut: Cut


class Filters(NamedTuple):
    """The weight [g, kh, kw] and bias [g] of a part; channels last, [kh, kw, g]."""

    weight: tc.Array
    bias: tc.Array | None
    part: Part

    def size(self) -> tuple[int, int]:
        last = self.part.conv.channels_last
        kh, kw = (tc.static(self.weight.shape[axis - last]) for axis in (1, 2))
        return kh, kw

    def channels(self) -> Any:
        return self.weight.shape[2 if self.part.conv.channels_last else 0]

    def blocks(self, y: tc.Array) -> tuple[Any, Any, Any]:
        """Of an image: along channels, rows and columns."""
        cut, (_, h_axis, w_axis) = self.part.cut, self.part.conv.axes
        return (
            tc.cdiv(self.channels(), cut.channels),
            tc.cdiv(y.shape[h_axis], cut.sums * cut.rows),
            tc.cdiv(y.shape[w_axis], cut.columns),
        )


def filter_part(x: tc.Array, y: tc.Array, n: Any, b: Any, filters: Filters, kind: DType) -> None:
    """Block b of a part of image n."""
    conv, cut, size = filters.part.conv, filters.part.cut, filters.size()
    _, high, wide = filters.blocks(y)
    c, i, w = b // (high * wide), b // wide % high, b % wide
    first = filters.part.first
    ours = conv.ordered(slice(first, first + filters.channels()), slice(None), slice(None))
    at = (c * cut.channels, i * cut.sums * cut.rows, w * cut.columns)
    seen = window(x[n][ours], None, at, size, conv, cut, kind)
    acc = (tc.zeros(conv.cut_up(cut.channels, cut.rows, 1, 1, cut.columns), kind),) * cut.sums
    acc = filtered(acc, seen, kernels(filters.weight, at[0], size, conv, cut, kind), size)
    place = conv.ordered(at[0], i * cut.rows, at[2])
    for k in tc.static_range(cut.sums):
        done = acc[k].reshape(conv.ordered(cut.channels, cut.rows, cut.columns))
        if filters.bias is not None:
            done = done + of_channels(filters.bias, at[0], conv, cut, kind)
        rows = y[n][ours][conv.ordered(slice(None), slice(k, None, cut.sums), slice(None))]
        rows.store(place, done.to(y.dtype))


def filter_parts(x: tc.Array, y: tc.Array, n: Any, b: Any, parts: tuple[Filters, ...], kind: DType) -> None:
    """Block b of those of an image that filter."""
    one, two, three = parts
    ones, twos = (count(each.blocks(y)) for each in (one, two))
    if b < ones:
        filter_part(x, y, n, b, one, kind)
    else:
        if b < ones + twos:
            filter_part(x, y, n, b - ones, two, kind)
        else:
            filter_part(x, y, n, b - ones - twos, three, kind)


def count(blocks: tuple[Any, Any, Any]) -> Any:
    return blocks[0] * blocks[1] * blocks[2]


@tc.kernel(alias=("y", "kept_y"))
def inception_kernel(
    x: tc.Array, kept: tc.Array, square: tc.Array, square_bias: tc.Array | None, row: tc.Array,
    row_bias: tc.Array | None, column: tc.Array, column_bias: tc.Array | None, y: tc.Array, kept_y: tc.Array,
    *, parts: tuple[Part, ...], tile: tuple[int, int, int], accumulator: DType = tc.f32, warps: int = 4,
) -> None:  # fmt: skip
    """y [N, C, H, W] or [N, H, W, C]; kept and kept_y [N, ., ., .] are the channels of x and y that stay."""
    filters = (
        Filters(square, square_bias, parts[0]),
        Filters(row, row_bias, parts[1]),
        Filters(column, column_bias, parts[2]),
    )
    a, b, c = (tc.cdiv(n, size) for n, size in zip(kept.shape[1:], tile, strict=True))
    n, block = tc.blocks(x.shape[0], a * b * c + sum(count(each.blocks(y)) for each in filters))
    if block < a * b * c:
        place = (block // (b * c) * tile[0], block // c % b * tile[1], block % c * tile[2])
        kept_y[n].store(place, kept[n].load(place, tile))
    else:
        filter_parts(x, y, n, block - a * b * c, filters, accumulator)


@tc.kernel
def in_place_kernel(
    x: tc.Array, square: tc.Array, square_bias: tc.Array | None, row: tc.Array, row_bias: tc.Array | None,
    column: tc.Array, column_bias: tc.Array | None, *, parts: tuple[Part, ...],
    accumulator: DType = tc.f32, warps: int = 4,
) -> None:  # fmt: skip
    """x [N, C, H, W] or [N, H, W, C]: channels that are filtered are written over."""
    filters = (
        Filters(square, square_bias, parts[0]),
        Filters(row, row_bias, parts[1]),
        Filters(column, column_bias, parts[2]),
    )
    n, block = tc.blocks(x.shape[0], sum(count(each.blocks(x)) for each in filters))
    filter_parts(x, x, n, block, filters, accumulator)
