"""Depthwise convolution: every channel is filtered by kernels of its own, small or large.

    y = depthwise_conv(x, weight, bias, padding="same")   # x [N, C, H, W], weight [C * multiplier, 1, kh, kw]
Arguments, order and defaults are those of torch's conv2d with groups=C. Channels may come last, and stay so.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.arrays import Array, array, contiguous, optional, result, sums_in, told
from tilec.ops.depthwise_bands import Bands, bands_kernel
from tilec.ops.depthwise_call import Call, Geometry, depthwise_call, geometry_of, problem_of
from tilec.ops.depthwise_kernel import Conv, depthwise_kernel
from tilec.ops.depthwise_tiling import depthwise_plan
from tilec.ops.epilogue import check_activation
from tilec.ops.op import op
from tilec.ops.tiling import has_threads
from tilec.places import current_target, element_strides


def compile_depthwise(
    *,
    shape: tuple[int, int, int, int],
    kernel_size: int | tuple[int, int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    multiplier: int = 1,
    dtype: Any = "f16",
    bias: bool = False,
    scale: bool = False,
    activation: str | None = None,
    residual: bool = False,
    layout: str = "NCHW",
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel for x of this shape, in the order of `layout`, and weight [C * multiplier, 1, kh, kw]."""
    check_activation(activation)
    kind, images, (outs, _, *size) = problem_of(shape, kernel_size, multiplier, dtype, layout)
    geometry, last = geometry_of(images[2:], (size[0], size[1]), stride, padding, dilation), layout == "NHWC"
    conv = _conv(geometry, multiplier, last, activation)
    y = tc.Spec(kind, (images[0], *conv.ordered(outs, *geometry.extents)))
    per_channel = tc.Spec(kind, (outs,))
    kernel, given = planned(geometry, images, conv, kind, target)
    more = [per_channel if bias else None, per_channel if scale else None, y if residual else None]
    apart = conv.ordered(size[0] * size[1], size[1], 1) if last and not has_threads(target) else None
    weight = tc.Spec(kind, conv.ordered(outs, *size), apart)
    state = [None] if kernel is depthwise_kernel else []
    return kernel.compile(tc.Spec(kind, shape), weight, *more, *state, y, target=target, **given)


@op(compile_depthwise)
def depthwise_conv(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *,
    layout: str = "NCHW",
    scale: Any = None,
    activation: str | None = None,
    residual: Any = None,
    out: Any = None,
) -> Array:
    """activation(conv * scale + bias) + residual, conv[n, o, i, j] = sum over r, q of x[n, o // multiplier,
    i * stride + r * dilation - top, j * stride + q * dilation - left] * weight[o, 0, r, q].

    x [N, C, H, W] (layout "NCHW") or [N, H, W, C] ("NHWC") of f16, bf16, f32 or f64, weight
    [C * multiplier, 1, kh, kw] of the same dtype, up to 63 x 63; bias and scale [C * multiplier]. An x
    [N, C, H, W] whose channels lie next to each other in memory gives a result that does likewise.
    `padding` is a number, (rows, columns), ((top, bottom), (left, right)), "same" or "valid". Sums are in
    f32, or f64 for f64. `activation`: relu, gelu, silu; residual has the result's shape; `out` is written in
    place.
    Raises TilecError for what does not fit.
    """
    check_activation(activation)
    call = depthwise_call(x, weight, stride, padding, dilation, layout)
    if not call.channels_last and lies_last(call.x):
        moved = call._replace(x=call.x.transpose(0, 2, 3, 1), channels_last=True)
        given, kept = (
            None if a is None else _moved(a, name, call) for a, name in ((out, "out"), (residual, "residual"))
        )
        y = _run(moved, bias, scale, activation, kept, given).transpose(0, 3, 1, 2)
        return y if out is None else array(out, "out", rank=4)
    return _run(call, bias, scale, activation, residual, out)


def _run(call: Call, bias: Any, scale: Any, activation: str | None, residual: Any, out: Any) -> Array:
    """The call's kernel; results and residual have the call's order of axes."""
    y = result(out, call.out_shape, call.dtype)
    more = [optional(each, name, (len(call.weight),)) for each, name in ((bias, "bias"), (scale, "scale"))]
    more.append(optional(residual, "residual", call.out_shape))
    launch(call, more, y, activation)
    return y


def launch(
    call: Call, more: list[Array | None], y: Array, activation: str | None, state: Array | None = None
) -> None:
    """Runs the kernel; more: bias, scale, residual."""
    conv = _conv(call.geometry, call.multiplier, call.channels_last, activation)
    run(call.x, call.shape, call.weight, more, y, conv, call.geometry, state)


def run(
    x: Array,
    shape: tuple[int, int, int, int],
    weight: Array,
    more: Sequence[Array | None],
    y: Array,
    conv: Conv,
    geometry: Geometry,
    state: Array | None = None,
) -> None:
    """The kernel that costs least, for x of shape [N, C, H, W] in the order of conv; weight [O, kh, kw]."""
    kernel, given = planned(geometry, shape, conv, find_dtype(x.dtype), current_target())
    if conv.channels_last:
        weight = weight.transpose(1, 2, 0)
        if has_threads(current_target()):  # whose loads are wide along the channels; others copy it anyway
            weight = contiguous(weight, "the weight, with its channels last")
    if kernel is depthwise_kernel:
        kernel(x, weight, *more, state, y, **given)
    else:
        assert state is None, "convolutions with a state have one row, for which bands do not pay"
        kernel(x, weight, *more, y, **given)


def planned(
    geometry: Geometry, shape: tuple[int, int, int, int], conv: Conv, dtype: DType, target: str
) -> tuple[tc.Kernel, dict[str, Any]]:
    """A kernel and its constants."""
    plan = depthwise_plan(geometry, shape, conv, dtype, target)
    if isinstance(plan, Bands):
        return bands_kernel, {"conv": conv, "bands": plan, "warps": plan.warps}
    return depthwise_kernel, {"conv": conv, "cut": plan, "accumulator": sums_in(dtype), "warps": plan.warps}


def lies_last(x: Array) -> bool:
    """Are the channels of x [N, C, H, W] next to each other in memory, and its columns not?"""
    strides = element_strides(x)
    return x.shape[1] > 1 and strides[1] == 1 and strides[3] != 1


def _moved(x: Any, name: str, call: Call) -> Array:
    """An array like the result, [N, C, H, W], with the channels last."""
    given = array(x, name, rank=0)
    if given.shape != call.out_shape:
        raise TilecError(f"{name} is {told(given)}, expected {list(call.out_shape)}")
    return given.transpose(0, 2, 3, 1)


@lru_cache(maxsize=1024)
def _conv(geometry: Geometry, multiplier: int, last: bool, activation: str | None) -> Conv:
    before = (geometry.padding[0][0], geometry.padding[1][0])
    return Conv(geometry.stride, geometry.dilation, before, multiplier, last, activation)
