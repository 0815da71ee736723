"""Short causal convolutions along sequences, each channel with a kernel of its own, as Mamba has them.

    y = causal_conv1d(x, weight, bias, activation="silu")                         # x [N, C, L], weight [C, k]
    y, state = causal_conv1d(x, weight, initial_state=state, return_state=True)   # the next part
y[n, c, t] = activation(bias[c] + sum over s of weight[c, s] * x[n, c, t - (k - 1) + s])
"""

from typing import Any

import tilec as tc
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.arrays import FLOATS, Array, array, assign, copied, empty, optional, result, told, zeros
from tilec.ops.depthwise import compile_depthwise, launch, lies_last
from tilec.ops.depthwise_call import LARGEST, Call, geometry_of
from tilec.ops.epilogue import check_activation
from tilec.ops.op import op


def compile_causal_conv1d(
    *,
    batch: int,
    channels: int,
    length: int,
    k: int,
    dtype: Any = "f16",
    bias: bool = False,
    activation: str | None = None,
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel for x [batch, channels, length] and weight [channels, k], without an initial state."""
    return compile_depthwise(
        shape=(batch, channels, 1, length),
        kernel_size=(1, k),
        padding=((0, 0), (k - 1, 0)),
        dtype=dtype,
        bias=bias,
        activation=activation,
        target=target,
    )


@op(compile_causal_conv1d)
def causal_conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: str | None = None,
    initial_state: Any = None,
    return_state: bool = False,
) -> Any:
    """y [N, C, L] of x [N, C, L] and weight [C, k] of one dtype, f16, bf16, f32 or f64; bias [C].

    `initial_state` [N, C, k - 1] is what came before x, else zeros. With `return_state` also the state after
    x, an array of its own. `activation`: relu, gelu, silu. Sums are in f32, or f64 for f64. Channels that lie
    next to each other in memory stay so. Raises TilecError for what does not fit.
    """
    check_activation(activation)
    held, filters = _fitting(x, weight)
    (n, c, length), k = held.shape, filters.shape[1]
    before = optional(initial_state, "initial_state", (n, c, k - 1))
    bias = optional(bias, "bias", (c,))
    y = _convolved(held, filters, bias, before if k > 1 else None, activation) if length else copied(held)
    return (y, _state(held, before, k)) if return_state else y


def _convolved(x: Array, weight: Array, bias: Any, state: Any, activation: str | None) -> Array:
    """The kernel, on images of one row."""
    (n, c, length), k = x.shape, weight.shape[1]
    geometry = geometry_of((1, length), (1, k), 1, ((0, 0), (k - 1, 0)), 1)
    image, last = x[:, :, None], lies_last(x[:, :, None])
    before = None if state is None else state[:, :, None]
    if last:
        image, before = image.transpose(0, 2, 3, 1), None if before is None else before.transpose(0, 2, 3, 1)
    call = Call(image, (n, c, 1, length), weight[:, None], 1, geometry, last)
    y = result(None, call.out_shape, call.dtype)
    launch(call, [bias, None, None], y, activation, before)
    return y[:, 0].transpose(0, 2, 1) if last else y[:, :, 0]


def _state(x: Array, before: Array | None, k: int) -> Array:
    """The last k - 1 of what has been seen."""
    n, c, length = x.shape
    missing = max(0, k - 1 - length)
    dtype = find_dtype(x.dtype)
    earlier = zeros((n, c, k - 1), dtype) if before is None else before
    state = empty((n, c, k - 1), dtype)
    assign(state[:, :, :missing], earlier[:, :, k - 1 - missing :])
    assign(state[:, :, missing:], x[:, :, length - (k - 1 - missing) :])
    return state


def _fitting(x: Any, weight: Any) -> tuple[Array, Array]:
    """x [N, C, L] and weight [C, k] of one dtype of floats."""
    held, filters = array(x, "x", rank=1), array(weight, "weight", rank=1)
    found = f"x is {told(held)}, weight {told(filters)}"
    if held.ndim != 3 or filters.ndim != 2 or len(filters) != held.shape[1] or 0 in filters.shape:
        raise TilecError(f"causal_conv1d takes x [N, C, L] and a weight [C, k]: {found}")
    if held.dtype != filters.dtype or find_dtype(held.dtype).name not in FLOATS:
        raise TilecError(f"causal_conv1d takes x and weight of one dtype, f16, bf16, f32 or f64: {found}")
    if filters.shape[1] > LARGEST:
        raise TilecError(f"causal_conv1d takes kernels of up to {LARGEST} elements: {found}")
    return held, filters
