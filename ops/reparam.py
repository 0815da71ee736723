"""UniRepLKNet's branches made one: dilated kernels and batch norms become a kernel and a bias.

    weight, bias = merge_reparam(Branch(large, norm), [Branch(small, norm, dilation=2), ...])
    depthwise_conv(x, weight, bias, padding="same") == the sum of all branches, in evaluation mode
A batch norm of constants scales its convolution and shifts it; a dilated kernel is one with zeros between; a
small kernel stands in the middle of a large one (Ding et al., "UniRepLKNet", 2023, after their "RepVGG").
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tilec.device import memory_of
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError

Array = np.ndarray[Any, Any]
Float64 = NDArray[np.float64]


class BatchNorm(NamedTuple):
    """Of each channel, [C]: (y - mean) / sqrt(variance + eps) * weight + bias."""

    mean: Any
    variance: Any
    weight: Any = None
    bias: Any = None
    eps: float = 1e-5


class Branch(NamedTuple):
    """A depthwise convolution of stride 1 that keeps the extents: weight [C, 1, kh, kw] and bias [C], then a
    batch norm.
    """

    weight: Any
    norm: BatchNorm | None = None
    dilation: int | tuple[int, int] = 1
    bias: Any = None


class Merged(NamedTuple):
    """weight [C, 1, kh, kw] and bias [C] of what all branches are together."""

    weight: Array
    bias: Array


def merge_reparam(large: Branch, branches: Sequence[Branch] = ()) -> Merged:
    """The kernel and bias that compute the sum of the branches, in the shape and dtype of large's weight.

    Arrays of numpy or others'; the results are numpy's. Sums are made in f64 and rounded once. Kernels have
    odd extents, and span no more than the large one; dilations are whole numbers, or (rows, columns).
    Raises TilecError for what does not fit.
    """
    shape, dtype = _checked_kernel(large, "the large branch").shape, _array(large.weight).dtype
    if large.dilation not in (1, (1, 1)):
        raise TilecError(f"the large branch is not dilated: found dilation {large.dilation}")
    weight, bias = np.zeros(shape), np.zeros(shape[0])
    for number, branch in enumerate((large, *branches)):
        name = f"branch {number}" if number else "the large branch"
        kernel = _dilated(_checked_kernel(branch, name), branch.dilation, name)
        scale, shift = _norm(branch, shape[0], name)
        _middle(weight, kernel, name)[...] += kernel * scale[:, None, None, None]
        bias += shift
    return Merged(weight.astype(dtype), bias.astype(dtype))


def _norm(branch: Branch, channels: int, name: str) -> tuple[Float64, Float64]:
    """What the branch's batch norm makes of y = conv + bias: y * scale + shift without its bias."""
    bias = _per_channel(branch.bias, 0.0, channels, f"the bias of {name}")
    if branch.norm is None:
        return np.ones(channels), bias
    fields = zip(BatchNorm._fields[:4], branch.norm[:4], (0.0, 1.0, 1.0, 0.0), strict=True)
    mean, variance, weight, add = (_per_channel(x, d, channels, f"{f} of {name}") for f, x, d in fields)
    if not np.all(variance + branch.norm.eps > 0):
        raise TilecError(f"the variance of {name} is negative: pass a batch norm's running_var")
    scale = weight / np.sqrt(variance + branch.norm.eps)
    return scale, add + (bias - mean) * scale


def _dilated(kernel: Float64, dilation: int | tuple[int, int], name: str) -> Float64:
    """The kernel with zeros between its elements."""
    down, right = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    if not all(isinstance(d, int | np.integer) and d >= 1 for d in (down, right)):
        raise TilecError(f"the dilation of {name} is {dilation}, expected 1 or more, or (rows, columns)")
    c, one, kh, kw = kernel.shape
    wide = np.zeros((c, one, down * (kh - 1) + 1, right * (kw - 1) + 1))
    wide[:, :, ::down, ::right] = kernel
    return wide


def _middle(weight: Float64, kernel: Float64, name: str) -> Float64:
    """The part of the large weight on which the kernel's middle is its own."""
    (c, _, kh, kw), (outs, _, h, w) = kernel.shape, weight.shape
    if c != outs or kh > h or kw > w:
        raise TilecError(
            f"{name} spans {c} kernels of {kh} x {kw}: expected {outs}, of at most {h} x {w}, as the "
            "large branch has"
        )
    top, left = (h - kh) // 2, (w - kw) // 2
    return weight[:, :, top : top + kh, left : left + kw]


def _checked_kernel(branch: Branch, name: str) -> Float64:
    kernel = _array(branch.weight)
    odd = kernel.ndim == 4 and all(k % 2 for k in kernel.shape[2:])
    if not odd or kernel.shape[1] != 1 or not find_dtype(kernel.dtype).is_float:
        raise TilecError(
            f"the weight of {name} is {kernel.dtype}{list(kernel.shape)}: expected floats [C, 1, kh, kw], of "
            "odd extents, which alone have a middle"
        )
    return kernel.astype(np.float64)


def _per_channel(x: Any, otherwise: float, channels: int, name: str) -> Float64:
    if x is None:
        return np.full(channels, otherwise)
    found = _array(x).astype(np.float64)
    if found.shape != (channels,):
        raise TilecError(f"{name} is of shape {list(found.shape)}, expected [{channels}]")
    return found


def _array(x: Any) -> Array:
    """numpy's, of any library's array: parameters of a torch module too."""
    held = memory_of(x.detach() if hasattr(x, "detach") else x, "a parameter")
    if held is None:
        raise TilecError(f"merge_reparam takes arrays, found {type(x).__name__}")
    return held if isinstance(held, np.ndarray) else held.numpy()
