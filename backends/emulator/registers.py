"""setmaxnreg: registers move between a block's warps, through a pool.

A block starts with as many registers for each thread as its kernel is assembled for, which .maxnreg says, or
.maxntid with .minnctapersm: all of an SM's, shared out. `dec` gives a warp's surplus to the pool, `inc` waits
until the pool has what it takes. Without such a directive the assembler ignores both, which is told of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.emulator.decode import FLOW, Form, Step, constant
from tilec.backends.emulator.lanes import first, lanes_of, part
from tilec.backends.emulator.program import Immediate
from tilec.backends.emulator.ptx_types import Array, Sel

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

OF_AN_SM, MOST, UNIT, WARP = 65536, 255, 8, 32


def at_entry(directives: dict[str, tuple[int, ...]]) -> int:
    """Registers of each thread when a kernel starts; 0 where nothing says."""
    if "maxnreg" in directives:
        return directives["maxnreg"][0]
    threads = directives.get("maxntid") or directives.get("reqntid")
    if not threads or "minnctapersm" not in directives:
        return 0
    blocks = directives["minnctapersm"][0]
    return min(MOST, OF_AN_SM // (int(np.prod(threads)) * blocks) // UNIT * UNIT)


class Registers:
    """held: registers of a thread of each warp; free: those of each block's pool; parked: who waits."""

    def __init__(self, m: Machine) -> None:
        self.m, self.start = m, at_entry(m.program.function.directives)
        self.held = np.full((m.blocks, m.warps), self.start, np.int64)
        self.free = np.zeros(m.blocks, np.int64)
        self.parked: list[tuple[int, Sel, int]] = []

    def give(self, s: Sel, count: int) -> None:
        block, warp = self.warps_of(s)
        if (self.held[block, warp] < count).any():
            self.wrong(s, "dec", count, int(self.held[block, warp].min()))
        surplus = np.maximum(self.held[block, warp] - count, 0)
        np.add.at(self.free, block, surplus * WARP)
        self.held[block, warp] -= surplus
        self.m.resume(self.m.pc + 1, s)
        waiting, self.parked = self.parked, []
        for pc, lanes, wanted in waiting:
            self.take(lanes, wanted, pc)

    def take(self, s: Sel, count: int, pc: int) -> None:
        """Warps whose block has enough go on, one after the other; the others wait."""
        m = self.m
        block, warp = self.warps_of(s)
        if (self.held[block, warp] > count).any():
            self.wrong(s, "inc", count, int(self.held[block, warp].max()))
        going = np.zeros((m.blocks, m.warps), bool)
        for b, w in zip(block.tolist(), warp.tolist(), strict=True):
            short = max(0, count - int(self.held[b, w])) * WARP
            if short <= self.free[b]:
                self.free[b] -= short
                self.held[b, w] = max(count, self.held[b, w])
                going[b, w] = True
        lanes = lanes_of(s)
        go = going[m.block[lanes], m.warp[lanes]]
        m.resume(pc + 1, part(s, go))
        stay = part(s, ~go)
        if stay is not None:
            self.parked.append((pc, stay, count))

    def warps_of(self, s: Sel) -> tuple[Array, Array]:
        lanes = lanes_of(s)
        found = np.unique(np.stack([self.m.block[lanes], self.m.warp[lanes]]), axis=1)
        return found[0], found[1]

    def wrong(self, s: Sel, how: str, count: int, held: int) -> None:
        which = "fewer" if how == "dec" else "more"
        message = f"setmaxnreg.{how} asks for {count} registers, the warp has {held}, {which} already"
        self.m.record("async", first(s), message)

    def waiting(self) -> Iterator[tuple[int, Sel, str]]:
        for pc, sel, count in self.parked:
            block = int(self.m.block[first(sel)])
            yield pc, sel, f"wait for {count} registers each (the pool has {int(self.free[block])})"


def setmaxnreg(f: Form) -> Step:
    """A multiple of 8 from 24 to 256, by all lanes of a warp."""
    how = f.need("inc", "dec")
    f.need("sync")
    f.need("aligned")
    f.type("u32")
    given = f.operand(0)
    if not isinstance(given, Immediate) or given.value % 8 or not 24 <= given.value <= 256:
        f.error("setmaxnreg takes a multiple of 8 from 24 to 256")
    count = int(given.value)

    def run(m: Machine, s: Sel) -> None:
        if not m.registers.start:
            message = "setmaxnreg is ignored: neither .maxnreg nor .minnctapersm says what threads start with"
            m.record("async", first(s), message, warning=True)
            m.resume(m.pc + 1, s)
        elif how == "dec":
            m.registers.give(s, count)
        else:
            m.registers.take(s, count, m.pc)

    return Step(run, FLOW, members=constant(np.uint32(0xFFFFFFFF)))


BUILDERS: dict[str, Callable[[Form], Step]] = {"setmaxnreg": setmaxnreg}
