"""Plain operators on torch's tensors: every kind of tensor is right, or an error that says why."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")

import tilec as tc  # noqa: E402
from tilec import ops  # noqa: E402
from tilec.device import library_of, memory_of  # noqa: E402

X, W = torch.linspace(-1, 1, 24).reshape(4, 6), torch.linspace(-2, 1, 30).reshape(5, 6)


class Named(torch.Tensor):
    """A subclass in a module that is not torch's."""


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(dtype: str) -> None:
    x, w = X.to(getattr(torch, dtype)), W.to(getattr(torch, dtype))
    y = ops.linear(x, w)
    assert y.dtype == x.dtype and isinstance(y, torch.Tensor) and not y.requires_grad
    torch.testing.assert_close(y, torch.nn.functional.linear(x, w), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "int8"])
def test_codes(dtype: str, full: bool) -> None:
    if not full and dtype == "int8":
        pytest.skip("make check-all runs it")
    x = (X * 4).to(getattr(torch, dtype))
    y = ops.linear(x, W.half(), x_scale=torch.full((4,), 0.25))
    torch.testing.assert_close(y.float(), 0.25 * x.float() @ W.half().float().T, rtol=2e-3, atol=2e-3)


def test_forms() -> None:
    """Nothing of what torch's strides say is copied."""
    wanted = X @ W.T
    rows = X.repeat_interleave(2, 0)[::2]
    parameter = torch.nn.Parameter(X, False)
    forms = (X.T.contiguous().T, X.repeat(2, 2)[:4, :6], rows, parameter, X.as_subclass(Named), X.numpy())
    with ops.no_copies():
        for x in forms:
            torch.testing.assert_close(ops.linear(x, W), wanted)
        torch.testing.assert_close(ops.linear(X[:1].expand(4, 6), W), wanted[:1].expand(4, 5))
        assert ops.linear(X[:0], W).shape == (0, 5) and ops.linear(X.reshape(2, 2, 6), W).shape == (2, 2, 5)
    with torch.inference_mode():
        torch.testing.assert_close(ops.linear(X.clone(), W.clone()), wanted)
    out = torch.zeros(5, 4).T
    assert ops.linear(X, W, out=out) is out
    torch.testing.assert_close(out, wanted)


def test_results_own_their_memory() -> None:
    y = ops.linear(X, W.clone())
    kept = y.clone()
    held = weakref.ref(y)
    gc.collect()
    np.random.default_rng(0).standard_normal(1000)
    torch.testing.assert_close(y, kept)
    view = y[1:]
    del y
    gc.collect()
    torch.testing.assert_close(view, kept[1:])
    del view
    gc.collect()
    assert held() is None


def test_several_results() -> None:
    q, k, v = torch.randn(3, 1, 7, 2, 8).unbind(0)
    out, lse = ops.attention(q, k, v, return_lse=True)
    merged = ops.merge_attentions([out, out], (lse, lse))
    assert all(isinstance(x, torch.Tensor) for x in (out, lse, *merged))
    weight = ops.quantize(W, "u4")
    assert isinstance(ops.linear(X, weight), torch.Tensor) and weight.shape == (5, 6)
    image = torch.randn(1, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    y = ops.depthwise_conv(image, torch.randn(4, 1, 3, 3))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_on_other_targets() -> None:
    with tc.target("emulator:sm_80"):
        torch.testing.assert_close(ops.linear(X, W), X @ W.T)


def test_what_is_refused() -> None:
    complex_ = torch.randn(4, 6, dtype=torch.complex64)
    for x, message in (
        (X.to_sparse(), "x is not handed out by torch: "),
        (X.to("meta"), "x is not handed out by torch: "),
        (complex_, "DLPack's type 5|complex64"),
        (complex_.conj().imag, "x is not handed out by torch: .*resolve_neg"),
        (torch.tensor(1.0), "x needs at least 1 axes"),
        (X.long(), "x is i64, expected f16, bf16, f32 or f64"),
        (X.clone().requires_grad_(), "x requires a gradient, which is lost here"),
    ):
        with pytest.raises(tc.TilecError, match=message):
            ops.linear(x, W)


def test_whose_arrays_they_are() -> None:
    assert library_of(X) == library_of(torch.nn.Parameter(X)) == library_of(X.as_subclass(Named)) == "torch"
    assert np.shares_memory(memory_of(X, "x"), X.numpy())
    half = X.bfloat16()
    held = memory_of(half, "x")
    assert held.__array_interface__["data"][0] == half.data_ptr()
