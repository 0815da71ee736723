"""What a compile costs in a process that has just started: `tilec bench compile` prints it below the stages.

    for line in table("sm_80", runs=5): print(line)
Each number comes from processes of their own, with an empty cache, or with one that a process before has
filled. A child is `python -m tilec.bench_cold add sm_80`; it prints its seconds as JSON. Triton, where it is
installed, compiles the same kernels in processes of its own. Operators are compiled for the CPU too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

OPERATORS = "tilec.ops.compile_bench"  # a floor above
NAMES = {"add": "vector add, f32", "matmul": "matmul 128x128x32, f16"}
STAGES = ("imports", "front end", "passes", "code", "cubin")
COLUMNS = (*STAGES, "sum", "cpu", "kept")
WIDTH = 36
Seconds = dict[str, float]


def table(target: str, runs: int) -> Iterator[str]:
    """One line for each kernel, and for each peer that is installed."""
    head = "".join(f"{name:>10}" for name in COLUMNS)
    yield f"{'a fresh process, milliseconds':<{WIDTH}}{head}"
    for name, words in NAMES.items():
        yield _row(words, _ours(name, target, runs))
        if find_spec("triton"):
            yield _row("  triton", _fastest("tilec.bench_triton", name, target, runs, fresh=True))
    for place in (target, "cpu"):
        for name, words in import_module(OPERATORS).OPERATORS.items():
            yield _row(f"{words}, {place}", _ours(name, place, runs))
    yield f"the fastest of {runs} processes, each column by itself"
    yield "imports: of tilec and llvmlite, over numpy; sum: what follows them, with nothing cached"
    yield "cpu: its processor time, that of ptxas too, which other programs on the machine disturb less"
    yield "kept: all that a process does over importing numpy where the disk cache has the kernel"
    if not find_spec("triton"):
        yield "no peer in this run: triton is not installed"


def _ours(name: str, target: str, runs: int) -> Seconds:
    found = _fastest("tilec.bench_cold", name, target, runs, fresh=True)
    kept = _fastest("tilec.bench_cold", name, target, runs, fresh=False)
    return found | {"kept": kept["imports"] + kept["sum"]}


def _row(words: str, seconds: Seconds) -> str:
    found = [seconds.get(name) for name in COLUMNS]
    return f"{words:<{WIDTH}}" + "".join(f"{'-':>10}" if x is None else f"{1e3 * x:10.1f}" for x in found)


def _fastest(module: str, name: str, target: str, runs: int, *, fresh: bool) -> Seconds:
    """Of `runs` processes, after one that is not counted: it fills the caches that are to be full."""
    with TemporaryDirectory(prefix="tilec-") as folder:
        found = [
            _child(module, name, target, Path(folder, str(i) if fresh else "kept")) for i in range(runs + 1)
        ][1:]
    return {stage: min(each[stage] for each in found) for stage in found[0]}


def _child(module: str, name: str, target: str, folder: Path) -> Seconds:
    places = {"TILEC_CACHE_DIR": str(folder), "TRITON_CACHE_DIR": str(folder)}
    command = [sys.executable, "-m", module, name, target]
    root = str(Path(__file__).parents[1])  # a checkout is found although nothing is installed
    around = {**os.environ, **places, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, env=around, check=True)
    seconds: Seconds = json.loads(done.stdout)
    return seconds


def measured(name: str, target: str) -> Seconds:
    """In this process, which has loaded nothing yet: a compile of one kernel, stage by stage."""
    import numpy  # noqa: F401

    marks = [perf_counter()]
    from tilec.backends import cache
    from tilec.backends.ptx.assemble import assembler

    kernels = import_module("tilec.bench_kernels" if name in NAMES else OPERATORS)

    kept = bool(cache.entries())
    if not kept:
        from tilec.backends import llvm

        llvm.version()  # loads llvmlite
    marks.append(perf_counter())
    spent = sum(os.times()[:4])
    done = kernels.compiled(name, target)
    marks.append(perf_counter())
    if not kept:
        _ = done.func
    marks.append(perf_counter())
    _ = done.code
    marks.append(perf_counter())
    if target != "cpu" and assembler():
        _ = done.cubin
        marks.append(perf_counter())
    stages = {stage: after - before for stage, (before, after) in zip(STAGES, pairwise(marks), strict=False)}
    return stages | {"sum": marks[-1] - marks[1], "cpu": sum(os.times()[:4]) - spent}


if __name__ == "__main__":
    print(json.dumps(measured(*sys.argv[1:])))
