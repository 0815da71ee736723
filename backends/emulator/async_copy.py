"""cp.async: copies that land when the thread that issued them waits.

The data is taken at the issue and kept; the destination is poisoned and marked in flight until wait_group
or wait_all of the issuing thread lets it land, as late as is legal. Other threads still need a barrier
after that wait.
With a seed some copies land at once, which is legal too; they stay marked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator import access
from tilec.backends.emulator.decode import Form, Getter, Step, full
from tilec.backends.emulator.lanes import lanes_of, part, size
from tilec.backends.emulator.memory import CACHES, note_width
from tilec.backends.emulator.program import Immediate, Negated, Operand, Register
from tilec.backends.emulator.ptx_types import Array, Sel, unsigned

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine


@dataclass
class Copy:
    """One cp.async of a selection of lanes, still in flight. group: each lane's group number."""

    pc: int
    sel: Sel
    at: Array
    raw: Array
    width: int
    group: Array
    serial: int


class Copies:
    """The cp.asyncs in flight of a batch, in order; the number of groups each lane has committed."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.pending: list[Copy] = []
        self.committed = np.zeros(m.lanes, np.int64)
        self.limit = np.zeros(m.lanes, np.int64)
        self.issued = 0
        self.promises: list[tuple[Sel, Array, int]] = []  # lanes, mbarriers, after which copies

    def issue(self, s: Sel, address: Array, raw: Array, width: int) -> None:
        m = self.m
        good = access.faults(m, s, address, width, "shared", "asynchronous write")
        if good is not None:
            rest = part(s, good)
            if rest is not None:
                self.issue(rest, address[good], raw[good], width)
            return
        memory, at = access.place(m, s, address, "shared")
        access.observe(m, s, address, at, width, "shared", True, False)
        random = m.launch.random
        landed = random is not None and random.random() < 0.3
        memory.views[width][at >> access.SHIFT[width]] = raw if landed else poison(width)
        granule, _ = m.race.spread(at, at, width)
        m.race.flight.start_write(granule, m.pc)
        self.pending.append(Copy(m.pc, s, at, raw, width, self.committed[s].copy(), self.issued))
        self.issued += 1

    def commit(self, s: Sel) -> None:
        self.committed[s] += 1

    def wait(self, s: Sel, left: int | None) -> None:
        """Lets the copies of these lanes land, but for those of the last `left` groups (None: all,
        committed or not)."""
        if not self.pending:
            return
        self.limit.fill(-1)
        self.limit[s] = 1 << 60 if left is None else self.committed[s] - left
        kept = []
        for each in self.pending:
            due = each.group < self.limit[each.sel]
            if due.any():
                self.land(each, due)
            if not due.all():
                kept.append(remaining(each, ~due))
        self.pending = kept

    def promise(self, s: Sel, key: Array) -> None:
        """An arrival of these lanes at barriers, due when their copies up to here have landed."""
        self.promises.append((s, key, self.issued))
        if self.m.launch.random is not None and self.m.launch.random.random() < 0.3:
            self.keep_promises(None)

    def keep_promises(self, keys: Array | None) -> bool:
        """Lets copies land whose arrival somebody waits for (None: all), and makes the arrival."""
        due = [p for p in self.promises if keys is None or np.isin(p[1], keys).any()]
        self.promises = [p for p in self.promises if not any(p is d for d in due)]
        for s, key, before in due:
            self.land_before(s, before)
            n, there = self.m.mbarriers.find(s, key)
            if there.all():
                self.m.mbarriers.arrive(s, n, np.ones(len(n), np.int64))
        return bool(due)

    def land_before(self, s: Sel, serial: int) -> None:
        self.limit.fill(0)
        self.limit[s] = 1
        kept = []
        for each in self.pending:
            due = (self.limit[each.sel] > 0) & (each.serial < serial)
            if due.any():
                self.land(each, due)
            if not due.all():
                kept.append(remaining(each, ~due))
        self.pending = kept

    def land(self, each: Copy, due: Array) -> None:
        m = self.m
        lanes = part(each.sel, due)
        assert lanes is not None, "some lane's copy lands"
        whole = lanes is each.sel
        at, raw = (each.at, each.raw) if whole else (each.at[due], each.raw[due])
        m.shared.views[each.width][at >> access.SHIFT[each.width]] = raw
        granule, mine = m.race.spread(at, lanes_of(lanes), each.width)
        m.race.flight.land(m, mine, granule, each.pc)


def remaining(each: Copy, mask: Array) -> Copy:
    if mask.all():
        return each
    rest = part(each.sel, mask)
    assert rest is not None, "some copy is still in flight"
    return Copy(each.pc, rest, each.at[mask], each.raw[mask], each.width, each.group[mask], each.serial)


def poison(width: int) -> Any:
    return np.frombuffer(b"\xff" * width, unsigned(width))[0]


def cp(f: Form) -> Step:
    if f.take("reduce"):
        from tilec.backends.emulator.bulk import bulk_reduce

        return bulk_reduce(f)
    f.need("async")
    if f.take("bulk"):
        from tilec.backends.emulator.bulk import bulk

        return bulk(f)
    if f.take("commit_group"):
        return Step(lambda m, s: m.copies.commit(s))
    if f.take("wait_all"):
        return Step(lambda m, s: m.copies.wait(s, None))
    if f.take("wait_group"):
        left = f.operand(0)
        if not isinstance(left, Immediate):
            f.error("cp.async.wait_group takes a constant")
        return Step(lambda m, s: m.copies.wait(s, left.value))
    if f.take("mbarrier::arrive", "mbarrier"):
        from tilec.backends.emulator.mbarrier import arrive_after_copies

        return arrive_after_copies(f)
    return copy(f)


def copy(f: Form) -> Step:
    """cp.async.{ca,cg}.shared.global [to], [from], size {, source size | predicate that ignores the
    source};"""
    cached = f.need("ca", "cg")
    hint = "L2::cache_hint" in f.left
    f.need("shared", "shared::cta")
    f.need("global")
    while f.take(*CACHES):
        pass
    length = f.operand(2)
    if not isinstance(length, Immediate) or length.value not in ((4, 8, 16) if cached == "ca" else (16,)):
        f.error("cp.async copies 4, 8 or 16 bytes, with .cg 16")
    width = length.value
    note_width(f, "shared", width)
    f.context.widths["global"].add(width)
    f.context.features.add("async")
    to, source = f.address(0), f.address(1)
    taken = taken_bytes(f, width, len(f.i.operands) - (1 if hint else 0))

    def run(m: Machine, s: Sel) -> None:
        amount = full(taken(m, s), s)
        m.launch.unread.note(m, s, part(s, amount > 0))
        m.copies.issue(s, to(m, s), fetch(m, s, source(m, s), amount, width), width)

    return Step(run)


def taken_bytes(f: Form, width: int, count: int) -> Getter:
    """How many bytes are read; the rest are zeros."""
    if count < 4:
        return lambda m, s: width
    what: Operand = f.operand(3)
    inner = what.of if isinstance(what, Negated) else what
    if isinstance(inner, Register) and inner.type == "pred":
        ignore = f.source(what, "pred")
        return lambda m, s: np.where(ignore(m, s), 0, width)
    return f.source(what, "u32")


def fetch(m: Machine, s: Sel, address: Array, taken: Array, width: int) -> Array:
    """`taken` bytes from global memory, then zeros; nothing is read, nor checked, where nothing is taken."""
    amount = np.minimum(taken, width)
    if (amount == width).all():
        return access.load(m, s, address, width, "global")
    out = np.zeros((size(s), width), np.uint8)
    whole = part(s, amount == width)
    if whole is not None:
        raw = access.load(m, whole, address[amount == width], width, "global")
        out[amount == width] = raw.view(np.uint8).reshape(-1, width)
    for byte in range(width):
        some = (amount > byte) & (amount < width)
        lanes = part(s, some)
        if lanes is not None:
            out[some, byte] = access.load(m, lanes, address[some] + byte, 1, "global")
    return out.view(unsigned(width))[:, 0]


BUILDERS: dict[str, Callable[[Form], Step]] = {"cp": cp}
