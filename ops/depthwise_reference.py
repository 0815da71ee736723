"""What depthwise convolutions compute, in float64 numpy: sums over shifted images, to hold kernels against.

y[n, o, i, j] = sum over r, q of weight[o, 0, r, q] * x[n, o // m, i * stride + r * dilation - top, ...]
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = np.ndarray[Any, Any]
Float64 = NDArray[np.float64]
Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def depthwise_reference(
    x: Array, weight: Array, bias: Array | None = None, stride: Pair = (1, 1),
    padding: Pads = ((0, 0), (0, 0)), dilation: Pair = (1, 1),
) -> Float64:  # fmt: skip
    """[N, O, Y, X] of x [N, C, H, W], weight [O, 1, kh, kw], bias [O], where O = C * multiplier."""
    filters = np.asarray(weight, np.float64)
    wide = np.repeat(_padded(x, padding), len(filters) // x.shape[1], axis=1)
    extents = _extents(wide, filters, stride, dilation)
    y = np.zeros((x.shape[0], len(filters), *extents))
    for r, q in np.ndindex(filters.shape[2:]):
        y += wide[_seen(r, q, extents, stride, dilation)] * filters[:, 0, r, q, None, None]
    return y if bias is None else y + np.asarray(bias, np.float64)[:, None, None]


def depthwise_backward_reference(
    x: Array, weight: Array, d_out: Array, stride: Pair = (1, 1), padding: Pads = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
) -> tuple[Float64, Float64, Float64]:  # fmt: skip
    """The gradients of sum(y * d_out): those of x, weight and bias, in their shapes."""
    filters, above = np.asarray(weight, np.float64), np.asarray(d_out, np.float64)
    wide, multiplier = _padded(x, padding), len(filters) // x.shape[1]
    repeated, d_wide = np.repeat(wide, multiplier, axis=1), np.zeros_like(wide)
    d_weight = np.zeros_like(filters)
    for r, q in np.ndindex(filters.shape[2:]):
        seen = _seen(r, q, above.shape[2:], stride, dilation)
        d_weight[:, 0, r, q] = (repeated[seen] * above).sum((0, 2, 3))
        parts = above * filters[:, 0, r, q, None, None]
        d_wide[seen] += parts.reshape(len(x), -1, multiplier, *above.shape[2:]).sum(2)
    (top, _), (left, _) = padding
    d_x = d_wide[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    return d_x, d_weight, above.sum((0, 2, 3))


def _padded(x: Array, padding: Pads) -> Float64:
    return np.pad(np.asarray(x, np.float64), ((0, 0), (0, 0), *padding))


def _extents(wide: Array, filters: Array, stride: Pair, dilation: Pair) -> Pair:
    spans = (d * (k - 1) + 1 for d, k in zip(dilation, filters.shape[2:], strict=True))
    y, x = ((n - span) // s + 1 for n, span, s in zip(wide.shape[2:], spans, stride, strict=True))
    return y, x


def _seen(r: int, q: int, extents: tuple[int, ...], stride: Pair, dilation: Pair) -> tuple[slice, ...]:
    """Where one element of the kernel looks."""
    starts = (r * dilation[0], q * dilation[1])
    cuts = (slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, extents, stride, strict=True))
    return (slice(None), slice(None), *cuts)
