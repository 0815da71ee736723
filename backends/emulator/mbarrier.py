"""mbarrier: phases that complete when every arrival and every expected byte has come.

A barrier is {phase, pending, count, bytes}: init sets phase 0 and pending = count; an arrival takes one off
pending, expect_tx adds bytes, a landed copy takes them off; when both are 0 the phase is complete and the
next one begins.
try_wait.parity P succeeds when the phase of parity P is complete, so at once on a fresh barrier with P = 1;
it may block, and here does: its lanes park until the phase changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator import access
from tilec.backends.emulator.decode import FLOW, Form, Getter, Step, constant, full
from tilec.backends.emulator.device import SHARED
from tilec.backends.emulator.lanes import lanes_of, part
from tilec.backends.emulator.memory import SCOPES, note_width
from tilec.backends.emulator.program import Special
from tilec.backends.emulator.ptx_types import Array, Sel

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

FIELDS = ("phase", "pending", "count", "bytes")
MOST_BYTES = (1 << 20) - 1  # that a barrier waits for
SPACES = ("shared", "shared::cta", "shared::cluster")


@dataclass
class Parked:
    """Lanes that wait at a try_wait, each for its barrier to leave a phase."""

    pc: int
    sel: Sel
    key: Array
    phase: Array


class Mbarriers:
    """Every barrier that was initialised, by its offset in the batch's shared memory."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.keys = np.zeros(0, np.int64)
        self.phase, self.pending, self.count, self.bytes = (np.zeros(0, np.int64) for _ in FIELDS)
        self.gathered = np.zeros((0, m.race.width), np.int64)  # clocks of those who arrived in this phase
        self.known = np.zeros((0, m.race.width), np.int64)  # what a waiter learns: all up to the last phase
        self.parked: list[Parked] = []
        self.fruitless = 0

    # --- the table
    def initialise(self, key: Array, count: Array) -> None:
        fresh = np.setdiff1d(key, self.keys)
        if len(fresh):
            at = np.searchsorted(self.keys, fresh)
            for name in ("keys", *FIELDS):
                setattr(self, name, np.insert(getattr(self, name), at, fresh if name == "keys" else 0))
            self.gathered = np.insert(self.gathered, at, 0, axis=0)
            self.known = np.insert(self.known, at, 0, axis=0)
        n = np.searchsorted(self.keys, key)
        self.phase[n] = self.bytes[n] = 0
        self.pending[n] = self.count[n] = count
        self.gathered[n] = self.known[n] = 0

    def forget(self, key: Array) -> None:
        keep = ~np.isin(self.keys, key)
        for name in ("keys", *FIELDS, "gathered", "known"):
            setattr(self, name, getattr(self, name)[keep])

    def find(self, s: Sel, key: Array) -> tuple[Array, Array]:
        """(index of each lane's barrier, mask of those that exist); the others are reported."""
        n = np.searchsorted(self.keys, key)
        if len(self.keys) == 0:
            there = np.zeros(len(key), bool)
        else:
            there = self.keys[np.minimum(n, len(self.keys) - 1)] == key
        if not there.all():
            first = int(np.flatnonzero(~there)[0])
            offset = int(key[first]) % self.m.shared_size
            message = f"uses the mbarrier at shared offset {offset}, which was not initialised"
            self.m.record(
                "async", access.lane(s, first), message, address=SHARED + offset, times=int((~there).sum())
            )
        return n, there

    # --- operations
    def arrive(self, s: Sel, n: Array, arrivals: Array, release: bool = True) -> None:
        """Arrivals of lanes at barriers n, several of one instruction at one barrier together."""
        m = self.m
        if release and m.race.on:
            rows = np.unique(np.stack([n, m.row[lanes_of(s)]]), axis=1)
            np.maximum.at(self.gathered, rows[0], m.race.rows[rows[1]])
            m.race.tick(np.unique(rows[1]))
        total = np.bincount(n, weights=arrivals, minlength=len(self.keys)).astype(np.int64)
        for each in np.flatnonzero(total):
            self.take(int(each), int(total[each]), s)

    def take(self, each: int, arrivals: int, s: Sel) -> None:
        while arrivals:
            step = min(arrivals, int(self.pending[each]))
            if step <= 0:
                offset = int(self.keys[each]) % self.m.shared_size
                message = (
                    f"one arrival too many at the mbarrier at shared offset {offset}: its phase expects "
                )
                message += f"{int(self.count[each])}, and {int(self.bytes[each])} bytes are still to come"
                self.m.record("async", access.lane(s, 0), message, address=SHARED + offset)
                return
            self.pending[each] -= step
            arrivals -= step
            self.settle(each)

    def expect(self, s: Sel, n: Array, count: Array) -> None:
        np.add.at(self.bytes, n, count)
        beyond = np.abs(self.bytes[n]) > MOST_BYTES
        if beyond.any():
            first = int(np.flatnonzero(beyond)[0])
            offset, found = int(self.keys[n[first]]) % self.m.shared_size, int(self.bytes[n[first]])
            message = f"the mbarrier at shared offset {offset} is to count {found} bytes: "
            message += f"it counts {MOST_BYTES}"
            self.m.record("async", access.lane(s, 0), message, address=SHARED + offset)

    def complete(self, each: int, count: int) -> None:
        self.bytes[each] -= count
        self.settle(each)

    def settle(self, each: int) -> None:
        """Begins the next phase when nothing is left to come, and lets its waiters go."""
        if self.pending[each] or self.bytes[each]:
            return
        self.phase[each] += 1
        self.pending[each] = self.count[each]
        self.known[each] = self.gathered[each]
        self.fruitless = 0
        kept = []
        for entry in self.parked:
            go = (entry.key == self.keys[each]) & (entry.phase < self.phase[each])
            self.m.resume(entry.pc, part(entry.sel, go))
            stay = part(entry.sel, ~go)
            if stay is not None:
                kept.append(Parked(entry.pc, stay, entry.key[~go], entry.phase[~go]))
        self.parked = kept

    def learn(self, s: Sel, n: Array) -> None:
        """A successful wait: these lanes' warps know what the phase's arrivals knew."""
        m = self.m
        if m.race.on and len(n):
            rows = np.unique(np.stack([n, m.row[lanes_of(s)]]), axis=1)
            np.maximum.at(m.race.rows, rows[1], self.known[rows[0]])

    def wanted(self) -> Array:
        """The barriers that somebody waits for."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(p.key for p in self.parked)]))

    def waiting(self) -> Iterator[tuple[int, Sel, str]]:
        for entry in self.parked:
            offset = sorted(set((entry.key % self.m.shared_size).tolist()))
            n = np.searchsorted(self.keys, entry.key[0])
            left = f"{int(self.pending[n])} arrivals and {int(self.bytes[n])} bytes are missing"
            yield entry.pc, entry.sel, f"wait for the mbarrier at shared offset {offset} ({left})"


def key_of(f: Form, n: int) -> Getter:
    """The barrier's place in the batch's shared memory; a use is a read of its 8 bytes."""
    note_width(f, "shared", 8)
    f.context.features.add("async")
    return f.address(n)


def place(
    m: Machine, s: Sel, address: Array, write: bool = False, space: str = "shared"
) -> tuple[Sel | None, Array]:
    """Lanes whose barrier lies in shared memory, and where."""
    good = access.faults(m, s, address, 8, space, "mbarrier access")
    lanes = s if good is None else part(s, good)
    if lanes is None:
        return None, address
    address = address if good is None else address[good]
    _, at = access.place(m, lanes, address, space)
    m.race.access(m, lanes, at, 8, write, False)
    return lanes, at


def mbarrier(f: Form) -> Step:
    operation = f.need(*OPERATIONS)
    return OPERATIONS[operation](f)


def common(f: Form) -> bool:
    """Takes semantics, scope, space and .b64; whether the operation synchronises."""
    relaxed = f.take("relaxed")
    f.take("release", "acquire")
    f.take(*SCOPES)
    cluster = f.take(*SPACES) == "shared::cluster"
    f.take("b64")
    if cluster:
        f.context.features.add("cluster")
    return not relaxed


def init(f: Form) -> Step:
    common(f)
    address, count = key_of(f, 0), f.source(1, "u32")

    def run(m: Machine, s: Sel) -> None:
        number = full(count(m, s), s).astype(np.int64)
        if (number < 1).any() or (number >= 1 << 20).any():
            m.record("async", access.lane(s, 0), f"an mbarrier counts 1 to {(1 << 20) - 1} arrivals")
        lanes, at = place(m, s, address(m, s), True)
        if lanes is not None:
            m.mbarriers.initialise(at, number[: len(at)])

    return Step(run)


def invalidate(f: Form) -> Step:
    common(f)
    address = key_of(f, 0)

    def run(m: Machine, s: Sel) -> None:
        lanes, at = place(m, s, address(m, s), True)
        m.mbarriers.forget(at) if lanes is not None else None

    return Step(run)


def arrive(f: Form) -> Step:
    """mbarrier.arrive{.expect_tx}{.noComplete} {state,} [bar] {, count or bytes};"""
    expect, _ = bool(f.take("expect_tx")), f.take("noComplete")
    remote = "shared::cluster" in f.left
    release = common(f)
    target = f.operand(0)
    given = isinstance(target, Special) or hasattr(target, "type")
    put = f.target(0, "b64") if given else None
    address = key_of(f, 1 if given else 0)
    rest = len(f.i.operands) - (2 if given else 1)
    extra = f.source(2 if given else 1, "u32") if rest else constant(np.uint32(1))
    if expect and not rest:
        f.error("arrive.expect_tx needs the number of bytes")

    def run(m: Machine, s: Sel) -> None:
        lanes, at = place(m, s, address(m, s), space="cluster" if remote else "shared")
        if lanes is None:
            return
        amount = full(extra(m, lanes), lanes).astype(np.int64)
        n, there = m.mbarriers.find(lanes, at)
        if put:
            put(
                m,
                lanes,
                m.mbarriers.phase[np.minimum(n, len(m.mbarriers.keys) - 1)] if there.any() else np.uint64(0),
            )
        lanes = part(lanes, there)
        if lanes is not None:
            arrive_at(m, lanes, n[there], amount[there], expect, release)

    return Step(run)


def arrive_at(m: Machine, s: Sel, n: Array, amount: Array, expect: bool, release: bool) -> None:
    if expect:
        m.mbarriers.expect(s, n, amount)
        amount = np.ones_like(amount)
    m.mbarriers.arrive(s, n, amount, release)


def arrive_drop(f: Form) -> Step:
    """Arrivals that are not expected again in later phases."""
    space, bytes_follow = "cluster" if "shared::cluster" in f.left else "shared", "expect_tx" in f.left
    step = arrive(f)
    first = 1 if hasattr(f.operand(0), "type") or isinstance(f.operand(0), Special) else 0
    address, many = f.address(first), len(f.i.operands) > first + 1 and not bytes_follow
    count = f.source(first + 1, "u32") if many else constant(np.uint32(1))

    def run(m: Machine, s: Sel) -> None:
        good = access.faults(m, s, address(m, s), 8, space, "mbarrier access")
        if good is None:
            n, there = m.mbarriers.find(s, access.place(m, s, address(m, s), space)[1])
            np.subtract.at(m.mbarriers.count, n[there], full(count(m, s), s)[there].astype(np.int64))
        step.run(m, s)

    return Step(run)


def transaction(sign: int) -> Callable[[Form], Step]:
    """expect_tx and complete_tx on their own."""

    def build(f: Form) -> Step:
        remote = "shared::cluster" in f.left
        common(f)
        address, count = key_of(f, 0), f.source(1, "u32")

        def run(m: Machine, s: Sel) -> None:
            lanes, at = place(m, s, address(m, s), space="cluster" if remote else "shared")
            if lanes is None:
                return
            n, there = m.mbarriers.find(lanes, at)
            amount = sign * full(count(m, lanes), lanes)[there].astype(np.int64)
            m.mbarriers.expect(lanes, n[there], amount)
            for each in np.unique(n[there]):
                m.mbarriers.settle(int(each)) if sign < 0 else None

        return Step(run)

    return build


def wait(blocking: bool) -> Callable[[Form], Step]:
    """test_wait and try_wait: by parity, or by the state that an arrive gave (its phase number)."""

    def build(f: Form) -> Step:
        parity = bool(f.take("parity"))
        common(f)
        put, address = f.target(0, "pred"), key_of(f, 1)
        phase = f.source(2, "u32" if parity else "b64")

        def run(m: Machine, s: Sel) -> None:
            lanes, at = place(m, s, address(m, s))
            if lanes is not None:
                attempt(m, lanes, at, full(phase(m, lanes), lanes).astype(np.int64), parity, put, blocking)
            else:
                m.resume(m.pc + 1, s)

        return Step(run, FLOW)

    return build


def attempt(m: Machine, s: Sel, at: Array, phase: Array, parity: bool, put: Any, blocking: bool) -> None:
    n, there = m.mbarriers.find(s, at)
    now = m.mbarriers.phase[np.minimum(n, max(0, len(m.mbarriers.keys) - 1))] if there.any() else phase
    done = ~there | ((now & 1) != (phase & 1) if parity else now > phase)
    yes = part(s, done)
    if yes is not None:
        put(m, yes, np.True_)
        known = part(s, done & there)
        if known is not None:
            m.mbarriers.learn(known, n[done & there])
        m.resume(m.pc + 1, yes)
    no = part(s, ~done)
    if no is None:
        return
    impatient = m.launch.random is not None and m.launch.random.random() < 0.2
    if blocking and not impatient:
        m.mbarriers.parked.append(Parked(m.pc, no, at[~done], now[~done]))
        return
    put(m, no, np.False_)
    m.resume(m.pc + 1, no)
    m.mbarriers.fruitless += 1
    if m.mbarriers.fruitless % 64 == 0:
        m.finish_in_flight(everything=True)


def pending_count(f: Form) -> Step:
    f.error("mbarrier.pending_count is not known to the emulator: the state is opaque")


def arrive_after_copies(f: Form) -> Step:
    """cp.async.mbarrier.arrive{.noinc}: an arrival once this thread's earlier cp.asyncs have landed."""
    f.take("arrive")
    quiet = bool(f.take("noinc"))
    f.take(*SPACES)
    f.take("b64")
    address = key_of(f, 0)

    def run(m: Machine, s: Sel) -> None:
        lanes, at = place(m, s, address(m, s))
        if lanes is None:
            return
        n, there = m.mbarriers.find(lanes, at)
        lanes = part(lanes, there)
        if lanes is None:
            return
        if not quiet:
            np.add.at(m.mbarriers.pending, n[there], 1)
        m.copies.promise(lanes, at[there])

    return Step(run)


OPERATIONS: dict[str, Callable[[Form], Step]] = {
    "init": init, "inval": invalidate, "arrive": arrive, "arrive_drop": arrive_drop,
    "expect_tx": transaction(1),
    "complete_tx": transaction(-1), "test_wait": wait(False), "try_wait": wait(True),
    "pending_count": pending_count,
}  # fmt: skip
BUILDERS: dict[str, Callable[[Form], Step]] = {"mbarrier": mbarrier}
