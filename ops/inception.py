"""InceptionNeXt's token mixer: some channels stay as they are, three parts are filtered, in one launch.

    y = inception_depthwise_conv(x, square, row, column)      # x [N, C, H, W], row [g, 1, 1, 11]
    y = concatenate(x[:, :C - 3g], x[:, -3g:-2g] * square, x[:, -2g:-g] * row, x[:, -g:] * column)
From Yu et al., "InceptionNeXt: When Inception Meets ConvNeXt", 2023, whose order of the parts this is.
"""

from typing import Any, NamedTuple

import tilec as tc
from tilec.arguments import data_of, overlap
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.arrays import Array, array, assign, contiguous, empty, float_of, optional, result, sums_in
from tilec.ops.depthwise import lies_last
from tilec.ops.depthwise_call import depthwise_call, shape_of
from tilec.ops.depthwise_kernel import Conv
from tilec.ops.inception_kernel import in_place_kernel, inception_kernel
from tilec.ops.inception_tiling import WARPS, copied_tile, inception_parts, joined_axes
from tilec.ops.op import op
from tilec.places import current_target

NAMES = ("square", "row", "column")


class Mixer(NamedTuple):
    """A checked call: x in memory's order of axes, its shape as [N, C, H, W], three weights [g, kh, kw]."""

    x: Array
    shape: tuple[int, int, int, int]
    weights: tuple[Array, ...]
    biases: tuple[Array | None, ...]
    last: bool

    @property
    def dtype(self) -> DType:
        return find_dtype(self.x.dtype)

    @property
    def filtered(self) -> int:
        """Channels that are filtered: the last ones."""
        return sum(map(len, self.weights))

    def channels(self, x: Array, cut: slice) -> Array:
        found: Array = x[..., cut] if self.last else x[:, cut]
        return found


