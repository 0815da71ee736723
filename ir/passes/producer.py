"""Copies that warps of their own start: `producer=True`, for loops whose copies TMA can make.

    for s: token = copy(a[s], buffer); wait(token); use(buffer)
becomes, over a ring of n buffers and gates that tell both ways,
    for s: room(slot); copy(a[s], ring[slot]); wait(slot); use(ring[slot]); done(slot); slot, phase = next
Nothing runs ahead here: a later pass (roles) gives `room` and `copy` to the producer, which has the same
loops, and is ahead of the others by as many rounds as the ring has buffers. Slot and phase go on from loop to
loop, through all that is around the pipelined one, so that the producer also runs ahead over what comes
between two loops. Rings are made before all else, as the producer may fill them from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tilec.ir import dtype as dt
from tilec.ir.errors import TilecError
from tilec.ir.facts import Facts, analyse
from tilec.ir.func import Arg, Block, Func, Inst, Item, Value
from tilec.ir.inst.arith import Add, Compare, Full, Sub, Where
from tilec.ir.inst.bulk import BulkDone, BulkRoom, BulkWait, Gates
from tilec.ir.inst.control import For, If, While
from tilec.ir.inst.memory import Alloc, Copy, Stage
from tilec.ir.passes.bulk import box_of
from tilec.ir.passes.pipeline import Ahead, bulk_copy, may_run_ahead, rebuilt
from tilec.ir.target import Target
from tilec.ir.tile import TileType

Place = Callable[[Inst], Inst]
Cursor = tuple[Value, Value]  # the buffer of the next round, and how often its gate has opened, modulo 2


def producer(func: Func, target: Target) -> Func:
    """Gives the copies of every pipelined loop that TMA can make to a producer."""
    if not func.schedule.get("producer"):
        return func
    if not target.has("tma"):
        raise TilecError(f"{target.name} has no TMA, so nothing for a producer: leave producer= out, or "
                         "compile for sm_90a", func.loc)  # fmt: skip
    loops, facts = [i for i in func.walk() if isinstance(i, For) and i.stages > 1], analyse(func)
    if not loops:
        raise TilecError("producer=True starts the copies of pipelined loops, and there is none: write "
                         "tc.range(n, stages=3), or leave producer= out", func.loc)  # fmt: skip
    plans = {loop: plan for loop in loops if (plan := _plan(func, loop, facts, target))}
    return _Weaver(plans).func(func)


@dataclass(frozen=True)
class _Plan:
    """A loop's copies for the producer, a ring for each, and their gates."""

    copies: tuple[Ahead, ...]
    rings: tuple[Alloc, ...]
    gates: Gates


def _plan(func: Func, loop: For, facts: Facts, target: Target) -> _Plan | None:
    """None for a loop that reads arrays without elements: it has no rounds."""
    ahead, others = may_run_ahead(func, loop)
    boxed = tuple(replace(a, box=box) for a in ahead if (box := box_of(func, a.copy, facts, target)))
    if ahead and all(not any(a.copy.array.array_type.strides) for a in ahead):
        return None
    if not boxed:
        why = _why(ahead, others)
        raise TilecError(
            f"producer=True finds nothing that TMA could bring for this loop: {why}; leave producer= out",
            loop.loc,
        )
    rings = tuple(replace(a.buffer, count=loop.stages) for a in boxed)
    return _Plan(boxed, rings, Gates(loop.stages, len(boxed), func.warps, loc=loop.loc))


def _why(ahead: list[Ahead], others: list[tuple[Copy, str]]) -> str:
    """What is against the first of a loop's copies."""
    if ahead:
        return (
            "it takes arguments that the kernel only reads, with rows that are multiples of 16 bytes "
            "(an extent of tc.dim(.., multiple=8) for 16-bit elements), and zeros outside"
        )
    return others[0][1] if others else "no product reads what it loads through shared memory"


