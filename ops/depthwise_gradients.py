"""The kernels of a depthwise convolution's gradients, without atomics: the same bits every time.

That of x is a convolution again, of d_out with the kernel turned around. Where the stride is s, every s-th
row of it sees the same rows of the kernel: the result is cut into such phases.

    k = 3, stride 2, padding 1        d_x row 0, 2, 4 ..   w1 * d_out row 0, 1, 2 ..
                                      d_x row 1, 3, 5 ..   w2 * d_out row 0, 1, 2 .. + w0 * row 1, 2, 3 ..

That of the weight sums products of d_out and x, shifted. A block holds some channels, and walks over strips
of rows and columns of the images; partial sums of blocks are added up by a second kernel. What is read of a
row of x is multiplied with all rows of d_out that see it, with rows of zeros around these:

    3 rows of the kernel     x row 3     w0 += x * d_out row 3,  w1 += x * row 2,  w2 += x * row 1
"""

from math import gcd
from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ops.depthwise_kernel import Conv

TALL = 14  # rows of a strip that are worth some more of zeros


class Phase(NamedTuple):
    """Along one axis: elements first, first + step .. of d_x are the sums over u < taps of d_out[i + before +
    u * dilation] * weight[last - u * skip].
    """

    first: int
    tap: int
    skip: int
    taps: int
    dilation: int
    before: int


def phases(size: int, stride: int, dilation: int, padding: int) -> list[Phase]:
    """Those of an axis: one for each remainder of the stride."""
    common = gcd(stride, dilation)
    return [_phase(first, size, stride, dilation, padding, common) for first in range(stride)]


