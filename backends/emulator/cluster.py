"""Clusters: barrier.cluster, mapa, getctarank, st.async, red.async.

Shared memory of another block of the cluster is addressed through its window (device.py). Its accesses are
checked for bounds; races across blocks are not followed, only those of each block's own warps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.emulator.decode import FLOW, Form, Step, constant, full
from tilec.backends.emulator.device import SHARED
from tilec.backends.emulator.lanes import part
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

    def arrive(self, s: Sel) -> None:
        self.reached[s] += 1
        m = self.m
        late = np.bincount(self.first[m.block], weights=m.live & (self.reached <= self.phase[m.block]),
                           minlength=m.blocks)  # fmt: skip
        done = late[self.first] == 0
        if not done.any():
            return
        self.phase[done] += 1
        if m.race.on:
            warps = m.race.agents - 1
            each = np.arange(warps)
            joined = m.race.clock[done, :warps].max(axis=1)[:, None]
            m.race.clock[done, :warps] = joined
            m.race.clock[np.flatnonzero(done)[:, None], each, each] += 1
        parked, self.parked = self.parked, []
        for pc, lanes in parked:
            self.wait(lanes, pc)

    def wait(self, s: Sel, pc: int) -> None:
        m = self.m
        ready = self.phase[m.block[s]] >= self.reached[s]
        m.resume(pc + 1, part(s, ready))
        stay = part(s, ~ready)
        if stay is not None:
            self.parked.append((pc, stay))


def barrier_cluster(f: Form) -> Step:
    operation = f.need("arrive", "wait")
    f.take("release", "acquire", "relaxed")
    aligned = bool(f.take("aligned"))

    def run(m: Machine, s: Sel) -> None:
        if operation == "arrive":
            m.cluster_barrier.arrive(s)
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
    from tilec.backends.emulator import access
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
        access.store(m, s, to(m, s), raw(m, s).view(unsigned(width)).reshape(-1), width, "cluster", True)
        complete(m, s, bar(m, s), width)

    return Step(run)


def complete(m: Machine, s: Sel, bar: Array, width: int) -> None:
    from tilec.backends.emulator import access

    _, at = access.place(m, s, bar, "cluster")
    n, there = m.mbarriers.find(s, at)
    for each, count in zip(*np.unique(n[there], return_counts=True), strict=True):
        m.mbarriers.complete(int(each), int(count) * width)


BUILDERS: dict[str, Callable[[Form], Step]] = {"mapa": mapa, "getctarank": getctarank}
