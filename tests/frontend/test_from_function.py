"""tc.from_function: tables computed in float64 while compiling, gathers where an array decides."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tilec.ir.errors import TilecError

N = 24
every_target = pytest.mark.parametrize("target", ["cpu", "reference", "emulator:sm_80"])


@tc.kernel
def dft(x: tc.Array, out: tc.Array, *, half: Any = tc.f32, warps: int = 2) -> None:
    """The real part of a discrete Fourier transform of the columns of x."""
    tc.blocks(1)
    n = tc.static(x.shape[0])
    matrix = tc.from_function((n, n), lambda a, b: tc.cos(2 * math.pi * (a * b % n) / n)).to(half)
    out.store((0, 0), tc.dot(matrix, x.load((0, 0), (n, 8)).to(half)))


@tc.kernel
def band(w: tc.Array, x: tc.Array, out: tc.Array, *, warps: int = 1) -> None:
    """out[i, j] = sum of w[r, k] * x[r + i, k + j], as products with Toeplitz bands."""
    tc.blocks(1)
    acc = tc.zeros((16, 8), tc.f32)
    for r in tc.range(w.shape[0]):
        toeplitz = tc.from_function((24, 8), lambda p, n, r=r: w.at(r, p - n, other=0))
        acc = tc.dot(x.load((r, 0), (16, 24)), toeplitz, acc)
    out.store((0, 0), acc)


@every_target
@pytest.mark.parametrize("half", ["f32", "f16"])
def test_a_dft_matrix(target: str, half: str) -> None:
    x = np.random.default_rng(0).standard_normal((N, 8)).astype(np.float32)
    out = np.full((N, 8), np.nan, np.float32)
    dft.on(target)(x, out, half=tc.dtype(half))
    expected = np.fft.fft(np.eye(N)).real @ x
    np.testing.assert_allclose(out, expected, atol={"f32": 2e-5, "f16": 3e-2}[half])


@every_target
def test_a_toeplitz_band_of_an_array(target: str) -> None:
    rng = np.random.default_rng(1)
    w, x = rng.standard_normal((5, 9)).astype(np.float16), rng.standard_normal((20, 24)).astype(np.float16)
    out = np.full((16, 8), np.nan, np.float32)
    band.on(target)(w, x, out)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(float), w.shape)[:16, :8]
    np.testing.assert_allclose(out, np.einsum("ijrk,rk->ij", windows, w.astype(float)), atol=1e-4)


def made(shape: Any, function: Any, dtype: Any, target: str = "cpu") -> np.ndarray[Any, Any]:
    """What a kernel stores that writes the function's tile."""

    @tc.kernel
    def write(x: tc.Array, out: tc.Array, *, warps: int = 1) -> None:
        tc.blocks(1)
        out.store((0,) * len(shape), tc.from_function(shape, lambda *at: function(x, *at)).to(dtype))

    out = np.zeros(shape, tc.dtype(dtype).storage)
    write.on(target)(np.arange(8, dtype=np.float32), out)
    return out


