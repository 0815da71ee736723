"""Global accesses of different blocks to one granule, one of them a plain write: blocks are independent.

The shadow lives as long as the launch, so blocks of different batches are compared too.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.device import GLOBAL
from tilec.backends.emulator.handshake import Handshakes, Knowledge
from tilec.backends.emulator.lanes import lanes_of
from tilec.backends.emulator.ptx_types import Array, Sel

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine


@dataclass
class Fetch:
    """An engine's read; `known`: up to which epoch its block then knew of the others."""

    block: int
    pc: int
    at: Array
    width: int
    epoch: int
    known: Knowledge


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
        self.memory = launch.memory
        self.changed: set[int] = set()  # allocations that were written
        self.later: dict[int, list[Fetch]] = {}  # engines' reads of the others
        self.handshakes: Handshakes | None = None
        if "handshake" in launch.program.context.features:
            self.handshakes = Handshakes(launch.blocks)
            self.write_epoch, self.read_epoch = np.zeros(count, np.int32), np.zeros(count, np.int32)

    def access(
        self, m: Machine, s: Sel, at: Array, width: int, write: bool, strong: int, atomic: bool = False
    ) -> None:
        """Checks and notes one access; then a strong one's part in ordering blocks."""
        if write:
            self.change(at)
        self.check(m, s, at, width, write, strong)
        if strong and self.handshakes is not None:
            block = m.first + 1 + m.block[s]
            self.handshakes.access(at, block, strong, not write or atomic, write)

    def fetch(self, m: Machine, lane: int, at: Array, width: int) -> None:
        """An engine's read of many bytes for one lane; noted when, if ever, somebody writes that array."""
        place = self.number(int(at[0]))
        if place in self.changed:
            return self.access(m, np.full(len(at), lane), at, width, False, 0)
        block, flags = m.first + 1 + int(m.block[lane]), self.handshakes
        known = dict(flags.known.get(block, {})) if flags else {}
        epoch = int(flags.epoch[block]) if flags else 0
        return self.later.setdefault(place, []).append(Fetch(block, m.pc, at, width, epoch, known))

    def number(self, at: int) -> int:
        """Which allocation a byte of the arena is in."""
        return bisect_right(self.memory.starts, at + GLOBAL) - 1

    def change(self, at: Array) -> None:
        first, last = self.number(int(at.min())), self.number(int(at.max()))
        for place in range(first, last + 1):
            self.changed.add(place)
            for fetch in self.later.pop(place, ()):
                self.note_fetch(fetch)

    def note_fetch(self, fetch: Fetch) -> None:
        """note_read, for what was known when it happened."""
        granule = self.spread(fetch.at >> self.shift, fetch.width)
        reader = self.reader[granule]
        alone = (reader == 0) | (reader == fetch.block)
        if self.handshakes is not None:
            for other in np.unique(reader[~alone]).tolist():
                alone |= (reader == other) & (self.read_epoch[granule] <= fetch.known.get(other, 0))
            self.read_epoch[granule] = fetch.epoch
        self.reader[granule] = np.where(alone, fetch.block, -1)
        self.read_pc[granule] = fetch.pc

    def spread(self, granule: Array, width: int) -> Array:
        """The granules of accesses of `width` bytes, by their first ones."""
        if width <= self.granule:
            return granule
        return (granule[:, None] + np.arange(width >> self.shift)).reshape(-1)

    def check(self, m: Machine, s: Sel, at: Array, width: int, write: bool, strong: int) -> None:
        granule, me = at >> self.shift, (m.first + 1 + m.block[s]).astype(np.int32)
        if width > self.granule:
            granule, me = self.spread(granule, width), np.repeat(me, width >> self.shift)
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