def compile_inception(
    *,
    shape: tuple[int, int, int, int],
    square_size: int = 3,
    band_size: int = 11,
    branch_ratio: float = 0.125,
    dtype: Any = "f16",
    bias: bool = True,
    layout: str = "NCHW",
    in_place: bool = False,
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel for x of this shape, in the order of `layout`, whose parts have int(C * branch_ratio)
    channels each. Raises TilecError where `in_place` takes a copy.
    """
    kind, last = float_of(dtype, "dtype"), layout == "NHWC"
    n, c, h, w = shape_of(shape, layout, "inception_depthwise_conv")
    part, order = int(c * branch_ratio), Conv(channels_last=last)
    if not 0 < 3 * part <= c:
        raise TilecError(f"three parts of {branch_ratio} of {c} channels are 3 x {part}: expected 1 to {c}")
    sizes = ((square_size, square_size), (1, band_size), (band_size, 1))
    given: list[Any] = []
    for size in sizes:
        given += [tc.Spec(kind, order.ordered(part, *size)), tc.Spec(kind, (part,)) if bias else None]
    parts = inception_parts((c, h, w), (part,) * 3, sizes, last, sums_in(kind), target, in_place)
    words: dict[str, Any] = {"parts": parts, "accumulator": sums_in(kind), "warps": WARPS, "target": target}
    whole = tc.Spec(kind, shape)
    if in_place:
        if parts is None:
            raise TilecError(f"{h} x {w} images are too large for a block of {target}: in place takes a copy")
        return in_place_kernel.compile(whole, *given, **words)
    stay = c - 3 * part
    pixels, rest = (h * w, stay) if last else (1, stay * h * w)
    kept = tc.Spec(kind, (n, 1, pixels, rest), strides=(c * h * w, 0, c if last else rest, 1))
    return inception_kernel.compile(
        whole, kept, *given, whole, kept, tile=copied_tile(kept.shape[1:], kind, target), **words
    )


@op(compile_inception)
def inception_depthwise_conv(
    x: Any,
    square: Any,
    row: Any,
    column: Any,
    square_bias: Any = None,
    row_bias: Any = None,
    column_bias: Any = None,
    *,
    layout: str = "NCHW",
    in_place: bool = False,
    out: Any = None,
) -> Array:
    """x with its last channels filtered: g of them by square [g, 1, k, k], then as many as there are kernels
    by row [g, 1, 1, b] and by column [g, 1, b, 1]. Those before stay. Padding is "same", biases are [g].

    x [N, C, H, W] (layout "NCHW", whatever its strides) or [N, H, W, C] ("NHWC") of f16, bf16, f32 or f64,
    and weights of the same dtype. Sums are in f32, or f64 for f64. `in_place` writes the filtered channels
    over those of x, leaves the others alone, and returns x; images too large for a block then take a copy of
    what is filtered. `out` is written in place. Raises TilecError for what does not fit.
    """
    weights, biases = (square, row, column), (square_bias, row_bias, column_bias)
    mixer = _mixer(x, weights, biases, layout)
    if in_place:
        _check_in_place(x, mixer, out)
        _in_place(mixer)
        return x  # type: ignore[no-any-return]
    shape = array(x, "x", rank=4).shape
    y = result(out, shape, mixer.dtype)
    if out is not None and overlap(data_of(y), data_of(mixer.x)):
        raise TilecError("out shares bytes with x: pass in_place=True, or another array")
    if mixer.last and layout == "NCHW":
        made = y.transpose(0, 2, 3, 1) if out is not None else empty(mixer.x.shape, mixer.dtype)
        _run(mixer, made)
        return y if out is not None else made.transpose(0, 3, 1, 2)
    _run(mixer, y)
    return y


def _mixer(x: Any, weights: tuple[Any, ...], biases: tuple[Any, ...], layout: str) -> Mixer:
    """The call, checked; images whose channels lie next to each other in memory with the channels last."""
    held, last = array(x, "x", rank=1), layout == "NHWC"
    shape = shape_of(held.shape, layout, "inception_depthwise_conv")
    given = [array(each, name, rank=1) for each, name in zip(weights, NAMES, strict=True)]
    _check_weights(held, given, layout)
    if not last and lies_last(held):
        held, last = held.transpose(0, 2, 3, 1), True
    for each in given:  # dtypes and sizes, as depthwise_conv takes them
        some = held[..., : len(each)] if last else held[:, : len(each)]
        depthwise_call(some, each, padding="same", layout="NHWC" if last else "NCHW")
    more = (
        optional(each, f"{name}_bias", (len(weight),))
        for each, name, weight in zip(biases, NAMES, given, strict=True)
    )
    return Mixer(held, shape, tuple(each[:, 0] for each in given), tuple(more), last)


def _check_weights(x: Array, weights: list[Array], layout: str) -> None:
    """A square and two bands, for no more channels than there are."""
    found = ", ".join(f"{name} {list(each.shape)}" for name, each in zip(NAMES, weights, strict=True))
    square, row, column = (each.shape for each in weights)
    fits = all(each.ndim == 4 and each.shape[1] == 1 and each.size for each in weights)
    if not fits or square[2] != square[3] or row[2] != 1 or column[3] != 1:
        raise TilecError(
            f"expected square [g, 1, k, k], row [g, 1, 1, b] and column [g, 1, b, 1]: found {found}"
        )
    channels = x.shape[3 if layout == "NHWC" else 1]
    if sum(map(len, weights)) > channels:
        raise TilecError(
            f"x {list(x.shape)}, {layout}, has {channels} channels, fewer than there are kernels: {found}"
        )


def _check_in_place(x: Any, mixer: Mixer, out: Any) -> None:
    if out is not None:
        raise TilecError("in_place=True writes over x: leave out= away")
    if not overlap(data_of(mixer.x), data_of(x)) and mixer.x.size:
        raise TilecError(
            "x runs backwards or lies askew, and kernels take a copy of it: in_place needs x itself"
        )
    if not data_of(mixer.x).flags.writeable:
        raise TilecError("x is read-only: leave in_place=True away")


def _run(mixer: Mixer, y: Array) -> None:
    """Into y, in memory's order of axes."""
    stay = slice(0, mixer.shape[1] - mixer.filtered)
    kept, kept_y = joined_axes(mixer.channels(mixer.x, stay), mixer.channels(y, stay))
    tile = copied_tile(kept.shape[1:], mixer.dtype, current_target())
    inception_kernel(
        mixer.x, kept, *_filters(mixer), y, kept_y,
        parts=_planned(mixer, False), tile=tile, accumulator=sums_in(mixer.dtype), warps=WARPS,
    )  # fmt: skip


def _in_place(mixer: Mixer) -> None:
    """Over x; by way of a copy where a block cannot hold what its outputs see."""
    parts = _planned(mixer, True)
    if parts is not None:
        in_place_kernel(mixer.x, *_filters(mixer), parts=parts, accumulator=sums_in(mixer.dtype), warps=WARPS)
        return
    ours = mixer.channels(mixer.x, slice(mixer.shape[1] - mixer.filtered, None))
    n, _, h, w = mixer.shape
    made = empty(ours.shape, mixer.dtype)
    _run(mixer._replace(x=ours, shape=(n, mixer.filtered, h, w)), made)
    assign(ours, made)


def _filters(mixer: Mixer) -> list[Array | None]:
    """Weights and biases in turn, as the kernels take them."""
    given: list[Array | None] = []
    for name, weight, bias in zip(NAMES, mixer.weights, mixer.biases, strict=True):
        turned = contiguous(weight.transpose(1, 2, 0), f"{name}, with its channels last")
        given += [turned if mixer.last else weight, bias]
    return given


def _planned(mixer: Mixer, in_place: bool) -> Any:
    counts, sizes = (tuple(map(f, mixer.weights)) for f in (len, lambda each: each.shape[1:]))
    kind = sums_in(mixer.dtype)
    return inception_parts(mixer.shape[1:], counts, sizes, mixer.last, kind, current_target(), in_place)
