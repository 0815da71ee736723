"""The kernel of depthwise convolutions: each channel is filtered by kernels of its own.

A block makes (channels, rows, columns) of outputs. It copies what they see, a halo around them, to shared
memory in the accumulator's dtype, with zeros outside the image. Output row k + i * sums is row i of sum k, so
that the sums of a thread lie under each other and share most of what they read:

    4 sums, a kernel of 3 rows    row 0   w0                 6 rows read, 12 products a column of the kernel
                                  row 1   w1 w0
                                  row 2   w2 w1 w0
                                  row 3      w2 w1 w0
                                  row 4         w2 w1
                                  row 5            w2
"""

from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ops.epilogue import activated


class Conv(NamedTuple):
    """What is computed. Pairs are (rows, columns); `before`: the padding above and to the left. Each result
    is the sum of `summed` channels' convolutions; a `flipped` kernel's last row and column come first.
    """

    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)
    multiplier: int = 1
    channels_last: bool = False
    activation: str | None = None
    summed: int = 1
    flipped: bool = False

    @property
    def axes(self) -> tuple[int, int, int]:
        """Where channels, rows and columns are in memory, behind the batch."""
        return (3, 1, 2) if self.channels_last else (1, 2, 3)

    def ordered(self, channels: Any, rows: Any, columns: Any) -> tuple[Any, Any, Any]:
        """What belongs to the three axes, as they follow each other in memory."""
        return (rows, columns, channels) if self.channels_last else (channels, rows, columns)

    def cut_up(self, channels: Any, *rest: Any) -> tuple[Any, ...]:
        """The same where rows and columns are two axes each."""
        return (*rest, channels) if self.channels_last else (channels, *rest)


class Cut(NamedTuple):
    """What a block computes: so many channels, sums of a thread, rows of each sum, and columns. `taps`
    rows of the kernel are unrolled, and its columns where that is `across`. Not `staged`: windows are read
    where they are, those too large to copy; nor `held`: so are kernels. `gaps`: groups, rows and columns
    that a copy has more, so that the threads of a warp meet no bank twice.
    """

    channels: int
    sums: int
    rows: int
    columns: int
    taps: int
    across: bool = True
    staged: bool = True
    held: bool = True
    gaps: tuple[int, int, int] = (0, 0, 0)
    warps: int = 4


