"""Gradients of depthwise convolution: of the image, of the kernels, of the bias.

d_x, d_weight, d_bias = depthwise_conv_backward(x, weight, d_out, padding="same")
"""

from math import prod
from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ops.arrays import Array, array, assign, empty, numpy_dtype, sums_in, told, total_kernel, zeros
from tilec.ops.depthwise import lies_last, run
from tilec.ops.depthwise_call import Call, Geometry, depthwise_call, geometry_of, problem_of
from tilec.ops.depthwise_gradients import Phase, phases, weight_gradient_kernel
from tilec.ops.depthwise_kernel import Conv
from tilec.ops.depthwise_tiling import depthwise_strip
from tilec.ops.op import op
from tilec.places import current_target


class DepthwiseGradients(NamedTuple):
    """Of sum(y * d_out): those of x, weight and bias, in their shapes and x's dtype."""

    x: Array
    weight: Array
    bias: Array


def compile_depthwise_backward(
    *,
    shape: tuple[int, int, int, int],
    kernel_size: int | tuple[int, int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    multiplier: int = 1,
    dtype: Any = "f16",
    layout: str = "NCHW",
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel of the weight's and bias's gradients, for x of this shape, in the order of `layout`. That of
    x is the forward kernel.
    """
    kind, images, (outs, _, *size) = problem_of(shape, kernel_size, multiplier, dtype, layout)
    g, sums = geometry_of(images[2:], (size[0], size[1]), stride, padding, dilation), sums_in(kind)
    conv = _conv(g, multiplier, layout == "NHWC")
    strip = depthwise_strip(g, images, conv, sums, target)
    return weight_gradient_kernel.compile(
        tc.Spec(kind, shape),
        tc.Spec(kind, (images[0], *conv.ordered(outs, *g.extents))),
        tc.Spec(sums, (strip.parts, outs, *size)),
        tc.Spec(sums, (strip.parts, outs)),
        target=target,
        size=g.size,
        conv=conv,
        strip=strip,
        accumulator=sums,
        warps=strip.warps,
    )


@op(compile_depthwise_backward)
def depthwise_conv_backward(
    x: Any,
    weight: Any,
    d_out: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *,
    layout: str = "NCHW",
) -> DepthwiseGradients:
    """The gradients of sum(y * d_out) where y = depthwise_conv(x, weight, bias, ...) with the same arguments;
    d_out has y's shape and dtype. Sums are in f32, or f64 for f64, in a fixed order: the same bits every
    time. Raises TilecError for what does not fit.
    """
    call = depthwise_call(x, weight, stride, padding, dilation, layout)
    above = array(d_out, "d_out", rank=0)
    if above.shape != call.out_shape or above.dtype != call.x.dtype:
        raise TilecError(
            f"d_out is {told(above)}, "
            f"expected {call.dtype}{list(call.out_shape)}"
        )
    if call.channels_last or not lies_last(call.x):
        return _gradients(call, above)
    moved = call._replace(x=call.x.transpose(0, 2, 3, 1), channels_last=True)
    d_x, d_weight, d_bias = _gradients(moved, above.transpose(0, 2, 3, 1))
    return DepthwiseGradients(d_x.transpose(0, 3, 1, 2), d_weight, d_bias)


def _gradients(call: Call, above: Array) -> DepthwiseGradients:
    return DepthwiseGradients(image_gradient(call, above), *weight_gradient(call, above))


def image_gradient(call: Call, above: Array) -> Array:
    """d_x, phase after phase."""
    g, axes = call.geometry, (1, 2) if call.channels_last else (2, 3)
    rows, columns = (phases(g.size[a], g.stride[a], g.dilation[a], g.padding[a][0]) for a in (0, 1))
    d_x = empty(call.x.shape, call.dtype)
    for down in rows:
        for right in columns:
            cuts = [slice(None)] * 4
            cuts[axes[0]], cuts[axes[1]] = (
                slice(p.first, None, len(ps)) for p, ps in ((down, rows), (right, columns))
            )
            _one_phase(call, above, d_x[tuple(cuts)], down, right)
    return d_x


def _one_phase(call: Call, above: Array, d_x: Array, down: Phase, right: Phase) -> None:
    """The part of d_x that sees the same part of the kernel: d_out filtered with it, turned around."""
    if not down.taps or not right.taps:
        assign(d_x, zeros(d_x.shape, call.dtype))
        return
    weight = call.weight[:, down.tap :: down.skip, right.tap :: right.skip]
    last = call.channels_last
    extents = d_x.shape[1:3] if last else d_x.shape[2:]
    image = above.shape[1:3] if last else above.shape[2:]
    conv = Conv(
        (1, 1),
        (down.dilation, right.dilation),
        (down.before, right.before),
        1,
        last,
        None,
        call.multiplier,
        True,
    )
    geometry = Geometry(weight.shape[1:], (1, 1), ((0, 0), (0, 0)), conv.dilation, image, extents)
    shape = (call.shape[0], len(call.weight), *image)
    run(above, shape, weight, (None, None, None), d_x, conv, geometry)


def weight_gradient(call: Call, above: Array) -> tuple[Array, Array]:
    """d_weight and d_bias: sums of blocks, and their sum."""
    g, sums = call.geometry, sums_in(call.dtype)
    conv = _conv(g, call.multiplier, call.channels_last)
    strip = depthwise_strip(g, call.shape, conv, sums, current_target())
    parts, outs = strip.parts, len(call.weight)
    found = empty((parts, *call.weight.shape), sums), empty((parts, outs), sums)
    weight_gradient_kernel(
        call.x, above, *found, size=g.size, conv=conv, strip=strip, accumulator=sums, warps=strip.warps
    )
    d_weight, d_bias = (_total(each, call.dtype) for each in found)
    return d_weight.reshape(outs, 1, *g.size), d_bias


def _total(partial: Array, dtype: DType) -> Array:
    """The sum over the first axis."""
    if len(partial) == 1 and partial.dtype == numpy_dtype(dtype):
        only: Array = partial[0]
        return only
    total = empty((prod(partial.shape[1:]),), dtype)
    total_kernel(partial.reshape(len(partial), -1), total)
    return total.reshape(partial.shape[1:])


def _conv(g: Geometry, multiplier: int, last: bool) -> Conv:
    return Conv(g.stride, g.dilation, (g.padding[0][0], g.padding[1][0]), multiplier, last)
