"""What the benches measure, and how: never how fast."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tilec import bench, bench_call, bench_cold
from tilec.backends.ptx.assemble import assembler
from tilec.bench_kernels import compiled, copy2
from tilec.ops import call_bench, loops_bench


def test_calls_reach_the_silent_driver_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []
    monkeypatch.setattr(bench_call.Silent, "cuLaunchKernel", lambda self, *args: reached.append(args) or (0,))
    monkeypatch.setattr(bench_call, "CALLS", 3)
    monkeypatch.setattr(bench_call, "TIMES", 1)
    lines = list(bench_call.table(1))
    assert len(reached) == 2 * (1 + 3)  # two kernels: a first call, then three
    assert {args[1:7] for args in reached} == {(1, 1, 1, 128, 1, 1)}
    assert [line.split()[0] for line in lines] == ["microseconds", "arrays", "numpy's", "numpy", "the"]
    assert not copy2._compiled or all(key[0] == "cpu" for key in copy2._compiled)


def test_calls_of_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_call, "CALLS", 3)
    monkeypatch.setattr(bench_call, "TIMES", 1)
    lines = list(call_bench.table(1))
    names = [line.split()[0] for line in lines]
    assert names[4:] == ["operators,", "linear,", "linear,", "depthwise_conv", "attention", "linear,", "the"]
    assert all(float(line.split()[-2]) > 0 for line in lines[5:9])


def test_a_child_measures_every_stage(tmp_path: Any) -> None:
    seconds = bench_cold._child("tilec.bench_cold", "add", "sm_80", tmp_path)
    stages = {*bench_cold.COLUMNS} - {"kept"} - (set() if assembler() else {"cubin"})
    assert {name for name, x in seconds.items() if x > 0} >= stages
    assert abs(seconds["sum"] - sum(seconds[name] for name in bench_cold.STAGES[1:])) < 1e-6
    assert list(tmp_path.glob("*.tilec"))
    again = bench_cold._child("tilec.bench_cold", "add", "sm_80", tmp_path)
    assert again["passes"] < 1e-3  # nothing was compiled


def test_a_child_compiles_an_operator_for_the_cpu(tmp_path: Any) -> None:
    seconds = bench_cold._child("tilec.bench_cold", "linear", "cpu", tmp_path)
    assert set(seconds) == {*bench_cold.COLUMNS} - {"kept", "cubin"}
    assert all(x > 0 for x in seconds.values())


def test_the_table_of_fresh_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def child(command: list[str], env: dict[str, str], **rest: Any) -> Any:
        asked.append((*command[2:], env["TILEC_CACHE_DIR"][-4:]))
        return SimpleNamespace(stdout=json.dumps({"imports": 0.05, "sum": 0.1, "cpu": 0.2}))

    monkeypatch.setattr(bench_cold.subprocess, "run", child)
    monkeypatch.setattr(bench_cold, "find_spec", lambda name: object())
    lines = list(bench_cold.table("sm_80", 1))
    names = [line.split()[0].rstrip(",") for line in lines[:5]]
    assert names == ["a", "vector", "triton", "matmul", "triton"]
    assert lines[1].split()[-3:] == ["100.0", "200.0", "150.0"] and lines[2].split()[-1] == "-"
    assert [line.split()[0] for line in lines[5:11]] == ["linear,", "attention,", "depthwise"] * 2
    assert {words[0] for words in asked} == {"tilec.bench_cold", "tilec.bench_triton"}
    assert {words[-1] for words in asked if "triton" not in words[0]} > {"kept"}


def test_without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cold, "_fastest", lambda *args, **words: {"imports": 1.0, "sum": 1.0})
    monkeypatch.setattr(bench_cold, "find_spec", lambda name: None)
    assert list(bench_cold.table("sm_80", 1))[-1] == "no peer in this run: triton is not installed"


def test_fresh_processes_are_measured_where_no_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "01_add.py").write_text((bench.EXAMPLES / "01_vector_add.py").read_text())
    monkeypatch.setattr(bench, "EXAMPLES", tmp_path)
    monkeypatch.setattr(bench_cold, "table", lambda target, runs: iter([f"fresh on {target}, {runs} runs"]))
    monkeypatch.setattr(bench, "medians", lambda call, target, runs: {"trace": 0.001})
    assert list(bench.compile_times((), "sm_80", 2))[-1] == "fresh on sm_80, 2 runs"


def test_the_kernels_mean_what_they_say() -> None:
    from tilec.bench_kernels import add, matmul

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 300)).astype(np.float32)
    with tc.target("reference"):
        add(x, y, out := np.zeros_like(x))
        a, b = rng.standard_normal((2, 8, 8)).astype(np.float16)
        matmul(a, b, c := np.zeros((8, 8), np.float16), bm=16, bn=16, bk=16)
    np.testing.assert_array_equal(out, x + y)
    np.testing.assert_allclose(c, a @ b, rtol=2e-3, atol=2e-3)
    assert "mma.sync" in compiled("matmul", "sm_80").ptx


@pytest.mark.skipif(not assembler(), reason="there is no assembler")
def test_the_table_of_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops_bench, "tiles", lambda: [])
    monkeypatch.setattr(loops_bench, "cases", lambda: [loops_bench._layer("u3", 16)])
    monkeypatch.setattr(loops_bench, "TARGETS", ("sm_80",))
    lines = [line.split() for line in loops_bench.table(1)]
    *_, instructions, products, each, registers, spills, shared, seconds = lines[1]
    assert lines[1][:3] == ["f16", "x", "u3,"] and len(lines) == 5 + len(loops_bench.PEERS)
    assert products == "32" and float(each) == round(int(instructions) / 32, 2) and spills == "0"
    assert 0 < int(registers) <= 255 and int(shared) > 0 and float(seconds) > 0
