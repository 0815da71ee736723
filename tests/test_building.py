"""Several specialisations at once: what comes back is what compiling one by one gives."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.test_tuning import MATRICES, Recording, matmul, scaled
from tilec import building
from tilec.backends.ptx import assemble


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEC_CACHE_DIR", str(tmp_path / "cache"))


def fresh(kernel: tc.Kernel) -> tc.Kernel:
    return tc.kernel(kernel.definition.function)


ROWS = [tc.Spec("f32", (tc.dim("n", multiple),)) for multiple in (1, 8)]


def test_what_comes_back_is_what_compiling_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    many = fresh(scaled).compile_many(
        [(ROWS[0], ROWS[0]), (ROWS[1], ROWS[1], {"block": 128})], "sm_80", progress=said.append, warps=8
    )
    assert [text[:7] for text in said] == ["1 of 2:", "2 of 2:"]
    one = fresh(scaled).compile(ROWS[1], ROWS[1], target="sm_80", block=128, warps=8)
    assert many[1].ptx == one.ptx and ".maxntid 256" in one.ptx
    if assemble.assembler():
        assert many[1].resources == one.resources
    monkeypatch.setattr(building, "begin", None)  # the disk has both
    again = fresh(scaled).compile_many([(ROWS[0], ROWS[0])], "sm_80", warps=8)
    assert again[0].ptx == many[0].ptx


def test_the_kernel_itself_knows_them_then(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, x = fresh(scaled), np.ones(100, np.float32)
    kernel.compile_many([(x, x)], "cpu")
    monkeypatch.setattr("tilec.backends.cpu.compile", None)
    kernel(x, y := np.zeros_like(x), 3.0)
    np.testing.assert_array_equal(y, 3)


def test_any_executor_serves(full: bool) -> None:
    pool: Any = Recording()
    calls = [(*MATRICES, {"bm": bm}) for bm in (16, 32)]
    many = fresh(matmul).compile_many(calls, "sm_80", executor=pool)
    assert pool.sent == 2 and all("mma.sync" in each.ptx for each in many)
    if full:
        with ProcessPoolExecutor(1) as processes:
            assert fresh(scaled).compile_many([(ROWS[0], ROWS[0])], "sm_90a", executor=processes)[0].ptx


def test_errors() -> None:
    with pytest.raises(tc.TilecError, match="bytes of shared memory"):
        fresh(matmul).compile_many([(*MATRICES, {"bk": 256, "stages": 8})], "sm_80")
    with pytest.raises(tc.TilecError, match='the reference runs the IR itself: compile for "cpu"'):
        fresh(scaled).compile_many([(ROWS[0], ROWS[0])], "reference")
