"""Products of warpgroups stay under way from one round of a loop to the next.

    for s: arrive(ring[read]); copy(a[s + n - 1], ring[write]); acc = wait(group_dot(.., acc))
becomes
    for s: arrive(ring[read]); acc = group_dot(.., acc); wait, pending=1; copy(a[s + n - 1], ring[write])
    acc = wait(acc)
The buffer that a copy fills is the one that the round before has read: its products are over when those of
this round have only begun, so that warpgroups always have work. Where a producer makes the copies, it is told
of that buffer then, and of the last one after the loop if that comes again. For loops whose copies TMA makes
(others would need a second barrier), and whose products, from shared memory that only copies fill, only add
to what is carried, in registers of their own (two sums of 16 bits in a register would be taken apart).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tilec.ir import dtype as dt
from tilec.ir.func import Block, Func, Inst, Item, Value, root
from tilec.ir.inst.arith import Compare, Full, Sub, Where
from tilec.ir.inst.bulk import BulkCopy, BulkDone, Gates
from tilec.ir.inst.control import For
from tilec.ir.inst.memory import Alloc, Wait
from tilec.ir.inst.mma import GroupDot, GroupProduct, GroupWait
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.target import Target

Place = Callable[[Inst], Inst]
WHOLE = 32  # bits of a register


def late_waits(func: Func, target: Target) -> Func:
    """After warpgroups, which makes the products, and late_loads, which leaves copies before them."""

    once = set(func.body.body)

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if not isinstance(inst, For):
            return None
        carried = _carried(inst)
        if not carried:
            return None
        loop = emit(replace(inst, body=_late(inst, carried)))
        items = [emit(Item(loop, i)) for i in range(len(inst.init))]
        found = tuple(emit(GroupWait(item)) if i in carried else item for i, item in enumerate(items))
        for done in _told(inst.body) if emit.old not in once else []:
            after = items[inst.body.args.index(done.slot) - 1]
            _tell_of(done, after, Compare("lt", inst.start, inst.stop), emit)
        return found

    return rebuild(func, visit)


def _carried(loop: For) -> dict[int, GroupWait]:
    """Which carried values are sums of products that may stay under way, with their waits; {} if not all."""
    body = loop.body
    inner = list(body.walk())
    dots = [inst for inst in inner if isinstance(inst, GroupProduct)]
    waits = {i: v for i, v in enumerate(body.results) if isinstance(v, GroupWait)}
    fits = all(_alone(body, i, wait, inner) for i, wait in waits.items())
    written = {root(getattr(inst, name)) for inst in inner for name in inst.effects.writes
               if not isinstance(inst, BulkCopy | Alloc)}  # fmt: skip
    fits &= all(root(x) not in written for dot in dots for x in dot.operands[:2])
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


def _told(body: Block) -> list[BulkDone]:
    """Where a producer is told that a round is done with its buffers."""
    return [inst for inst in body.body if isinstance(inst, BulkDone)]


def _tell_of(done: BulkDone, after: Value, when: Inst, place: Place) -> None:
    """Tells of the buffer before `after`, if `when`."""
    assert isinstance(done.gates, Gates), "gates are not views"
    first, last, one = (place(Full(x, dt.i32)) for x in (0, done.gates.count - 1, 1))
    before = place(Where(place(Compare("eq", after, first)), last, place(Sub(after, one))))
    place(replace(done, slot=before, when=place(when)))


def _late(loop: For, carried: dict[int, GroupWait]) -> Block:
    """The body with one wait, for all but the round's own products, and after that its copies, or what tells
    a producer to make them.
    """
    body, done, moved = loop.body, _told(loop.body), list[Inst]()
    for each in done:
        _tell_of(each, each.slot, Compare("ne", body.args[0], loop.start), partial(_placed, moved))
    waits = list(carried.values())
    last = max(waits, key=body.body.index)
    wait = replace(last, pending=len(waits))
    copies = [] if done else [inst for inst in body.body if isinstance(inst, BulkCopy)]
    order = [inst for inst in body.body if inst not in copies and inst not in waits and inst not in done]
    at = 1 + next(i for i, inst in enumerate(order) if inst is last.x)
    order[at:at] = [wait, *copies, *moved]
    new = {each: wait if each is last else each.x for each in waits}
    results = tuple(new.get(v, v) if isinstance(v, GroupWait) else v for v in body.results)
    return Block(body.args, tuple(order), results)


def _placed(body: list[Inst], inst: Inst) -> Inst:
    body.append(inst)
    return inst
