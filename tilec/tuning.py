"""Choosing a kernel's constants: every combination that fits is compiled, and measured where that can be.

    best = matmul.tune(a, b, c, bm=[64, 128], stages=[2, 3, 4]);   matmul(a, b, c, **best.constants)
Without a device they are ranked by what they spill, by the bytes that their blocks move, and by how many
warps an SM holds at once. Candidates that their target cannot hold are dropped before LLVM and the assembler
see them. Compiling goes through any concurrent.futures.Executor: what is sent and what comes back is text and
bytes. Results are kept on disk.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import log
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends import cache
from tilec.backends.ptx.assemble import restored
from tilec.building import Built, begun, filled
from tilec.compiled import Compiled
from tilec.cost import resident
from tilec.device import device
from tilec.estimate import traffic
from tilec.ir.errors import TilecError
from tilec.ir.packing import PackedArray
from tilec.ir.target import CPU, Target, parse_target

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from tilec.kernels import Kernel

REPEATS = 7


@dataclass(frozen=True)
class Candidate:
    """Constants and what became of them: seconds where measured, registers where there is an assembler,
    `bytes` of global memory that all blocks read and write, where the extents tell."""

    constants: dict[str, Any]
    seconds: float | None = None
    registers: int = 0
    spill_bytes: int = 0
    shared_bytes: int = 0
    warps_per_sm: int = 0
    bytes: int = 0
    idle: float = 1.0  # how many times longer the bytes take as there are fewer blocks than SMs
    refused: str = ""

    @property
    def rank(self) -> tuple[Any, ...]:
        """Measured ones by time, others by what they spill, then by bytes (a tenth more or less is the same),
        then by how many warps an SM holds at once."""
        time = float("inf") if self.seconds is None else self.seconds
        moved = round(log(max(1, self.bytes) * self.idle, 1.1))
        return bool(self.refused), time, self.spill_bytes, moved, -self.warps_per_sm, self.shared_bytes

    def __str__(self) -> str:
        words = " ".join(f"{name}={value}" for name, value in self.constants.items())
        if self.refused:
            return f"{words}: {self.refused.splitlines()[0]}"
        time = "" if self.seconds is None else f"{1e6 * self.seconds:.1f} us, "
        held = f"{self.registers} registers, {self.spill_bytes} bytes spilled, " if self.registers else ""
        moved = f", {self.bytes / 1e6:.4g} MB moved" if self.bytes else ""
        return f"{words}: {time}{held}{self.shared_bytes} bytes shared{moved}"


@dataclass(frozen=True)
class Tuned:
    """All candidates, the best first."""

    place: str
    candidates: tuple[Candidate, ...]

    @property
    def constants(self) -> dict[str, Any]:
        """The best one's, to be passed on."""
        return self.candidates[0].constants

    def __str__(self) -> str:
        return "\n".join([f"on {self.place}:", *(f"  {each}" for each in self.candidates)])


def tune(
    kernel: Kernel,
    args: Sequence[Any],
    choices: Mapping[str, Any],
    *,
    place: str,
    executor: Executor | None = None,
    progress: Callable[[str], None] | None = None,
) -> Tuned:
    """Every combination of `choices` (lists are alternatives, all else is fixed) on these arguments."""
    if place == "reference":
        raise TilecError('the reference is not made to be fast: tune for "cpu", "cuda:0" or "sm_90a"')
    tell = progress or _shown
    args = [_there(x, place) for x in args if x is not None]
    options = [value if isinstance(value, list) else [value] for value in choices.values()]
    chosen = [dict(zip(choices, values, strict=True)) for values in product(*options)]
    if not chosen:
        raise TilecError("tune has nothing to choose from: a list of alternatives is empty")
    compiled = [_traced(kernel, args, constants, place) for constants in chosen]
    known = _key(place, args, compiled, chosen)
    kept = cache.fetch(known) if known else None
    if kept is not None:
        found = [Candidate(chosen[i], **row) for i, row in json.loads(kept["rows"])]
        return Tuned(place, tuple(found))
    rows = _all(chosen, compiled, args, executor, tell)
    order = sorted(range(len(rows)), key=lambda i: rows[i].rank)
    if rows[order[0]].refused:
        raise TilecError(f"no candidate of {kernel.definition.name} fits {place}: {rows[order[0]]}")
    if known:
        plain = [(i, {k: v for k, v in vars(rows[i]).items() if k != "constants"}) for i in order]
        cache.keep(known, {"rows": json.dumps(plain).encode()})
    return Tuned(place, tuple(rows[i] for i in order))


