"""Attention on GPUs: what its code is made of, and emulated runs with every check on."""

import numpy as np
import pytest

import tilec as tc
from tests.ops.attention_cases import BOUNDS, normal, tensors
from tilec import ops
from tilec.backends.ptx.assemble import find
from tilec.ops.neighborhood_reference import neighborhood_backward_reference, neighborhood_reference
from tilec.ops.reference import relative_error

PROBLEMS = [
    (ops.na2d, {"shape": (56, 56), "kernel_size": 7, "dim": 32}),
    (ops.na1d, {"shape": 32768, "kernel_size": 2048, "dim": 128}),
    (ops.na3d, {"shape": (30, 48, 80), "kernel_size": (18, 24, 24), "dim": 128}),
    (ops.attention, {"dim": 128, "is_causal": True}),
]


@pytest.mark.parametrize(("target", "product"), [("sm_80", "mma.sync"), ("sm_90a", "wgmma.mma_async")])
@pytest.mark.parametrize(("op", "problem"), PROBLEMS, ids=["2-D", "1-D", "3-D", "dense"])
def test_code(op, problem, target, product):
    """Products on the matrix units, and probabilities that reach the second one in registers: what goes
    through shared memory are copies and nothing else."""
    compiled = op.compile(**problem, target=target)
    assert product in compiled.ptx and "cp.async" in compiled.ptx
    assert "st.shared" not in compiled.ptx and "ld.shared" not in compiled.ptx
    if find("ptxas"):
        assert compiled.resources.spill_bytes == 0


def test_names_of_ops():
    assert [op.__name__ for op in (ops.na1d, ops.na2d, ops.na3d)] == ["na1d", "na2d", "na3d"]


@pytest.mark.parametrize(
    "options", [{"additional": True}, {"bias": True}, {"border": "zero"}, {"kv_heads": 2}]
)
def test_options_compile(options):
    done = ops.na2d.compile(shape=(9, 11), kernel_size=5, heads=4, dim=24, value_dim=40, **options)
    assert "mma.sync" in done.ptx or "wgmma.mma_async" in done.ptx


CASES = [
    ((40,), {"kernel_size": 7}),
    ((20,), {"kernel_size": 5, "stride": 2, "border": "zero"}),
    ((9, 10), {"kernel_size": (5, 3), "dilation": (1, 2), "stride": (2, 1), "is_causal": (False, True)}),
    ((4, 5, 6), {"kernel_size": 3}),
]


@pytest.mark.parametrize("target", ["emulator:sm_80", "emulator:sm_90a"])
@pytest.mark.parametrize(("extents", "options"), CASES)
def test_emulated(extents, options, target):
    q, k, v = tensors(extents, batch=1, kv_heads=1, dim=16, value_dim=24, dtype=np.float16)
    with tc.target(target):
        out, lse = ops.neighborhood_attention(q, k, v, return_lse=True, **options)
    expected = neighborhood_reference(q, k, v, **options)
    assert relative_error(out, expected[0]) < 1.5e-3 and relative_error(lse, expected[1]) < 1e-5


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_emulated_gradients(dtype):
    q, k, v = tensors((6, 7), batch=1, kv_heads=1, dim=16, dtype=dtype)
    options = {"kernel_size": 3, "bias": normal(2, 5, 5)}
    options["additional_keys"], options["additional_values"] = (
        normal(1, 5, 1, 16, dtype=dtype, seed=s) for s in (3, 4)
    )
    with tc.target("emulator:sm_80"):
        out, lse = ops.na2d(q, k, v, return_lse=True, **options)
        found = ops.neighborhood_attention_backward(q, k, v, out, lse, out, **options)
    expected = neighborhood_backward_reference(q, k, v, d_out=out, **options)
    for name, x, y in zip(found._fields, found, expected, strict=True):
        assert relative_error(x, y) < 2 * BOUNDS[dtype], name
