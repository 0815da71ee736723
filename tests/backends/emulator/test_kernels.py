"""Unmodified kernels of other compilers: right numbers and no finding. Their sources lie beside the stored
PTX."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tilec.backends import emulator

FOLDER = Path(__file__).parent / "ptx"


@cache
def module(name):
    return emulator.load((FOLDER / f"{name}.ptx").read_text())


def clean(report):
    assert report.completed and not report.findings, report.describe()
    return report


@pytest.mark.parametrize("n", [1, 33, 1000, 4096])
@pytest.mark.parametrize("seed", [None, 0])
def test_vecadd(n, seed):
    x, y = np.random.default_rng(n).standard_normal((2, n)).astype(np.float32)
    z = np.full_like(x, np.nan)
    report = clean(module("basic").launch("vecadd", (n + 255) // 256, 256, (x, y, z, np.int32(n)), seed=seed))
    np.testing.assert_array_equal(z, x + y)
    assert report.metrics.sectors_per_request <= 4.0 and report.metrics.bytes["global written"] == 4 * n


@pytest.mark.parametrize("n", [5, 1000, 20000])
@pytest.mark.parametrize("seed", [None, 1])
def test_sum(n, seed):
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    out = np.zeros(1, np.float32)
    clean(module("basic").launch("sum", 4, 256, (x, out, np.int32(n)), seed=seed))
    np.testing.assert_allclose(out[0], x.sum(dtype=np.float64), atol=1e-3)


@pytest.mark.parametrize(("name", "wavefronts"), [("naive", 16.5), ("padded", 1.0)])
def test_transpose_and_its_bank_conflicts(name, wavefronts):
    x = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    y = np.zeros_like(x)
    report = clean(module("basic").launch(f"transpose_{name}", (2, 2), (32, 8), (x, y, np.int32(64))))
    np.testing.assert_array_equal(y, x.T)
    assert report.metrics.wavefronts_per_request == wavefronts
    assert report.metrics.sectors_per_request == 4.0


@pytest.mark.parametrize("n", [31, 300, 1024])
def test_softmax(n):
    x = np.random.default_rng(n).standard_normal((5, n)).astype(np.float32) * 3
    y = np.full_like(x, np.nan)
    clean(module("basic").launch("softmax", 5, 128, (x, y, np.int32(n))))
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("seed", [None, 2])
def test_collatz_diverges(seed):
    x = np.arange(1, 301, dtype=np.int32)
    steps = np.zeros_like(x)
    report = clean(module("basic").launch("collatz", 3, 128, (x, steps, np.int32(300)), seed=seed))

    def count(v):
        n = 0
        while v != 1:
            v, n = (3 * v + 1 if v % 2 else v // 2), n + 1
        return n

    assert steps.tolist() == [count(int(v)) for v in x]
    assert seed is not None or report.metrics.branch_efficiency < 1


def test_half_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 500)).astype(np.float16)
    a = np.array([1.5, -0.25], np.float16)
    expected = (np.tile(a, 250).astype(np.float64) * x + y).astype(np.float16)
    clean(module("basic").launch("half_saxpy", 1, 256, (x, y, a.view(np.uint32)[0], np.int32(250))))
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(("m", "n", "k"), [(64, 64, 32), (128, 192, 96), (256, 256, 256)])
@pytest.mark.parametrize("seed", [None, 3])
def test_hgemm(m, n, k, seed):
    """cp.async ring, ldmatrix and mma.sync."""
    rng = np.random.default_rng(k)
    a, b = rng.standard_normal((m, k)).astype(np.float16), rng.standard_normal((k, n)).astype(np.float16)
    c = np.full((m, n), np.nan, np.float16)
    args = (a, b, c, np.int32(m), np.int32(n), np.int32(k))
    report = clean(module("hgemm").launch("hgemm", (n // 64, m // 64), 128, args, seed=seed))
    expected = a.astype(np.float64) @ b.astype(np.float64)
    assert np.linalg.norm(c - expected) / np.linalg.norm(expected) < 1e-3
    lines = (FOLDER / "hgemm.ptx").read_text().splitlines()
    ratios = {t.ratio for line, t in report.metrics.shared.items() if "ldmatrix" in lines[line - 1]}
    assert ratios == {4.0}  # x4 without conflicts


def test_printf_and_assert():
    """printf is silent; a failed assert ends its thread and is reported."""
    x, y = np.arange(32, dtype=np.int32), np.full(32, -1, np.int32)
    report = module("basic").launch("talks", 1, 32, (x, y))
    (found,) = report.findings
    assert "assert" in found.message and found.count == 12 and found.lane == 20
    assert y.tolist() == [*range(20), *[-1] * 12]
