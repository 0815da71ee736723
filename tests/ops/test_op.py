"""Operators as callers see them: signatures, what they compile, what they say of themselves."""

import inspect

import pytest

import tilec as tc
from tilec import ops
from tilec.ir.errors import TilecError


def test_signatures_are_those_of_the_functions():
    assert list(inspect.signature(ops.linear).parameters) == [
        "x", "weight", "bias", "activation", "residual", "low_rank", "x_scale", "out_dtype", "out",
        "activations",
    ]  # fmt: skip
    assert list(inspect.signature(ops.matmul).parameters) == ["a", "b", "out_dtype", "out"]
    assert list(inspect.signature(ops.quantize).parameters) == [
        "weight", "dtype", "group_size", "zero_point", "scale_dtype",
    ]  # fmt: skip
    assert repr(ops.linear) == "<op linear>" and "QuantizedWeight" in str(inspect.getdoc(ops.linear))


def test_compiled_for_numbers_and_for_names():
    problem = {"n": 64, "k": 256, "weight": "u3", "group_size": 64}
    known = ops.linear.compile(m=16, **problem, target="sm_80")
    assert [str(known.types[i]) for i in (0, 2, 3)] == ["f16[16, 256]", "f16[4, 64]", "f32[1]"]
    named = ops.linear.compile(m="m", **problem, zero_point=True, bias=True, out_dtype="f32", target="sm_80")
    assert [str(named.types[i]) for i in (0, 3, 4)] == ["f16[m, 256]", "u8[4, 64]", "f32[m, 64]"]
    assert named.target == "sm_80" and named.kernels == ("linear_kernel",)
    product = ops.matmul.compile(m=8, n=16, k=32, batch=2, dtype="bf16", out_dtype="f32", target="cpu")
    assert [str(t) for t in product.types[:3]] == ["bf16[2, 8, 32]", "bf16[2, 32, 16]", "f32[2, 8, 16]"]


def test_compiled_with_everything():
    problem = {
        "m": 32,
        "n": 64,
        "k": tc.dim("k", multiple=8),
        "bias": True,
        "activation": "relu",
        "residual": True,
    }
    for weight in ("f16", "i4"):
        dense = ops.linear.compile(**problem, x="f8e4m3", weight=weight, low_rank=8, target="sm_80")
        finishing = slice(-7, -2) if weight == "i4" else slice(-5, None)  # blocks may share sums
        assert [str(t) for t in dense.types[finishing]] == [
            "f16[64]",
            "f16[32, 64]",
            "f32[32]",
            "f16[32, 8]",
            "f16[8, 64]",
        ]
        assert "mma.sync" in dense.ptx and "ldmatrix" in dense.ptx
    assert dense.kernels == ("linear_kernel",)


def test_bad_problems():
    with pytest.raises(
        TilecError, match="weights are quantised to an integer or float type of 1 to 8 bits, not to bf16"
    ):
        ops.linear.compile(m=1, n=8, k=8, weight="bf16")
    with pytest.raises(TilecError, match="expected activation None, 'relu', 'gelu' or 'silu', found 'tanh'"):
        ops.linear.compile(m=1, n=8, k=8, activation="tanh")
    with pytest.raises(TilecError, match="no target 'sm_81'"):
        ops.matmul.compile(m=1, n=8, k=8, target="sm_81")
    assert isinstance(ops.linear.compile(m=1, n=8, k=16, target="cpu"), tc.Compiled)
