"""Convolutions in torch, with gradients by kernels: depthwise over images, causal along sequences.

y = depthwise_conv(x, weight, bias, padding="same")       # as tilec.ops.depthwise_conv takes and returns it
"""

from typing import Any

import torch

from tilec import ops
from tilec.ops.depthwise_call import checked_shapes, geometry_of
from tilec.torch.products import slope
from tilec.torch.register import Gradient, Tensor, cast, check_no_gradient, register, writing

PLACES = "int[] stride, int[] padding, int[] dilation, str layout"
DEPTHWISE = (
    f"(Tensor x, Tensor weight, Tensor? bias, Tensor? scale, Tensor? residual, str? activation, {PLACES})"
    " -> Tensor"
)
BACKWARD = f"(Tensor x, Tensor weight, Tensor d_out, {PLACES}) -> (Tensor, Tensor, Tensor)"


def _pads(padding: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    top, bottom, left, right = padding
    return (top, bottom), (left, right)


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, residual: Tensor, activation: Any,
               stride: Any, padding: Any, dilation: Any, layout: str, out: Any = None) -> Any:  # fmt: skip
    return ops.depthwise_conv(
        x, weight, bias, tuple(stride), _pads(padding), tuple(dilation), layout=layout, scale=scale,
        activation=activation, residual=residual, out=out,
    )  # fmt: skip


def _like_x(x: Tensor, shape: tuple[Any, ...]) -> Tensor:
    """A tensor [N, C, H, W] whose channels lie next to each other where those of x do."""
    if x.shape[1] > 1 and x.stride(1) == 1 and x.stride(3) != 1:
        return x.new_empty((shape[0], *shape[2:], shape[1])).permute(0, 3, 1, 2)
    return x.new_empty(shape)


def _depthwise_shape(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    stride, padding, dilation, layout = rest[-4:]
    (n, *_, h, w), size = checked_shapes(tuple(x.shape), tuple(weight.shape), layout)
    geometry = geometry_of((h, w), size, tuple(stride), _pads(padding), tuple(dilation))
    if layout == "NHWC":
        return x.new_empty((n, *geometry.extents, weight.shape[0]))
    return _like_x(x, (n, weight.shape[0], *geometry.extents))


def _backward(x: Tensor, weight: Tensor, d_out: Tensor, stride: Any, padding: Any, dilation: Any,
              layout: str) -> Any:  # fmt: skip
    return tuple(ops.depthwise_conv_backward(
        x, weight, d_out, tuple(stride), _pads(padding), tuple(dilation), layout=layout
    ))  # fmt: skip


def _backward_shapes(x: Tensor, weight: Tensor, d_out: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    d_x = x.new_empty(x.shape) if rest[-1] == "NHWC" else _like_x(x, tuple(x.shape))
    return d_x, weight.new_empty(weight.shape), weight.new_empty((weight.shape[0],))


_backward_op = register("depthwise_conv_backward", BACKWARD, _backward, _backward_shapes)


def _of_depthwise(saved: Any, rest: Any, d: Tensor) -> tuple[Any, ...]:
    x, weight, bias, scale, residual = saved
    activation, places = rest[5], rest[6:]
    spread = (-1,) if places[-1] == "NHWC" else (-1, 1, 1)
    d_residual = None if residual is None else d.to(residual.dtype)
    if activation is not None:
        d = slope(activation, d, _depthwise_op(x, weight, bias, scale, None, None, *places))
    axes = (0, 1, 2) if places[-1] == "NHWC" else (0, 2, 3)
    d_bias, d_scale, inner = None, None, d
    if scale is not None:
        d_scale = (d * _depthwise_op(x, weight, None, None, None, None, *places)).sum(axes).to(scale.dtype)
        inner = d * scale.to(d.dtype).reshape(spread)
    d_x, d_weight, summed = _backward_op(x, weight, inner, *places)
    if bias is not None:
        d_bias = (summed if scale is None else d.sum(axes)).to(bias.dtype)
    return d_x, d_weight, d_bias, d_scale, d_residual, None, None, None, None, None


_depthwise_op = register(
    "depthwise_conv", DEPTHWISE, _depthwise, _depthwise_shape, Gradient(lambda x, _: x[:5], _of_depthwise)
)
_depthwise_out = writing("depthwise_conv", DEPTHWISE, _depthwise)


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *,
    layout: str = "NCHW",
    scale: Tensor = None,
    activation: str | None = None,
    residual: Tensor = None,
    out: Tensor = None,
) -> Tensor:
    """ops.depthwise_conv on tensors, with a gradient."""
    x, weight, bias, scale, residual = cast(x, weight, bias, scale, residual)
    (*_, h, w), size = checked_shapes(tuple(x.shape), tuple(weight.shape), layout)
    places = geometry_of((h, w), size, stride, padding, dilation)
    pads = (*places.padding[0], *places.padding[1])
    operands = (x, weight, bias, scale, residual, activation, places.stride, pads, places.dilation, layout)
    if out is None:
        return _depthwise_op(*operands)
    check_no_gradient(out, operands[:5])
    _depthwise_out(*operands, out)
    return out


# Causal convolutions of sequences.

CAUSAL = "(Tensor x, Tensor weight, Tensor? bias, str? activation, Tensor? initial_state) -> Tensor"


def _causal(x: Tensor, weight: Tensor, bias: Tensor, activation: Any, state: Tensor) -> Tensor:
    return ops.causal_conv1d(x, weight, bias, activation=activation, initial_state=state)


def _causal_shape(x: Tensor, *rest: Any) -> Tensor:
    return _like_x(x[:, :, None], tuple(x[:, :, None].shape))[:, :, 0]


def _of_causal(saved: Any, rest: Any, d: Tensor) -> tuple[Any, ...]:
    """The gradients of a depthwise convolution of images of one row, the state before x."""
    x, weight, bias, state = saved
    if x.shape[2] == 0:
        d_x, *others = (None if each is None else torch.zeros_like(each) for each in saved)
        return d_x, *others[:2], None, others[2]
    if rest[3] is not None:
        d = slope(rest[3], d, _causal_op(x, weight, bias, None, state))
    k = weight.shape[1]
    row = x if state is None else torch.cat((state.to(x.dtype), x), 2)
    pads = (0, 0, k - 1 if state is None else 0, 0)
    d_row, d_weight, d_bias = _backward_op(
        row[:, :, None], weight[:, None, None], d[:, :, None], (1, 1), pads, (1, 1), "NCHW"
    )
    d_x = d_row[:, :, 0]
    d_state = None if state is None else d_x[:, :, : k - 1].to(state.dtype)
    return (
        d_x if state is None else d_x[:, :, k - 1 :],
        d_weight[:, 0, 0],
        None if bias is None else d_bias.to(bias.dtype),
        None,
        d_state,
    )


_causal_op = register(
    "causal_conv1d", CAUSAL, _causal, _causal_shape,
    Gradient(lambda x, _: (*x[:3], x[4]), _of_causal),
)  # fmt: skip


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor = None,
    *,
    activation: str | None = None,
    initial_state: Tensor = None,
    return_state: bool = False,
) -> Any:
    """ops.causal_conv1d on tensors, with a gradient, that of the state included."""
    x, weight, bias, initial_state = cast(x, weight, bias, initial_state)
    y = _causal_op(x, weight, bias, activation, initial_state)
    if not return_state:
        return y
    before = x.new_zeros((*x.shape[:2], weight.shape[1] - 1)) if initial_state is None else initial_state
    seen = torch.cat((before.to(x.dtype), x), 2)
    return y, seen[:, :, seen.shape[2] - before.shape[2] :].clone()