def _shown(text: str) -> None:
    """Progress, where somebody is looking."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def _there(x: Any, place: str) -> Any:
    """An argument where it is measured: not with copies to the GPU and back."""
    from tilec.device import to_device

    on_gpu = place.startswith("cuda") and isinstance(x, np.ndarray | PackedArray)
    return to_device(x, parse_target(place).device) if on_gpu else x


def _traced(
    kernel: Kernel, args: Sequence[Any], constants: dict[str, Any], place: str
) -> Compiled | TilecError:
    try:
        return kernel.compile(*args, target=place, **constants)
    except TilecError as error:
        return error


def _key(place: str, args: Sequence[Any], compiled: Sequence[Any], chosen: Sequence[Any]) -> str:
    """Device, problem, and the assembler, which tells of spills; "" where nothing could be traced."""
    from tilec.backends.ptx.assemble import assembler
    from tilec.ir.text import show

    texts = [show(each.traced) for each in compiled if isinstance(each, Compiled)]
    known = parse_target(place)
    board = device(known.device).name if known.runner.startswith("cuda") else ""
    shapes = [f"{getattr(x, 'shape', x)}" for x in args]
    tool = "" if known.target == CPU else assembler()
    return cache.key("tuned", place, board, tool, *texts, *shapes, repr(chosen)) if texts else ""


def _all(
    chosen: Sequence[dict[str, Any]],
    compiled: Sequence[Compiled | TilecError],
    args: Sequence[Any],
    executor: Executor | None,
    tell: Callable[[str], None],
) -> list[Candidate]:
    rows: list[Candidate] = []
    with begun([each if isinstance(each, Compiled) else None for each in compiled], executor) as jobs:
        for constants, each, job in zip(chosen, compiled, jobs, strict=True):
            rows.append(_row(constants, each, job, args))
            tell(f"{len(rows)} of {len(chosen)}: {rows[-1]}")
    return rows


def _resources(compiled: Compiled, built: Built) -> dict[str, Any]:
    """Of a candidate that was built for a GPU."""
    if compiled.machine == CPU:
        return {}
    found: dict[str, Any] = {"shared_bytes": int(built.code["shared"])}
    if built.cubin:
        usage = restored(built.cubin)
        found |= {"registers": usage.registers, "spill_bytes": usage.spill_bytes}
    warps, registers = compiled.traced.all_warps, found.get("registers", 0)
    return found | {"warps_per_sm": warps_per_sm(compiled.machine, warps, found["shared_bytes"], registers)}


def warps_per_sm(machine: Target, warps: int, shared_bytes: int, registers: int) -> int:
    """How many warps of such blocks an SM holds at once, by threads, blocks, shared memory and registers."""
    return int(resident(machine, warps, shared_bytes, registers)) * warps


def _row(
    constants: dict[str, Any], compiled: Compiled | TilecError, job: Future[Built] | None, args: Sequence[Any]
) -> Candidate:
    if job is None or isinstance(compiled, TilecError):
        return Candidate(constants, refused=str(compiled))
    built = job.result()
    if built.refused:
        return Candidate(constants, refused=built.refused)
    resources, runner = _resources(compiled, built), compiled.place.runner
    if runner != "cpu" and not runner.startswith("cuda"):
        moved, blocks = traffic(compiled, args)
        rates = compiled.machine.rates
        idle = max(1.0, rates.sms / blocks) if rates and blocks else 1.0
        return Candidate(constants, bytes=moved, idle=idle, **resources)
    try:
        seconds = float(np.median([*_times(filled(compiled, built), args)]))
        return Candidate(constants, seconds=seconds, **resources)
    except TilecError as error:
        return Candidate(constants, refused=str(error))


def _times(compiled: Compiled, args: Sequence[Any]) -> Iterator[float]:
    """Seconds of launches that write copies; the first, which loads code, is not counted."""
    given = [_copy(x) if i in compiled.written else x for i, x in enumerate(args)]
    wait = _waiting(compiled, given)
    compiled(*given)
    for _ in range(REPEATS):
        wait()
        start = perf_counter()
        compiled(*given)
        wait()
        yield perf_counter() - start


def _copy(x: Any) -> Any:
    from tilec.device import DeviceArray, to_device

    if isinstance(x, DeviceArray):
        return to_device(x.numpy(), x.device)
    if isinstance(x, PackedArray):
        return PackedArray(_copy(x.bytes), x.dtype, x.shape)
    return x.copy() if isinstance(x, np.ndarray) else x


def _waiting(compiled: Compiled, args: Sequence[Any]) -> Callable[[], None]:
    if not compiled.place.runner.startswith("cuda"):
        return lambda: None
    gpu = device(compiled.place.device)
    return lambda: gpu.synchronise()
