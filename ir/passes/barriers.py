"""Barriers, where one thread's write and another's access to the same memory must not be reordered.

The pass keeps what has been read and written since the last barrier and puts a barrier before an instruction
that conflicts with it. A copy's data arrives at its wait. Atomics are free among themselves. It runs after
shared memory is planned, as buffers that share bytes conflict.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilec.ir.func import Block, Func, Inst, Value, root
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
    _scan(func.body, _Since(), before)

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if emit.old in before:
            emit(Barrier())
        return None

    return rebuild(func, visit)


def _scan(block: Block, since: _Since, before: set[Inst]) -> _Since:
    for inst in block.body:
        match inst:
            case For(body=body):
                since = _loop((body,), since, before)
            case While(condition=condition, body=body):
                since = _loop((condition, body), since, before)
            case If(then=then, orelse=orelse):
                since = _scan(then, since, before) | _scan(orelse, since, before)
            case Barrier():
                since = _Since()
            case _:
                since = _step(inst, since, before)
    return since


def _loop(blocks: tuple[Block, ...], since: _Since, before: set[Inst]) -> _Since:
    """What a round leaves meets what the next round does: round after round until nothing new comes."""
    while True:
        after = since
        for block in blocks:
            after = _scan(block, after, before)
        if since | after == since:
            return since
        since = since | after


def _step(inst: Inst, since: _Since, before: set[Inst]) -> _Since:
    mine = _accesses(inst)
    if isinstance(inst, Wait):  # its own copy's data arrives: nobody else's access
        return since | mine
    if inst in before or _conflict(since, mine):
        before.add(inst)
        since = _Since()
    return since | mine


def _accesses(inst: Inst) -> _Since:
    if isinstance(inst, Wait):
        return _Since(writes=frozenset(root(t.buffer) for t in inst.tokens if isinstance(t, Copy)))
    reads = frozenset(root(getattr(inst, name)) for name in inst.effects.reads)
    writes = frozenset(root(getattr(inst, name)) for name in inst.effects.writes)
    return _Since(atomics=writes) if isinstance(inst, Atomic) else _Since(reads, writes)


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
