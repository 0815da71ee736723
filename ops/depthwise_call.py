"""Calls of depthwise convolutions, checked: what the kernels of it take.

call = depthwise_call(x, weight, stride=2, padding="valid")
call.geometry.extents, call.dtype
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.arrays import Array, array, float_of

LAYOUTS = ("NCHW", "NHWC")
LARGEST = 63  # rows or columns of a kernel

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Shape = tuple[int, int, int, int]
Described = tuple[Any, tuple[int, ...]]  # an array's dtype and shape


class Geometry(NamedTuple):
    """Where a convolution looks. Pairs are (rows, columns), `padding` ((top, bottom), (left, right))."""

    size: Pair
    stride: Pair
    padding: Pads
    dilation: Pair
    image: Pair
    extents: Pair  # of the result


class Call(NamedTuple):
    """x as given, its shape as [N, C, H, W], and the weight [C * multiplier, kh, kw]."""

    x: Array
    shape: Shape
    weight: Array
    multiplier: int
    geometry: Geometry
    channels_last: bool

    @property
    def dtype(self) -> DType:
        return find_dtype(self.x.dtype)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Of the result, in the layout of x."""
        n, channels, (rows, columns) = self.shape[0], len(self.weight), self.geometry.extents
        return (n, rows, columns, channels) if self.channels_last else (n, channels, rows, columns)


def depthwise_call(
    x: Any, weight: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, layout: str = "NCHW",
) -> Call:  # fmt: skip
    """What the arguments of ops.depthwise_conv mean. Raises TilecError for what does not fit."""
    image, held = array(x, "x", rank=1), array(weight, "weight", rank=1)
    asked = (stride, padding, dilation, layout)
    fitted = _fitted if all(map(_is_plain, asked)) else _fitted.__wrapped__
    shape, multiplier, geometry = fitted((image.dtype, image.shape), (held.dtype, held.shape), *asked)
    return Call(image, shape, held[:, 0], multiplier, geometry, layout == "NHWC")


def _is_plain(x: Any) -> bool:
    """Is it what equals nothing of another type?"""
    return type(x) in (int, str) or (type(x) is tuple and all(map(_is_plain, x)))


@lru_cache(maxsize=1024)
def _fitted(
    x: Described, weight: Described, stride: Any, padding: Any, dilation: Any, layout: str
) -> tuple[Shape, int, Geometry]:
    """The shape [N, C, H, W], the channel multiplier and the geometry of arrays like these."""
    kinds = [float_of(dtype, name) for (dtype, _), name in ((x, "x"), (weight, "weight"))]
    if kinds[0] != kinds[1]:
        found = f"x is {kinds[0]}, the weight {kinds[1]}"
        raise TilecError(f"x and weight are of one dtype: {found}; cast one")
    shape, size = checked_shapes(x[1], weight[1], layout)
    return shape, weight[1][0] // shape[1], geometry_of(shape[2:], size, stride, padding, dilation)


def checked_shapes(x: tuple[int, ...], weight: tuple[int, ...], layout: str) -> tuple[Shape, Pair]:
    """x's shape as [N, C, H, W], and a kernel's rows and columns. Raises TilecError for what does not fit."""
    shape = shape_of(x, layout)
    _check_weight(weight, shape[1], x, layout)
    return shape, (weight[2], weight[3])


def shape_of(x: tuple[int, ...], layout: str, name: str = "depthwise_conv") -> Shape:
    """The shape [N, C, H, W] of images in this layout."""
    if layout not in LAYOUTS:
        raise TilecError(f"expected layout 'NCHW' or 'NHWC', found {layout!r}")
    if len(x) != 4:
        raise TilecError(f"{name} takes x {axes_of(layout)}, of rank 4: found {list(x)}")
    n, *rest = x
    c, h, w = (*rest[-1:], *rest[:-1]) if layout == "NHWC" else rest
    return n, c, h, w


class Problem(NamedTuple):
    """What a kernel is compiled for without arrays: x's shape as [N, C, H, W], and the weight's."""

    dtype: DType
    shape: Shape
    weight: Shape


