"""Global accesses of different blocks to one granule, one of them a plain write: blocks are independent.

The shadow lives as long as the launch, so blocks of different batches are compared too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.device import GLOBAL
from tilec.backends.emulator.lanes import lanes_of
from tilec.backends.emulator.ptx_types import Array, Sel

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine


class GlobalRace:
    """Who wrote and who read each granule of global memory last."""

    def __init__(self, launch: Any) -> None:
        self.granule = launch.program.granule("global")
        self.shift = self.granule.bit_length() - 1
        count = len(launch.memory.arena.data) // self.granule
        self.writer = np.zeros(count, np.int32)  # linear block + 1; negative: by an atomic
        self.reader = np.zeros(count, np.int32)  # linear block + 1; -1: several
        self.write_pc = np.zeros(count, np.int32)
        self.read_pc = np.zeros(count, np.int32)

    def access(self, m: Machine, s: Sel, at: Array, width: int, write: bool, strong: bool) -> None:
        granule, me = at >> self.shift, (m.first + 1 + m.block[s]).astype(np.int32)
        if width > self.granule:
            count = width >> self.shift
            granule = (granule[:, None] + np.arange(count)).reshape(-1)
            me = np.repeat(me, count)
        writer = self.writer[granule]
        bad = (writer != 0) & (writer != me)
        if strong:
            bad &= writer > 0
        if bad.any():
            self.report(
                m, s, at, width, bad, "write" if write else "read", "wrote", writer, self.write_pc[granule]
            )
        reader = self.reader[granule]
        if not write:
            if not strong:
                self.reader[granule] = np.where((reader == 0) | (reader == me), me, -1)
                self.read_pc[granule] = m.pc
            return
        bad = (reader != 0) & (reader != me)
        if bad.any():
            self.report(m, s, at, width, bad, "write", "read", reader, self.read_pc[granule])
        self.writer[granule] = -me if strong else me
        self.write_pc[granule] = m.pc
        if strong:
            return
        writer = self.writer[granule]  # blocks that met in this very instruction
        if (writer != me).any():
            self.report(m, s, at, width, writer != me, "write", "wrote", writer, self.write_pc[granule])

    def report(
        self,
        m: Machine,
        s: Sel,
        at: Array,
        width: int,
        bad: Array,
        now: str,
        before: str,
        who: Array,
        pcs: Array,
    ) -> None:
        n = int(np.flatnonzero(bad)[0])
        lane = int(lanes_of(s)[n // max(1, width >> self.shift)])
        address = int(at[n // max(1, width >> self.shift)]) + GLOBAL
        name, place = m.launch.memory.describe(address)
        other, block = int(pcs[n]), abs(int(who[n])) - 1
        blocks = "several blocks" if int(who[n]) == -1 and before == "read" else f"block {block}"
        message = f"{now}s {place}, which {blocks} {before} at {m.line_of(other)}; blocks must not share data"
        m.record("global-race", lane, message, address=address, array=name, other=other, times=int(bad.sum()))
