"""Races by vector clocks: who knows of whose accesses, per granule of memory.

Agents are the warps of a block and its asynchronous engine. clock[b, u, v]: the last moment of v that u knows of;
its own component grows at each release. An access that its accessor does not know of, by another agent, to the same
granule, one of the two a write, is a race, in whatever order the emulator happened to run them (FastTrack, Flanagan
and Freund 2009). A granule is the narrowest access of the kernel. shfl, vote and mma order no memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.device import SHARED
from tilec.backends.emulator.lanes import lanes_of
from tilec.backends.emulator.ptx_types import Array, Sel

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

# a stamp: clock << 32 | pc << 12 | atomic << 11 | agent << 5 | lane
ATOMIC = 1 << 11
WRITING, READING = 1, 2  # what an asynchronous operation in flight does with a granule


class SharedRace:
    """The clocks and the shadow of shared memory; also which bytes of shared and local memory were written."""

    def __init__(self, m: Machine) -> None:
        checks = m.launch.checks
        self.on, self.init = "race" in checks, "uninitialised" in checks
        self.agents = m.warps + 1
        self.granule = m.program.granule("shared")
        self.shift = self.granule.bit_length() - 1
        count = m.shared_size * m.blocks // self.granule
        self.clock = np.zeros((m.blocks, self.agents, self.agents), np.int64)
        self.clock[:, np.arange(self.agents), np.arange(self.agents)] = 1
        self.flat_clock = self.clock.reshape(-1)
        self.rows = self.clock.reshape(-1, self.agents)
        self.row = m.row
        self.own = self.row * self.agents + m.warp
        self.written = np.zeros(count if self.on else 0, np.int64)
        self.read = np.zeros((count if self.on else 0, self.agents), np.int32)
        self.read_pc = np.zeros(count if self.on else 0, np.int32)
        self.known = np.zeros(count if self.init else 0, bool)
        self.tracks_flight = "async" in m.program.context.features and "async" in checks
        self.flight = np.zeros(count if self.tracks_flight else 0, np.uint8)  # WRITING, READING
        self.flight_pc = np.zeros(count if self.tracks_flight else 0, np.int32)
        self.local_known = np.zeros(len(m.local.data) if self.init else 0, bool)

    # --- accesses
    def access(self, m: Machine, s: Sel, at: Array, width: int, write: bool, strong: bool) -> None:
        if not (self.on or self.init or self.tracks_flight):
            return
        granule, lanes = self.spread(at, lanes_of(s), width)
        if self.tracks_flight:
            self.in_flight(m, lanes, granule, write)
        if self.init:
            self.initialised(m, lanes, granule, write)
        if self.on:
            self.check(m, lanes, granule, write, strong)

    def spread(self, at: Array, lanes: Array, width: int) -> tuple[Array, Array]:
        """The granules of each lane's bytes, and the lanes repeated to match."""
        granule = at >> self.shift
        if width <= self.granule:
            return granule, lanes
        count = width >> self.shift
        return (granule[:, None] + np.arange(count)).reshape(-1), np.repeat(lanes, count)

    # --- asynchronous copies
    def take_off(self, at: Array, width: int, pc: int, state: int = WRITING) -> None:
        """Marks bytes as being written (or read) by an asynchronous operation."""
        if self.tracks_flight:
            granule, _ = self.spread(at, at, width)
            self.flight[granule] |= state
            self.flight_pc[granule] = pc

    def land(self, m: Machine, lanes: Sel, at: Array, width: int, pc: int) -> None:
        """Copies of these lanes are complete: the data is as new as if the lanes had written it now."""
        granule, each = self.spread(at, lanes_of(lanes), width)
        if self.tracks_flight:
            self.flight[granule] &= ~np.uint8(WRITING)
        if self.on:
            own = self.flat_clock[self.own[each]]
            self.written[granule] = (own << 32) | (pc << 12) | (m.warp[each] << 5) | m.lane[each]

    def in_flight(self, m: Machine, lanes: Array, granule: Array, write: bool) -> None:
        state = self.flight[granule]
        bad = (state != 0) if write else (state & WRITING) != 0
        if not bad.any():
            return
        n = int(np.flatnonzero(bad)[0])
        name, offset = self.name(m, int(granule[n]))
        other = int(self.flight_pc[granule[n]])
        verb, doing = "overwrites" if write else "reads", "writing" if state[n] & WRITING else "reading"
        message = f"{verb} {name} at shared offset {offset} while {m.line_of(other)} is still {doing} it: wait for it first"
        m.record("async", int(lanes[n]), message, address=SHARED + offset, array=name, other=other, times=int(bad.sum()))

    def initialised(self, m: Machine, lanes: Array, granule: Array, write: bool) -> None:
        if write:
            self.known[granule] = True
            return
        fresh = ~self.known[granule]
        if fresh.any():
            n = int(np.flatnonzero(fresh)[0])
            name, offset = self.name(m, int(granule[n]))
            message = f"reads {name} at shared offset {offset}, which nothing has written"
            m.record("uninitialised", int(lanes[n]), message, address=SHARED + offset, array=name,
                     times=int(fresh.sum()))  # fmt: skip
            self.known[granule] = True  # say it once

    def name(self, m: Machine, granule: int) -> tuple[str, int]:
        offset = (granule << self.shift) % m.shared_size
        return m.shared_name(offset), offset

    def check(self, m: Machine, lanes: Array, granule: Array, write: bool, strong: bool) -> None:
        stamp, row = self.written[granule], self.row[lanes]
        author, clock = (stamp >> 5) & 63, stamp >> 32
        own = self.flat_clock[self.own[lanes]]
        unknown = clock > self.flat_clock[row * self.agents + author]
        if strong:
            unknown &= (stamp & ATOMIC) == 0
        if unknown.any():
            self.report(
                m, lanes, granule, unknown, "write" if write else "read", "write", (stamp >> 12) & 0xFFFFF
            )
        mine = (author == m.warp[lanes]) & (clock == own) & ((stamp & 31) != m.lane[lanes])
        if strong:
            mine &= (stamp & ATOMIC) == 0
        if mine.any():
            self.report_within(m, lanes, granule, mine, write, (stamp >> 12) & 0xFFFFF)
        if not write:
            self.read[granule, m.warp[lanes]] = own
            self.read_pc[granule] = m.pc
            return
        early = (self.read[granule] > self.rows[row]).any(1)
        if early.any():
            self.report(m, lanes, granule, early, "write", "read", self.read_pc[granule])
        stamp = (own << 32) | (m.pc << 12) | (ATOMIC * strong) | (m.warp[lanes] << 5) | m.lane[lanes]
        self.written[granule] = stamp
        if not strong:
            self.together(m, lanes, granule)

    def together(self, m: Machine, lanes: Array, granule: Array) -> None:
        """Several warps wrote one granule in this very instruction; if the values differ, access.clash says so."""
        lost = ((self.written[granule] >> 5) & 63) != m.warp[lanes]
        if lost.any():
            n = int(np.flatnonzero(lost)[0])
            name, offset = self.name(m, int(granule[n]))
            message = f"several warps write {name} at shared offset {offset} in this instruction, in no certain order"
            m.record("race", int(lanes[n]), message, warning=True, address=SHARED + offset, array=name, other=m.pc)

    def author(self, m: Machine, at: int) -> int:
        """The warp that wrote a byte of shared memory last."""
        return int(self.written[at >> self.shift] >> 5) & 63

    def report(
        self, m: Machine, lanes: Array, granule: Array, bad: Array, now: str, before: str, pcs: Array
    ) -> None:
        n = int(np.flatnonzero(bad)[0])
        name, offset = self.name(m, int(granule[n]))
        other = int(pcs[n])
        verb = {"read": "reads", "write": "overwrites"}[now]
        message = f"{verb} {name} at shared offset {offset} with no synchronisation after the {before} at {m.line_of(other)}"
        m.record(
            "race",
            int(lanes[n]),
            message,
            address=SHARED + offset,
            array=name,
            other=other,
            times=int(bad.sum()),
        )

    def report_within(
        self, m: Machine, lanes: Array, granule: Array, bad: Array, write: bool, pcs: Array
    ) -> None:
        n = int(np.flatnonzero(bad)[0])
        name, offset = self.name(m, int(granule[n]))
        other = int(pcs[n])
        verb = "overwrites" if write else "reads"
        message = (
            f"{verb} {name} at shared offset {offset}, written by another lane of its warp at {m.line_of(other)}, "
            "with no bar.warp.sync between"
        )
        m.record(
            "race", int(lanes[n]), message, warning=True, address=SHARED + offset, array=name, other=other
        )

    # --- local memory
    def local(self, m: Machine, s: Sel, at: Array, width: int, write: bool) -> None:
        if not self.init:
            return
        for byte in range(width):
            if write:
                self.local_known[at + byte] = True
            elif not self.local_known[at + byte].all():
                fresh = ~self.local_known[at + byte]
                n = int(np.flatnonzero(fresh)[0])
                offset = int(at[n]) % m.local_size
                message = f"reads local memory at offset {offset}, which nothing has written"
                m.record("uninitialised", int(lanes_of(s)[n]), message, times=int(fresh.sum()))
                self.local_known[at] = True

    # --- synchronisation
    def release(self, blocks: Array, agents: Array) -> None:
        """These agents' later accesses are news to everybody."""
        self.clock[blocks, agents, agents] += 1

    def join_all(self) -> None:
        """Every warp of every block meets every other of its block."""
        if self.on:
            warps = self.agents - 1
            self.clock[:, :warps] = self.clock[:, :warps].max(axis=1)[:, None]
            each = np.arange(warps)
            self.clock[:, each, each] += 1

    def warp_sync(self, m: Machine, s: Sel) -> None:
        """Orders the lanes of a warp among themselves."""
        if self.on:
            self.flat_clock[np.unique(self.own[s])] += 1


class GlobalRace:
    """Global accesses of different blocks to one granule, one of them a plain write: blocks are independent."""

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
        address = int(at[n // max(1, width >> self.shift)]) + (1 << 33)
        name, place = m.launch.memory.describe(address)
        other, block = int(pcs[n]), abs(int(who[n])) - 1
        blocks = "several blocks" if int(who[n]) == -1 and before == "read" else f"block {block}"
        message = f"{now}s {place}, which {blocks} {before} at {m.line_of(other)}; blocks must not share data"
        m.record("global-race", lane, message, address=address, array=name, other=other, times=int(bad.sum()))
