"""Barriers, where one thread's write and another's access to the same memory must not be reordered.

The pass keeps what has been read and written since the last barrier and puts a barrier before an instruction
that conflicts with it. A copy's data arrives at its wait. Atomics are free among themselves. It runs after
shared memory is planned, as buffers that share bytes conflict.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tilec.ir.func import Block, Func, Inst, Item, Value, memory_of
from tilec.ir.inst.control import For, If, While
from tilec.ir.inst.memory import Alloc, Atomic, Copy, Wait
from tilec.ir.inst.sync import Barrier
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.target import Target


@dataclass(frozen=True)
class _Since:
    """What was accessed since the last barrier, by the array or buffer that it belongs to."""

    reads: frozenset[Value] = frozenset()
    writes: frozenset[Value] = frozenset()
    atomics: frozenset[Value] = frozenset()

    def __or__(self, other: _Since) -> _Since:
        return _Since(self.reads | other.reads, self.writes | other.writes, self.atomics | other.atomics)


def insert_barriers(func: Func, target: Target) -> Func:
    """Puts barriers where accesses conflict."""
    before: set[Inst] = set()
    _Scanner(func, before).scan(func.body, _Since())

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
        loops = [inst for inst in func.walk() if isinstance(inst, For)]
        self.first: dict[Value, Value] = {
            arg: init for loop in loops for arg, init in zip(loop.body.args[1:], loop.init, strict=True)
        }

    def scan(self, block: Block, since: _Since) -> _Since:
        for inst in block.body:
            match inst:
                case For(body=body):
                    since = self.loop((body,), since)
                case While(condition=condition, body=body):
                    since = self.loop((condition, body), since)
                case If(then=then, orelse=orelse):
                    since = self.scan(then, since) | self.scan(orelse, since)
                case Barrier():
                    since = _Since()
                case _:
                    since = self.step(inst, since)
        return since

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
            copies = [self.copy(token) for token in inst.tokens]
            sources, targets = (
                self.memory(*(c.array for c in copies)),
                self.memory(*(c.buffer for c in copies)),
            )
            return since | _Since(sources, targets)
        mine = self.accesses(inst)
        if inst in self.before or _conflict(since, mine):
            self.before.add(inst)
            since = _Since()
        # A copy writes at its wait; until then its buffer is nobody's business but its own.
        return since | (replace(mine, writes=frozenset()) if isinstance(inst, Copy) else mine)

    def memory(self, *arrays: Value) -> frozenset[Value]:
        return frozenset(memory_of(self.func, array) for array in arrays)

    def accesses(self, inst: Inst) -> _Since:
        reads = self.memory(*(getattr(inst, name) for name in inst.effects.reads))
        writes = self.memory(*(getattr(inst, name) for name in inst.effects.writes))
        return _Since(atomics=writes) if isinstance(inst, Atomic) else _Since(reads, writes)

    def copy(self, token: Value) -> Copy:
        """The copy of a token; a carried token is followed to the copy before the loop."""
        while not isinstance(token, Copy):
            match token:
                case Item(source=For(init=init), index=i):
                    token = init[i]
                case _:
                    token = self.first[token]
        return token


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
