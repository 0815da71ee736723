"""Shared memory that asynchronous operations are still writing or reading, and what they may touch.

cp.async, TMA and wgmma mark granules when they are issued; the wait that lets them finish takes the marks
away. An access in between is an error, in whatever order the emulator ran things.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.emulator import stamp
from tilec.backends.emulator.device import SHARED
from tilec.backends.emulator.ptx_types import Array

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine
    from tilec.backends.emulator.race import SharedRace


class Flight:
    """writing: an asynchronous write is in flight; reading: how many asynchronous reads are."""

    def __init__(self, race: SharedRace, count: int) -> None:
        self.race, self.on = race, count > 0
        self.writing = np.zeros(count, bool)
        self.reading = np.zeros(count, np.int16)
        self.pc = np.zeros(count, np.int32)

    def check(self, m: Machine, lanes: Array, granule: Array, write: bool) -> None:
        bad = self.writing[granule]
        if write:
            bad = bad | (self.reading[granule] > 0)
        if bad.any():
            self.report(m, lanes, granule, bad, write)

    def report(self, m: Machine, lanes: Array, granule: Array, bad: Array, write: bool) -> None:
        n = int(np.flatnonzero(bad)[0])
        name, offset = self.race.name(m, int(granule[n]))
        other = int(self.pc[granule[n]])
        verb, doing = "overwrites" if write else "reads", "writing" if self.writing[granule[n]] else "reading"
        message = f"{verb} {name} at shared offset {offset} while {m.line_of(other)} is still {doing} it: "
        m.record("async", int(lanes[n]), message + "wait for it first", address=SHARED + offset, array=name,
                 other=other, times=int(bad.sum()))  # fmt: skip

    # --- writes
    def start_write(self, granule: Array, pc: int) -> None:
        if self.on:
            self.writing[granule] = True
            self.pc[granule] = pc

    def land(self, m: Machine, lanes: Array, granule: Array, pc: int) -> None:
        """Writes of these lanes are complete: the data is as new as if the lanes had written it now."""
        race = self.race
        if self.on:
            self.writing[granule] = False
        if race.on:
            own = race.flat_clock[race.own[lanes]]
            race.written[granule] = stamp.stamp(own, pc, race.me[lanes], m.lane[lanes])

    def land_engine(self, m: Machine, block: Array, granule: Array, pc: int) -> None:
        """Writes of the blocks' asynchronous engines are complete."""
        race = self.race
        if self.on:
            self.writing[granule] = False
        if race.on:
            row = race.engine(block)
            agent = race.agent[row]
            race.written[granule] = stamp.stamp(race.rows[row, agent], pc, agent)

    # --- reads
    def start_read(self, granule: Array, pc: int) -> None:
        """Granules of one operation, each once."""
        if self.on:
            self.reading[granule] += 1
            self.pc[granule] = pc

    def finish_read(self, granule: Array) -> None:
        if self.on:
            self.reading[granule] -= 1

    # --- the asynchronous proxy
    def proxy(
        self, m: Machine, lanes: Array, granule: Array, warning: bool = False, verb: str = "reads"
    ) -> None:
        """An access by the asynchronous proxy of what the generic proxy wrote needs fence.proxy.async
        between."""
        race = self.race
        if not (race.on and self.on) or race.width == race.agents:
            return
        last = race.written[granule]
        author, clock = stamp.author(last), stamp.moment(last)
        fenced = race.flat_clock[race.row[lanes] * race.width + race.agents + author]
        bad = (clock > fenced) & (author % race.each < race.each - 1) & (clock > 0)
        if bad.any():
            n = int(np.flatnonzero(bad)[0])
            name, offset = race.name(m, int(granule[n]))
            other = int(stamp.place(last[n]))
            message = (
                f"the asynchronous proxy {verb} {name} at shared offset {offset}, written at "
                f"{m.line_of(other)}, "
            )
            message += "with no fence.proxy.async between"
            m.record("async", int(lanes[n]), message, warning=warning, address=SHARED + offset, array=name,
                     other=other, times=int(bad.sum()))  # fmt: skip
