"""load and launch: PTX text in, a Report out, arrays written in place.

load(ptx).launch("scale", grid=4, block=128, args=(x, np.float32(2), np.uint32(len(x))))
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

import numpy as np

from tilec.backends.emulator.device import GlobalMemory
from tilec.backends.emulator.global_race import GlobalRace
from tilec.backends.emulator.isa import Program, build
from tilec.backends.emulator.machine import Dim, Launch, Machine
from tilec.backends.emulator.parse import parse
from tilec.backends.emulator.program import Function, Source, Variable
from tilec.backends.emulator.ptx_types import Array
from tilec.backends.emulator.report import KINDS, Report
from tilec.backends.emulator.schedule import Scheduler
from tilec.backends.emulator.tensormap import TensorMap
from tilec.backends.emulator.unread import Unread, warnings
from tilec.backends.origin import origin
from tilec.ir.errors import TilecError

LINE = re.compile(r"PTX line (\d+): ")
LANES = 16384  # lanes of a batch: beyond, the registers leave the cache
SHADOW_BYTES = 1 << 28
SHARED_LIMITS = {
    80: 163,
    86: 99,
    87: 163,
    89: 99,
    90: 227,
    100: 227,
    103: 227,
    120: 99,
    121: 99,
}  # KiB per block


def load(ptx: str) -> Module:
    """Parses and decodes every kernel of the text; TilecError names the line of what the emulator does not
    know, and the line of the source that it comes from."""
    try:
        return Module(parse(ptx))
    except TilecError as error:
        line = LINE.match(error.message)
        raise error.at(origin(ptx, int(line[1])) if line else None) from None


class Module:
    """The kernels of one PTX text. Its global variables keep their values from launch to launch."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.variables = [v for v in source.variables.values() if v.space in ("global", "const")]
        plan = GlobalMemory()
        self.addresses = {
            v.name: plan.reserve(v.size, v.name, max(v.align, 256)).start for v in self.variables
        }
        self.contents = {v.name: self.initial(v) for v in self.variables}
        entries = [f for f in source.functions.values() if f.entry]
        self.programs = {f.name: build(source, f.name, self.addresses) for f in entries}

    def initial(self, v: Variable) -> Array:
        """The bytes of a variable: its initialiser, then zeros; an address is that of another variable."""
        data = np.zeros(v.size, np.uint8)
        element = (
            v.size // max(1, len(v.contents)) if v.type == "b128" else np.dtype(numpy_name(v.type)).itemsize
        )
        for n, item in enumerate(v.contents):
            value = item if isinstance(item, int) else self.addresses[item[0]] + item[1]
            raw = (value & ((1 << 8 * element) - 1)).to_bytes(element, "little")
            data[n * element : (n + 1) * element] = np.frombuffer(raw, np.uint8)
        return data

    @property
    def kernels(self) -> tuple[str, ...]:
        return tuple(self.programs)

    def launch(
        self,
        kernel: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        args: Sequence[Any],
        shared_bytes: int = 0,
        cluster: Sequence[int] = (1, 1, 1),
        checks: str | Iterable[str] = "all",
        seed: int | None = None,
    ) -> Report:
        """Runs a kernel. Arrays are device memory, written in place; scalars are numpy scalars of the
        parameter's size. Findings are in the report and never raise; wrong use raises TilecError."""
        program = self.programs.get(kernel)
        if program is None:
            raise TilecError(
                f"the module has no kernel {kernel!r}; it has {', '.join(self.programs) or 'none'}"
            )
        memory = GlobalMemory()
        for v in self.variables:
            memory.reserve(v.size, v.name, max(v.align, 256)).host = self.contents[v.name]
        params = parameters(program.function, args, memory)
        launch = Launch(
            program, dim(grid, "grid"), dim(block, "block"), cluster_of(program, cluster), memory, params,
            shared_bytes,
            kinds(checks), Report(), None if seed is None else np.random.default_rng(seed),
            Unread(int(np.prod(dim(grid, "grid")))),
        )  # fmt: skip
        limits(launch, self.source.target)
        return execute(launch)


def numpy_name(kind: str) -> str:
    from tilec.backends.emulator.ptx_types import TYPES

    return TYPES[kind]


def dim(value: int | Sequence[int], what: str) -> Dim:
    numbers = [value] if isinstance(value, int | np.integer) else list(value)
    if not 1 <= len(numbers) <= 3 or any(not isinstance(n, int | np.integer) or n < 1 for n in numbers):
        raise TilecError(f"{what} is one to three positive numbers, not {value!r}")
    x, y, z = (*map(int, numbers), 1, 1)[:3]
    return x, y, z


def cluster_of(program: Program, given: Sequence[int]) -> Dim:
    """The extent of clusters: that of .reqnctapercluster, which a launch may leave out but not contradict."""
    asked, found = program.function.directives.get("reqnctapercluster"), dim(given, "cluster")
    if not asked:
        return found
    required = dim(asked, "cluster")
    if found not in ((1, 1, 1), required):
        raise TilecError(f"{program.function.name} was compiled for clusters of {required}, not {found}")
    return required


def kinds(checks: str | Iterable[str]) -> frozenset[str]:
    if isinstance(checks, str):
        if checks not in ("all", "none"):
            raise TilecError(
                f'checks is "all", "none" or a set of {", ".join(sorted(KINDS))}, not {checks!r}'
            )
        return KINDS if checks == "all" else frozenset()
    chosen = frozenset(checks)
    if not chosen <= KINDS:
        raise TilecError(f"there is no check {min(chosen - KINDS)!r}; there are {', '.join(sorted(KINDS))}")
    return chosen


