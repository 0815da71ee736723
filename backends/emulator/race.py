"""Races by vector clocks: who knows of whose accesses, per granule of shared memory.

Agents are the warps of a block and its asynchronous engine, over all blocks of its cluster. clock[b, u, v]:
the last moment of agent v that warp u of block b knows of; its own component grows at each release. An
access that its accessor does not know of, by another agent, to the same granule, one of the two a write, is
a race, in whatever order the emulator happened to run them (FastTrack, Flanagan and Freund 2009). A granule
is the narrowest access of the kernel. shfl, vote and mma order no memory.
Where a kernel uses the asynchronous proxy, a second half of each row says up to which moment of v its
generic writes have been fenced (fence.proxy.async), as far as u knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator import stamp
from tilec.backends.emulator.device import SHARED
from tilec.backends.emulator.fast_shadow import ENOUGH, NOTE, STRONG, WITHIN, WRITE, check
from tilec.backends.emulator.flight import Flight
from tilec.backends.emulator.lanes import lanes_of
from tilec.backends.emulator.ptx_types import Array, Sel

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

SEVERAL = 8  # the compiled check's word for several warps writing one granule


class SharedRace:
    """The clocks and the shadow of shared memory; also which bytes of shared and local memory were
    written."""

    def __init__(self, m: Machine) -> None:
        checks, features = m.launch.checks, m.program.context.features
        self.on, self.init = "race" in checks, "uninitialised" in checks
        self.each = m.warps + 1  # rows of a block: its warps, then its engine
        self.agents = self.each * m.cluster_size
        self.width = self.agents * (2 if "proxy" in features else 1)
        self.granule = m.program.granule("shared")
        self.shift = self.granule.bit_length() - 1
        count = m.shared_size * m.blocks // self.granule
        self.clock = np.zeros((m.blocks, self.each, self.width), np.int64)
        self.flat_clock = self.clock.reshape(-1)
        self.rows = self.clock.reshape(-1, self.width)
        self.rank = m.rank()[: m.blocks]
        self.agent = (self.rank[:, None] * self.each + np.arange(self.each)).reshape(-1)  # of each row
        self.row, self.me = m.row, self.agent[m.row]  # of each lane
        self.own = self.row * self.width + self.me
        everyone = np.arange(len(self.rows))
        self.of_warps = everyone[everyone % self.each < m.warps]
        self.tick(everyone)
        self.fenced = np.zeros_like(self.rows) if m.cluster_size > 1 else self.rows[:0]
        self.written = np.zeros(count if self.on else 0, np.int64)
        self.read = np.zeros((count if self.on else 0, self.agents), np.int32)
        self.read_pc = np.zeros(count if self.on else 0, np.int32)
        self.known = np.zeros(count if self.init else 0, bool)
        self.local_known = np.zeros(len(m.local.data) if self.init else 0, bool)
        self.flight = Flight(self, count if "async" in features and "async" in checks else 0)

    # --- accesses
    def access(self, m: Machine, s: Sel, at: Array, width: int, write: bool, strong: int) -> None:
        if not (self.on or self.init or self.flight.on):
            return
        granule, lanes = self.spread(at, lanes_of(s), width)
        if self.flight.on:
            self.flight.check(m, lanes, granule, write)
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
        """The array and the offset in its block's shared memory; in a cluster also whose it is."""
        block, offset = divmod(granule << self.shift, m.shared_size)
        whose = f" of the cluster's block {self.rank[block]}" if m.cluster_size > 1 else ""
        return m.shared_name(offset) + whose, offset

    def who(self, agent: int) -> str:
        """An agent in words."""
        rank, warp = divmod(agent, self.each)
        name = f"warp {warp}" if warp < self.each - 1 else "an asynchronous copy"
        return name + (f" of the cluster's block {rank}" if self.agents > self.each else "")

    def engine(self, block: Any) -> Any:
        """The row of a block's asynchronous engine."""
        return block * self.each + self.each - 1

    def check(self, m: Machine, lanes: Array, granule: Array, write: bool, strong: int) -> None:
        """Reports what these lanes do not know of, then notes the access."""
        flags = WITHIN | NOTE | WRITE * write | STRONG * bool(strong)
        found = self.quick(m, lanes, granule, flags)
        if found == 0:
            return None
        if found == SEVERAL:
            return self.together(m, lanes, granule)
        self.examine(m, lanes, granule, write, strong)
        own = self.flat_clock[self.own[lanes]]
        if not write:
            self.read[granule, self.me[lanes]] = own
            self.read_pc[granule] = m.pc
            return None
        self.written[granule] = stamp.stamp(own, m.pc, self.me[lanes], m.lane[lanes], bool(strong))
        return None if strong else self.together(m, lanes, granule)

    def quick(self, m: Machine, lanes: Array, granule: Array, flags: int) -> int | None:
        """The compiled check's answer, once a launch has checked enough; None before."""
        m.launch.granules += len(granule)
        if m.launch.granules < ENOUGH:
            return None
        return check(self, m, lanes, granule, flags, stamp.stamp(0, m.pc, 0, 0, bool(flags & STRONG)))

    def examine(
        self, m: Machine, lanes: Array, granule: Array, write: bool, strong: int, within: bool = True
    ) -> None:
        """Reports accesses before this one that these lanes do not know of; notes nothing."""
        last, row = self.written[granule], self.row[lanes]
        author, clock, pcs = stamp.author(last), stamp.moment(last), stamp.place(last)
        unknown = clock > self.flat_clock[row * self.width + author]
        mine = (author == self.me[lanes]) & (clock == self.flat_clock[self.own[lanes]])
        mine &= (last & 31) != m.lane[lanes]
        if strong:
            plain = (last & stamp.ATOMIC) == 0
            unknown, mine = unknown & plain, mine & plain
        if unknown.any():
            self.report(m, lanes, granule, unknown, "write" if write else "read", "write", pcs)
        if within and mine.any():
            self.report_within(m, lanes, granule, mine, write, pcs)
        if write:
            early = (self.read[granule] > self.rows[row][:, : self.agents]).any(1)
            if early.any():
                self.report(m, lanes, granule, early, "write", "read", self.read_pc[granule])

    def together(self, m: Machine, lanes: Array, granule: Array) -> None:
        """Several warps wrote one granule in this very instruction; if the values differ, access.clash says
        so."""
        lost = stamp.author(self.written[granule]) != self.me[lanes]
        if lost.any():
            n = int(np.flatnonzero(lost)[0])
            name, offset = self.name(m, int(granule[n]))
            message = (
                f"several warps write {name} at shared offset {offset} in this instruction, in no "
                f"certain order"
            )
            m.record(
                "race", int(lanes[n]), message, warning=True, address=SHARED + offset, array=name, other=m.pc
            )

    def author(self, m: Machine, at: int) -> int:
        """The agent that wrote a byte of shared memory last."""
        return int(stamp.author(self.written[at >> self.shift]))

    def report(
        self, m: Machine, lanes: Array, granule: Array, bad: Array, now: str, before: str, pcs: Array
    ) -> None:
        n = int(np.flatnonzero(bad)[0])
        name, offset = self.name(m, int(granule[n]))
        other = int(pcs[n])
        verb = {"read": "reads", "write": "overwrites"}[now]
        message = (
            f"{verb} {name} at shared offset {offset} with no synchronisation after the {before} "
            f"at {m.line_of(other)}"
        )
        if before == "write":
            message += f" by {self.who(int(stamp.author(self.written[granule[n]])))}"
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
            f"{verb} {name} at shared offset {offset}, written by another lane of its warp at "
            f"{m.line_of(other)}, "
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
    def tick(self, rows: Array) -> None:
        """The later accesses of these agents are news to everybody."""
        self.rows[rows, self.agent[rows]] += 1

    def join_all(self) -> None:
        """Every warp of every block meets every other of its block."""
        if self.on:
            warps = self.clock[:, : self.each - 1]
            warps[:] = warps.max(axis=1)[:, None]
            self.tick(self.of_warps)

    def warp_sync(self, m: Machine, s: Sel) -> None:
        """Orders the lanes of a warp among themselves."""
        if self.on:
            self.flat_clock[np.unique(self.own[s])] += 1

    def fence(self, s: Sel) -> None:
        """fence at the cluster's scope or wider, and fence.mbarrier_init, of which more is believed than it
        promises: a relaxed arrival at the cluster's barrier publishes what these warps know now."""
        if self.on and len(self.fenced):
            rows = np.unique(self.row[s])
            self.fenced[rows] = self.rows[rows]
            self.tick(rows)

    def ended(self, m: Machine, block: int, lane: int) -> None:
        """A block's shared memory goes with it: whoever used it from another block must be known to have
        finished."""
        if not self.on:
            return
        size = m.shared_size >> self.shift
        mine = slice(block * size, (block + 1) * size)
        known = self.clock[block, : self.each - 1].max(axis=0)
        last = self.written[mine]
        others = np.arange(self.agents) // self.each != self.rank[block]
        late = (stamp.moment(last) > known[stamp.author(last)]) & others[stamp.author(last)]
        if late.any():
            self.report_end(m, lane, mine, late, "write", stamp.place(last))
        late = ((self.read[mine] > known[: self.agents]) & others).any(1)
        if late.any():
            self.report_end(m, lane, mine, late, "read", self.read_pc[mine])

    def report_end(self, m: Machine, lane: int, mine: slice, late: Array, before: str, pcs: Array) -> None:
        n = int(np.flatnonzero(late)[0])
        name, offset = self.name(m, mine.start + n)
        message = (
            f"the block ends with no synchronisation after the {before} of {name} at shared offset {offset} "
            f"by another block of the cluster, at {m.line_of(int(pcs[n]))}"
        )
        m.record("race", lane, message, address=SHARED + offset, array=name, other=int(pcs[n]))

    def fence_proxy(self, m: Machine, s: Sel) -> None:
        """What these warps know of is from now on in order with the asynchronous proxy."""
        if self.on and self.width > self.agents:
            rows = np.unique(self.row[s])
            self.rows[rows, self.agents :] = np.maximum(
                self.rows[rows, self.agents :], self.rows[rows, : self.agents]
            )
