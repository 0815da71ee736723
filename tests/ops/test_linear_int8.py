"""Layers whose activations are rounded to bytes: the stated bound, and the same on every runner."""

import itertools
import random
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tilec.ir import dtype as dt
from tilec.ir.errors import TilecError
from tilec.ops.activations import rounded
from tilec.ops.linear import linear
from tilec.ops.quantize import quantize
from tilec.ops.reference import linear_reference, relative_error

INTEGERS = [d.name for d in dt.ALL if d.bits <= 8 and d.is_integer]
GROUPS = (16, 24, 32, 64, 128, 192, None)
CASES = list(itertools.product(INTEGERS, (False, True), GROUPS, (1, 7, 16, 129)))
ON_A_GPU = [("u4", False, 64, 20), ("i3", True, 32, 3), ("u1", False, None, 3), ("u5", False, 24, 3)]
SAMPLE = random.Random(3).sample(CASES, 10)


def normal(*shape: int, dtype=np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


def bound(x: np.ndarray, weight) -> np.ndarray:
    """What the class promises, and a little for sums in f32."""
    x64, w64 = np.abs(x.astype(np.float64)), np.abs(weight.dequantize().astype(np.float64))
    return x64.max(1)[:, None] / 254 * w64.sum(1) * (1 + 1e-5) + 1e-6 * (x64 @ w64.T)


def check_all(case: tuple) -> None:
    """One problem: within the bound, and bit for bit the reference's wherever sums are of bytes."""
    weight, zero_point, group, m = case
    q, x = quantize(normal(21, 203), weight, group_size=group, zero_point=zero_point), normal(m, 203)
    y = linear(x, q, activations="int8")
    assert (np.abs(y - linear_reference(x, q)) <= bound(x, q)).all()
    with tc.target("reference"):
        same = linear(x, q, activations="int8")
    assert np.array_equal(y, same) if group != 24 else relative_error(y, same) < 1e-5


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_problems(case: tuple) -> None:
    check_all(case)


def test_every_problem(full: bool) -> None:
    for case in CASES if full else CASES[:1]:
        check_all(case)


@pytest.mark.parametrize("target", ["emulator:sm_80", "emulator:sm_90a"])
@pytest.mark.parametrize(("weight", "zero_point", "group", "m"), ON_A_GPU)
def test_a_gpu_gives_the_same(weight: str, zero_point: bool, group: int | None, m: int, target: str) -> None:
    q = quantize(normal(37, 96), weight, group_size=group, zero_point=zero_point)
    x = normal(m, 96, dtype=np.float16)
    found = []
    for place in (target, "reference"):
        with tc.target(place):
            found.append(linear(x, q, activations="int8", out_dtype="f32"))
    assert np.array_equal(*found) if group != 24 else relative_error(*found) < 1e-5


@pytest.mark.parametrize("target", ["cpu", "emulator:sm_80"])
@pytest.mark.parametrize(("group", "m"), [(64, 3), (None, 20)])
def test_zeros_of_floats(group: int | None, m: int, target: str) -> None:
    """As some checkpoints have them: no difference from one is a byte."""
    q, x = quantize(normal(37, 96), "u4", group_size=group, zero_point=True), normal(m, 96)
    zeros = (q.zeros + np.random.default_rng(0).uniform(-0.5, 0.5, q.zeros.shape)).astype(np.float32)
    q = replace(q, zeros=zeros)
    with tc.target(target):
        y = linear(x, q, activations="int8")
    assert (np.abs(y - linear_reference(x, q)) <= bound(x, q)).all()


def test_on_a_gpu_bytes_are_multiplied() -> None:
    ptx = linear.compile(m=16, n=4096, k=4096, weight="u4", activations="int8", target="sm_80").ptx
    assert "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" in ptx


def test_rounding() -> None:
    """Ties go to even numbers, the largest to 127; rows of zeros, of tiny numbers, of what is no number."""
    rows = [[127, 0.5, 1.5, -2.5, -127], [0] * 5, [1e-44] * 5, [1, np.nan, 0, 0, 0], [np.inf] * 5]
    x = np.array(rows, np.float32)
    q, scale = rounded(x, dt.i8)
    assert q[0].tolist() == [127, 0, 2, -2, -127] and scale[0] == 1
    assert not q[1].any() and np.isfinite(scale[:3]).all() and np.abs(q[2] * scale[2] - x[2]).max() < 1e-38
    assert np.isnan(scale[3]) and np.isinf(scale[4])
    y = linear(x[:, :4].repeat(8, 1), quantize(normal(5, 32), "u4"), activations="int8")
    assert np.isfinite(y[:3]).all() and not np.isfinite(y[3:]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_everything_that_finishes_a_layer(dtype) -> None:
    x, q, bias = normal(2, 5, 64, dtype=dtype), quantize(normal(33, 64), "u4", group_size=32), normal(33)
    residual, a, b = normal(2, 5, 33), normal(20, 64, dtype=dtype), normal(33, 20, dtype=dtype)
    options = {"bias": bias, "activation": "gelu", "residual": residual, "low_rank": (a, b)}
    exact = linear(x.astype(np.float32), q, **{**options, "low_rank": (np.float32(a), np.float32(b))})
    y = linear(x, q, **options, activations="int8")
    assert y.dtype == x.dtype and 0 < relative_error(y, exact) < 2e-2


def test_a_low_rank_product_is_of_x_as_it_comes() -> None:
    """Not of its bytes, whose sums f16 does not hold."""
    x, q, scale = np.ones((2, 4096), np.float16), quantize(np.zeros((3, 4096)), "u4"), np.full(2, 1e-2)
    a, b = np.full((1, 4096), 0.2, np.float16), np.ones((3, 1), np.float16)
    for name in ("int8", "f8e4m3"):
        np.testing.assert_allclose(linear(x, q, low_rank=(a, b), activations=name), 819, rtol=1e-3)
    held = np.full(x.shape, 127, np.int8)
    np.testing.assert_allclose(linear(held, q, low_rank=(a, b), x_scale=scale), 1040, rtol=1e-3)


def test_bytes_with_scales_are_taken_as_they_are() -> None:
    x, scale = (normal(3, 64) * 40).astype(np.int8), np.abs(normal(3))
    q = quantize(normal(33, 64), "i4", group_size=32)
    expected = linear_reference(x.astype(np.float64) * scale[:, None], q)
    y = linear(x, q, x_scale=scale, activations="int8", out_dtype="f32")
    assert relative_error(y, expected) < 1e-6
    small = x.astype(ml_dtypes.float8_e4m3fn)
    y = linear(small, q, x_scale=scale, activations="int8", out_dtype="f32")
    expected = linear_reference(small.astype(np.float64) * scale[:, None], q)
    assert 0 < relative_error(y, expected) < 2e-2


def test_long_rows_do_not_overflow() -> None:
    """Sums of bytes are added up before an i32 is full."""
    x, q = np.ones((1, 140_000), np.float32), quantize(np.full((2, 140_000), 1.0), "i8", group_size=None)
    assert np.allclose(linear(x, q, activations="int8"), 140_000, rtol=1e-3)


X, Q = normal(2, 64), quantize(normal(33, 64), "u4")


@pytest.mark.parametrize(
    ("weight", "activations", "message"),
    [
        (Q, "int4", r"expected activations=None \(as they come\), 'int8' or 'f8e4m3', found 'int4'"),
        (Q, ["int8"], r"expected activations=None .*, found \['int8'\]"),
        (quantize(normal(33, 64), "f4e2m1"), "int8", "takes weights quantised to integers, found f4e2m1"),
        (normal(33, 64), "int8", r"takes a QuantizedWeight, found a dense one: ops.quantize\(weight, 'i8'\)"),
    ],
)
def test_bad_input(weight, activations, message) -> None:
    with pytest.raises(TilecError, match=message):
        linear(X, weight, activations=activations)
    if not isinstance(weight, np.ndarray):
        with pytest.raises(TilecError, match=message):
            linear.compile(m=1, n=33, k=64, weight=weight.dtype, activations=activations, target="cpu")
