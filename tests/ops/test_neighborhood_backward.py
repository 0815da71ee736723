"""Gradients of neighborhood attention against the float64 definition's."""

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tests.ops.attention_cases import BOUNDS, mixture, normal, tensors
from tilec import ops
from tilec.ir.errors import TilecError
from tilec.ops.neighborhood_reference import neighborhood_backward_reference
from tilec.ops.reference import relative_error


def check(q, k, v, kernel_size, lse_too=True, **options) -> None:
    d_out = normal(*q.shape[:-1], v.shape[-1], dtype=q.dtype, seed=7)
    out, lse = ops.neighborhood_attention(q, k, v, kernel_size, return_lse=True, **options)
    d_lse = normal(*lse.shape, dtype=lse.dtype, seed=8) if lse_too else None
    found = ops.neighborhood_attention_backward(q, k, v, out, lse, d_out, kernel_size, d_lse=d_lse, **options)
    expected = neighborhood_backward_reference(q, k, v, kernel_size, d_out, d_lse, **options)
    for name, x, y in zip(found._fields, found, expected, strict=True):
        assert (x is None) == (y is None), name
        if x is not None:
            assert vanishes(y, x) or relative_error(x, y) < 2 * BOUNDS[q.dtype.type], name


def vanishes(expected: np.ndarray, found: np.ndarray) -> bool:
    """A gradient of zero, as where each query sees one key: found up to rounding."""
    return np.abs(expected).max() < 1e-12 and np.abs(found).max() < 1e-2


@pytest.mark.parametrize(
    ("extents", "options"),
    [
        ((13,), {"kernel_size": 5}),
        ((13,), {"kernel_size": 4, "stride": 3, "dilation": 2, "is_causal": True}),
        ((13,), {"kernel_size": 5, "stride": 2, "dilation": 2, "border": "zero"}),
        ((9, 11), {"kernel_size": (5, 4), "dilation": (1, 2), "stride": (2, 1), "is_causal": (False, True)}),
        ((9, 11), {"kernel_size": (3, 5), "border": "zero", "scale": 0.3}),
        ((4, 5, 6), {"kernel_size": (3, 2, 5), "lse_too": False}),
    ],
)
def test_windows(extents, options):
    check(*tensors(extents), **options)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_dtypes(dtype):
    check(*tensors((6, 7), dim=16, dtype=dtype), 3, lse_too=False)


def test_heads_share_keys_and_additional_ones():
    q, k, v = tensors((5, 6), heads=6, kv_heads=2, value_dim=16)
    added = {"additional_keys": normal(2, 5, 2, 8), "additional_values": normal(2, 5, 2, 16, seed=1)}
    check(q, k, v, 3, is_causal=(True, False), **added)


@pytest.mark.parametrize("border", ["shift", "zero"])
def test_bias(border):
    check(*tensors((6, 7)), (4, 3), dilation=(1, 2), stride=(2, 1), bias=normal(2, 7, 5), border=border)


def test_biases_that_hide_keys():
    """All keys of the first head, and so its gradients are 0; every other one of the second."""
    bias = normal(2, 9)
    bias[0], bias[1, ::2] = -np.inf, -np.inf
    check(*tensors((13,)), 5, bias=bias)


def test_mixtures(full):
    for seed in range(200, 500 if full else 204):
        (q, k, v), options = mixture(seed)
        check(q, k, v, **options)


def test_mixtures_mean_the_same(full):
    with tc.target("reference"):
        for seed in range(600, 620 if full else 601):
            (q, k, v), options = mixture(seed)
            check(q, k, v, **options)


@pytest.mark.parametrize("target", ["emulator:sm_80", "emulator:sm_90a"])
def test_mixtures_on_emulated_gpus(full, target):
    """Results and gradients, in the dtypes that tensor cores multiply and in f32; every check is on."""
    first = 1003 if target.endswith("80") else 1006
    for seed in range(first, first + (20 if full else 1)):
        arrays, options = mixture(seed)
        dtype = (np.float16, ml_dtypes.bfloat16, np.float32)[seed % 3]
        q, k, v = (x.astype(dtype) for x in arrays)
        for name in ("additional_keys", "additional_values"):
            if name in options:
                options[name] = options[name].astype(dtype)
        with tc.target(target):
            check(q, k, v, **options)


def test_same_bits_every_time():
    q, k, v = tensors((9, 11))
    out, lse = ops.na2d(q, k, v, 5, return_lse=True)
    first, second = (ops.neighborhood_attention_backward(q, k, v, out, lse, out, 5) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))


def test_no_batch():
    q, k, v = tensors((6,), batch=0)
    found = ops.neighborhood_attention_backward(q, k, v, q, np.empty((0, 6, 2), np.float32), q, 3)
    assert [x.shape for x in found[:3]] == [q.shape] * 3


def test_no_additional_keys():
    """Given, though none: their gradients are there too."""
    q, k, v = tensors((6,))
    out, lse = ops.na1d(q, k, v, 3, additional_keys=q[:, :0], additional_values=v[:, :0], return_lse=True)
    assert np.array_equal(out, ops.na1d(q, k, v, 3))
    found = ops.neighborhood_attention_backward(
        q, k, v, out, lse, out, 3, additional_keys=q[:, :0], additional_values=v[:, :0]
    )
    assert found.additional_keys.shape == found.additional_values.shape == (2, 0, 2, 8)


def test_bad_input():
    q, k, v = tensors((6,))
    lse = np.zeros((2, 6, 2), np.float32)
    for given, message in (
        ((q[..., :4], lse, q), r"out is f32\[2, 6, 2, 4\], expected f32\[2, 6, 2, 8\]"),
        ((q, lse[..., :1], q), r"lse is f32\[2, 6, 1\], expected f32\[2, 6, 2\]"),
        ((q, lse, q.astype(np.float16)), r"d_out is f16\[2, 6, 2, 8\], expected f32"),
    ):
        with pytest.raises(TilecError, match=message):
            ops.neighborhood_attention_backward(q, k, v, *given, 3)
    with pytest.raises(TilecError, match=r"d_lse is f32\[2, 6\], expected f32\[2, 6, 2\]"):
        ops.neighborhood_attention_backward(q, k, v, q, lse, q, 3, d_lse=lse[..., 0])
