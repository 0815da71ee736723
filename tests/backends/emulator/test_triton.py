"""Stored PTX of Triton's compiler (ptx/triton_kernels.py): right numbers and no finding; its mutants are
caught."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.backends.emulator.mutate import deletions
from tilec.backends import emulator

FOLDER = Path(__file__).parent / "ptx"
NULL = np.uint64(0)


@cache
def stored(kernel, arch):
    text = (FOLDER / f"triton_{kernel}_sm{arch}.ptx").read_text()
    shared = int(re.search(r"(\d+) bytes of shared", text).group(1))
    return text, shared


def launch(text, shared, kernel, grid, args, **options):
    return emulator.load(text).launch(kernel, grid, 128, (*args, NULL, NULL), shared_bytes=shared, **options)


def matmul(arch, m=100, n=72, k=48, text=None, **options):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(np.float16), rng.standard_normal((k, n)).astype(np.float16)
    c = np.full((m, n), np.nan, np.float16)
    source, shared = stored("matmul", arch)
    grid = ((m + 63) // 64, (n + 63) // 64)
    report = launch(text or source, shared, "matmul", grid, (a, b, c, *map(np.int32, (m, n, k))), **options)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    return report, np.linalg.norm(c - expected) / np.linalg.norm(expected) < 1e-3


def softmax(arch, n=700, text=None, **options):
    x = np.random.default_rng(n).standard_normal((3, n)).astype(np.float32) * 4
    y = np.full_like(x, np.nan)
    source, shared = stored("softmax", arch)
    report = launch(text or source, shared, "softmax", 3, (x, y, np.int32(n)), **options)
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    return report, np.allclose(y, e / e.sum(1, keepdims=True), rtol=1e-5)


def attention(arch, n=192, text=None, **options):
    q, k, v = np.random.default_rng(1).standard_normal((3, n, 64)).astype(np.float16)
    out = np.full((n, 64), np.nan, np.float16)
    source, shared = stored("attention", arch)
    scale = np.float32(1 / 8 / np.log(2))
    report = launch(
        text or source, shared, "attention", n // 64, (q, k, v, out, np.int32(n), scale), **options
    )
    s = q.astype(np.float64) @ k.T.astype(np.float64) / 8
    p = np.exp(s - s.max(1, keepdims=True))
    expected = p / p.sum(1, keepdims=True) @ v
    return report, np.linalg.norm(out - expected) / np.linalg.norm(expected) < 2e-3


def boxes(m=100, n=72, k=48, text=None, **options):
    """Warps of their own bring boxes by TMA, and sums leave by it: 12 warps."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(np.float16), rng.standard_normal((k, n)).astype(np.float16)
    c = np.full((m, n), np.nan, np.float16)
    source, shared = stored("boxes", 90)
    args = []
    for x, box, swizzle in ((a, (64, 32), "64B"), (b, (32, 64), "128B"), (c, (64, 64), "128B")):
        args += [
            emulator.TensorMap(x, box, swizzle),
            *map(np.int32, x.shape),
            *map(np.int64, (x.shape[1], 1)),
        ]
    grid = ((m + 63) // 64, (n + 63) // 64)
    args += [np.int32(k), NULL, NULL]
    report = emulator.load(text or source).launch("boxes", grid, 384, args, shared_bytes=shared, **options)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    return report, np.linalg.norm(c - expected) / np.linalg.norm(expected) < 1e-3


RUNS = {"matmul": matmul, "softmax": softmax, "attention": attention}


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("kernel", RUNS)
@pytest.mark.parametrize("seed", [None, 0])
def test_kernel(kernel, arch, seed):
    report, right = RUNS[kernel](arch, seed=seed)
    assert right and report.completed and not report.findings, report.describe()


@pytest.mark.parametrize(("m", "n", "k"), [(208, 208, 112), (80, 80, 48), (64, 64, 160)])
@pytest.mark.parametrize("arch", [80, 90])
def test_ragged_matmul(m, n, k, arch):
    report, right = matmul(arch, m, n, k)
    assert right and not report.findings, report.describe()


@pytest.mark.parametrize("seed", [None, 0])
def test_warps_of_their_own(seed):
    """Boxes leave the arrays at every edge. Nothing is found but that the four warps that start the others
    write one word alike (lines 164 and 367)."""
    report, right = boxes(seed=seed)
    assert right and report.completed and "setmaxnreg" in stored("boxes", 90)[0]
    assert {(f.kind, f.line) for f in report.findings} == {("race", 164), ("race", 367)}, report.describe()


MERGED = "the copies it commits join the next group, which the same wait waits for"
AGAIN = "says what the wait and barrier before the loop, or at the end of the step before, have said"
TWIN = "its twin beside it says the same"
FENCED = "nothing was written since the fence of the same step, which stands after the wait for both operands"
EQUIVALENT = {
    ("matmul", 80): {109: MERGED, 339: AGAIN, 340: AGAIN, 483: TWIN, 484: TWIN},
    ("matmul", 90): {105: MERGED},
    ("attention", 80): {172: MERGED},
    ("attention", 90): {174: MERGED, 736: FENCED},
}


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("kernel", RUNS)
def test_deleted_synchronisation(kernel, arch, full):
    """Each deletion is flagged (a missing proxy fence by a warning), wrong in numbers, or equivalent."""
    text, _ = stored(kernel, arch)
    mutants = deletions(text)[:: 1 if full else 3]
    survivors = set()
    for mutant in mutants:
        report, right = RUNS[kernel](arch, text=mutant.text)
        if right and not report.findings:
            survivors.add(mutant.line)
    assert survivors == EQUIVALENT.get((kernel, arch), {}).keys() & {m.line for m in mutants}
