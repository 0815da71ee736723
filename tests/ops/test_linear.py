"""Quantised linear layers on the meaning and the CPU: every type, size, group and finish, and bad input."""

import itertools
import random

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tilec.ir import dtype as dt
from tilec.ir.errors import TilecError
from tilec.ops.arrays import NOTHING
from tilec.ops.linear import linear
from tilec.ops.linear_kernel import linear_kernel
from tilec.ops.quantize import quantize
from tilec.ops.reference import linear_reference, relative_error
from tilec.ops.tiling import linear_tiling

WEIGHT_TYPES = [d.name for d in dt.ALL if d.bits <= 8 and (d.is_integer or d.kind == "float")]
TOLERANCES = {np.float32: 1e-5, np.float16: 1.5e-3, ml_dtypes.bfloat16: 1e-2}
SIZES = random.Random(5).sample(list(itertools.product((1, 7, 31, 33, 127, 129), repeat=3)), 24)


@pytest.fixture(params=["reference", "cpu"], autouse=True)
def target(request):
    with tc.target(request.param):
        yield request.param


def normal(*shape: int, dtype=np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


def check(x: np.ndarray, weight, bias=None, tolerance: float | None = None, **options) -> None:
    y = linear(x, weight, bias, **options)
    assert y.dtype == x.dtype
    expected = linear_reference(x, weight, bias, **options)
    assert relative_error(y, expected) < (tolerance or TOLERANCES[x.dtype.type])


@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("dtype", WEIGHT_TYPES)
def test_every_type(dtype: str, zero_point: bool):
    q = quantize(normal(33, 129), dtype, group_size=32, zero_point=zero_point)
    check(normal(7, 129, dtype=np.float16), q)


@pytest.mark.parametrize("x", TOLERANCES)
@pytest.mark.parametrize("dtype", ["i3", "u8", "f6e3m2", "f8e5m2"])
def test_every_activation_dtype(dtype: str, x):
    check(normal(5, 96, dtype=x), quantize(normal(40, 96), dtype, group_size=48, zero_point=True))


@pytest.mark.parametrize(("m", "n", "k"), SIZES)
def test_ragged_sizes(m: int, n: int, k: int):
    check(normal(m, k, dtype=np.float16), quantize(normal(n, k), "u5", group_size=64))


@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("group_size", [1, 16, 24, 32, 64, 100, 128, 256, None])
def test_groups(group_size: int | None, zero_point: bool):
    check(normal(4, 300), quantize(normal(9, 300), "i4", group_size=group_size, zero_point=zero_point))


@pytest.mark.parametrize("scale", ["f16", "bf16", "f32", "e8m0", "f8e4m3", "f8e3m4", "f8e2m5"])
def test_scale_dtypes(scale: str):
    check(normal(4, 64), quantize(normal(9, 64), "f4e2m1", group_size=32, scale_dtype=scale))


def test_an_identity_shows_the_weight_itself():
    q = quantize(normal(33, 129), "u3", group_size=43)
    assert np.array_equal(linear(np.eye(129, dtype=np.float32), q), q.dequantize().T)


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "silu"])
@pytest.mark.parametrize("quantised", [False, True])
def test_bias_activation_residual(activation: str | None, quantised: bool):
    x, w, bias = normal(2, 5, 64), normal(33, 64), normal(33)
    weight = quantize(w, "u4", group_size=32) if quantised else w
    check(x, weight, bias, activation=activation)
    check(x, weight, bias, activation=activation, residual=normal(2, 5, 33))
    check(x, weight, activation=activation, residual=normal(2, 5, 33, dtype=np.float16))


@pytest.mark.parametrize("quantised", [False, True])
def test_low_rank(quantised: bool):
    x, w, a, b, bias = normal(7, 64), normal(33, 64), normal(20, 64), normal(33, 20), normal(33)
    weight = quantize(w, "u2", group_size=32) if quantised else w
    dense = weight.dequantize() if quantised else w
    y = linear(x, weight, bias, low_rank=(a, b), activation="relu")
    whole = dense.astype(np.float64) + b.astype(np.float64) @ a
    assert relative_error(y, linear_reference(x, whole, bias, activation="relu")) < 1e-5


