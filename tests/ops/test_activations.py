"""Activations of 8 bits: rounding them, and layers that multiply them as they are."""

import random
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tilec import ops
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.errors import TilecError
from tilec.ops.factors import held_by, product_dtype
from tilec.ops.linear import linear
from tilec.ops.quantize import quantize
from tilec.ops.reference import linear_reference, relative_error

GPUS = ("emulator:sm_80", "emulator:sm_89", "emulator:sm_90a")
HELD = [d for d in dt.ALL if d.bits <= 8 and (d.is_integer or (d.is_float and d.is_signed))]
HELD = [d for d in HELD if held_by(d, dt.f8e4m3)]
BYTES = [d for d in dt.ALL if d.bits <= 8 and d.is_integer]
LARGEST = {"i8": 127, "f8e4m3": 448}


def normal(*shape: int, dtype=np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


def nearest(x: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """What quantize_activation means, in numpy."""
    top = np.abs(x.astype(np.float32)).max(-1, keepdims=True) if x.shape[-1] else np.zeros((*x.shape[:-1], 1))
    step = np.maximum((top / np.float32(LARGEST[dtype])).astype(np.float32), np.float32(2.0**-126))
    parts = x.astype(np.float32) * (np.float32(1) / step)
    return np.rint(parts) if dtype == "i8" else codec.round_to(parts, dt.f8e4m3), step


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("target", ["cpu", "reference", "emulator:sm_80", "emulator:sm_90a"])
def test_rounding(dtype: str, target: str) -> None:
    for shape, kind in (((2, 3, 37), np.float16), ((5, 1030), np.float32), ((4, 8), ml_dtypes.bfloat16)):
        x = normal(*shape, dtype=kind)
        x[-1, 0] = 0
        with tc.target(target):
            q, scale = ops.quantize_activation(x, dtype)
        wanted, step = nearest(x, dtype)
        assert q.shape == shape and scale.shape == (*shape[:-1], 1) and scale.dtype == np.float32
        assert np.array_equal(q.astype(np.float32), wanted) and np.array_equal(scale, step)
        assert np.abs(q[-1, 0].astype(np.float32)).max() == 0


@pytest.mark.parametrize("dtype", LARGEST)
def test_rows_that_are_not_finite_and_none_at_all(dtype: str) -> None:
    x = np.array([[1, np.nan, 2], [np.inf, 0, 1], [1, 2, 4]], np.float32)
    q, scale = ops.quantize_activation(x, dtype)
    with np.errstate(invalid="ignore"):
        back = q.astype(np.float32) * scale
    assert np.isnan(scale[0]) and np.isinf(scale[1]) and not np.isfinite(back[:2]).any()
    assert np.abs(back[2] - x[2]).max() < 0.1
    for shape in ((0, 5), (3, 0)):
        q, scale = ops.quantize_activation(np.zeros(shape, np.float32), dtype)
        assert q.shape == shape and scale.shape == (shape[0], 1)


def test_results_are_written_where_asked() -> None:
    x, q, scale = normal(3, 20), np.empty((3, 40), np.int8)[:, ::2], np.empty((3, 1), np.float32)
    given = ops.quantize_activation(x, out=(q, scale))
    assert given[0] is q and given[1] is scale
    assert np.array_equal(q, ops.quantize_activation(x)[0])


def test_compiled_for_a_problem() -> None:
    done = ops.quantize_activation.compile(m=tc.dim("m"), k=4096, x="bf16", dtype="f8e4m3", target="sm_90a")
    assert done.resources.spill_bytes == 0


@pytest.mark.parametrize(("x", "dtype", "out", "message"), [
    (normal(2, 4), "f8e5m2", None, "activations are rounded to i8 or f8e4m3, not to f8e5m2"),
    (normal(2, 4).astype(np.float64), "i8", None, "x is f64, expected f16, bf16 or f32: x.astype"),
    (np.ones((2, 4), np.int32), "i8", None, "x is i32, expected f16, bf16 or f32: x.astype"),
    (normal(2, 4), "i8", np.empty((2, 4), np.int8), r"out is a pair \(q \[..., K\], scale \[..., 1\]\)"),
    (normal(2, 4), "i8", (np.empty((2, 4), np.int8), np.empty(2, np.float32)), "out is f32"),
])  # fmt: skip
def test_mistakes(x, dtype, out, message) -> None:
    with pytest.raises(TilecError, match=message):
        ops.quantize_activation(x, dtype, out=out)


# Layers.


def test_what_f8e4m3_holds() -> None:
    names = {d.name for d in HELD}
    assert {"u1", "u4", "u5", "i5", "f4e2m1", "f6e2m3", "f6e3m2", "f8e4m3", "f7e4m2"} <= names
    assert not {"u6", "i6", "f8e5m2", "f8e3m4", "f6e5m0"} & names
    for held, target in ((dt.f16, "sm_80"), (dt.f8e4m3, "sm_89"), (dt.f8e4m3, "sm_90a"), (dt.f16, "cpu"),
                         (dt.f16, "sm_90"), (dt.f16, "sm_100a"), (dt.f8e4m3, "sm_120")):  # fmt: skip
        assert product_dtype(dt.f8e4m3, dt.u4, None, 128, target) == held
    assert product_dtype(dt.f8e4m3, dt.u4, dt.u8, 128, "sm_90a") == dt.f8e4m3
    assert product_dtype(dt.f8e4m3, dt.u5, dt.u8, 128, "sm_90a") == dt.f16
    assert product_dtype(dt.f8e4m3, dt.u4, dt.f32, 128, "sm_90a") == dt.f16
    assert product_dtype(dt.f8e4m3, dt.u4, None, 24, "sm_90a") == dt.f16
    assert product_dtype(dt.i8, dt.f4e2m1, None, 128, "sm_90a") == dt.f16
    assert product_dtype(dt.f8e5m2, dt.u2, None, 128, "sm_90a") == dt.f16


@pytest.mark.parametrize("target", GPUS)
def test_wider_small_floats(target: str) -> None:
    """f8e5m2 is multiplied as f16, by weights that it would hold too."""
    x, scale = (normal(3, 64) * 100).astype(ml_dtypes.float8_e5m2), np.full(3, 1e-2, np.float32)
    agree(x, quantize(normal(40, 64), "u2", group_size=32), target, x_scale=scale)


def agree(x: np.ndarray, q: ops.QuantizedWeight, target: str, bound: float = 1e-5, **options) -> None:
    """As the reference, and near the product of what x and the weight stand for."""
    found = []
    for place in (target, "reference"):
        with tc.target(place):
            found.append(linear(x, q, out_dtype="f32", **options))
    assert relative_error(*found) < 1e-6
    scale = options["x_scale"].reshape(-1, 1)
    assert relative_error(found[1], linear_reference(x.astype(np.float32) * scale, q)) < bound


def case(seed: int, target: str, kinds: list, dtype: str) -> None:
    draw = random.Random(seed)
    kind, m = draw.choice(kinds), draw.choice((1, 7, 31, 70))
    zeros, group = kind.is_integer and draw.random() < 0.4, draw.choice((32, None, 160, 24))
    q = quantize(normal(37, 160), kind, group_size=group, zero_point=zeros)
    x, scale = ops.quantize_activation(normal(m, 160), dtype)
    agree(x, q, target, 1e-5 if group != 24 else 1e-3, x_scale=scale)


@pytest.mark.parametrize("target", GPUS)
def test_bytes_times_integers(target: str, full: bool) -> None:
    for seed in range(40 if full else 2):
        case(seed, target, BYTES, "i8")


@pytest.mark.parametrize("target", GPUS)
def test_small_floats_times_weights_that_they_hold(target: str, full: bool) -> None:
    for seed in range(40 if full else 2):
        case(seed, target, HELD, "f8e4m3")


@pytest.mark.parametrize(("kind", "least", "most"), [("u4", 0, 17), ("u4", 7, 30), ("i3", -9, 3)])
def test_zeros_near_and_far_from_codes(kind: str, least: int, most: int) -> None:
    """Differences of more than 16 are no numbers of f8e4m3."""
    x, scale = ops.quantize_activation(normal(5, 96), "f8e4m3")
    q = quantize(normal(33, 96), kind, group_size=32, zero_point=True)
    far = np.random.default_rng(0).integers(least, most, q.zeros.shape).astype(q.zeros.dtype)
    agree(x, replace(q, zeros=far), "emulator:sm_90a", x_scale=scale)


def test_other_weights_are_multiplied_in_f16() -> None:
    x, scale = ops.quantize_activation(normal(5, 96), "f8e4m3")
    for kind in ("u8", "f8e5m2", "i6"):
        agree(x, quantize(normal(33, 96), kind, group_size=32), "emulator:sm_90a", x_scale=scale)


@pytest.mark.parametrize("target", ["cpu", "emulator:sm_90a"])
def test_a_class_of_accuracy(target: str) -> None:
    """The stated bound."""
    x, q = normal(6, 130), quantize(normal(21, 130), "u4", group_size=64)
    with tc.target(target):
        y = linear(x, q, activations="f8e4m3")
    w = np.abs(q.dequantize().astype(np.float64))
    bound = np.abs(x) @ w.T / 16 + np.abs(x).max(1, keepdims=True) / 2**18 * w.sum(1)
    error = np.abs(y - linear_reference(x, q))
    assert (error <= bound).all() and 1e-3 < relative_error(y, linear_reference(x, q)) < 4e-2


@pytest.mark.parametrize(("target", "x", "instruction"), [
    ("sm_80", "int8", "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"),
    ("sm_89", "f8e4m3", "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32"),
    ("sm_90a", "int8", "wgmma.mma_async.sync.aligned.m64n16k32.s32.s8.s8"),
    ("sm_90a", "f8e4m3", "wgmma.mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3"),
])  # fmt: skip
def test_products_are_the_machines(target: str, x: str, instruction: str) -> None:
    done = linear.compile(m=16, n=4096, k=4096, weight="u4", activations=x, target=target)
    assert instruction in done.ptx