class _Weaver:
    """Rewrites a function around the loops of its plans; `cursor`: where each loop's ring stands now."""

    def __init__(self, plans: dict[For, _Plan]) -> None:
        self.plans = plans
        self.new: dict[Value, Value] = {}
        self.cursor: dict[For, Cursor] = {}

    def func(self, func: Func) -> Func:
        zero = Full(0, dt.i32)
        body: list[Inst] = [inst for plan in self.plans.values() for inst in (*plan.rings, plan.gates)]
        body.append(zero)
        self.cursor = dict.fromkeys(self.plans, (zero, zero))
        for inst in func.body.body:
            self.inst(inst, body)
        return replace(func, body=Block((), tuple(body)))

    def value(self, v: Value) -> Value:
        return self.new.get(v, v)

    def inst(self, inst: Inst, body: list[Inst]) -> None:
        """Appends what an instruction becomes; loops and branches around the plans' loops carry cursors."""
        loops = [loop for loop in self.plans if loop is inst or _holds(inst, loop)]
        if not loops:
            self.new[inst] = _placed(body, rebuilt(inst, self.new))
            return
        count = len(inst.blocks[-1].results)
        self.new[inst] = made = _placed(body, self.around(inst, loops))
        left = [_placed(body, Item(made, count + i)) for i in range(2 * len(loops))]
        self.cursor |= dict(zip(loops, _pairs(left), strict=True))

    def around(self, inst: Inst, loops: list[For]) -> Inst:
        before = {loop: self.cursor[loop] for loop in loops}
        match inst:
            case For():
                bounds = {name: self.value(getattr(inst, name)) for name in ("start", "stop", "step")}
                body = self.block(inst.body, loops, around=inst)
                return inst.changed(**bounds, init=self.entered(inst, before), body=body)
            case While():
                init = self.entered(inst, before)
                condition = self.block(inst.condition, loops, gives=False)
                return replace(inst, init=init, condition=condition, body=self.block(inst.body, loops))
            case If():
                then = self.block(inst.then, loops, enters=False)
                self.cursor |= before
                orelse = self.block(inst.orelse, loops, enters=False)
                return replace(inst, condition=self.value(inst.condition), then=then, orelse=orelse)
        raise AssertionError(f"{inst} has no blocks")

    def entered(self, inst: For | While, before: dict[For, Cursor]) -> tuple[Value, ...]:
        return (*map(self.value, inst.init), *(v for cursor in before.values() for v in cursor))

    def block(
        self,
        block: Block,
        loops: list[For],
        enters: bool = True,
        gives: bool = True,
        around: Inst | None = None,
    ) -> Block:
        """A block that is entered with, and gives, the cursors of these loops. `around`: the loop of which it
        is the body."""
        args = [Arg(TileType(dt.i32), name) for _ in loops for name in ("slot", "phase")] if enters else []
        self.cursor |= dict(zip(loops, _pairs(args), strict=True)) if enters else {}
        body: list[Inst] = []
        if isinstance(around, For) and around in self.plans:
            self.round(block, around, body)
        else:
            for inst in block.body:
                self.inst(inst, body)
        results = [*map(self.value, block.results)]
        results += [v for loop in loops for v in self.cursor[loop]] if gives else []
        return Block((*block.args, *args), tuple(body), tuple(results))

    def round(self, block: Block, loop: For, body: list[Inst]) -> None:
        """The body of a plan's loop: room, copies, wait, what it did, done; and the cursor of the next."""
        plan, (slot, phase) = self.plans[loop], self.cursor[loop]
        place = partial(_placed, body)
        self.start(plan, slot, phase, place)
        first = next(inst for inst in block.body if inst in {a.wait for a in plan.copies})
        gone = {x for a in plan.copies for x in (a.copy, a.wait, a.buffer)}
        for inst in block.body:
            if inst is first:
                there = tuple(self.new[a.buffer] for a in plan.copies)
                place(BulkWait(plan.gates, slot, phase, there, loc=inst.loc))
            elif inst not in gone:
                self.inst(inst, body)
        place(BulkDone(plan.gates, slot, place(Full(True, dt.bool)), loc=loop.loc))
        full = place(Compare("eq", slot, place(Full(loop.stages - 1, dt.i32))))
        zero, one = (place(Full(i, dt.i32)) for i in (0, 1))
        following = place(Where(full, zero, place(Add(slot, one))))
        self.cursor[loop] = following, place(Where(full, place(Sub(one, phase)), phase))

    def start(self, plan: _Plan, slot: Value, phase: Value, place: Place) -> None:
        """What the producer does in a round."""
        for a, ring in zip(plan.copies, plan.rings, strict=True):
            self.new[a.buffer] = place(Stage(ring, slot))
        always = place(Full(True, dt.bool))
        moved = [self.moved(a, place) for a in plan.copies]
        place(BulkRoom(plan.gates, slot, phase, loc=plan.gates.loc))
        for a, copy in zip(plan.copies, moved, strict=True):
            assert a.box is not None, "these are the copies that TMA can make"
            place(bulk_copy(copy, a.box, self.new[a.buffer], plan.gates, slot, always))

    def moved(self, a: Ahead, place: Place) -> Copy:
        """A copy over addresses that are computed again, before all others of its round."""
        new = dict(self.new)
        for inst in a.address:
            new[inst] = place(replace(inst.mapped(lambda v: new.get(v, v))))
        copy = a.copy.mapped(lambda v: new.get(v, v))
        assert isinstance(copy, Copy), "a copy stays one"
        return copy


def _holds(inst: Inst, loop: For) -> bool:
    return any(each is loop for block in inst.blocks for each in block.walk())


def _placed(body: list[Inst], inst: Inst) -> Inst:
    body.append(inst)
    return inst


def _pairs(values: Sequence[Value]) -> list[Cursor]:
    return list(zip(values[::2], values[1::2], strict=True))