class Window(NamedTuple):
    """What a block sees of an image, [C, H, W] in memory's order, from `at` on: where it is, or a copy, whose
    rows and columns are cut so that the elements of a part follow each other: [C, H / step, step, right, W /
    right] for a step between the rows of a sum, and columns `right` apart.
    """

    source: tc.Array
    at: tuple[Any, Any, Any]
    conv: Conv
    cut: Cut
    kind: DType

    def part(self, turn: Any, row: int, column: int) -> tc.Tile:
        """One element for each output of a sum; `row` and `column` are offsets from `at`, and each turn of
        the loop goes `taps` rows of the kernel further."""
        conv, cut = self.conv, self.cut
        step = cut.sums * conv.stride[0]
        down, right = cut.taps * conv.dilation[0], conv.stride[1]
        if cut.staged:
            at = turn * (down // step) + row // step, row % step, column % right, column // right
            where, parts = conv.cut_up(0, *at), conv.cut_up(cut.channels, cut.rows, 1, 1, cut.columns)
            return self.source.load(where, parts)
        c, h, w = self.at
        places = conv.ordered(
            (c, cut.channels, 1), (turn * down + h + row, cut.rows, step), (w + column, cut.columns, right)
        )
        found = self.source.gather(*(along(axis, *place) for axis, place in enumerate(places)))
        return found.to(self.kind).reshape(conv.cut_up(cut.channels, cut.rows, 1, 1, cut.columns))


class Filter(NamedTuple):
    """The kernels of a block's channels, [C, kh, kw] in memory's order, from channel `at` on: where they are,
    or a copy.
    """

    source: tc.Array
    at: Any
    conv: Conv
    cut: Cut
    kind: DType

    def tap(self, row: Any, column: Any) -> tc.Tile:
        """One element of each kernel, to be multiplied with a part of a window."""
        conv, channels = self.conv, self.cut.channels
        found = self.source.load(conv.ordered(self.at, row, column), conv.ordered(channels, 1, 1))
        return found.to(self.kind).reshape(conv.cut_up(channels, 1, 1, 1, 1))


def kernels(weight: tc.Array, at: Any, size: tuple[int, int], conv: Conv, cut: Cut, kind: DType) -> Filter:
    """Those of the channels from `at` on, copied if there is room for it."""
    if not cut.held:
        return Filter(weight, at, conv, cut, kind)
    copy = tc.shared(conv.ordered(cut.channels, *size), kind)
    copy.store((0, 0, 0), weight.load(conv.ordered(at, 0, 0), copy.shape).to(kind))
    return Filter(copy, 0, conv, cut, kind)


def of_channels(x: tc.Array, at: Any, conv: Conv, cut: Cut, kind: DType) -> tc.Tile:
    """One number for each of a block's channels, those from `at` on."""
    return x.load(at, cut.channels).to(kind).reshape(conv.ordered(-1, 1, 1))


def along(axis: int, start: Any, count: int, step: int) -> tc.Tile:
    """start, start + step, ... along one of three axes."""
    shape = tuple(count if i == axis else 1 for i in range(3))
    places: tc.Tile = (tc.arange(count) * step + start).reshape(shape)
    return places


def window(
    image: tc.Array, state: tc.Array | None, at: Any, size: tuple[int, int], conv: Conv, cut: Cut, kind: DType
) -> Window:
    """What the outputs from `at` on see under a kernel of this size, copied if there is room for it."""
    c, i, j = at
    h, w = i * conv.stride[0] - conv.before[0], j * conv.stride[1] - conv.before[1]
    if not cut.staged:
        return Window(image, (c, h, w), conv, cut, kind)
    (groups, step), (lanes, right) = spans(size, conv, cut)
    shape = conv.ordered(cut.channels, groups * step, lanes * right)
    seen = image.load(conv.ordered(c, h, w), shape).to(kind)
    if state is not None:  # what stands to the left of the image: each is 0 where the other is
        seen = seen + state.load(conv.ordered(c, h, j * conv.stride[1]), shape).to(kind)
    more = cut.gaps
    apart = conv.cut_up(cut.channels, groups + more[0], step + more[1], right, lanes + more[2])
    halo = tc.shared(apart, kind)
    parted = seen.reshape(conv.cut_up(cut.channels, groups, step, lanes, right))
    halo.store((0,) * 5, parted.permute(*((0, 1, 3, 2, 4) if conv.channels_last else (0, 1, 2, 4, 3))))
    return Window(halo, (0, 0, 0), conv, cut, kind)


def spans(size: tuple[int, int], conv: Conv, cut: Cut) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows that a block's outputs see: groups of a step. Columns: so many, times those that are skipped."""
    step, right = cut.sums * conv.stride[0], conv.stride[1]
    rows = (cut.sums * cut.rows - 1) * conv.stride[0] + (size[0] - 1) * conv.dilation[0] + 1
    columns = (cut.columns - 1) * right + (size[1] - 1) * conv.dilation[1] + 1
    return (-(-rows // step), step), (-(-columns // right), right)


def some_rows(
    acc: tuple[tc.Tile, ...],
    seen: Window,
    weight: Filter,
    size: tuple[int, int],
    turn: Any,
    done: int,
    count: int,
) -> tuple[tc.Tile, ...]:
    """acc with `count` rows of the kernel, `done` rows behind those of this turn, column after column."""
    if seen.cut.across:
        for q in tc.static_range(size[1]):
            acc = one_column(acc, seen, weight, size, turn, done, count, q)
    else:
        for q in tc.range(size[1]):
            acc = one_column(acc, seen, weight, size, turn, done, count, q)
    return acc


def one_column(
    acc: tuple[tc.Tile, ...],
    seen: Window,
    weight: Filter,
    size: tuple[int, int],
    turn: Any,
    done: int,
    count: int,
    q: Any,
) -> tuple[tc.Tile, ...]:
    """acc with the products of one column: from row to row of the image, each of which is read once."""
    conv, cut, sums = seen.conv, seen.cut, list(acc)
    weights = {}
    for t in tc.static_range(done, done + count):
        row = turn * cut.taps + t
        tap = (size[0] - 1 - row, size[1] - 1 - q) if conv.flipped else (row, q)
        weights[t] = weight.tap(*tap)
    rows: dict[int, list[tuple[int, int]]] = {}
    for t in tc.static_range(done, done + count):
        for k in tc.static_range(cut.sums):
            rows.setdefault(t * conv.dilation[0] + k * conv.stride[0], []).append((t, k))
    for row in sorted(rows):
        read = seen.part(turn, row, q * conv.dilation[1])
        for t, k in rows[row]:
            sums[k] = tc.fma(read, weights[t], sums[k])
    return tuple(sums)


def filtered(
    acc: tuple[tc.Tile, ...], seen: Window, weight: Filter, size: tuple[int, int]
) -> tuple[tc.Tile, ...]:
    """acc with all rows of the kernel."""
    taps = seen.cut.taps
    turns, rest = divmod(size[0], taps)
    if turns == 1:
        acc = some_rows(acc, seen, weight, size, 0, 0, taps)
    else:
        for turn in tc.range(turns):
            acc = some_rows(acc, seen, weight, size, turn, 0, taps)
    return some_rows(acc, seen, weight, size, 0, turns * taps, rest) if rest else acc


@tc.kernel
def depthwise_kernel(
    x: tc.Array, weight: tc.Array, bias: tc.Array | None, scale: tc.Array | None, residual: tc.Array | None,
    state: tc.Array | None, y: tc.Array, *, conv: Conv, cut: Cut, accumulator: DType = tc.f32, warps: int = 4,
) -> None:  # fmt: skip
    """y = activation(conv(x, weight) * scale + bias) + residual; x [N, C, H, W], y and residual [N, O, Y, X],
    where O = C * multiplier or C / summed, weight [O * summed, kh, kw], bias and scale [O]. Channels last: x,
    y and residual [N, rows, columns, channels], weight [kh, kw, channels]. `state`: what is left of x.
    """
    (c_axis, h_axis, w_axis), high = conv.axes, cut.sums * cut.rows
    n, j, *cell = tc.blocks(
        x.shape[0],
        conv.multiplier,
        *conv.ordered(
            tc.cdiv(x.shape[c_axis] // conv.summed, cut.channels),
            tc.cdiv(y.shape[h_axis], high),
            tc.cdiv(y.shape[w_axis], cut.columns),
        ),
    )
    c, i, w = (cell[2], cell[0], cell[1]) if conv.channels_last else cell
    kh, kw = (tc.static(weight.shape[axis - conv.channels_last]) for axis in (1, 2))
    if conv.multiplier == conv.summed == 1:
        channels = x.shape[c_axis]
        tc.require(weight.shape[c_axis - 1] == channels, y.shape[c_axis] == channels)
    at, every = (c * cut.channels, i * high, w * cut.columns), slice(j, None, conv.multiplier)
    before, size = None if state is None else state[n], (kh, kw)
    acc = (tc.zeros(conv.cut_up(cut.channels, cut.rows, 1, 1, cut.columns), accumulator),) * cut.sums
    if conv.summed == 1:
        filters = weight[conv.ordered(every, slice(None), slice(None))]
        seen = window(x[n], before, at, size, conv, cut, accumulator)
        acc = filtered(acc, seen, kernels(filters, at[0], size, conv, cut, accumulator), size)
    else:
        for s in tc.range(conv.summed):
            part = conv.ordered(slice(s, None, conv.summed), slice(None), slice(None))
            seen = window(x[n][part], before, at, size, conv, cut, accumulator)
            acc = filtered(acc, seen, kernels(weight[part], at[0], size, conv, cut, accumulator), size)
    for k in tc.static_range(cut.sums):
        here = conv.ordered(every, slice(k, None, cut.sums), slice(None))
        place = conv.ordered(at[0], i * cut.rows, at[2])
        done = acc[k].reshape(conv.ordered(cut.channels, cut.rows, cut.columns))
        if scale is not None:
            done = done * of_channels(scale[every], at[0], conv, cut, accumulator)
        if bias is not None:
            done = done + of_channels(bias[every], at[0], conv, cut, accumulator)
        done = activated(done, conv.activation)
        if residual is not None:
            done = done + residual[n][here].load(place, done.shape).to(accumulator)
        y[n][here].store(place, done.to(y.dtype))
