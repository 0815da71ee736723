"""What things cost, measured: `tilec bench NAME`.

    tilec bench compile                   milliseconds of every stage, for the kernels of examples/; then what
                                          a process takes that has just started, beside installed peers
    tilec bench compile matmul.py         for the first kernel that a script calls
Numbers are medians; they are printed, and never asserted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

from tilec import places
from tilec.backends import cache, llvm
from tilec.backends.ptx.assemble import assembler
from tilec.ir.errors import TilecError
from tilec.ir.target import parse_target
from tilec.kernels import Kernel
from tilec.scripts import Call, first_call, replaced

EXAMPLES = Path(__file__).parents[1] / "examples"
STAGES = ("trace", "passes", "emit", "llvm", "ptxas")
Seconds = dict[str, float]


def compile_times(files: Sequence[Path], target: str, runs: int) -> Iterator[str]:
    """A table: one line for the kernel that each file calls first."""
    if parse_target(target).runner != "compile":
        raise TilecError(f"bench compile measures what a GPU's code takes, for sm_90a say, found {target!r}")
    scripts = files or sorted(EXAMPLES.glob("*.py"))
    if not scripts:
        raise TilecError("bench compile: there is no folder examples/ beside this tilec: name the files")
    yield f"{'milliseconds for ' + target:<40}" + "".join(f"{stage:>9}" for stage in (*STAGES, "sum"))
    for path in scripts:
        with places.target(f"emulator:{target}"), redirect_stderr(StringIO()):  # tiles are chosen for it
            call = first_call(path, own=False)
        yield row(f"{path.name}:{call.kernel.definition.name}", medians(call, target, runs))
    yield f"medians of {runs}, after one run that is not counted; nothing is kept between runs"
    if not files:
        from tilec import bench_cold

        yield ""
        yield from bench_cold.table(target, runs)


def row(name: str, seconds: Seconds) -> str:
    found = [seconds.get(stage) for stage in STAGES]
    total = sum(x for x in found if x is not None)
    return f"{name:<40}" + "".join("        -" if x is None else f"{1e3 * x:9.1f}" for x in (*found, total))


def medians(call: Call, target: str, runs: int) -> Seconds:
    """Seconds of each stage; the first run loads what is loaded once."""
    found = [measured(call, target) for _ in range(runs + 1)][1:]
    return {stage: median(each[stage] for each in found) for stage in found[0]}


def measured(call: Call, target: str) -> Seconds:
    """One run through all stages, of a kernel that has compiled nothing before."""
    seconds: Seconds = {}
    fresh = Call(Kernel(call.kernel.definition.function), call.given, call.constants)
    done = timed(seconds, "trace", lambda: fresh.compile(target))
    timed(seconds, "passes", lambda: done.func)
    to_ptx = llvm.to_ptx
    with (
        replaced(llvm, "to_ptx", lambda *args: timed(seconds, "llvm", lambda: to_ptx(*args))),
        replaced(cache, "fetch", lambda name: None),
        replaced(cache, "keep", lambda name, parts: None),
    ):
        timed(seconds, "emit", lambda: done.code)
        if assembler():
            timed(seconds, "ptxas", lambda: done.resources)
    seconds["emit"] -= seconds["llvm"]
    return seconds


def timed(seconds: Seconds, stage: str, work: Callable[[], Any]) -> Any:
    """What the work gives; its time is added to the stage's."""
    start = time.perf_counter()
    result = work()
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
    return result
