"""Causal convolutions against float64: every runner, states that carry a sequence on, mistakes."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tilec import ops
from tilec.ops.depthwise_reference import depthwise_reference
from tilec.ops.reference import activation_reference, relative_error

BOUNDS = {np.float64: 1e-13, np.float32: 1e-5, np.float16: 1.5e-3, ml_dtypes.bfloat16: 1e-2}


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def reference(x: np.ndarray, w: np.ndarray, bias: Any, state: Any, activation: str | None) -> np.ndarray:
    whole = x if state is None else np.concatenate([state, x], 2)
    pad = w.shape[1] - 1 if state is None else 0
    y = depthwise_reference(whole[:, :, None], w[:, None, None], bias, padding=((0, 0), (pad, 0)))
    return activation_reference(y[:, :, 0], activation)


@pytest.mark.parametrize("target", ["cpu", "reference", "emulator:sm_80", "emulator:sm_90a"])
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("last", [False, True])
def test_agrees(target: str, dtype: Any, last: bool) -> None:
    for k, length, states in ((4, 37, True), (3, 129, False), (1, 5, False), (7, 2, True)):
        x = (
            normal(2, length, 5, dtype=dtype).transpose(0, 2, 1)
            if last
            else normal(2, 5, length, dtype=dtype)
        )
        w, bias, state = normal(5, k, dtype=dtype), normal(5), normal(2, 5, k - 1, dtype=dtype)
        given = {"activation": "silu", "initial_state": state if states else None}
        with tc.target(target):
            y = ops.causal_conv1d(x, w, bias, **given)
        assert y.dtype == x.dtype and (y.strides[1] == y.itemsize) == last
        wanted = reference(x, w, bias, state if states else None, "silu")
        assert relative_error(y, wanted) < BOUNDS[dtype], (k, length)


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 20])
def test_in_parts_it_is_the_same(cut: int) -> None:
    x, w = normal(2, 3, 21), normal(3, 4)
    whole, end = ops.causal_conv1d(x, w, return_state=True)
    first, state = ops.causal_conv1d(x[:, :, :cut], w, return_state=True)
    second, last = ops.causal_conv1d(x[:, :, cut:], w, initial_state=state, return_state=True)
    np.testing.assert_array_equal(np.concatenate([first, second], 2), whole)
    np.testing.assert_array_equal(last, end)
    np.testing.assert_array_equal(end, x[:, :, -3:])


def test_empty_batch() -> None:
    assert ops.causal_conv1d(normal(0, 3, 8), normal(3, 4)).shape == (0, 3, 8)


@pytest.mark.parametrize("target", ["sm_80", "sm_90a", "cpu"])
def test_compiles(target: str) -> None:
    done = ops.causal_conv1d.compile(batch=1, channels=64, length=1000, k=4, activation="silu", target=target)
    assert done.target == target


X, W = normal(2, 4, 9), normal(4, 3)
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"x": X[0]}, r"x \[N, C, L\] and a weight \[C, k\]: x is f32\[4, 9\], weight f32\[4, 3\]"),
    ({"weight": normal(5, 3)}, r"x \[N, C, L\] and a weight \[C, k\]"),
    ({"weight": W.astype(np.float16)}, "x and weight of one dtype, f16, bf16, f32 or f64: x is f32"),
    ({"weight": normal(4, 64)}, "kernels of up to 63 elements"),
    ({"bias": normal(3)}, r"bias is f32\[3\], expected floats \[4\]"),
    ({"initial_state": normal(2, 4, 3)}, r"initial_state is f32\[2, 4, 3\], expected floats \[2, 4, 2\]"),
    ({"activation": "tanh"}, "expected activation None, 'relu', 'gelu' or 'silu'"),
]


@pytest.mark.parametrize(("wrong", "message"), MISTAKES)
def test_mistakes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(tc.TilecError, match=message):
        ops.causal_conv1d(**({"x": X, "weight": W} | wrong))
