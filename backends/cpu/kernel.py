"""A kernel compiled for this machine's CPU, and its launches.

    kernel = compile(func)
    kernel.launch([a, b, c], blocks=64)        # numpy arrays, in place

One native function runs blocks until none is left; every thread calls it and takes a few blocks at a time,
first of its own part of the grid. ctypes gives up Python's lock meanwhile.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, NamedTuple, NoReturn

import numpy as np

from tilec.backends import llvm
from tilec.backends.cpu import effects
from tilec.backends.cpu.arguments import Binding
from tilec.backends.cpu.lower import Report
from tilec.backends.cpu.program import NAME, function_text, lower
from tilec.backends.cpu.threads import Job, crew
from tilec.backends.cpu.work import work
from tilec.ir import codec
from tilec.ir.addresses import address
from tilec.ir.dtype import dtype
from tilec.ir.errors import Loc, TilecError
from tilec.ir.func import Func
from tilec.ir.tile import TileType

FEW = 200_000  # operations that are not worth waking another thread for
Array = np.ndarray[Any, Any]
Blocks = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)
Words = ctypes.Array[ctypes.c_int64]
PrintCallback = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)


class Room(NamedTuple):
    """What a launch has to itself: its arguments, and the state that its threads share."""

    words: Words
    state: Words
    at_words: int
    at_state: int
    job: Job


@dataclass
class CpuKernel:
    """Native code for one Func. `text` is the LLVM IR as written, `llvm` after optimisation."""

    func: Func
    text: str
    scratch_bytes: int
    tables: Sequence[Array]
    reports: Sequence[Report]
    operations: int  # of one block, roughly
    module: llvm.NativeModule
    _local: threading.local = field(default_factory=threading.local, repr=False)

    def __post_init__(self) -> None:
        self._binding = Binding(self.func)
        self._helpers: dict[int, tuple[Words, Any]] = {}  # their arenas, by how many
        self._table_addresses = _passed(np.array([address(t) for t in self.tables] or [0], np.uint64))
        self._callback = PrintCallback(self._print)
        self._print_address = ctypes.cast(self._callback, ctypes.c_void_p).value or 0

    @property
    def llvm(self) -> str:
        return self.module.llvm

    @property
    def asm(self) -> str:
        return self.module.asm

    def parts(self) -> dict[str, bytes]:
        """What brings it back (restore) without compiling."""
        tables = [np.ascontiguousarray(table) for table in self.tables]
        facts = {
            "scratch": self.scratch_bytes,
            "operations": self.operations,
            "tables": [(table.dtype.str, table.shape) for table in tables],
            "reports": [_told(report) for report in self.reports],
        }
        named = {f"table{i}": table.tobytes() for i, table in enumerate(tables)}
        code = {
            "object": self.module.object_bytes,
            "bitcode": self.module.bitcode,
            "text": self.text.encode(),
        }
        return {"facts": json.dumps(facts).encode(), **code, **named}

    def launch(self, args: Sequence[Any], blocks: int, threads: int | None = None) -> None:
        """Runs all blocks; arrays are written in place. TilecError where an assertion of the kernel fails."""
        if blocks > 0:
            self.movable(args, blocks, (), threads)(())

    def movable(
        self, args: Sequence[Any], blocks: int, moving: Sequence[int], threads: int | None = None
    ) -> Callable[[Sequence[int]], None]:
        """That launch with everything decided, but for where arrays lie: each call takes the addresses of the
        `moving` parameters. Of the others it keeps the addresses, and no array."""
        words = self._binding.words(args)
        spots = [(n, moving.index(slot.param)) for n, slot in enumerate(self._binding.slots)
                 if slot.kind == "pointer" and slot.param in moving]  # fmt: skip
        threads = self.threads(blocks) if threads is None else threads
        fixed = blocks, max(1, blocks // (threads * 16)), threads, 0, self._print_address
        fresh: list[Any] = [0] * (effects.TAKEN - effects.CHANGING + threads)
        rooms: list[Room] = []  # that no launch is in
        tables = ctypes.addressof(self._table_addresses)

        def launch(addresses: Sequence[int]) -> None:
            try:
                room = rooms.pop()
            except IndexError:
                room = self._room(words, (*fixed, *fresh), threads - 1)
            for n, i in spots:
                room.words[n] = addresses[i]
            room.state[effects.CHANGING :] = fresh
            if threads == 1 or not crew().run(room.job, room.at_state, self._scratch()):
                self._function(room.at_words, room.at_state, self._scratch(), tables)
            if room.state[effects.FAILED]:
                self._raise(room.state)
            rooms.append(room)

        return launch

    def threads(self, blocks: int) -> int:
        """As many as there are cores, blocks, and work; one for what prints, so that lines keep their
        order.
        """
        if any(report.type for report in self.reports):
            return 1
        worth = self.operations * blocks // FEW
        return max(1, min(_cores(), blocks, worth))

    @cached_property
    def _function(self) -> Callable[[int, int, int, int], None]:
        return Blocks(self._address())

    def _room(self, words: Array, state: Sequence[int], helpers: int) -> Room:
        """A room with words and a state like these, for so many helping threads."""
        own, mine, at = _passed(words.copy()), (ctypes.c_int64 * len(state))(*state), ctypes.addressof
        tables, arenas = at(self._table_addresses), at(self._arenas(helpers))
        job = Job(self._address(), at(own), tables, arenas, helpers)
        return Room(own, mine, at(own), at(mine), job)

    def _address(self) -> int:
        return self.module.address(NAME)

    def _scratch(self) -> int:
        """Where this thread's arena starts."""
        found = getattr(self._local, "start", None)
        if found is None:
            self._local.scratch, found = self._arena()
            self._local.start = found
        return int(found)

    def _arenas(self, count: int) -> Words:
        """Where the arenas of helping threads start; they stay, since helpers have one launch at a time."""
        if count not in self._helpers:
            arenas = [self._arena() for _ in range(count)]
            made = (ctypes.c_int64 * count)(*(start for _, start in arenas)), arenas
            self._helpers.setdefault(count, made)  # another thread may have been faster, and jobs know its
        return self._helpers[count][0]

    def _arena(self) -> tuple[Array, int]:
        """Memory, and its first cache line."""
        memory = np.empty(self.scratch_bytes + 64, np.uint8)
        return memory, -(-address(memory) // 64) * 64

    def _print(self, which: int, pointer: int) -> None:
        report = self.reports[which]
        assert report.type, "only prints call back"
        kind = report.type
        count = kind.size * kind.dtype.storage.itemsize
        data = np.frombuffer(ctypes.string_at(pointer, count), kind.dtype.storage)
        values = codec.from_storage(data, kind.dtype).reshape(kind.shape)
        print(f"{report.text}{np.array2string(values, separator=', ')}")

    def _raise(self, state: Words) -> NoReturn:
        report, block = self.reports[state[effects.FAILED] - 1], state[effects.FAILED_BLOCK]
        raise TilecError(f"assertion failed in block {block}: {report.text}", report.loc)


def _passed(words: Array) -> Words:
    """An array as ctypes passes it, which keeps it alive."""
    return (ctypes.c_int64 * words.size).from_buffer(words.data)


def _told(report: Report) -> list[Any]:
    """A report as JSON has it."""
    loc, kind = report.loc, report.type
    place = [loc.file, loc.line, loc.text] if loc else None
    return [report.text, place, [kind.dtype.name, kind.shape] if kind else None]


def _report(told: list[Any]) -> Report:
    text, place, kind = told
    tile = TileType(dtype(kind[0]), tuple(kind[1])) if kind else None
    return Report(text, Loc(*place) if place else None, tile)


def restore(func: Func, parts: Mapping[str, bytes]) -> CpuKernel:
    """A kernel from its parts; `func` may be as traced."""
    facts = json.loads(parts["facts"])
    tables = [np.frombuffer(parts[f"table{i}"], kind).reshape(shape)
              for i, (kind, shape) in enumerate(facts["tables"])]  # fmt: skip
    reports = [_report(told) for told in facts["reports"]]
    module = llvm.load_native(parts["object"], parts["bitcode"])
    return CpuKernel(
        func, parts["text"].decode(), facts["scratch"], tables, reports, facts["operations"], module
    )


def compile(func: Func) -> CpuKernel:  # noqa: A001
    """Native code for a kernel. Takes IR as traced, or after any pass that adds no layouts."""
    lowering = lower(func)
    text = function_text(lowering)
    return CpuKernel(
        func,
        text,
        lowering.arena.size,
        lowering.tables,
        lowering.reports,
        work(func),
        llvm.compile_native(text),
    )


@cache
def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
