"""How fast the emulator runs: `tilec bench emulator`.

Three kernels that nvcc compiled, whose PTX is stored with the tests: a product with cp.async, ldmatrix and
mma.sync, one with TMA and wgmma, and a vector sum. Each runs with all checks, and with none ("bare").
Numbers are the best of several runs; they are printed, and never asserted.
"""

from __future__ import annotations

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
