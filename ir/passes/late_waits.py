"""Products of warpgroups stay under way from one round of a loop to the next.

    for s: arrive(ring[read]); copy(a[s + n - 1], ring[write]); acc = wait(group_dot(.., acc))
becomes
    for s: arrive(ring[read]); acc = group_dot(.., acc); wait, pending=1; copy(a[s + n - 1], ring[write])
    acc = wait(acc)
The buffer that a copy fills is the one that the round before has read: its products are over when those of
this round have only begun, so that warpgroups always have work. For loops whose copies TMA makes (others
would need a second barrier), and whose products, from shared memory alone, only add to what is carried, in
registers of their own (two sums of 16 bits in a register would be taken apart).
"""

from __future__ import annotations

from dataclasses import replace

from tilec.ir.func import Block, Func, Inst, Item, Value
from tilec.ir.inst.bulk import BulkCopy
from tilec.ir.inst.control import For
from tilec.ir.inst.memory import Wait
from tilec.ir.inst.mma import GroupDot, GroupWait, HeldDot
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.target import Target

WHOLE = 32  # bits of a register


def late_waits(func: Func, target: Target) -> Func:
    """After warpgroups, which makes the products, and late_loads, which leaves copies before them."""

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if not isinstance(inst, For):
            return None
        carried = _carried(inst)
        if not carried:
            return None
        loop = emit(replace(inst, body=_late(inst.body, carried)))
        items = (Item(loop, i) for i in range(len(inst.init)))
        return tuple(GroupWait(item) if i in carried else item for i, item in enumerate(items))

    return rebuild(func, visit)


def _carried(loop: For) -> dict[int, GroupWait]:
    """Which carried values are sums of products that may stay under way, with their waits; {} if not all."""
    body = loop.body
    inner = list(body.walk())
    dots = [inst for inst in inner if isinstance(inst, GroupDot | HeldDot)]
    waits = {i: v for i, v in enumerate(body.results) if isinstance(v, GroupWait)}
    fits = all(_alone(body, i, wait, inner) for i, wait in waits.items())
    if len(dots) != len(waits) or not fits or any(isinstance(inst, Wait) for inst in body.body):
        return {}
    return waits if any(isinstance(inst, BulkCopy) for inst in body.body) else {}


def _alone(body: Block, i: int, wait: GroupWait, inner: list[Inst]) -> bool:
    """Whether a wait's sums are what was carried and a product, and nobody looks at them in between."""
    arg, dot = body.args[1 + i], wait.x
    if not isinstance(dot, GroupDot) or dot.c is not arg or wait not in body.body or dot not in body.body:
        return False
    if dot.tile.dtype.bits != WHOLE:
        return False
    users = [(v, inst) for inst in inner for v in (*inst.operands, *_given(inst)) if v in (arg, dot, wait)]
    return users == [(arg, dot), (dot, wait)] and body.results.count(wait) == 1


def _given(inst: Inst) -> list[Value]:
    return [v for block in inst.blocks for v in block.results]


def _late(body: Block, carried: dict[int, GroupWait]) -> Block:
    """The body with one wait, for all but the round's own products, and its copies after that."""
    copies = [inst for inst in body.body if isinstance(inst, BulkCopy)]
    waits = list(carried.values())
    last = max(waits, key=body.body.index)
    wait = replace(last, pending=len(waits))
    order = [inst for inst in body.body if inst not in copies and inst not in waits]
    at = 1 + next(i for i, inst in enumerate(order) if inst is last.x)
    order[at:at] = [wait, *copies]
    new = {each: wait if each is last else each.x for each in waits}
    results = tuple(new.get(v, v) if isinstance(v, GroupWait) else v for v in body.results)
    return Block(body.args, tuple(order), results)
