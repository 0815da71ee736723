"""What fft_conv computes, in float64 numpy: direct sums, and the same by numpy.fft for what is long.

    y[b, h, t] = postgate * (sum over s of k[h, s] * x[b, h, t - s] + skip[h] * x[b, h, t]),  x = pregate * u
The kernels share nothing with this file: it has no factors, no packing, and no order but the natural one.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]
DIRECT = 256  # up to this length sums are made one by one


class Gradients(NamedTuple):
    """Of the arguments of fft_conv; None for those that were not given."""

    u: Any
    k: Any
    k_reverse: Any = None
    skip: Any = None
    pregate: Any = None
    postgate: Any = None


def fft_conv_reference(
    u: ArrayLike, k: ArrayLike, *, mode: str = "causal", k_reverse: ArrayLike | None = None,
    skip: ArrayLike | None = None, pregate: ArrayLike | None = None, postgate: ArrayLike | None = None,
) -> Float64:  # fmt: skip
    """u [B, H, L], k and k_reverse [H, up to L], skip [H], gates as u -> [B, H, L]."""
    x = _times(_f64(u), pregate)
    y = long_convolution(x, taps(k, k_reverse, mode, x.shape[-1]), mode)
    if skip is not None:
        y = y + _f64(skip)[:, None] * x
    return _times(y, postgate)


def fft_conv_backward_reference(
    dy: ArrayLike, u: ArrayLike, k: ArrayLike, *, mode: str = "causal", k_reverse: ArrayLike | None = None,
    skip: ArrayLike | None = None, pregate: ArrayLike | None = None, postgate: ArrayLike | None = None,
) -> Gradients:  # fmt: skip
    """What sum(dy * fft_conv(...)) changes by, for each of the arguments."""
    x, g = _times(_f64(u), pregate), _times(_f64(dy), postgate)
    length = x.shape[-1]
    kernel = taps(k, k_reverse, mode, length)
    dx = long_convolution(g, kernel, mode, flipped=True)
    if skip is not None:
        dx = dx + _f64(skip)[:, None] * g
    lags = correlations(g, x, mode)
    forward = np.asarray(k).shape[-1]
    plain = fft_conv_reference(u, k, mode=mode, k_reverse=k_reverse, skip=skip, pregate=pregate)
    return Gradients(
        _times(dx, pregate),
        lags[:, length : length + forward],
        None if k_reverse is None else _backward_lags(lags, mode, np.asarray(k_reverse).shape[-1], length),
        None if skip is None else (g * x).sum(axis=(0, 2)),
        None if pregate is None else dx * _f64(u),
        None if postgate is None else plain * _f64(dy),
    )


def taps(k: ArrayLike, k_reverse: ArrayLike | None, mode: str, length: int) -> Float64:
    """[H, 2L + 1]: entry L + s is what an input s steps earlier counts for (s < 0: later)."""
    forward = _f64(k)
    found = np.zeros((len(forward), 2 * length + 1))
    found[:, length : length + forward.shape[1]] = forward
    if k_reverse is not None:
        backward = _f64(k_reverse)
        first = length - (1 if mode == "bidirectional_safari" else 0)
        found[:, first - np.arange(backward.shape[1])] += backward
    return found


def long_convolution(x: Float64, kernel: Float64, mode: str, flipped: bool = False) -> Float64:
    """y[t] = sum over s of kernel[L + s] * x[t - s], or of x[t + s] where `flipped`."""
    length = x.shape[-1]
    kernel = kernel[:, ::-1] if flipped else kernel
    period = length if mode == "circular" else 0
    if length <= DIRECT:
        t = np.arange(length)
        apart = t[:, None] - t[None, :]
        matrix = kernel[:, length + apart]
        if period:
            for turn in (-period, period):
                inside = np.abs(apart + turn) <= length
                matrix = matrix + np.where(
                    inside, kernel[:, np.clip(length + apart + turn, 0, 2 * length)], 0
                )
        return np.asarray(np.einsum("hts,bhs->bht", matrix, x))
    size = 4 * length
    spectrum = np.fft.rfft(np.roll(_padded(kernel, size), -length, axis=-1))
    y = np.fft.irfft(np.fft.rfft(_padded(x, size)) * spectrum, size)
    if period:
        return y[..., :length] + y[..., length : 2 * length] + y[..., -length:]
    return y[..., :length]


def correlations(g: Float64, x: Float64, mode: str) -> Float64:
    """[H, 2L + 1]: entry L + s is the sum over batch and t of g[t] * x[t - s]."""
    length = x.shape[-1]
    if length <= DIRECT:
        found = np.zeros((x.shape[1], 2 * length + 1))
        for s in range(-length + 1, length):
            moved = np.roll(x, s, axis=-1)
            if mode != "circular":
                moved[..., : max(s, 0)] = 0
                moved[..., length + min(s, 0) :] = 0
            found[:, length + s] = (g * moved).sum(axis=(0, 2))
        return found
    size = 4 * length
    product = np.fft.rfft(_padded(g, size)) * np.conj(np.fft.rfft(_padded(x, size)))
    lags = np.fft.irfft(product.sum(axis=0), size)
    found = np.concatenate([lags[:, -length:], lags[:, : length + 1]], axis=-1)
    if mode == "circular":
        found[:, length:-1] += found[:, :length]
    return found


def _backward_lags(lags: Float64, mode: str, count: int, length: int) -> Float64:
    first = length - (1 if mode == "bidirectional_safari" else 0)
    return lags[:, first - np.arange(count)]


def _padded(x: Float64, size: int) -> Float64:
    wide = np.zeros((*x.shape[:-1], size))
    wide[..., : x.shape[-1]] = x
    return wide


def _times(x: Float64, gate: ArrayLike | None) -> Float64:
    return x if gate is None else x * _f64(gate)


def _f64(x: ArrayLike) -> Float64:
    return np.asarray(x).astype(np.float64)