@every_target
def test_constants_of_every_kind(target: str) -> None:
    i, j = np.ogrid[:5, :7]
    ends = np.array([[6], [7], [-1], [-1], [-1]])
    cases: list[tuple[Any, Any, str]] = [
        (lambda x, i, j: i * 7 + j, i * 7 + j, "i32"),
        (lambda x, i, j: j, j + 0 * i, "i64"),
        (lambda x, i, j: i == j, i == j, "bool"),
        (lambda x, i, j: tc.where(i < j, tc.exp(-i), j), np.where(i < j, np.exp(-i), j), "f64"),
        (lambda x, i, j: tc.where(x.at(i, other=9) > 2, j / 2, x.at(j)), np.where(i > 2, j / 2, j), "f32"),
        (lambda x, i, j: tc.maximum(tc.erf(i / 4), tc.sigmoid(j)), None, "f64"),
        (lambda x, i, j: -0.0, np.full((5, 7), -0.0), "f64"),
        (lambda x, i, j: 3, np.full((5, 7), 3), "i32"),
        (lambda x, i, j: tc.full((), 2.5, tc.f32), np.full((5, 7), 2.5), "f32"),
        (lambda x, i, j: x.at(i, other=-1) + (10 * j), np.float32(i + 10 * j), "f32"),
        (lambda x, i, j: tc.where(j > 2, x.at(j), 0.5), np.where(j > 2, j, 0.5) + 0 * i, "f32"),
        (lambda x, i, j: tc.minimum(x.at(i + 6, other=-1), i + j), np.minimum(ends, i + j), "f32"),
    ]  # fmt: skip
    for function, expected, dtype in cases:
        out = made((5, 7), function, tc.dtype(dtype), target)
        if expected is None:
            expected = np.maximum(np.vectorize(math.erf)(i / 4), 1 / (1 + np.exp(-j)))
        assert out.tobytes() == np.ascontiguousarray(expected, out.dtype).tobytes(), dtype


def test_rounding_costs_nothing_in_the_kernel() -> None:
    """The f64 table, its negation and its cast are one table of the last dtype."""
    compiled = dft.compile(tc.Spec("f32", (N, 8)), tc.Spec("f32", (N, 8)), half=tc.f16, target="sm_80")
    assert compiled.ir.count("= table") == 1 and "f64" not in compiled.ir
    assert "f64" not in compiled.ptx


@every_target
def test_places_known_while_compiling_may_be_written(target: str) -> None:
    @tc.kernel
    def scatter(out: tc.Array, *, warps: int = 1) -> None:
        tc.blocks(1)
        places = np.arange(6) * 2
        out.scatter(places, np.sqrt(np.arange(6)))
        out.atomic_add((places + 1,), np.arange(6))
        out.store(12, np.arange(3) / 2)

    out = np.zeros(15, np.float32)
    scatter.on(target)(out)
    expected = [x for k in range(6) for x in (np.float32(math.sqrt(k)), k)] + [0, 0.5, 1]
    np.testing.assert_array_equal(out, np.float32(expected))


@pytest.mark.parametrize(("function", "message"), [
    (lambda x, i, j: "no", "takes a function that gives a number or a tile, found 'no'"),
    (lambda x, i, j: np.zeros((3, 3)), r"gives shape \[3, 3\] for a tile of shape \[5, 7\]"),
    (lambda x, i, j: x.load(0, 4), "axis|extent|broadcast"),
    (lambda x, i, j: i * 2**40, "outside i32"),
    (lambda x, i, j: x.at(i) + 1e300 * (j + 1), "outside f32"),
    (lambda x, i, j: x.at(i / 2), "takes i32|integer"),
    (lambda x, i, j: np.array(["a"]), "no table of numbers"),
    (lambda x, i, j: x.at(np.zeros((0,), int)), "no elements"),
    (lambda x, i, j: x.at(i) + (i == j), "an array of bool meets f32"),
    (lambda x, i, j: 1 if i > j else 0, "an array of numbers cannot be a condition"),
])  # fmt: skip
def test_errors(function: Any, message: str) -> None:
    with pytest.raises(TilecError, match=message):
        made((5, 7), function, tc.f32)


def test_divisions_by_zero_say_nothing() -> None:
    """As in kernels; here numpy would warn, and warnings are errors."""
    found = made((4, 1), lambda x, i, j: 1.0 / (i * 1.0) - np.log(j), tc.f32)
    np.testing.assert_array_equal(found.ravel(), np.inf)
    assert np.isnan(made((1, 1), lambda x, i, j: (i * 0.0) / j, tc.f32)).all()


def test_outside_a_kernel() -> None:
    with pytest.raises(TilecError, match="kernel"):
        tc.from_function((4, 4), lambda i, j: i)
