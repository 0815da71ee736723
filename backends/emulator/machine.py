"""The state of a batch of blocks that run side by side: lanes, registers, memories, who may run.

lane = thread * blocks + block: any range of threads over all blocks is a slice, so a warp-specialised group
costs no more than a full one. Threads are padded to whole warps; the padding never runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.device import LOCAL, PARAM, SHARED, Bytes, GlobalMemory
from tilec.backends.emulator.lanes import lanes_of, size, union
from tilec.backends.emulator.metrics import SAMPLES, Metrics
from tilec.backends.emulator.ptx_types import Array, Sel, numpy_type
from tilec.backends.emulator.report import Finding, Report
from tilec.backends.emulator.unread import Unread

if TYPE_CHECKING:
    from tilec.backends.emulator.global_race import GlobalRace
    from tilec.backends.emulator.isa import Program

Dim = tuple[int, int, int]
DYNAMIC = ("%clock", "%clock_hi", "%clock64", "%globaltimer", "%globaltimer_lo", "%globaltimer_hi")
AXES = ("x", "y", "z")
PER_AXIS = ("tid", "ntid", "ctaid", "nctaid", "clusterid", "nclusterid", "cluster_ctaid", "cluster_nctaid")
SINGLE = [
    "laneid",
    "warpid",
    "nwarpid",
    "smid",
    "nsmid",
    "gridid",
    "lanemask_eq",
    "lanemask_le",
    "lanemask_lt",
    "lanemask_ge",
    "lanemask_gt",
    "dynamic_smem_size",
    "total_smem_size",
    "aggr_smem_size",
    "cluster_ctarank",
    "cluster_nctarank",
    "is_explicit_cluster",
]


def is_special(name: str) -> bool:
    base, _, axis = name[1:].partition(".")
    return name in DYNAMIC or base in SINGLE or (base in PER_AXIS and axis in AXES)


@dataclass
class Launch:
    """What all batches of one launch share."""

    program: Program
    grid: Dim
    block: Dim
    cluster: Dim
    memory: GlobalMemory
    params: Array
    shared_bytes: int
    checks: frozenset[str]
    report: Report
    random: np.random.Generator | None
    unread: Unread
    global_race: GlobalRace | None = None
    executed: list[int] = field(default_factory=list)
    found: dict[tuple[Any, ...], int] = field(default_factory=dict)
    sampled: dict[int, int] = field(default_factory=dict)
    granules: int = 0  # of shared memory checked so far
    products: int = 0  # matrix products of warps so far: many are worth compiled code

    @property
    def metrics(self) -> Metrics:
        return self.report.metrics

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]


class Machine:
    """`blocks` blocks of a launch, from linear number `first` on."""

    def __init__(self, launch: Launch, first: int, blocks: int) -> None:
        self.launch, self.first, self.blocks = launch, first, blocks
        self.program = launch.program
        self.threads = launch.threads
        self.warps = (self.threads + 31) // 32
        self.lanes = self.warps * 32 * blocks
        self.pc, self.now = 0, 0
        self.block = self.for_each_thread(np.arange(blocks))
        self.thread = self.for_each_block(np.arange(self.warps * 32))
        self.warp = self.thread // 32
        self.lane = self.thread % 32
        self.row = self.block * (self.warps + 1) + self.warp  # this warp's row of the clocks
        self.live = self.thread < self.threads
        self.alive = np.ones(blocks, bool)  # of clusters: whether a block has not ended
        self.ready: dict[int, Sel] = {}
        self.gathering: dict[int, Sel] = {}
        self.cluster_size = int(np.prod(launch.cluster))
        self.carry = np.zeros(self.lanes, bool)
        self.returns: dict[int, Array] = {}
        self.cache: dict[Any, Any] = {}
        self.make_memories()
        self.views = self.make_views()
        self.make_parts()

    def make_memories(self) -> None:
        program = self.program
        self.shared_size = (program.shared_size + self.launch.shared_bytes + 127) // 128 * 128
        self.shared_used = program.shared_size + self.launch.shared_bytes
        self.shared = Bytes(self.shared_size * self.blocks, 0xFF)
        self.shared_start = self.block * self.shared_size - SHARED
        self.local_size = (program.local_size + 15) // 16 * 16
        self.local = Bytes(self.local_size * self.lanes, 0xFF)
        self.local_start = np.arange(self.lanes) * self.local_size - LOCAL
        self.param = Bytes(len(self.launch.params))
        self.param.data[: len(self.launch.params)] = self.launch.params

    def make_parts(self) -> None:
        from tilec.backends.emulator.async_copy import Copies
        from tilec.backends.emulator.barrier import Barriers
        from tilec.backends.emulator.bulk import BulkCopies
        from tilec.backends.emulator.cluster import ClusterBarrier
        from tilec.backends.emulator.mbarrier import Mbarriers
        from tilec.backends.emulator.race import SharedRace
        from tilec.backends.emulator.registers import Registers
        from tilec.backends.emulator.wgmma import Wgmmas

        self.race = SharedRace(self)
        self.barriers = Barriers(self)
        self.copies = Copies(self)
        self.mbarriers = Mbarriers(self)
        self.bulk = BulkCopies(self)
        self.wgmmas = Wgmmas(self)
        self.cluster_barrier = ClusterBarrier(self)
        self.registers = Registers(self)

    # --- registers
    def make_views(self) -> list[Array]:
        stores: dict[str, Array] = {}
        views = []
        for name, declared, dtype in self.program.context.views:
            if declared == "special":
                views.append(np.broadcast_to(self.special(name).astype(np.uint64), (self.lanes,)))
                continue
            if name not in stores:
                stores[name] = np.zeros(self.lanes, numpy_type(declared))
            views.append(narrow_view(stores[name], np.dtype(dtype)))
        return views

    def pointer(self, slot: int, lane: int) -> int:
        """The address of a lane's element of a register view, for compiled code."""
        view = self.views[slot]
        return int(view.__array_interface__["data"][0] + lane * view.itemsize)

    def special(self, name: str) -> Any:
        base, _, axis = name[1:].partition(".")
        if axis:
            return self.per_axis(base, AXES.index(axis))
        lane, one = self.lane.astype(np.uint64), np.uint64(1)
        cluster = self.launch.cluster
        return {
            "laneid": lane, "warpid": self.warp, "nwarpid": np.array(self.warps), "nsmid": np.array(132),
            "smid": (self.first + self.block) % 132, "gridid": np.array(1),
            "lanemask_eq": one << lane, "lanemask_lt": (one << lane) - one,
            "lanemask_le": (one << lane << one) - one,
            "lanemask_gt": 0xFFFFFFFF & ~((one << lane << one) - one),
            "lanemask_ge": 0xFFFFFFFF & ~((one << lane) - one),
            "dynamic_smem_size": np.array(self.launch.shared_bytes),
            "total_smem_size": np.array(self.shared_used),
            "aggr_smem_size": np.array(self.shared_used), "cluster_ctarank": self.rank(),
            "cluster_nctarank": np.array(cluster[0] * cluster[1] * cluster[2]),
            "is_explicit_cluster": np.array(int(cluster != (1, 1, 1))),
        }[base]  # fmt: skip

    def per_axis(self, base: str, axis: int) -> Any:
        launch = self.launch
        if base == "tid":
            thread = self.coordinates(np.arange(self.warps * 32), launch.block)
            return self.for_each_block(thread[axis])
        grid, size = launch.grid[axis], launch.cluster[axis]
        constants = {"ntid": launch.block[axis], "nctaid": grid, "nclusterid": grid // size}
        constants["cluster_nctaid"] = size
        if base in constants:
            return np.array(constants[base])
        block = self.coordinates(self.first + np.arange(self.blocks), launch.grid)[axis]
        of = {"ctaid": block, "clusterid": block // size, "cluster_ctaid": block % size}[base]
        return self.for_each_thread(of)

    def for_each_thread(self, values: Array) -> Array:
        """A number for each block, as one for each lane: thread * blocks + block."""
        return np.tile(values, self.warps * 32)

    def for_each_block(self, values: Array) -> Array:
        """A number for each thread, as one for each lane."""
        return np.repeat(values, self.blocks)

    def coordinates(self, linear: Any, extent: Dim) -> tuple[Any, Any, Any]:
        return linear % extent[0], linear // extent[0] % extent[1], linear // (extent[0] * extent[1])

    def block_of_rank(self, s: Sel, rank: Any) -> Any:
        """The block of the batch that has a rank in each lane's cluster."""
        (gx, gy, _), (cx, cy, _) = self.launch.grid, self.launch.cluster
        x, y, z = self.coordinates(self.first + self.block[s], self.launch.grid)
        x0, y0, z0 = (c - c % k for c, k in zip((x, y, z), self.launch.cluster, strict=True))
        x, y, z = x0 + rank % cx, y0 + rank // cx % cy, z0 + rank // (cx * cy)
        return x + gx * (y + gy * z) - self.first

    def rank(self) -> Any:
        (x, y, z), (cx, cy, cz) = (
            self.coordinates(self.first + self.block, self.launch.grid),
            self.launch.cluster,
        )
        return x % cx + cx * (y % cy + cy * (z % cz))

    def dynamic(self, name: str) -> int:
        self.now += 20
        return (self.now >> 32 if name.endswith("hi") else self.now) & (
            2**64 - 1 if "64" in name else 2**32 - 1
        )

    # --- control
    def resume(self, pc: int, sel: Sel | None) -> None:
        """Lanes that may go on from pc; they merge with those already there."""
        if sel is not None:
            self.ready[pc] = union(self.ready[pc], sel) if pc in self.ready else sel

    def exit(self, sel: Sel) -> None:
        self.live[sel] = False
        if self.cluster_size > 1:
            self.end_blocks(sel)
        self.bulk.exited(sel)
        self.barriers.exited(sel)
        self.cluster_barrier.exited()
        for pc in list(self.gathering):  # lanes that left are no longer waited for
            self.resume(pc, self.gathering.pop(pc))

    def end_blocks(self, sel: Sel) -> None:
        """Blocks of a cluster whose last lanes have left."""
        lanes = lanes_of(sel)
        alive = np.bincount(self.block[self.live], minlength=self.blocks) > 0
        for block in np.unique(self.block[lanes]):
            if not alive[block]:
                self.race.ended(self, int(block), int(lanes[self.block[lanes] == block][-1]))
        self.alive = alive

    def waiting(self) -> Iterator[tuple[int, Sel, str]]:
        """(pc, lanes, what they do there) of everybody who cannot run, and of those who could."""
        for number, each in self.barriers.parked():
            yield each.pc, each.lanes, f"wait at barrier {number}"
        yield from self.mbarriers.waiting()
        yield from self.registers.waiting()
        for pc, sel in self.cluster_barrier.parked:
            yield pc, sel, "wait for the cluster's barrier"
        for pc, sel in self.gathering.items():
            yield pc, sel, "wait for the rest of their warp"
        for pc, sel in self.ready.items():
            yield pc, sel, "are ready"

    def finish_in_flight(self, everything: bool = False) -> bool:
        """Completes asynchronous work that somebody waits for (or all of it); False when there was none."""
        keys = None if everything else self.mbarriers.wanted()
        copies, bulk = self.copies.keep_promises(keys), self.bulk.finish(keys)
        return copies or bulk

    # --- findings
    def checking(self, kind: str) -> bool:
        return kind in self.launch.checks

    def record(
        self, kind: str, lane: int | None, message: str, *, warning: bool = False, address: int | None = None,
        array: str | None = None, other: int | None = None, times: int = 1, pc: int | None = None,
    ) -> None:  # fmt: skip
        """Notes a finding of the instruction at pc (the current one); one of each (kind, pc, other) is
        kept."""
        if kind not in self.launch.checks:
            return
        pc = self.pc if pc is None else pc
        key, findings = (kind, pc, other, warning), self.launch.report.findings
        if key in self.launch.found:
            n = self.launch.found[key]
            findings[n] = replace(findings[n], count=findings[n].count + times)
            return
        self.launch.found[key] = len(findings)
        i = self.program.steps[pc].instruction
        place = self.where(lane) if lane is not None else {}
        line = self.program.steps[other].instruction.line if other is not None else None
        findings.append(
            Finding(kind, i.line, warning, message, i.text, self.program.source_place(i), address=address,
            array=array,
                    other=line, count=times, **place)
        )  # fmt: skip

    def where(self, lane: int) -> dict[str, Any]:
        block = self.coordinates(self.first + int(self.block[lane]), self.launch.grid)
        return {
            "block": tuple(int(x) for x in block),
            "warp": int(self.warp[lane]),
            "lane": int(self.lane[lane]),
        }

    def line_of(self, pc: int) -> str:
        i = self.program.steps[pc].instruction
        place = self.program.source_place(i)
        return f"line {i.line} ({i.text})" + (f" of {place[0]}:{place[1]}" if place and place[1] else "")

    # --- metrics
    def sample(self, sel: Sel) -> Array | None:
        """Indexes into `sel` of block 0's lanes, when this execution is to be sampled."""
        done = self.launch.sampled.get(self.pc, 0)
        if done >= SAMPLES:
            return None
        self.launch.sampled[self.pc] = done + 1
        chosen = np.flatnonzero(self.block[sel] == 0)
        return chosen if len(chosen) else None

    def param_scalar(self, offset: int, dtype: np.dtype[Any]) -> Any:
        return self.param.data[offset : offset + dtype.itemsize].view(dtype)[0]

    def shared_name(self, offset: int) -> str:
        for start, length, name in self.program.shared_names:
            if start <= offset < start + length:
                return name
        return "shared memory"

    def counted(self, sel: Sel) -> Array:
        """How many of the lanes belong to each block."""
        if size(sel) == self.lanes:
            return np.full(self.blocks, self.warps * 32)
        return np.bincount(self.block[lanes_of(sel)], minlength=self.blocks)


def narrow_view(store: Array, dtype: np.dtype[Any]) -> Array:
    """The low bytes of each element, as dtype (little-endian)."""
    if store.dtype == dtype:
        return store
    if store.itemsize == dtype.itemsize:
        return store.view(dtype)
    return store.view(dtype)[:: store.itemsize // dtype.itemsize]


__all__ = ["DYNAMIC", "PARAM", "Launch", "Machine", "is_special"]
