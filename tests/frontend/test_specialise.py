# ruff: noqa: E501 - one case a line
"""What kernels are compiled for: specifications, real arrays, and code that meets other arrays later."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tilec.ir.tile import ArrayType, Dim
from tilec.specialise import agreed, array_type, times

Array = np.ndarray[Any, Any]


def test_spec_is_row_major() -> None:
    k = tc.dim("k", multiple=8)
    spec = tc.Spec("f16", ("m", k))
    assert spec.type == ArrayType(tc.f16, (Dim("m"), k), (k, 1), 16)
    assert tc.Spec("f16", (4, "m", 8)).strides == (Dim("m*8", 8), 8, 1)
    assert tc.Spec("f16", ("m", 4, "n")).strides == (Dim("4*n", 4), Dim("n"), 1)
    assert tc.Spec(tc.f32, 7).type == ArrayType(tc.f32, (7,), (1,), 16)
    assert tc.Spec("f32", ("m", "n"), strides=(1, "m"), align=4).strides == (1, Dim("m"))
    assert tc.Spec("u4", ("m", 8)).packed
    assert repr(tc.Spec("f16", ("m", k))) == "Spec(f16[m, k:8])"


def test_products_of_extents() -> None:
    m, n = Dim("m", 4), Dim("n", 2)
    assert times(3, 5) == 15
    assert times(m, 1) == times(1, m) == m
    assert times(m, 0) == 0
    assert times(m, n) == Dim("m*n", 8)


def test_one_name_one_multiple() -> None:
    a = tc.Spec("f16", ("m", tc.dim("k", 8))).type
    b = tc.Spec("f16", (tc.dim("k", 6), "n")).type
    first, second = agreed([a, b])
    assert first.shape[1] == second.shape[0] == Dim("k", 24)
    assert first.strides == (Dim("k", 24), 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tc.dim(""), "tc.dim takes a name, found ''"),
        (lambda: tc.dim("k", 0), "the multiple of tc.dim is a whole number of 1 or more, found 0"),
        (lambda: tc.Spec("f16", (4, -1)), "an extent of tc.Spec is a whole number, a name or a tc.dim, found -1"),
        (lambda: tc.Spec("f16", (4, 1.5)), "an extent of tc.Spec is a whole number, a name or a tc.dim, found 1.5"),
        (lambda: tc.Spec("f16", (4,), (None,)), "a stride of tc.Spec is a whole number"),
        (lambda: tc.Spec("f16", (4,), (1, 1)), "tc.Spec takes one stride per axis: 1 extents, 2 strides"),
        (lambda: tc.Spec("f16", (4,), align=12), "align is a power of two, in bytes, found 12"),
        (lambda: tc.Spec("u4", (4,), (1,)), "u4 is packed, row after row: it takes no strides"),
        (lambda: tc.Spec("f17", (4,)), "expected a dtype, found 'f17'"),
    ],
)  # fmt: skip
def test_wrong_specifications(make: Any, message: str) -> None:
    with pytest.raises(tc.TilecError) as caught:
        make()
    assert message in str(caught.value)


def kind(x: Array, *static: int) -> ArrayType:
    return array_type(x, "x", frozenset(static))


def test_real_arrays() -> None:
    x = np.zeros((48, 7, 1), np.float16)
    found = kind(x)
    assert found.shape == (Dim("x.0", 16), Dim("x.1", 1), 1)
    assert found.strides == (Dim("x.0.stride", 1), 1, 1)
    assert found.align == 16 and found.dtype == tc.f16
    assert kind(x, 1).strides == (7, 1, 1)  # known extents decide strides
    assert kind(x.transpose(2, 0, 1)).strides == (0, Dim("x.2", 1), 1)  # rows that follow each other
    assert kind(np.broadcast_to(x[:, :, 0], (5, 48, 7))).strides == (0, Dim("x.2", 1), 1)
    assert kind(np.zeros((48, 9), np.int8)[:, :7]).strides == (Dim("x.0.stride", 1), 1)
    assert kind(x[:, ::2, 0]).strides == (Dim("x.0.stride", 1), Dim("x.1.stride", 2))
    assert kind(np.zeros((256, 0), np.float32)).shape == (Dim("x.0", 128), Dim("x.1", 128))
    assert kind(np.zeros(8, np.int8)[1:]).align == 1
    assert kind(np.zeros(())).shape == ()


def test_dtypes_of_frameworks() -> None:
    for name, want in (("bfloat16", "bf16"), ("float8_e4m3fn", "f8e4m3"), ("float8_e5m2", "f8e5m2")):
        assert kind(np.zeros(4, getattr(ml_dtypes, name))).dtype.name == want


def test_packed_arrays_have_row_major_strides() -> None:
    x = tc.packed(np.zeros(60, np.uint8), "u4", (4, 5, 6))
    found = array_type(x, "x")
    assert found.packed and found.dtype == tc.u4
    assert found.strides == (Dim("x.0.stride", 2), Dim("x.1.stride", 2), 1)
    assert array_type(x, "x", frozenset({1, 2})).strides == (30, 6, 1)


@tc.kernel
def scale(x: tc.Array, out: tc.Array, alpha: tc.f32):
    X, OUT = x.tiles((4, 8)), out.tiles((4, 8))
    i, j = tc.blocks(*OUT.shape)
    OUT[i, j] = X[i, j] * alpha


def compiled() -> tc.Compiled:
    n = tc.dim("n", multiple=8)
    return scale.compile(tc.Spec("f32", ("m", n)), tc.Spec("f32", ("m", n)), target="reference")


def test_compiled_code_is_called() -> None:
    done = compiled()
    x = np.arange(80, dtype=np.float32).reshape(5, 16)
    out = np.empty_like(x)
    done(x, out, 2.0)
    np.testing.assert_array_equal(out, 2 * x)
    assert done.kernels == ("scale",) and done.target == "reference"
    assert repr(done) == "Compiled(scale, f32[m, n:8], f32[m, n:8], f32, target='reference')"


def f32(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("x", "out", "message"),
    [
        (f32(5, 16), f32(6, 16), "axis 0 of out is 6, but m was 5 before"),
        (f32(5, 9), f32(5, 9), "axis 1 of x was compiled as a multiple of 8, found 9"),
        (f32(16, 5).T, f32(5, 16), "the stride of axis 0 of x is 1, but n was 16 before"),
        (f32(5, 32)[:, ::2], f32(5, 16), "the stride of axis 0 of x is 32, but n was 16 before"),
        (f32(5 * 16 + 1)[1:].reshape(5, 16), f32(5, 16), "x was compiled for an alignment of 16 bytes"),
        (f32(5), f32(5, 16), "x was compiled for f32[m, n:8], found f32[5]"),
        (np.zeros((5, 16)), f32(5, 16), "x was compiled for f32[m, n:8], found f64[5, 16]"),
    ],
)
def test_compiled_code_meets_other_arrays(x: Array, out: Array, message: str) -> None:
    with pytest.raises(tc.TilecError) as caught:
        compiled()(x, out, 2.0)
    assert message in str(caught.value)


def test_constant_extents_are_checked() -> None:
    done = scale.compile(tc.Spec("f32", (4, 8)), tc.Spec("f32", (4, 8)), target="reference")
    with pytest.raises(tc.TilecError, match="axis 0 of x was compiled as 4, found 5"):
        done(f32(5, 8), f32(4, 8), 1.0)


def test_arrays_that_are_written_are_checked_too() -> None:
    done, x = compiled(), f32(5, 16)
    with pytest.raises(tc.TilecError, match="whose bytes overlap"):
        done(x, x, 1.0)


def test_targets_lack_things() -> None:
    done = compiled()
    for name in ("llvm", "ptx", "asm", "sass", "resources"):
        with pytest.raises(tc.TilecError, match="the reference runs the IR itself: it has no other code"):
            getattr(done, name)


def test_one_dim_is_one_value() -> None:
    """Extents of one name are one value in the IR, so that b.shape[0] == a.shape[1] needs no check."""

    @tc.kernel
    def f(a: tc.Array, b: tc.Array, out: tc.Array):
        tc.blocks(1)
        out.store(0, tc.where(a.shape[1] == b.shape[0], 1, 0))

    done = f.compile(
        tc.Spec("f32", ("m", "k")), tc.Spec("f32", ("k", "n")), tc.Spec("i32", (1,)), target="reference"
    )
    sizes = [inst for inst in done.traced.walk() if type(inst).__name__ == "Size"]
    assert len(sizes) == 3  # m, k, n
