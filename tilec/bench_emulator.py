"""How fast the emulator runs: `tilec bench emulator`.

Three kernels that nvcc compiled, whose PTX is stored with the tests: a product with cp.async, ldmatrix and
mma.sync, one with TMA and wgmma, and a vector sum. Each runs with all checks, and with none ("bare").
Numbers are the best of several runs; they are printed, and never asserted. The last line says what the first
launch of a process pays for compiled code, and how much memory it all took.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilec.ir.errors import TilecError

STORED = Path(__file__).parents[1] / "tests" / "backends" / "emulator" / "ptx"
HEAD = f"{'seconds on the emulator':<44}{'all checks':>12}{'bare':>8}{'M instr.':>10}{'M/s bare':>10}"


@dataclass(frozen=True)
class Case:
    """A launch to measure; `args` makes fresh arguments from the size n."""

    title: str
    file: str
    kernel: str
    n: int
    grid: tuple[int, ...]
    block: int
    args: Callable[[int], tuple[Any, ...]]


def cases(n: int = 512, length: int = 1 << 20) -> tuple[Case, ...]:
    """Products of n x n (a multiple of 64), and a sum of two vectors."""
    tiles = (n // 64, n // 64)
    return (
        Case(f"f16 matmul {n}^3: cp.async, mma.sync", "hgemm", "hgemm", n, tiles, 128, _product),
        Case(f"f16 matmul {n}^3: TMA, wgmma", "wgmma", "matmul", n, tiles, 128, _hopper),
        Case(f"vector add of {length:,}", "basic", "vecadd", length, (-(-length // 256),), 256, _vectors),
    )


def speeds(runs: int, chosen: tuple[Case, ...] | None = None) -> Iterator[str]:
    """The table, a line at a time. TilecError where the stored PTX is not there."""
    if not STORED.is_dir():
        raise TilecError(f"bench emulator needs the PTX stored in {STORED}: run it in a checkout of tilec")
    yield HEAD
    for case in chosen or cases():
        yield row(case, runs)
    yield f"best of {runs}, after one run that is not counted; instructions are those of threads"
    yield warm_up()


def warm_up() -> str:
    """What the first long launch waits for: fixed machine code, compiled once per machine. And the memory."""
    with tempfile.TemporaryDirectory() as folder:
        first, later = (_machine_code(folder) for _ in range(2))
    unit = 1 << (30 if sys.platform == "darwin" else 20)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return f"warm-up {first:.2f} s, from the cache on disk {later:.2f} s; {memory:.2f} GB of memory at most"


WARM_UP = """
import time
import tilec
from tilec.backends.emulator import fast, fast_shadow
start = time.perf_counter()
fast.matrix_product("f16")
fast_shadow.shadow_check()
print(time.perf_counter() - start)
"""


def _machine_code(cache: str) -> float:
    """Seconds until the compiled code of an f16 product and of its checks is there, in a new process."""
    environment = {**os.environ, "TILEC_CACHE_DIR": cache}
    command = [sys.executable, "-c", WARM_UP]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def row(case: Case, runs: int) -> str:
    checked, _ = best(case, "all", runs)
    bare, instructions = best(case, "none", runs)
    rate = instructions / bare / 1e6
    return f"{case.title:<44}{checked:12.2f}{bare:8.2f}{instructions / 1e6:10.1f}{rate:10.0f}"


def best(case: Case, checks: str, runs: int) -> tuple[float, int]:
    """The least seconds of a launch, and its thread instructions."""
    from tilec.backends import emulator

    module = emulator.load((STORED / f"{case.file}.ptx").read_text())
    seconds, args = [], case.args(case.n)
    for _ in range(runs + 1):
        start = time.perf_counter()
        report = module.launch(case.kernel, case.grid, case.block, args, checks=checks)
        seconds.append(time.perf_counter() - start)
        report.raise_if_any()
    return min(seconds[1:]), sum(report.metrics.instructions.values())


def _halves(n: int) -> list[Any]:
    return list(np.random.default_rng(0).standard_normal((3, n, n)).astype(np.float16))


def _product(n: int) -> tuple[Any, ...]:
    return (*_halves(n), np.int32(n), np.int32(n), np.int32(n))


def _hopper(n: int) -> tuple[Any, ...]:
    from tilec.backends.emulator import TensorMap

    a, b, c = _halves(n)
    swizzled = (TensorMap(x, (64, 64), "128B") for x in (a, b))
    return (*swizzled, TensorMap(c, (64, 64)), np.int32(n))


def _vectors(n: int) -> tuple[Any, ...]:
    x, y = np.random.default_rng(0).standard_normal((2, n)).astype(np.float32)
    return x, y, np.empty_like(x), np.int32(n)
