"""Barriers, where one thread's write and another's access to the same memory must not be reordered.

The pass keeps what has been read and written since the last barrier and puts a barrier before an instruction
that conflicts with it. A copy's data arrives at its wait, and a warpgroup's product reads until it is waited
for. Atomics are free among themselves. It runs after shared memory is planned, as buffers that share bytes
conflict.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from tilec.ir.func import Block, Func, Inst, Item, Value, memory_of
from tilec.ir.inst.bulk import BulkCopy, BulkStore, BulkStored, BulkWait, Gates
from tilec.ir.inst.control import For, If, While
from tilec.ir.inst.memory import Alloc, Atomic, Copy, Wait
from tilec.ir.inst.mma import GroupProduct, GroupWait
from tilec.ir.inst.sync import Barrier, ProxyFence
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.target import Target

Made = TypeVar("Made", bound=Inst)


def proxy_fences(func: Func, target: Target) -> Func:
    """A fence after what threads write to shared memory that warpgroups or TMA read, or TMA overwrites: these
    do it another way than threads do. A copy's data is fenced at its wait."""
    read = {memory_of(func, getattr(dot, name)) for dot in func.walk() for name in dot.effects.reads
            if isinstance(dot, GroupProduct)}  # fmt: skip
    read |= {memory_of(func, copy.buffer) for copy in func.walk() if isinstance(copy, BulkCopy | BulkStore)}
    scanner = _Scanner(func, set())

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        old, written = emit.old, frozenset[Value]()
        if isinstance(old, Wait):
            written = scanner.memory(*(scanner.maker(token, Copy).buffer for token in old.tokens))
        elif not isinstance(old, Copy | BulkCopy | Gates):
            written = scanner.accesses(old).writes
        if not any(_same_bytes(a, b) for a in written for b in read):
            return None
        emit.place(inst)
        return ProxyFence()

    return rebuild(func, visit) if read else func


@dataclass(frozen=True)
class _Since:
    """What was accessed since the last barrier, by the array or buffer that it belongs to."""

    reads: frozenset[Value] = frozenset()
    writes: frozenset[Value] = frozenset()
    atomics: frozenset[Value] = frozenset()

    def __or__(self, other: _Since) -> _Since:
        return _Since(self.reads | other.reads, self.writes | other.writes, self.atomics | other.atomics)


NOTHING = _Since()


def insert_barriers(func: Func, target: Target) -> Func:
    """Puts barriers where accesses conflict."""
    before: set[Inst] = set()
    _Scanner(func, before).scan(func.body, NOTHING)

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if emit.old in before:
            emit(Barrier())
        return None

    return rebuild(func, visit)


