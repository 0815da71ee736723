"""TMA: cp.async.bulk and cp.async.bulk.tensor loads, stores and reductions.

A load takes its data at the issue and lands when somebody waits for its mbarrier (with a seed, perhaps at
once): complete_tx of the full box's bytes. A store reads shared memory at the issue; until wait_group its
source must not change. Both belong to the asynchronous proxy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator import access
from tilec.backends.emulator.decode import Form, Step, full
from tilec.backends.emulator.device import SHARED
from tilec.backends.emulator.fast_shadow import WITHIN, WRITE
from tilec.backends.emulator.lanes import lanes_of
from tilec.backends.emulator.ptx_types import Array, Sel

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine


@dataclass
class Landing:
    """A load in flight to one block: where its bytes go, and the mbarrier that counts them; `source`: the
    granules that it reads until then, where it comes from shared memory."""

    pc: int
    block: int
    at: Array
    unit: int
    raw: Array
    key: int
    bytes: int
    source: Array | None


@dataclass
class Reading:
    """Stores of one lane that have not finished reading shared memory."""

    lane: int
    group: int
    granule: Array
    pc: int


class BulkCopies:
    def __init__(self, m: Machine) -> None:
        self.m = m
        self.landing: list[Landing] = []
        self.reading: list[Reading] = []
        self.committed = np.zeros(m.lanes, np.int64)

    # --- loads
    def load(
        self, lane: int, at: Array, raw: Array, unit: int, key: int, total: int, source: Array | None = None
    ) -> None:
        """`raw` units to batch offsets `at`, counted by the mbarrier at `key`; issued by one lane."""
        m, race = self.m, self.m.race
        lanes, granule = issue(m, lane, at, unit)
        if race.flight.on:
            race.flight.check(m, lanes, granule, True)
            race.flight.proxy(m, lanes, granule, verb="overwrites")
        if race.on and race.quick(m, lanes, granule, WRITE | WITHIN) != 0:
            race.examine(m, lanes, granule, True, False)
        if race.init:
            race.known[granule] = True
        race.flight.start_write(granule, m.pc)
        m.shared.views[unit][at // unit] = access_poison(unit)
        self.landing.append(Landing(m.pc, int(at[0]) // m.shared_size, at, unit, raw, key, total, source))
        m.launch.metrics.bytes["shared written"] += total
        random = m.launch.random
        if random is not None and random.random() < 0.3:
            self.land(self.landing.pop())

    def finish(self, keys: Array | None) -> bool:
        """Loads land whose mbarrier is among `keys` (None: all)."""
        wanted = None if keys is None else set(keys.tolist())
        due = [x for x in self.landing if wanted is None or x.key in wanted]
        self.landing = [x for x in self.landing if not (wanted is None or x.key in wanted)]
        for each in due:
            self.land(each)
        return bool(due)

    def land(self, each: Landing) -> None:
        m, race = self.m, self.m.race
        m.shared.views[each.unit][each.at // each.unit] = each.raw
        granule, _ = race.spread(each.at, each.at, each.unit)
        race.flight.land_engine(m, np.int64(each.block), granule, each.pc)
        row = race.engine(each.block)
        if each.source is not None:
            race.flight.finish_read(each.source)
            if race.on:
                race.read[each.source, race.agent[row]] = race.rows[row, race.agent[row]]
                race.read_pc[each.source] = each.pc
        n = int(np.searchsorted(m.mbarriers.keys, each.key))
        if n >= len(m.mbarriers.keys) or m.mbarriers.keys[n] != each.key:
            return
        if race.on:  # the engine arrives: whoever waits knows what it wrote
            m.mbarriers.gathered[n] = np.maximum(m.mbarriers.gathered[n], race.rows[row])
            race.tick(np.array([row]))
        m.mbarriers.complete(n, each.bytes)

    # --- stores
    def store(self, lane: int, at: Array, unit: int) -> Array:
        """Reads batch offsets for a store: checked, marked as being read until its group is waited for."""
        raw, whole = self.fetch(lane, at, unit)
        self.reading.append(Reading(lane, int(self.committed[lane]), whole, self.m.pc))
        return raw

    def fetch(self, lane: int, at: Array, unit: int) -> tuple[Array, Array]:
        """(the units at batch offsets, their granules, from now on being read)."""
        m, race = self.m, self.m.race
        lanes, granule = issue(m, lane, at, unit)
        if race.flight.on:
            race.flight.check(m, lanes, granule, False)
            race.flight.proxy(m, lanes, granule)
        if race.init:
            race.initialised(m, lanes, granule, False)
        if race.on:
            race.check(m, lanes, granule, False, False)
        whole = np.unique(granule)
        race.flight.start_read(whole, m.pc)
        m.launch.metrics.bytes["shared read"] += len(at) * unit
        return m.shared.views[unit][at // unit], whole

    def commit(self, s: Sel) -> None:
        self.committed[s] += 1

    def wait(self, s: Sel, left: int) -> None:
        """Stores of these lanes are done with shared memory, but for those of the last `left` groups."""
        waits = set(lanes_of(s).tolist())
        kept = []
        for each in self.reading:
            if each.lane in waits and each.group < self.committed[each.lane] - left:
                self.done_reading(each)
            else:
                kept.append(each)
        self.reading = kept

    def exited(self, s: Sel) -> None:
        """Shared memory goes to another block when its own ends: stores must have read it by then."""
        if not self.reading and not self.landing:
            return
        m, gone = self.m, set(lanes_of(s).tolist())
        for each in self.reading:
            if each.lane in gone:
                message = (
                    "ends while a bulk copy that it issued still reads shared memory "
                    "(cp.async.bulk.wait_group)"
                )
                m.record("async", each.lane, message, other=each.pc)
        alive = set(m.block[m.live].tolist())
        for load in self.landing:
            if load.block not in alive:
                message = "the block ends while a bulk load into its shared memory is in flight"
                m.record("async", load.block, message, warning=True, other=load.pc)

    def done_reading(self, each: Reading) -> None:
        race = self.m.race
        race.flight.finish_read(each.granule)
        if race.on:
            race.read[each.granule, race.me[each.lane]] = race.flat_clock[race.own[each.lane]]


def issue(m: Machine, lane: int, at: Array, unit: int) -> tuple[Array, Array]:
    """(the issuing lane repeated, granules) of an operation on batch offsets."""
    granule, _ = m.race.spread(at, at, unit)
    return np.full(len(granule), lane), granule


def access_poison(unit: int) -> Any:
    from tilec.backends.emulator.async_copy import poison

    return poison(unit)


def in_shared(m: Machine, lane: int, address: int, size: int, align: int, verb: str) -> int | None:
    """The batch offset of shared bytes of one lane's operation; None, and a finding, when they are not
    there."""
    if address % align:
        message = f"{verb} at {address:#x}, which is not a multiple of {align}"
        m.record("misaligned", lane, message, address=address)
        return None
    offset, where = address & (SHARED - 1), np.array([address])
    if not access.in_cluster(m, where, size)[0]:
        message = f"{verb} of {size} bytes at shared offset {offset} out of bounds, of {m.shared_used} bytes"
        m.record("out-of-bounds", lane, message, address=address, array="shared memory")
        return None
    return int(access.cluster_offset(m, slice(lane, lane + 1), where)[0])


def bulk(f: Form) -> Step:
    """cp.async.bulk...: dispatch on what follows."""
    from tilec.backends.emulator import bulk_linear, tma

    f.context.features.update(("async", "proxy"))
    if f.take("commit_group"):
        return Step(lambda m, s: m.bulk.commit(s))
    if f.take("wait_group"):
        f.take("read")
        left = f.source(0, "u32")
        return Step(lambda m, s: m.bulk.wait(s, int(full(left(m, s), s)[0])))
    f.context.widths["shared"].add(8)
    if f.take("prefetch"):
        return prefetch(f)
    return tma.tensor(f) if f.take("tensor") else bulk_linear.linear(f)


def prefetch(f: Form) -> Step:
    """A hint: no effect."""
    f.left.clear()
    return Step(lambda m, s: None)


def bulk_reduce(f: Form) -> Step:
    """cp.reduce.async.bulk{.tensor}: a store that combines."""
    from tilec.backends.emulator import bulk_linear, tma

    f.need("async")
    f.need("bulk")
    f.context.features.update(("async", "proxy"))
    f.context.widths["shared"].add(8)
    return tma.tensor(f, True) if f.take("tensor") else bulk_linear.linear(f, True)