def _phase(first: int, size: int, stride: int, dilation: int, padding: int, common: int) -> Phase:
    """Taps r with first + padding - r * dilation a multiple of the stride."""
    skip = stride // common
    fitting = [r for r in range(min(size, skip)) if (first + padding - r * dilation) % stride == 0]
    if not fitting:
        return Phase(first, 0, skip, 0, 1, 0)
    tap, apart = fitting[0], dilation // common
    taps = -(-(size - tap) // skip)
    return Phase(
        first, tap, skip, taps, apart, (taps - 1) * apart - (first + padding - tap * dilation) // stride
    )


class Strip(NamedTuple):
    """What a block of the weight's gradient takes at a time: channels, rows and columns of d_out, of which
    `abreast` are multiplied at once; and sums of `down` rows and `across` columns of the kernel. `parts`:
    blocks that share the strips of a channel.
    """

    channels: int
    rows: int
    columns: int
    abreast: int
    down: int
    across: int
    parts: int = 1
    warps: int = 4

    def around(self, conv: Conv) -> int:
        """Rows of zeros above and below those of d_out; 0 where x's rows are read anew for each."""
        lap = conv.stride[0] == conv.dilation[0] == 1 and self.rows >= TALL
        return self.down - 1 if lap else 0


def halo(size: tuple[int, int], conv: Conv, strip: Strip) -> tuple[int, int]:
    """Rows of x that a strip's products take, and columns of each of the `stride` kinds."""
    groups = -(-size[0] // strip.down) * strip.down
    rows = (strip.rows - 1) * conv.stride[0] + (groups - 1) * conv.dilation[0] + 1
    columns = (strip.columns - 1) * conv.stride[1] + (size[1] - 1) * conv.dilation[1] + 1
    return rows, -(-columns // conv.stride[1])


@tc.kernel
def weight_gradient_kernel(
    x: tc.Array, above: tc.Array, partial: tc.Array, bias: tc.Array | None, *, size: tuple[int, int],
    conv: Conv, strip: Strip, accumulator: DType = tc.f32, warps: int = 4, max_registers: int = 128,
) -> None:  # fmt: skip
    """partial[p, o, r, q] = the sum over p's strips of above[n, o, i, j] * x[n, o // multiplier, i * stride +
    r * dilation - top, ..], bias[p, o] that of above; x and above in the order of conv.
    """
    c_axis, h_axis, w_axis = conv.axes
    part, j, c = tc.blocks(strip.parts, conv.multiplier, tc.cdiv(x.shape[c_axis], strip.channels))
    tall, wide = tc.cdiv(above.shape[h_axis], strip.rows), tc.cdiv(above.shape[w_axis], strip.columns)
    every, first, groups = slice(j, None, conv.multiplier), c * strip.channels, -(-size[0] // strip.down)
    total = tc.shared((groups * strip.down, size[1], strip.channels), accumulator)
    total.store((0, 0, 0), tc.zeros(total.shape, accumulator))
    plain = tc.zeros((strip.channels,), accumulator)
    for at in tc.range(part, above.shape[0] * tall * wide, strip.parts):
        n, i, w = at // (tall * wide), at // wide % tall * strip.rows, at % wide * strip.columns
        outs = above[n][conv.ordered(every, slice(None), slice(None))]
        given = copied(outs, (first, i, w), conv, strip, accumulator)
        seen = window(x[n], (first, i, w), size, conv, strip, accumulator)
        if bias is not None:
            rows = conv.ordered(strip.channels, strip.rows, strip.columns)
            plain = plain + per_channel(given.load(conv.ordered(0, strip.around(conv), 0), rows), conv)
        for r in tc.range(groups):
            for q in tc.static_range(0, size[1], strip.across):
                for k, done in enumerate(products(seen, given, r * strip.down, q, size, conv, strip)):
                    across = min(strip.across, size[1] - q)
                    tap = (r * strip.down + k // across, q + k % across, 0)
                    sums = per_channel(done, conv).reshape((1, 1, -1))
                    total.store(tap, total.load(tap, sums.shape) + sums)
    found = total.load((0, 0, 0), total.shape).permute(2, 0, 1)
    partial[part][every].store((first, 0, 0), found.to(partial.dtype))
    if bias is not None:
        bias[part][every].store(first, plain.to(bias.dtype))


def copied(outs: tc.Array, at: Any, conv: Conv, strip: Strip, kind: DType) -> tc.Array:
    """A strip of d_out, with zeros around its rows."""
    around, shape = strip.around(conv), conv.ordered(strip.channels, strip.rows, strip.columns)
    given = tc.shared(conv.ordered(strip.channels, strip.rows + 2 * around, strip.columns), kind)
    given.store(conv.ordered(0, around, 0), outs.load(conv.ordered(*at), shape).to(kind))
    for row in (0, around + strip.rows) if around else ():
        zeros = tc.zeros(conv.ordered(strip.channels, around, strip.columns), kind)
        given.store(conv.ordered(0, row, 0), zeros)
    return given


def window(
    image: tc.Array, at: Any, size: tuple[int, int], conv: Conv, strip: Strip, kind: DType
) -> tc.Array:
    """A copy of what a strip's products take of an image: [C, rows, stride, columns] in memory's order."""
    c, i, w = at
    (rows, columns), right = halo(size, conv, strip), conv.stride[1]
    place = conv.ordered(c, i * conv.stride[0] - conv.before[0], w * right - conv.before[1])
    found = image.load(place, conv.ordered(strip.channels, rows, columns * right)).to(kind)
    parted = found.reshape(conv.cut_up(strip.channels, rows, columns, right))
    seen = tc.shared(conv.cut_up(strip.channels, rows, right, columns), kind)
    seen.store((0,) * 4, parted.permute(*((0, 2, 1, 3) if conv.channels_last else (0, 1, 3, 2))))
    return seen


def products(
    seen: tc.Array, given: tc.Array, r: Any, q: int, size: tuple[int, int], conv: Conv, strip: Strip
) -> tuple[tc.Tile, ...]:
    """For `down` x `across` elements of the kernel from (r, q) on, the products of one strip, summed along
    its rows: a tile of the columns abreast each.
    """
    shape, parts = conv.cut_up(strip.channels, 1, 1, strip.abreast), strip.columns // strip.abreast
    taps = [(t, p) for t in range(strip.down) for p in range(q, min(q + strip.across, size[1]))]
    sums = (tc.zeros(shape, given.dtype),) * len(taps)
    for i in tc.range(strip.rows + strip.around(conv)):
        if parts == 1:
            sums = one_place(sums, given, seen, (i, 0), r, taps, conv, strip)
        else:
            for j in tc.range(parts):
                sums = one_place(sums, given, seen, (i, j * strip.abreast), r, taps, conv, strip)
    return sums


def one_place(
    sums: tuple[tc.Tile, ...],
    given: tc.Array,
    seen: tc.Array,
    at: tuple[Any, Any],
    r: Any,
    taps: list[tuple[int, int]],
    conv: Conv,
    strip: Strip,
) -> tuple[tc.Tile, ...]:
    """sums with the products of some columns, from `at` on: of a row of d_out, or of one of x."""
    (i, j), lap = at, strip.around(conv)
    tile, factors, read, found = conv.cut_up(strip.channels, 1, 1, strip.abreast), {}, {}, []
    for (t, q), acc in zip(taps, sums, strict=True):
        right, column = q * conv.dilation[1] % conv.stride[1], q * conv.dilation[1] // conv.stride[1]
        given_row, row = (i + lap - t, i + r) if lap else (i, i * conv.stride[0] + (r + t) * conv.dilation[0])
        above, seen_at = (t if lap else 0), (0 if lap else t, q)
        if above not in factors:
            factor = given.load(conv.ordered(0, given_row, j), conv.ordered(strip.channels, 1, strip.abreast))
            factors[above] = factor.reshape(tile)
        if seen_at not in read:
            read[seen_at] = seen.load(conv.cut_up(0, row, right, column + j), tile)
        found.append(tc.fma(factors[above], read[seen_at], acc))
    return tuple(found)


def per_channel(tile: tc.Tile, conv: Conv) -> tc.Tile:
    """The sums of a tile's channels."""
    while tile.rank > 1:
        tile = tile.sum(0 if conv.channels_last else 1)
    return tile
