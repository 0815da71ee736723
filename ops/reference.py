"""What the operators compute, in float64 numpy: plain definitions, to hold kernels against.

relative_error(ops.linear(x, q), linear_reference(x, q)) < 1.5e-3      # f16
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilec.ir.errors import TilecError
from tilec.ops.sparse_weight import SparseWeight
from tilec.ops.weight import QuantizedWeight

Array = np.ndarray[Any, Any]
Float64 = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Float64) -> Float64:
    """1 / (1 + exp(-x)) by way of tanh, which does not overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


ACTIVATIONS: dict[str | None, Callable[[Float64], Float64]] = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "silu": lambda x: x * _sigmoid(x),
}


def activation_reference(x: ArrayLike, name: str | None) -> Float64:
    """relu, gelu (with erf), silu, or None for x itself. Raises TilecError for another name."""
    if name not in ACTIVATIONS:
        raise TilecError(f"expected activation None, 'relu', 'gelu' or 'silu', found {name!r}")
    return ACTIVATIONS[name](np.asarray(x, np.float64))


def linear_reference(
    x: ArrayLike,
    weight: QuantizedWeight | SparseWeight | ArrayLike,
    bias: ArrayLike | None = None,
    *,
    activation: str | None = None,
    residual: ArrayLike | None = None,
) -> Float64:
    """activation(x @ weight^T + bias) + residual: x [..., K], weight [N, K] -> [..., N]."""
    dense = weight.dequantize() if isinstance(weight, QuantizedWeight | SparseWeight) else weight
    y = matmul_reference(x, np.asarray(dense, np.float64).T)
    if bias is not None:
        y = y + np.asarray(bias, np.float64)
    y = activation_reference(y, activation)
    return y if residual is None else y + np.asarray(residual, np.float64)


def matmul_reference(a: ArrayLike, b: ArrayLike) -> Float64:
    """a [..., M, K] @ b [..., K, N]."""
    return np.asarray(np.matmul(np.asarray(a, np.float64), np.asarray(b, np.float64)))


def relative_error(found: ArrayLike, expected: ArrayLike) -> float:
    """|found - expected| / |expected| in the 2-norm. A result that is all zeros, or not finite, is infinitely
    wrong unless that is what was expected.
    """
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if a.shape != b.shape or not np.isfinite(a).all():
        return math.inf
    length = float(np.linalg.norm(b))
    if length == 0 or not a.any():
        return 0.0 if np.array_equal(a, b) else math.inf
    return float(np.linalg.norm(a - b)) / length