class _Scanner:
    """Walks a function with what was accessed since the last barrier; collects what needs a barrier before
    it.
    """

    def __init__(self, func: Func, before: set[Inst]) -> None:
        self.func, self.before = func, before
        self._busy: dict[Block, tuple[Inst, ...]] = {}
        self._accesses: dict[Inst, _Since] = {}
        loops = [inst for inst in func.walk() if isinstance(inst, For)]
        self.first: dict[Value, Value] = {
            arg: init for loop in loops for arg, init in zip(loop.body.args[1:], loop.init, strict=True)
        }

    def scan(self, block: Block, since: _Since) -> _Since:
        for inst in self.busy(block):
            match inst:
                case For() | While():
                    since = self.around(inst, since)
                case If(then=then, orelse=orelse):
                    since = self.scan(then, since) | self.scan(orelse, since)
                case Barrier():
                    since = NOTHING
                case _:
                    since = self.step(inst, since)
        return since

    def busy(self, block: Block) -> tuple[Inst, ...]:
        """Its instructions that count here: most of them touch no memory, and loops are walked many times."""
        if block not in self._busy:
            self._busy[block] = tuple(filter(self.counts, block.body))
        return self._busy[block]

    def counts(self, inst: Inst) -> bool:
        waits = isinstance(inst, Barrier | Wait | BulkStored | GroupWait)
        return waits or bool(inst.blocks) or self.accesses(inst) != NOTHING

    def around(self, inst: For | While, since: _Since) -> _Since:
        """A loop. Where its body needs a barrier only for what was before, one before the loop does."""
        before = set(self.before)
        after = self.loop(inst.blocks, NOTHING)
        inside = set(self.before)
        if inst in before:
            return after
        found = self.loop(inst.blocks, since)
        if self.before == inside:
            return found
        self.before.clear()
        self.before |= inside | {inst}
        return after

    def loop(self, blocks: tuple[Block, ...], since: _Since) -> _Since:
        """What a round leaves meets what the next round does: round after round until nothing new comes."""
        while True:
            after = since
            for block in blocks:
                after = self.scan(block, after)
            if since | after == since:
                return since
            since = since | after

    def step(self, inst: Inst, since: _Since) -> _Since:
        if isinstance(inst, Wait):  # copies have read their sources, and their data arrives
            copies = [self.maker(token, Copy) for token in inst.tokens]
            sources, targets = (
                self.memory(*(c.array for c in copies)),
                self.memory(*(c.buffer for c in copies)),
            )
            return since | _Since(sources, targets)
        if isinstance(inst, BulkStored):  # one thread knows that buffers have been read
            return since | _Since(reads=self.memory(*inst.buffers))
        if isinstance(inst, GroupWait):
            return since | self.accesses(_product(inst.x))
        mine = self.accesses(inst)
        if inst in self.before or _conflict(since, mine):
            self.before.add(inst)
            since = NOTHING
        # A copy writes at its wait; until then its buffer is nobody's business but its own.
        return since | (replace(mine, writes=frozenset()) if isinstance(inst, Copy | BulkCopy) else mine)

    def memory(self, *arrays: Value) -> frozenset[Value]:
        return frozenset(memory_of(self.func, array) for array in arrays)

    def accesses(self, inst: Inst) -> _Since:
        """What an instruction reads and writes. What comes through a gate is there for all, so that waiting
        at one is no more than reading.
        """
        if inst not in self._accesses:
            self._accesses[inst] = self._accessed(inst)
        return self._accesses[inst]

    def _accessed(self, inst: Inst) -> _Since:
        if _of_producer(inst):
            return NOTHING
        if isinstance(inst, Gates):
            return _Since(writes=frozenset((inst,)))
        if isinstance(inst, BulkWait):
            return _Since(reads=self.memory(inst.gates, *inst.buffers))
        reads = self.memory(*(getattr(inst, name) for name in inst.effects.reads))
        writes = self.memory(*(getattr(inst, name) for name in inst.effects.writes))
        reads |= self.memory(inst.gates) if isinstance(inst, BulkCopy) else frozenset()
        return _Since(atomics=writes) if isinstance(inst, Atomic) else _Since(reads, writes)

    def maker(self, v: Value, kind: type[Made]) -> Made:
        """The copy of a token, the product of sums; a carried one is followed to before the loop."""
        while not isinstance(v, kind):
            match v:
                case Item(source=For(init=init), index=i):
                    v = init[i]
                case _:
                    v = self.first[v]
        return v


def _of_producer(inst: Inst) -> bool:
    """Gates that tell both ways, and the copies through them: nobody needs a barrier for what they order."""
    gates = inst.gates if isinstance(inst, BulkCopy) else inst
    return isinstance(gates, Gates) and bool(gates.readers)


def _product(v: Value) -> Inst:
    """The product of warpgroups that sums come from; those of a loop from its last round."""
    while not isinstance(v, GroupProduct):
        match v:
            case GroupWait(x=x):
                v = x
            case Item(source=For(body=body), index=i):
                v = body.results[i]
            case _:
                raise AssertionError(f"{v} is no product of warpgroups")
    return v


def _conflict(since: _Since, mine: _Since) -> bool:
    written, touched = since.writes | since.atomics, since.reads | since.writes
    return (
        _meet(written, mine.reads)
        or _meet(touched | since.atomics, mine.writes)
        or _meet(touched, mine.atomics)
    )


def _meet(some: frozenset[Value], others: frozenset[Value]) -> bool:
    return any(_same_bytes(a, b) for a in some for b in others)


def _same_bytes(a: Value, b: Value) -> bool:
    if isinstance(a, Alloc) and isinstance(b, Alloc) and a.offset is not None and b.offset is not None:
        return a.offset < b.offset + b.nbytes and b.offset < a.offset + a.nbytes
    return a is b
