"""Global accesses of different blocks to one granule, one of them a plain write: blocks are independent.

The shadow lives as long as the launch, so blocks of different batches are compared too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.device import GLOBAL
from tilec.backends.emulator.handshake import Handshakes
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
        self.handshakes: Handshakes | None = None
        if "handshake" in launch.program.context.features:
            self.handshakes = Handshakes(launch.blocks)
            self.write_epoch, self.read_epoch = np.zeros(count, np.int32), np.zeros(count, np.int32)

    def access(
        self, m: Machine, s: Sel, at: Array, width: int, write: bool, strong: int, atomic: bool = False
    ) -> None:
        """Checks and notes one access; then a strong one's part in ordering blocks."""
        self.check(m, s, at, width, write, strong)
        if strong and self.handshakes is not None:
            block = m.first + 1 + m.block[s]
            self.handshakes.access(at, block, strong, not write or atomic, write)

    def check(self, m: Machine, s: Sel, at: Array, width: int, write: bool, strong: int) -> None:
        granule, me = at >> self.shift, (m.first + 1 + m.block[s]).astype(np.int32)
        if width > self.granule:
            count = width >> self.shift
            granule = (granule[:, None] + np.arange(count)).reshape(-1)
            me = np.repeat(me, count)
        writer = self.writer[granule]
        bad = (writer != 0) & (writer != me)
        if strong:
            bad &= writer > 0
        bad = self.unordered(bad, me, writer, granule, True)
        if bad.any():
            self.report(
                m, s, at, width, bad, "write" if write else "read", "wrote", writer, self.write_pc[granule]
            )
        reader = self.reader[granule]
        if not write:
            if not strong:
                self.note_read(m, granule, me, reader)
            return
        bad = self.unordered((reader != 0) & (reader != me), me, reader, granule, False)
        if bad.any():
            self.report(m, s, at, width, bad, "write", "read", reader, self.read_pc[granule])
        self.writer[granule] = -me if strong else me
        self.write_pc[granule] = m.pc
        if self.handshakes is not None:
            self.write_epoch[granule] = self.handshakes.epoch[me]
        if strong:
            return
        writer = self.writer[granule]  # blocks that met in this very instruction
        if (writer != me).any():
            self.report(m, s, at, width, writer != me, "write", "wrote", writer, self.write_pc[granule])

    def note_read(self, m: Machine, granule: Array, me: Array, reader: Array) -> None:
        """Readers that this one knows of need not be remembered."""
        alone = (reader == 0) | (reader == me)
        alone = ~self.unordered(~alone, me, reader, granule, False)
        self.reader[granule] = np.where(alone, me, -1)
        self.read_pc[granule] = m.pc
        if self.handshakes is not None:
            self.read_epoch[granule] = self.handshakes.epoch[me]

    def unordered(self, bad: Array, me: Array, other: Array, granule: Array, write: bool) -> Array:
        """`bad` without those accesses that the block has learnt of by acquiring a flag."""
        if self.handshakes is None or not bad.any():
            return bad
        epoch = (self.write_epoch if write else self.read_epoch)[granule[bad]]
        bad = bad.copy()
        several = other[bad] == -1 if not write else np.zeros(int(bad.sum()), bool)
        bad[bad] = several | ~self.handshakes.ordered(me[bad], other[bad], epoch)
        return bad

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
