"""Every kind of argument on every runner: packed and strided arrays, small dtypes, scalars numpy lacks."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec as tc

Array = np.ndarray[Any, Any]
everywhere = pytest.mark.parametrize("target", ["reference", "cpu", "emulator:sm_80"])


@tc.kernel
def copy(x: tc.Array, out: tc.Array):
    X, OUT = x.tiles((4, 8)), out.tiles((4, 8))
    i, j = tc.blocks(*X.shape)
    OUT[i, j] = X[i, j].to(out.dtype)


@tc.kernel
def axpy(x: tc.Array, y: tc.Array, alpha: tc.bf16, n: tc.i64, flag: tc.bool, *, block=64):
    X, Y = x.tiles((block,)), y.tiles((block,))
    i = tc.blocks(*Y.shape)
    if flag:
        Y[i] = X[i] * alpha.to(x.dtype) + n.to(tc.i32).to(x.dtype)


def copied(target: str, x: Any, dtype: Any = np.float32) -> Array:
    out = np.zeros(x.shape, dtype)
    copy.on(target)(x, out)
    return out


@everywhere
def test_packed(target: str) -> None:
    values = np.arange(60).reshape(6, 10) % 8
    x = tc.packed(tc.pack(values, "u3"), "u3", (6, 10))
    np.testing.assert_array_equal(copied(target, x), values)
    whole = tc.packed(tc.pack(values[:, :8], "u3"), "u3", (6, 8))
    out = tc.packed(np.zeros(whole.nbytes, np.uint8), "u3", (6, 8))
    copy.on(target)(whole, out)
    np.testing.assert_array_equal(out.bytes, whole.bytes)


@everywhere
def test_strided(target: str) -> None:
    x = np.arange(400, dtype=np.float32).reshape(20, 20)
    for view in (x.T, x[1::2, 2::3], x[:, 3:4], np.broadcast_to(x[3], (7, 20)), x[:0], x[3:, 5:]):
        np.testing.assert_array_equal(copied(target, view), view)
    out = np.zeros_like(x)
    copy.on(target)(x[:10, :6], out[::2, 5:11])
    want = np.zeros_like(x)
    want[::2, 5:11] = x[:10, :6]
    np.testing.assert_array_equal(out, want)


@everywhere
@pytest.mark.parametrize(
    "dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.int8, np.bool_, np.float64]
)
def test_small_and_wide_dtypes(target: str, dtype: Any) -> None:
    values = np.arange(60, dtype=np.float32).reshape(6, 10)
    x = (values % 2 if dtype is np.bool_ else values / 4).astype(dtype)
    out = copied(target, x)
    np.testing.assert_array_equal(out, x.astype(np.float32))
    np.testing.assert_array_equal(copied(target, out, dtype).view(np.uint8), x.view(np.uint8))
    np.testing.assert_array_equal(copied(target, x.T), x.T.astype(np.float32))


@everywhere
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_scalars(target: str, dtype: Any) -> None:
    x, y = np.arange(100).astype(dtype), np.zeros(100, dtype)
    axpy.on(target)(x, y, 0.5, 3, False)
    assert not y.astype(np.float32).any()
    axpy.on(target)(x, y, 0.5, 3, True)
    np.testing.assert_array_equal(
        y.astype(np.float32), (np.arange(100) * 0.5 + 3).astype(dtype).astype(np.float32)
    )
