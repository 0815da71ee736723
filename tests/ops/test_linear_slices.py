"""Warps of a block that share K: each group of them has its slice of every step, sums meet at the end."""

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tilec import ops
from tilec.backends.ptx.assemble import find
from tilec.ir import dtype as dt
from tilec.ops.epilogue import finishing
from tilec.ops.linear import quantised_product
from tilec.ops.reference import linear_reference, relative_error
from tilec.ops.tiling import Weighted, direct, sliced

needs_ptxas = pytest.mark.skipif(find("ptxas") is None, reason="no ptxas")
F16, BF16 = (np.float16, 1.5e-3), (ml_dtypes.bfloat16, 1e-2)
CASES = [  # weight, group, zero_point, (bk, bn), warps, slices, how, (x, tolerance)
    ("u4", 128, False, (512, 64), 4, 4, {}, F16),  # a group to each slice
    ("u3", 64, True, (256, 64), 8, 4, {"split": 2}, F16),
    ("i5", 128, True, (128, 64), 4, 4, {"blocks": 5}, F16),  # slices of one group
    ("f6e3m2", None, False, (128, 64), 4, 2, {}, BF16),
    ("u2", 32, False, (128, 32), 4, 4, {"split": 2, "stages": 1}, F16),
    ("u8", 48, True, (64, 64), 4, 2, {}, F16),  # groups end within slices
    ("u4", 64, True, (128, 64), 4, 2, {"scaled_weights": True}, F16),
    ("i4", 64, False, (128, 64), 4, 2, {"rescaled": True}, F16),
    ("u4", 128, False, (256, 64), 4, 2, {"bm": 32}, F16),
]


def normal(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


def schedule(compute: dt.DType, shape: tuple[int, int], warps: int, slices: int, **how) -> Weighted:
    made = Weighted(16, sliced(compute, shape, warps, slices), placed=compute, warps=warps, slices=slices)
    return made._replace(**how)


def run(x: np.ndarray, q: ops.QuantizedWeight, target: str, made: Weighted) -> np.ndarray:
    y = np.full((len(x), q.shape[0]), np.nan, x.dtype)
    with tc.target(target):
        quantised_product(x, q, y, *finishing(y.shape, *[None] * 6), schedule=made)
    return y


@pytest.mark.parametrize("target", ["cpu", "reference", "emulator:sm_80", "emulator:sm_90a"])
@pytest.mark.parametrize(("weight", "group", "zero_point", "shape", "warps", "slices", "how", "kind"), CASES)
def test_slices(weight, group, zero_point, shape, warps, slices, how, kind, target, full):
    """Ragged in every extent, and the same every time."""
    if not full and target in ("reference", "emulator:sm_90a") and weight not in ("u4", "u3"):
        pytest.skip("make check-all runs it")
    q = ops.quantize(normal(100, 700), weight, group_size=group, zero_point=zero_point)
    x = normal(17, 700, dtype=kind[0])
    made = schedule(dt.dtype(x.dtype), shape, warps, slices, **how)
    y = run(x, q, target, made)
    assert relative_error(y, linear_reference(x, q)) < kind[1]
    assert np.array_equal(run(x, q, target, made), y)


@pytest.mark.parametrize("target", ["emulator:sm_80", "emulator:sm_90a"])
@pytest.mark.parametrize("m", [1, 4])
def test_slices_past_shared_memory(m: int, target: str):
    q, x = ops.quantize(normal(100, 700), "u4", group_size=128), normal(m, 700, dtype=np.float16)
    made = direct(schedule(dt.f16, (256, 64), 4, 2))
    assert made.direct and made.bm == 16
    assert relative_error(run(x, q, target, made), linear_reference(x, q)) < 1.5e-3


@pytest.mark.parametrize(("shape", "group"), [((256, 64), 128), ((128, 64), 128)])
def test_slices_of_bytes(shape: tuple[int, int], group: int):
    """Sums of i32, each slice's times its group's scale."""
    q = ops.quantize(normal(100, 700), "u4", group_size=group)
    x, scale = np.rint(normal(17, 700) * 30).clip(-127, 127).astype(np.int8), np.abs(normal(17))
    y = np.full((17, 100), np.nan, np.float16)
    with tc.target("emulator:sm_80"):
        quantised_product(x, q, y, *finishing(y.shape, None, None, None, scale, None, None),
                          schedule=schedule(dt.i8, shape, 4, 2))  # fmt: skip
    assert relative_error(y, linear_reference(x * scale[:, None], q)) < 1.5e-3


@needs_ptxas
@pytest.mark.parametrize(("shape", "warps", "slices"), [((256, 64), 4, 2), ((512, 64), 8, 4)])
def test_the_loop_of_slices(shape: tuple[int, int], warps: int, slices: int):
    """At most 260 instructions for 32 products, as without slices."""
    form = schedule(dt.f16, shape, warps, slices)
    made = ops.linear.compile(m=16, n=4096, k=4096, target="sm_80", schedule=form)
    assert made.hot_loop.instructions <= 260 * made.hot_loop.products // 32
    assert made.resources.spill_bytes == 0


def test_slices_are_equal():
    with pytest.raises(tc.TilecError, match="4 warps and steps of 128 are not cut into 3 equal slices"):
        sliced(dt.f16, (128, 64), 4, 3)