def parameters(function: Function, args: Sequence[Any], memory: GlobalMemory) -> Array:
    """The kernel's parameter bytes; arrays get room in device memory."""
    if len(args) != len(function.params):
        raise TilecError(f"{function.name} takes {len(function.params)} arguments, {len(args)} were given")
    order = sorted(
        range(len(args)), key=lambda n: -getattr(args[n], "nbytes", 0)
    )  # a view finds its array there
    values = {n: argument(function, n, args[n], memory) for n in order}
    data, at = bytearray(), 0
    for n, v in enumerate(function.params):
        at = (at + v.align - 1) // v.align * v.align
        data += bytes(at - len(data)) + values[n]
        at += v.size
    return np.frombuffer(bytes(data), np.uint8)


def argument(function: Function, n: int, value: Any, memory: GlobalMemory) -> bytes:
    param = function.params[n]
    what = f"argument {n} of {function.name}"
    if isinstance(value, TensorMap):
        return tensor_argument(value, param.size, what, memory)
    if isinstance(value, np.ndarray):
        if param.size != 8:
            raise TilecError(f"{what} is a .{param.type} of {param.size} bytes, an array was given")
        address = memory.add(value, f"argument {n}")
        if param.pointee and address % param.pointee:
            raise TilecError(
                f"{what} points at memory aligned to {param.pointee} bytes (.ptr .align); this array starts "
                f"{address % param.pointee} bytes past such an address"
            )
        return address.to_bytes(8, "little")
    if not isinstance(value, np.generic):
        raise TilecError(
            f"{what} must be a numpy array or scalar, not {type(value).__name__}; write np.int32(...)"
        )
    raw = value.tobytes()
    if len(raw) != param.size:
        raise TilecError(f"{what} is a .{param.type} of {param.size} bytes; {value.dtype} has {len(raw)}")
    return raw


def tensor_argument(value: TensorMap, size: int, what: str, memory: GlobalMemory) -> bytes:
    """A tensor map as a 128-byte parameter, or as the address of one in device memory."""
    placed = copy(value)
    placed.address = memory.add(value.array, what)
    if placed.address % 16:
        raise TilecError(
            f"{what} is a tensor map of an array that starts {placed.address % 16} bytes past a multiple "
            "of 16: copy the array"
        )
    memory.tensor_maps.append(placed)
    handle = placed.handle(len(memory.tensor_maps) - 1)
    if size == 128:
        return handle
    if size != 8:
        raise TilecError(f"{what} has {size} bytes; a tensor map takes 128, or 8 for its address")
    place = memory.reserve(128, f"{what} (tensor map)")
    place.host = np.frombuffer(handle, np.uint8)
    return place.start.to_bytes(8, "little")


def limits(launch: Launch, target: str) -> None:
    """What the target could not launch is an error here."""
    function, threads = launch.program.function, launch.threads
    if threads > 1024:
        raise TilecError(f"a block has at most 1024 threads, {threads} were asked for")
    most = function.directives.get("maxntid") or function.directives.get("reqntid")
    if most and threads > int(np.prod(most)):
        raise TilecError(
            f"{function.name} was compiled for at most {int(np.prod(most))} threads, {threads} were given"
        )
    number = int("".join(c for c in target.removeprefix("sm_") if c.isdigit()) or 90)
    room = SHARED_LIMITS.get(number, 227) * 1024
    used = launch.program.shared_size + launch.shared_bytes
    if used > room:
        raise TilecError(
            f"{function.name} needs {used} bytes of shared memory, {target} has {room} per block"
        )
    cluster = int(np.prod(launch.cluster))
    if cluster > 16:
        raise TilecError(f"a cluster has at most 16 blocks, {launch.cluster} has {cluster}")
    if any(g % c for g, c in zip(launch.grid, launch.cluster, strict=True)):
        raise TilecError(f"the grid {launch.grid} is not a multiple of the cluster {launch.cluster}")


def execute(launch: Launch) -> Report:
    program, report = launch.program, launch.report
    launch.memory.fill()
    launch.executed = [0] * len(program.steps)
    if "global-race" in launch.checks and launch.blocks > 1:
        launch.global_race = GlobalRace(launch)
    batch = batch_size(launch)
    with np.errstate(all="ignore"):
        for first in range(0, launch.blocks, batch):
            machine = Machine(launch, first, min(batch, launch.blocks - first))
            report.completed = Scheduler(machine).run()
            if not report.completed:
                break
    launch.memory.write_back()
    summarise(launch, program)
    return report


def batch_size(launch: Launch) -> int:
    """How many blocks run side by side: bounded by lanes and by the memory of their shadows; whole
    clusters."""
    program, warps = launch.program, (launch.threads + 31) // 32
    shared = program.shared_size + launch.shared_bytes
    bytes_each = shared + warps * 32 * program.local_size * 2 + 1
    if "race" in launch.checks:
        bytes_each += (
            shared // program.granule("shared") * (16 + 4 * (warps + 1) * int(np.prod(launch.cluster)))
        )
    most = min(LANES // (warps * 32), SHADOW_BYTES // bytes_each, launch.blocks)
    whole = cluster_span(launch)
    return max(whole, most // whole * whole)


def cluster_span(launch: Launch) -> int:
    """The fewest successive blocks that are whole clusters."""
    (gx, gy, _), (cx, cy, cz) = launch.grid, launch.cluster
    if cz > 1:
        return gx * gy * cz
    return gx * cy if cy > 1 else cx


def summarise(launch: Launch, program: Program) -> None:
    for step, count in zip(program.steps, launch.executed, strict=True):
        i = step.instruction
        if count:
            launch.metrics.instructions[i.opcode] += count
        elif i.text != "(end)":
            launch.report.unexecuted.append((i.line, i.text))
    launch.report.unread = warnings(launch)
