"""Clusters: barrier.cluster, mapa, getctarank, st.async, red.async.

Shared memory of another block of the cluster is addressed through its window (device.py). The clocks of
race.py span the cluster, so accesses of other blocks race like those of other warps; what orders them is
barrier.cluster, an mbarrier that they arrive at from afar, or an asynchronous copy that it counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.emulator.decode import FLOW, Form, Step, constant, full
from tilec.backends.emulator.device import SHARED
from tilec.backends.emulator.lanes import lanes_of, part
from tilec.backends.emulator.ptx_types import Array, Sel, bits

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine


class ClusterBarrier:
    """Arrivals of every thread of a cluster; phase by phase."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.phase = np.zeros(m.blocks, np.int64)  # by block; those of a cluster agree
        self.reached = np.zeros(m.lanes, np.int64)  # phases each lane has arrived in
        self.parked: list[tuple[int, Sel]] = []
        every = slice(0, m.blocks)
        self.first = (
            m.block_of_rank(every, np.zeros(m.blocks, np.int64))
            if m.cluster_size > 1
            else np.arange(m.blocks)
        )
        self.clocks = np.zeros((m.blocks, m.race.width), np.int64)  # by first block: of all who arrived
        self.known = self.clocks.copy()  # what the end of a phase tells those who wait

    def arrive(self, s: Sel, release: bool = True) -> None:
        self.reached[s] += 1
        self.gather(np.unique(self.m.row[s]), release)
        self.settle()

    def settle(self) -> None:
        """Ends the phase of every cluster whose threads have all arrived, or have exited."""
        m = self.m
        late = np.bincount(self.first[m.block], weights=m.live & (self.reached <= self.phase[m.block]),
                           minlength=m.blocks)  # fmt: skip
        done = late[self.first] == 0
        if not done.any():
            return
        self.phase[done] += 1
        self.known[done] = self.clocks[done]
        parked, self.parked = self.parked, []
        for pc, lanes in parked:
            self.wait(lanes, pc)

    def exited(self) -> None:
        """Threads that left are no longer waited for."""
        if self.parked:
            self.settle()

    def gather(self, rows: Array, release: bool) -> None:
        """What these warps know goes to the barrier; of a relaxed arrival what they knew at a fence."""
        race = self.m.race
        if race.on:
            alone = self.m.cluster_size == 1
            published = race.rows[rows] if release or alone else race.fenced[rows]
            np.maximum.at(self.clocks, self.first[rows // race.each], published)
            race.tick(rows)

    def learn(self, s: Sel) -> None:
        race = self.m.race
        if race.on:
            rows = np.unique(self.m.row[s])
            race.rows[rows] = np.maximum(race.rows[rows], self.known[self.first[rows // race.each]])

    def wait(self, s: Sel, pc: int) -> None:
        m = self.m
        ready = self.phase[m.block[s]] >= self.reached[s]
        go = part(s, ready)
        if go is not None:
            self.learn(go)
        m.resume(pc + 1, go)
        stay = part(s, ~ready)
        if stay is not None:
            self.parked.append((pc, stay))


def barrier_cluster(f: Form) -> Step:
    operation = f.need("arrive", "wait")
    release = f.take("release", "acquire", "relaxed") != "relaxed"
    aligned = bool(f.take("aligned"))

    def run(m: Machine, s: Sel) -> None:
        if operation == "arrive":
            m.cluster_barrier.arrive(s, release)
            m.resume(m.pc + 1, s)
        else:
            m.cluster_barrier.wait(s, m.pc)

    return Step(run, FLOW, members=constant(np.uint32(0xFFFFFFFF)) if aligned else None)


def mapa(f: Form) -> Step:
    """The address of one's own variable in the block of another rank."""
    f.take("shared::cluster")
    kind = f.type("u32", "u64")
    put, address, rank = f.target(0, kind), f.source(1, kind), f.source(2, "u32")

    def run(m: Machine, s: Sel) -> None:
        offset = full(address(m, s), s).astype(np.int64) & (SHARED - 1)
        put(m, s, ((2 + full(rank(m, s), s).astype(np.int64)) << 24) | offset)

    return Step(run)


def getctarank(f: Form) -> Step:
    f.take("shared::cluster")
    kind = f.type("u32", "u64")
    put, address = f.target(0, "u32"), f.source(1, kind)

    def run(m: Machine, s: Sel) -> None:
        window = (full(address(m, s), s).astype(np.int64) >> 24) - 2
        put(m, s, np.where(window < 0, np.broadcast_to(m.rank(), m.block.shape)[s], window))

    return Step(run)


def st_async(f: Form) -> Step:
    """st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.type [to], value, [mbar];"""
    from tilec.backends.emulator.memory import note_width, packer, vector_length
    from tilec.backends.emulator.ptx_types import numpy_type, unsigned

    f.take("weak")
    f.need("shared::cluster")
    f.need("mbarrier::complete_tx::bytes")
    count, kind = vector_length(f), f.type()
    width = bits(kind) // 8 * count
    note_width(f, "shared", min(width, 8))
    f.context.features.add("async")
    to, bar, raw = f.address(0), f.address(2), packer(f.sources(1, kind, count), numpy_type(kind))

    def run(m: Machine, s: Sel) -> None:
        values = raw(m, s).view(unsigned(width)).reshape(-1)
        rows = zip(lanes_of(s).tolist(), to(m, s).tolist(), values, bar(m, s).tolist(), strict=True)
        for lane, target, value, barrier in rows:
            send(m, lane, target, np.array([value]), barrier)

    return Step(run)


def send(m: Machine, lane: int, target: int, units: Array, barrier: int) -> None:
    """Asynchronous bytes of one lane to a block of its cluster, counted by an mbarrier there."""
    from tilec.backends.emulator.bulk import in_shared
    from tilec.backends.emulator.bulk_linear import mbarrier_key

    unit, total = units.itemsize, units.nbytes
    start = in_shared(m, lane, target, total, unit, "asynchronous write")
    key = mbarrier_key(m, lane, barrier)
    if start is not None and key is not None:
        m.bulk.load(lane, start + np.arange(0, total, unit), units, unit, key, total)


BUILDERS: dict[str, Callable[[Form], Step]] = {"mapa": mapa, "getctarank": getctarank}