@pytest.mark.parametrize("dtype", ["i8", "f8e4m3", "f8e5m2"])
def test_scaled_activations_of_8_bits(dtype: str):
    held = {"i8": np.int8, "f8e4m3": ml_dtypes.float8_e4m3fn, "f8e5m2": ml_dtypes.float8_e5m2}[dtype]
    x, scale, q = (normal(3, 5, 64) * 8).astype(held), np.abs(normal(3, 5, 1)), quantize(normal(33, 64), "i4")
    expected = linear_reference(x.astype(np.float64) * scale, q, normal(33))
    for given in (scale, scale[..., 0]):
        y = linear(x, q, normal(33), x_scale=given)
        assert y.dtype == np.float16 and relative_error(y, expected) < 1.5e-3
        assert relative_error(linear(x, q, normal(33), x_scale=given, out_dtype="f32"), expected) < 1e-5


def test_results_are_written_where_asked():
    x, q = normal(2, 3, 64), quantize(normal(33, 64), "u4")
    out = np.full((2, 3, 33), np.nan, np.float16)
    assert linear(x, q, out=out) is out
    assert relative_error(out, linear_reference(x, q)) < 1.5e-3
    assert linear(x.astype(np.float16), q, out_dtype="f32").dtype == np.float32
    assert linear(x.astype(np.float16), q, out_dtype="bf16").dtype == ml_dtypes.bfloat16


def test_no_rows():
    assert linear(normal(0, 64), quantize(normal(33, 64), "u4")).shape == (0, 33)
    assert linear(normal(2, 0, 64), normal(33, 64)).shape == (2, 0, 33)


def test_one_row_of_no_leading_axes():
    check(normal(64), quantize(normal(33, 64), "u4"))


@pytest.mark.parametrize("group_size", [32, 24, None])
@pytest.mark.parametrize("dtype", ["u4", "i3", "f8e4m3", "u1"])
def test_the_kernel_of_a_gpu_means_the_same(dtype: str, group_size: int | None):
    """The same text with the fragment of mma.sync, in numpy."""
    x, q = normal(5, 100, dtype=np.float16), quantize(normal(70, 100), dtype, group_size=group_size)
    tiling, y = (
        linear_tiling(5, dt.dtype("f16"), group_size or 0, "sm_80", q.dtype.bits),
        np.full((5, 70), np.nan, np.float16),
    )
    linear_kernel.meaning(
        x, q.packed(tiling.fragment, tiling.placed), q.kernel_scales, q.kernel_zeros, y, *[NOTHING] * 7,
        weight=q.dtype, group=group_size or 0, compute=tc.f16, **tiling._asdict(),
    )  # fmt: skip
    assert relative_error(y, linear_reference(x, q)) < 1.5e-3


X, Q = normal(2, 64), quantize(normal(33, 64), "u4")


@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        (normal(2, 63), Q, {}, r"x \[..., K\] and a weight \[N, K\]: x is \[2, 63\], the weight \[33, 64\]"),
        (X.astype(np.float64), Q, {}, "x is f64, expected f16, bf16 or f32 for a quantised weight: x.astype"),
        (X.astype(np.int8), Q, {}, "x is i8, expected f16, bf16, f32 or f64"),
        ([1.0], Q, {}, "x takes an array, found list"),
        (X, normal(64), {}, r"linear takes a weight \[N, K\], .* found shape \[64\]"),
        (X, "u4", {}, r"linear takes a weight \[N, K\], a QuantizedWeight or an array, found str"),
        (X, normal(33, 64, dtype=np.float16), {}, "a dense weight of linear has the dtype of its products"),
        (X, Q, {"bias": normal(32)}, r"bias is f32\[32\], expected floats \[33\]"),
        (X, Q, {"bias": np.zeros(33, np.int32)}, r"bias is i32\[33\], expected floats \[33\]"),
        (X, Q, {"residual": normal(33)}, r"residual is f32\[33\], expected floats \[2, 33\]"),
        (X, Q, {"activation": "swish"}, "expected activation None, 'relu', 'gelu' or 'silu', found 'swish'"),
        (X, Q, {"x_scale": normal(3)}, r"x_scale is f32\[3\], expected floats \[2\]"),
        (X, Q, {"low_rank": normal(2, 2)}, r"low_rank is a pair \(a \[R, K\], b \[N, R\]\), found ndarray"),
        (X, Q, {"low_rank": (normal(4, 64), normal(32, 4))}, r"\(a \[R, 64\], b \[33, R\]\) here, found"),
        (X, Q, {"out": normal(2, 32)}, r"out is f32\[2, 32\], and the result f32\[2, 33\]"),
        (X, Q, {"out_dtype": "u4"}, "numpy has no u4: expected a dtype like f32, f16"),
    ],
)  # fmt: skip
def test_bad_input(x, weight, options, message):
    with pytest.raises(TilecError, match=message):
        linear(x, weight, **options)