# InceptionNeXt's token mixer.

MIXER = (
    "(Tensor x, Tensor square, Tensor row, Tensor column, Tensor? square_bias, Tensor? row_bias,"
    " Tensor? column_bias, str layout) -> Tensor"
)


def _mixer(*args: Any) -> Tensor:
    return ops.inception_depthwise_conv(*args[:-1], layout=args[-1])


def _mixer_shape(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape) if rest[-1] == "NHWC" else _like_x(x, tuple(x.shape))


def _of_mixer(saved: Any, rest: Any, d: Tensor) -> tuple[Any, ...]:
    """Each part is a depthwise convolution of its own."""
    x, layout, axis = saved[0], rest[-1], 3 if rest[-1] == "NHWC" else 1
    weights, biases = saved[1:4], saved[4:]
    counts = [len(w) for w in weights]
    parts = [x.shape[axis] - sum(counts), *counts]
    d_kept, *d_parts = d.split(parts, axis)
    _, *x_parts = x.split(parts, axis)
    found = []
    for part, w, d_part in zip(x_parts, weights, d_parts, strict=True):
        pads = [p for size in w.shape[2:] for p in ((size - 1) // 2, size // 2)]
        found.append(_backward_op(part, w, d_part, (1, 1), pads, (1, 1), layout))
    d_x = torch.cat((d_kept, *(each[0] for each in found)), axis)
    d_biases = (None if b is None else each[2].to(b.dtype) for b, each in zip(biases, found, strict=True))
    return d_x, *(each[1] for each in found), *d_biases, None


_mixer_op = register(
    "inception_depthwise_conv", MIXER, _mixer, _mixer_shape, Gradient(lambda x, _: x[:7], _of_mixer)
)


def inception_depthwise_conv(
    x: Tensor,
    square: Tensor,
    row: Tensor,
    column: Tensor,
    square_bias: Tensor = None,
    row_bias: Tensor = None,
    column_bias: Tensor = None,
    *,
    layout: str = "NCHW",
) -> Tensor:
    """ops.inception_depthwise_conv on tensors, with a gradient."""
    return _mixer_op(*cast(x, square, row, column, square_bias, row_bias, column_bias), layout)