def problem_of(x: tuple[int, ...], kernel_size: Any, multiplier: int, dtype: Any, layout: str) -> Problem:
    """Raises TilecError for what does not fit."""
    shape = shape_of(x, layout)
    weight = (shape[1] * multiplier, 1, *_pair(kernel_size, "kernel_size", 1))
    checked_shapes(x, weight, layout)
    return Problem(float_of(dtype, "dtype"), shape, weight)


def axes_of(layout: str) -> str:
    return f"[{', '.join(layout)}]"


def _check_weight(shape: tuple[int, ...], channels: int, x: tuple[int, ...], layout: str) -> None:
    """[channels * multiplier, 1, kh, kw], and no kernel too large."""
    found = f"the weight is {list(shape)}, x {list(x)}, {layout}"
    if len(shape) != 4 or shape[1] != 1 or 0 in shape:
        raise TilecError(f"depthwise_conv takes a weight [C * multiplier, 1, kh, kw]: {found}")
    if channels == 0 or shape[0] % channels:
        swapped = x[1] if layout == "NHWC" else x[3]
        other = "NCHW" if layout == "NHWC" else "NHWC"
        hint = (
            f"; is x {axes_of(other)}? then pass layout={other!r}"
            if swapped and shape[0] % swapped == 0
            else ""
        )
        raise TilecError(
            f"the weight has {shape[0]} kernels for {channels} channels, expected a multiple: {found}{hint}"
        )
    if max(shape[2:]) > LARGEST:
        raise TilecError(f"kernels have up to {LARGEST} rows and columns: {found}")


def geometry_of(image: Pair, size: Pair, stride: Any, padding: Any, dilation: Any) -> Geometry:
    """Strides, padding and dilation of a kernel on an image, in full; TilecError for what does not fit."""
    strides, dilations = _pair(stride, "stride", 1), _pair(dilation, "dilation", 1)
    spans = (dilations[0] * (size[0] - 1) + 1, dilations[1] * (size[1] - 1) + 1)
    pads = _padding(padding, spans, strides)
    extents = []
    for axis, name in enumerate(("rows", "columns")):
        room = image[axis] + sum(pads[axis])
        if spans[axis] > room:
            raise TilecError(
                f"the kernel spans {spans[axis]} {name} ({size[axis]}, dilation {dilations[axis]}), and the "
                f"padded image has {room}: use a smaller kernel or more padding"
            )
        extents.append((room - spans[axis]) // strides[axis] + 1)
    return Geometry(size, strides, pads, dilations, image, (extents[0], extents[1]))


def _padding(padding: Any, spans: Pair, strides: Pair) -> Pads:
    """((top, bottom), (left, right)) of any form of padding."""
    if isinstance(padding, str):
        return _named_padding(padding, spans, strides)
    if isinstance(padding, Sequence) and len(padding) == 2 and all(isinstance(p, Sequence) for p in padding):
        top, left = (_pair(p, "padding", 0) for p in padding)
        return top, left
    rows, columns = _pair(padding, "padding", 0)
    return (rows, rows), (columns, columns)


def _named_padding(name: str, spans: Pair, strides: Pair) -> Pads:
    if name not in ("same", "valid"):
        raise TilecError(f"expected padding 'same', 'valid' or numbers, found {name!r}")
    if name == "valid":
        return (0, 0), (0, 0)
    if strides != (1, 1):
        raise TilecError(
            f"padding 'same' keeps the extents, and stride {list(strides)} does not: pass numbers"
        )
    rows, columns = (((span - 1) // 2, span // 2) for span in spans)
    return rows, columns


def _pair(x: Any, name: str, least: int) -> Pair:
    """One number for rows and columns, or one each."""
    values = tuple(x) if isinstance(x, Sequence) and not isinstance(x, str) else (x, x)
    whole = all(isinstance(v, int | np.integer) and not isinstance(v, bool) and v >= least for v in values)
    if len(values) != 2 or not whole:
        forms = " (or 'same', 'valid', ((top, bottom), (left, right)))" if name == "padding" else ""
        raise TilecError(f"{name} is a whole number of {least} or more, or two of them{forms}: found {x!r}")
    return int(values[0]), int(values[1])
