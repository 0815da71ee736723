"""The names that checks outside the project call, as they are written there."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import tilec as tc

LANGUAGE = (
    "kernel Array Tile Layout Spec dim shared blocks cdiv range static_range static require dot view packed "
    "pack unpack dtype convert annotate where exp exp2 log log2 sin cos tanh erf sqrt rsqrt abs minimum "
    "maximum fma arange zeros full stack scan print assert_ breakpoint target TilecError layouts local "
    "spatial debug to_device load"
)


@pytest.mark.parametrize("name", LANGUAGE.split())
def test_names(name: str) -> None:
    assert hasattr(tc, name)


def test_dtypes_by_name() -> None:
    from tilec.ir.dtype import ALL

    for dtype in ALL:
        assert getattr(tc, dtype.name) == tc.dtype(dtype.name) == dtype
    with pytest.raises(AttributeError, match="did you mean"):
        tc.f33  # noqa: B018


def parameters(function: Any) -> list[str]:
    return [str(p).split(":")[0].split(" =")[0] for p in inspect.signature(function).parameters.values()]


def test_signatures() -> None:
    assert parameters(tc.Spec) == ["dtype", "shape", "strides", "align"]
    assert parameters(tc.dim) == ["name", "multiple"]
    assert parameters(tc.pack) == ["codes", "dtype"]
    assert parameters(tc.unpack) == ["data", "dtype", "count"]
    assert parameters(tc.view) == ["x", "dtype", "layout", "source", "placed"]
    assert parameters(tc.Kernel.compile) == ["self", "*args", "target", "**constants"]
    assert inspect.signature(tc.Kernel.compile).parameters["target"].default == "sm_90a"
    for name in ("target", "kernels", "ir", "llvm", "ptx", "asm", "sass", "resources"):
        assert hasattr(tc.Compiled, name) or name == "target"


def test_pack_and_unpack() -> None:
    codes = np.array([1, 2, 3, 4, 5, 6, 7, 0])
    data = tc.pack(codes, "u3")
    assert data.dtype == np.uint8 and len(data) == 3
    np.testing.assert_array_equal(tc.unpack(data, tc.u3, 8), codes)


@tc.kernel
def double(x: tc.Array, out: tc.Array, *, block=32):
    X, OUT = x.tiles((block,)), out.tiles((block,))
    i = tc.blocks(*OUT.shape)
    OUT[i] = X[i] * 2


def test_where_kernels_run() -> None:
    x = np.arange(50, dtype=np.float32)
    runs = [double.meaning, double.on("reference")]
    for run in runs:
        run(x, out := np.zeros_like(x), block=16)
        np.testing.assert_array_equal(out, 2 * x)
    with tc.target("reference"):
        double(x, out := np.zeros_like(x))
    np.testing.assert_array_equal(out, 2 * x)
