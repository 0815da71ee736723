"""bar.sync, bar.arrive, bar.red and barrier.*: sixteen barriers per block, counted in threads.

Each barrier collects the clocks of those who arrive; those who leave know all of it. Threads that exit are
no longer waited for where no count is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.cluster import barrier_cluster
from tilec.backends.emulator.decode import COLLECTIVE, FLOW, Form, Getter, Step, constant, full
from tilec.backends.emulator.lanes import lanes_of, part, size
from tilec.backends.emulator.program import Immediate
from tilec.backends.emulator.ptx_types import Array, Sel

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

BARRIERS = 16


@dataclass
class Waiting:
    """Lanes parked at one barrier instruction, and what to do for them when they are let go."""

    pc: int
    lanes: Sel
    then: Callable[[Machine, Sel, Any], None] | None


class Barriers:
    def __init__(self, m: Machine) -> None:
        self.m = m
        self.arrived = np.zeros((m.blocks, BARRIERS), np.int64)
        self.expected = np.zeros((m.blocks, BARRIERS), np.int64)
        self.votes = np.zeros((m.blocks, BARRIERS), np.int64)
        self.clocks = np.zeros((m.blocks, BARRIERS, m.race.width), np.int64)
        self.waiting: dict[int, list[Waiting]] = {}
        self.pending = 0

    def sync(
        self, sel: Sel, number: int, count: int | None, then: Any = None, votes: Array | None = None
    ) -> None:
        """These lanes arrive and wait; they resume after the current instruction."""
        m = self.m
        everyone = size(sel) == np.count_nonzero(m.live) and number not in self.waiting
        if everyone and votes is None and not self.pending and count in (None, m.threads):
            m.race.join_all()
            m.resume(m.pc + 1, sel)
            return
        self.arrive(sel, number, count, votes)
        self.waiting.setdefault(number, []).append(Waiting(m.pc, sel, then))
        self.settle(number)

    def arrive(self, sel: Sel, number: int, count: int | None, votes: Array | None = None) -> None:
        m = self.m
        block = m.block[lanes_of(sel)]
        here = np.bincount(block, minlength=m.blocks)
        self.arrived[:, number] += here
        self.pending += size(sel)
        if votes is not None:
            self.votes[:, number] += np.bincount(block, weights=votes, minlength=m.blocks).astype(np.int64)
        if count is not None:
            self.expect(sel, number, count, here > 0)
        if m.race.on:
            pairs = np.unique(m.row[lanes_of(sel)])
            b, w = pairs // m.race.each, pairs % m.race.each
            for block, warp in zip(b, w, strict=True):
                self.clocks[block, number] = np.maximum(self.clocks[block, number], m.race.clock[block, warp])
            m.race.tick(pairs)

    def expect(self, sel: Sel, number: int, count: int, blocks: Array) -> None:
        before = self.expected[:, number]
        differs = blocks & (before != 0) & (before != count)
        if differs.any():
            message = (
                f"barrier {number} is used with a count of {count} and, before it was complete, "
                f"of {before.max()}"
            )
            self.m.record("divergence", int(lanes_of(sel)[0]), message)
        self.expected[blocks, number] = count

    def settle(self, number: int) -> None:
        """Lets go of every block whose barrier is complete."""
        m = self.m
        live = np.bincount(m.block[m.live], minlength=m.blocks)
        needed = np.where(self.expected[:, number] > 0, self.expected[:, number], live)
        done = (self.arrived[:, number] >= needed) & (self.arrived[:, number] > 0)
        if not done.any():
            return
        votes = self.votes[:, number].copy()
        waiting, self.waiting[number] = self.waiting.get(number, []), []
        released = [self.let_go(each, number, done, votes) for each in waiting]
        if not self.waiting[number]:
            del self.waiting[number]
        self.pending -= int(self.arrived[done, number].sum())
        self.arrived[done, number] = self.expected[done, number] = self.votes[done, number] = 0
        self.clocks[done, number] = 0
        for pc, lanes in released:
            m.resume(pc + 1, lanes)

    def let_go(self, each: Waiting, number: int, done: Array, votes: Array) -> tuple[int, Sel | None]:
        m = self.m
        mine = done[m.block[lanes_of(each.lanes)]]
        go, stay = part(each.lanes, mine), part(each.lanes, ~mine)
        if stay is not None:
            self.waiting[number].append(Waiting(each.pc, stay, each.then))
        if go is not None:
            if m.race.on:
                pairs = np.unique(m.row[lanes_of(go)])
                b, w = pairs // m.race.each, pairs % m.race.each
                m.race.clock[b, w] = np.maximum(m.race.clock[b, w], self.clocks[b, number])
            if each.then:
                each.then(m, go, votes[m.block[lanes_of(go)]])
        return each.pc, go

    def parked(self) -> Iterator[tuple[int, Waiting]]:
        for number, waiting in self.waiting.items():
            for each in waiting:
                yield number, each

    def exited(self, sel: Sel) -> None:
        for number in list(self.waiting):
            self.settle(number)


def number_of(f: Form, n: int) -> Getter:
    return f.source(n, "u32")


def uniform(f: Form, get: Getter, m: Machine, s: Sel, what: str) -> int:
    values = full(get(m, s), s)
    if (values != values[0]).any():
        m.record(
            "divergence", int(lanes_of(s)[0]), f"the {what} differs between the threads that arrive together"
        )
    return int(values[0])


def bar(f: Form) -> Step:
    """bar{.cta} and barrier{.cta}{.aligned}; bar is aligned."""
    f.take("cta")
    if f.take("warp"):
        return bar_warp(f)
    if f.take("cluster"):
        return barrier_cluster(f)
    aligned = bool(f.take("aligned")) or f.i.root == "bar"
    operation = f.need("sync", "arrive", "red")
    if operation == "red":
        return reduction(f, aligned)
    number, count = number_of(f, 0), f.source(1, "u32") if f.count(1, 2) == 2 else None
    check_number(f)

    def run(m: Machine, s: Sel) -> None:
        n = uniform(f, number, m, s, "barrier number")
        c = uniform(f, count, m, s, "barrier's thread count") if count else None
        if operation == "sync":
            return m.barriers.sync(s, n, c)
        m.barriers.arrive(s, n, c)
        m.resume(m.pc + 1, s)
        return m.barriers.settle(n)

    return Step(run, FLOW, members=constant(np.uint32(0xFFFFFFFF)) if aligned else None)


def check_number(f: Form) -> None:
    number = f.operand(0)
    if isinstance(number, Immediate) and not 0 <= number.value < BARRIERS:
        f.error(f"there are barriers 0 to {BARRIERS - 1}, not {number.value}")


def reduction(f: Form, aligned: bool) -> Step:
    """bar.red.popc.u32 d, a, {b,} p and bar.red.and.pred p, a, {b,} q."""
    operation = f.need("popc", "and", "or")
    kind = f.type("u32", "pred")
    has_count = f.count(3, 4) == 4
    put, number = f.target(0, kind), f.source(1, "u32")
    count, value = (f.source(2, "u32") if has_count else None), f.source(2 + has_count, "pred")

    def finish(m: Machine, s: Sel, votes: Any) -> None:
        put(m, s, votes != 0 if operation == "or" else votes == 0 if operation == "and" else votes)

    def run(m: Machine, s: Sel) -> None:
        p = full(value(m, s), s)
        c = uniform(f, count, m, s, "barrier's thread count") if count else None
        n = uniform(f, number, m, s, "barrier number")
        m.barriers.sync(s, n, c, finish, (~p if operation == "and" else p).astype(np.int64))

    return Step(run, FLOW, members=constant(np.uint32(0xFFFFFFFF)) if aligned else None)


def bar_warp(f: Form) -> Step:
    f.need("sync")
    return Step(lambda m, s: m.race.warp_sync(m, s), COLLECTIVE, members=f.source(0, "u32"))


Builder = Callable[[Form], Step]
BUILDERS: dict[str, Builder] = {"bar": bar, "barrier": bar}
