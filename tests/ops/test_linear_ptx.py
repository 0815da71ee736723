"""Quantised linear layers as PTX: emulated, assembled without spills, and what the loop is made of."""

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tilec import ops
from tilec.backends.ptx.assemble import find
from tilec.ops.reference import linear_reference, matmul_reference, relative_error

needs_ptxas = pytest.mark.skipif(find("ptxas") is None, reason="no ptxas")
CASES = [  # m, n, k, weight, group, zero_point, x, tolerance
    (5, 100, 200, "u4", 64, False, np.float16, 1.5e-3),
    (33, 130, 129, "i3", 32, True, np.float16, 1.5e-3),
    (40, 64, 160, "f6e3m2", 24, False, np.float16, 1.5e-3),
    (7, 33, 129, "u1", None, False, np.float32, 1e-5),
    (20, 64, 96, "f8e5m2", 48, True, ml_dtypes.bfloat16, 1e-2),
    (1, 40, 256, "u7", 128, True, np.float16, 1.5e-3),
    (6, 70, 256, "f4e2m1", 32, False, np.float16, 1.5e-3),
    (17, 50, 128, "f8e4m3", None, False, ml_dtypes.bfloat16, 1e-2),
    (3, 40, 192, "f5e4m0", 64, False, np.float16, 1.5e-3),
]

SHAPES = ((3, 64), (40,), (3, 40))  # of x, bias and residual


def normal(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("target", ["emulator:sm_80", "emulator:sm_90a"])
@pytest.mark.parametrize(("m", "n", "k", "weight", "group", "zero_point", "dtype", "tolerance"), CASES)
def test_emulated(m, n, k, weight, group, zero_point, dtype, tolerance, target):
    q = ops.quantize(normal(n, k), weight, group_size=group, zero_point=zero_point)
    x, bias, residual = normal(m, k, dtype=dtype), normal(n), normal(m, n, dtype=dtype)
    with tc.target(target):
        y = ops.linear(x, q, bias, activation="gelu", residual=residual)
    assert relative_error(y, linear_reference(x, q, bias, activation="gelu", residual=residual)) < tolerance


@pytest.mark.parametrize("target", ["cpu", "reference", "emulator:sm_80", "emulator:sm_90a"])
@pytest.mark.parametrize("dtype", ["f8e4m3", "f8e5m2"])
def test_codes_that_are_no_number_count_as_0(dtype: str, target: str):
    q = ops.quantize(normal(40, 128), dtype, group_size=64)
    kind, codes = q.dtype, q.codes.copy()
    codes[::3, ::5] = kind.nan_code
    codes[1::3, ::7] = kind.nan_code | kind.sign_code
    q = replace(q, codes=codes)
    x = normal(4, 128, dtype=np.float16)
    with tc.target(target):
        y = ops.linear(x, q)
    assert relative_error(y, linear_reference(x, q)) < 1.5e-3


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_what_is_added_in_16_bits(dtype):
    """sm_100 and up add halves to sums of f32 without a conversion before."""
    q, x, bias, residual = ops.quantize(normal(40, 64), "u4"), *(normal(*s, dtype=dtype) for s in SHAPES)
    with tc.target("emulator:sm_120"):
        y = ops.linear(x, q, bias, residual=residual, out_dtype="f32")
    assert relative_error(y, linear_reference(x, q, bias, residual=residual)) < 1e-5


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_dense_and_low_rank_emulated(dtype):
    x, w, a, b = (normal(*s, dtype=dtype) for s in ((20, 70), (90, 70), (18, 70), (90, 18)))
    q = ops.quantize(w, "u2", group_size=35)
    with tc.target("emulator:sm_80"):
        y, z, c = ops.linear(x, w), ops.linear(x, q, low_rank=(a, b)), ops.matmul(x[None], w.T[None])
    tolerance = 1.5e-3 if dtype == np.float16 else 1e-5
    assert relative_error(y, linear_reference(x, w)) < tolerance
    assert relative_error(c[0], matmul_reference(x, w.T)) < tolerance
    whole = q.dequantize().astype(np.float64) + b.astype(np.float64) @ a.astype(np.float64)
    assert relative_error(z, linear_reference(x, whole)) < tolerance


@needs_ptxas
@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("m", [1, 16, 32, "m"])
@pytest.mark.parametrize(
    "problem",
    [
        {"weight": "u4"},
        {"weight": "i3", "zero_point": True, "bias": True, "activation": "silu"},
        {"weight": "f6e3m2", "x": "bf16", "group_size": None, "residual": True},
        {"weight": "u1", "group_size": 24},
        {"weight": "f8e4m3", "x": "f32", "group_size": 32, "zero_point": True},
    ],
    ids=lambda p: p["weight"],
)
def test_assembles_without_spills(problem, m, target: str):
    found = ops.linear.compile(m=m, n=4096, k=4096, **problem, target=target).resources
    assert found.spill_bytes == 0 and found.registers <= 255


@pytest.mark.parametrize(
    ("weight", "m"), [("u4", 16), ("i3", 16), ("f6e3m2", 32), ("u4", 64), ("f8e4m3", 64)]
)
def test_weights_reach_the_matrix_units_in_registers(weight: str, m: int):
    """Copied 16 bytes at a time, read from shared memory once, multiplied by mma.sync; never written back."""
    ptx = ops.linear.compile(m=m, n=4096, k=4096, weight=weight, target="sm_80").ptx
    assert re.search(r"cp\.async\.cg\.shared\.global \[.*\], \[.*\], 16", ptx)
    assert re.search(r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.f16", ptx)
    assert "ldmatrix." in ptx and "ld.shared.v4" in ptx
    assert "st.shared" not in ptx


@pytest.mark.parametrize(("weight", "m"), [("u4", 16), ("i3", 16), ("f6e3m2", 32), ("u4", "m")])
def test_weights_reach_warpgroups_in_registers(weight: str, m):
    """On sm_90a they are wgmma's left operand: its columns are rows of x, which it reads where copies put
    them."""
    ptx = ops.linear.compile(m=m, n=4096, k=4096, weight=weight, target="sm_90a").ptx
    shape = f"m64n{64 if m == 'm' else m}k16"
    assert re.search(rf"wgmma\.mma_async\.sync\.aligned\.{shape}\.f32\.f16\.f16 \{{[^}}]*\}}, \{{", ptx)
    assert re.search(r"ld\.shared\.v[24]", ptx)
    assert not re.search(r"mma\.sync|ldmatrix|st\.shared", ptx)
