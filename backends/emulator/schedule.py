"""Who runs next: the group of lanes with the lowest program counter, or with a seed a random one.

A group runs until it branches, waits, or reaches another group's program counter, where they merge. Lanes
of a warp collective whose partners are elsewhere are gathered until those come. A loop that spins on
somebody else's work gives way after a while; where all that runs only looks, and sees the same, it is stuck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.emulator.decode import COLLECTIVE, PLAIN, Step
from tilec.backends.emulator.lanes import first, lanes_of, part, size, union
from tilec.backends.emulator.ptx_types import Sel
from tilec.backends.emulator.unread import is_load
from tilec.backends.emulator.warp import missing, missing_group

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

PATIENCE = 64  # backward jumps of the lowest group before the others have a turn
SPINS = 1024  # such jumps in a row before copies arrive that others sleep for: the loop may wait for them
LIMIT = 20_000_000  # group steps without an end: the kernel is taken for stuck
LOOKING = ("ld", "bra", "mov", "setp", "selp", "cvt", "add", "sub", "mul", "mad", "and", "or", "not")


class Scheduler:
    def __init__(self, m: Machine) -> None:
        self.m, self.steps = m, m.program.steps
        self.random = m.launch.random
        self.executed = m.launch.executed
        self.backward, self.spun, self.turn, self.budget = 0, 0, 0, LIMIT
        self.acting = [pc for pc, step in enumerate(self.steps) if step.instruction.root not in LOOKING]
        self.seen: tuple[object, ...] = ()
        self.stuck = False

    def run(self) -> bool:
        """Runs the batch to its end; False when it got stuck."""
        m = self.m
        live = m.threads * m.blocks
        m.resume(0, slice(0, live))
        while True:
            while m.ready and self.budget > 0 and not self.stuck:
                self.group()
            if self.budget <= 0 or self.stuck:
                self.endless()
                return False
            if not m.live.any():
                return True
            if not self.unblock():
                return False

    def group(self) -> None:
        """Runs one group until it gives up control."""
        m = self.m
        pc = self.choose()
        sel = m.ready.pop(pc)
        if self.random is not None:
            pc, sel = self.some_warps(pc, sel)
        stop = min((other for other in m.ready if other > pc), default=-1)
        while pc != stop:
            step = self.steps[pc]
            self.budget -= 1
            m.pc = pc
            if step.kind != PLAIN or step.guard is not None:
                rest = self.special(step, sel)
                if rest is None:
                    return self.jumped()
                sel = rest
            else:
                self.executed[pc] += size(sel)
                step.run(m, sel)
            pc += 1
        return m.resume(pc, sel)

    def jumped(self) -> None:
        back = bool(self.m.ready) and min(self.m.ready) <= self.m.pc
        self.backward, self.spun = (self.backward + 1, self.spun + 1) if back else (0, 0)
        if self.spun == SPINS:
            self.spun = 0
            self.stuck = not self.m.finish_in_flight() and self.only_looks()

    def only_looks(self) -> bool:
        """Whether since the last such look nothing was done but to look, and every register is as it was."""
        done = sum(self.executed[pc] for pc in self.acting)
        registers = hash(b"".join(view.tobytes() for view in self.m.views))
        before, self.seen = self.seen, (done, sorted(self.m.ready), registers)
        return self.random is None and len(self.m.ready) < SPINS // PATIENCE and before == self.seen

    def choose(self) -> int:
        ready = self.m.ready
        if len(ready) == 1:
            return next(iter(ready))
        if self.random is not None:
            return int(self.random.choice(sorted(ready)))
        if self.backward > PATIENCE:
            self.backward, self.turn = 0, self.turn + 1
            return sorted(ready)[self.turn % len(ready)]
        return min(ready)

    def some_warps(self, pc: int, sel: Sel) -> tuple[int, Sel]:
        """With a seed: now and then only some of a group's warps go on."""
        assert self.random is not None, "only under a seed"
        m = self.m
        if self.random.random() < 0.7:
            return pc, sel
        lanes = lanes_of(sel)
        chosen = self.random.random(m.warps * m.blocks) < 0.5
        mask = chosen[m.warp[lanes] * m.blocks + m.block[lanes]]
        now = part(sel, mask)
        if now is None or mask.all():
            return pc, sel
        m.resume(pc, part(sel, ~mask))
        return pc, now

    def special(self, step: Step, sel: Sel) -> Sel | None:
        """A guarded, collective or control step; gives the lanes that fall through, None when they went
        their ways."""
        m, act, idle = self.m, sel, None
        if step.guard is not None:
            mask = np.asarray(step.guard(m, sel))
            chosen = part(sel, mask)
            if is_load(step.instruction):
                m.launch.unread.note(m, sel, chosen)
            if chosen is None:
                return sel
            act, idle = chosen, None if chosen is sel else part(sel, ~mask)
        self.executed[m.pc] += size(act)
        if step.kind == PLAIN:
            step.run(m, act)
            return sel
        if step.members is not None:
            found = self.gather(step, act)
            if found is None or found is not act:
                self.collective(step, found, idle)
                return None
        if step.kind == COLLECTIVE:
            step.run(m, act)
            return sel
        self.branch(step, act, idle)
        return None

    def branch(self, step: Step, act: Sel, idle: Sel | None) -> None:
        m = self.m
        if step.instruction.root == "bra" and step.guard is not None:
            count_branch(m, act, idle)
        m.resume(m.pc + 1, idle)
        step.run(m, act)

    def collective(self, step: Step, act: Sel | None, idle: Sel | None) -> None:
        """Part of the lanes act now, others wait for partners; everybody's way is set."""
        m = self.m
        m.resume(m.pc + 1, idle)
        if act is None:
            return
        step.run(m, act)
        if step.kind == COLLECTIVE:
            m.resume(m.pc + 1, act)

    def gather(self, step: Step, act: Sel) -> Sel | None:
        """Adds the lanes that wait here; those whose warps are complete, the others wait (again)."""
        m = self.m
        assert step.members is not None, "a collective has members"
        waiting = m.gathering.pop(m.pc, None)
        if waiting is not None:
            act = union(act, waiting)
        short = missing_group(m, act) if step.group else missing(m, act, step.members)
        if short is None:
            return act
        stay = part(act, short)
        if stay is not None:
            m.gathering[m.pc] = stay
        return part(act, ~short)

    # --- nothing can run
    def unblock(self) -> bool:
        """Finishes what is in flight; lets an incomplete aligned collective go with a finding; else
        deadlock."""
        m = self.m
        if m.finish_in_flight():
            return True
        for pc in sorted(m.gathering):
            return self.force(pc)
        self.deadlock()
        return False

    def force(self, pc: int) -> bool:
        m = self.m
        sel, step = m.gathering.pop(pc), self.steps[pc]
        m.pc = pc
        lane = first(sel)
        message = "lanes of the warp that must take part are elsewhere: " + self.whereabouts(lane)
        m.record("divergence", lane, message, times=size(sel))
        step.run(m, sel)
        if step.kind == COLLECTIVE:
            m.resume(pc + 1, sel)
        return True

    def whereabouts(self, lane: int) -> str:
        """Where the other lanes of a lane's warp are."""
        m = self.m
        places = []
        for pc, sel, what in m.waiting():
            lanes = lanes_of(sel)
            same = (m.warp[lanes] == m.warp[lane]) & (m.block[lanes] == m.block[lane])
            if same.any():
                places.append(f"{int(same.sum())} lanes {what} at {m.line_of(pc)}")
        return "; ".join(places) or "they have exited"

    def deadlock(self) -> None:
        m = self.m
        places = []
        for pc, sel, what in m.waiting():
            lanes = lanes_of(sel)
            block = int(m.block[lanes[0]])
            warps = sorted(set(m.warp[lanes[m.block[lanes] == block]].tolist()))
            m.pc = pc
            places.append(
                f"warps {warps} of block {m.where(int(lanes[0]))['block']} {what} at {m.line_of(pc)}"
            )
        m.record("deadlock", first(next(iter(m.waiting()))[1]), "nothing can run: " + "; ".join(places))

    def endless(self) -> None:
        m = self.m
        pc = min(m.ready)
        m.pc = pc
        since = "it sees the same for ever" if self.stuck else f"still running after {LIMIT:,} group steps"
        question = "does it wait for a block that is not running yet, or for nobody?"
        m.record("deadlock", first(m.ready[pc]), f"{since}: {question}")


def count_branch(m: Machine, act: Sel, idle: Sel | None) -> None:
    """Warps whose lanes part at a branch."""
    metrics = m.launch.metrics
    if idle is None:
        metrics.branches += max(1, size(act) // 32)
        return
    a, b = (np.unique(m.warp[x] * m.blocks + m.block[x]) for x in (lanes_of(act), lanes_of(idle)))
    metrics.branches += len(np.union1d(a, b))
    metrics.divergent_branches += len(np.intersect1d(a, b, assume_unique=True))
