"""Software pipelining: the copies of a loop with `stages=n` run n - 1 rounds ahead of their use.

    for s: token = copy(a[s], buffer); wait(token); use(buffer)
becomes, over a ring of n buffers,
    copy(a[0], ring[0]) ... copy(a[n - 2], ring[n - 2])
    for s: wait(oldest); copy(a[s + n - 1], ring[write]); use(ring[read])
Copies past the end are switched off (`when`). What may run ahead: copies that every round makes, whose
addresses need nothing that the round computes or carries, from arrays that the loop does not write. The
others stay in place, and TILEC_DEBUG=1 says why. The tokens of copies under way are carried by the loop, so
that the function still says which copy each wait is for. Copies that TMA can make (tilec.ir.passes.bulk) are
waited for at a gate per buffer, whose phase the loop carries; only in loops that run once, as gates are made
before them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from tilec.ir import debug
from tilec.ir import dtype as dt
from tilec.ir.facts import analyse
from tilec.ir.func import Arg, Block, Func, Inst, Item, Value, field_names, memory_of
from tilec.ir.inst.arith import Add, Compare, Full, Maximum, Minimum, Mul, Sub, Where
from tilec.ir.inst.bulk import BulkCopy, BulkWait, Gates
from tilec.ir.inst.control import For
from tilec.ir.inst.memory import Alloc, Copy, Load, Stage, Wait
from tilec.ir.passes.bulk import box_of
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.signature import Box
from tilec.ir.target import Target
from tilec.ir.tile import TileType, TokenType

Place = Callable[[Inst], Inst]


def pipeline(func: Func, target: Target) -> Func:
    """Pipelines every loop that asks for more than one stage."""

    facts, once = analyse(func), set(func.body.body)

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if not isinstance(inst, For) or inst.stages < 2:
            return None
        ahead, others = may_run_ahead(func, inst)
        for copy, reason in others:
            _tell(copy, reason)
        if not ahead:
            return replace(inst, stages=1)
        if emit.old in once:
            ahead = [replace(a, box=box_of(func, a.copy, facts, target)) for a in ahead]
        return _Pipelined(inst, ahead, emit).loop()

    return rebuild(func, visit)


@dataclass(frozen=True)
class Ahead:
    """A copy that may run ahead: what computes its address in a round, and what follows; `box`: for TMA."""

    copy: Copy
    wait: Wait
    buffer: Alloc
    address: tuple[Inst, ...]
    box: Box | None = None


def may_run_ahead(func: Func, loop: For) -> tuple[list[Ahead], list[tuple[Copy, str]]]:
    """The copies of a loop that may run ahead of their use, and the others, each with what is against it."""
    written = {memory_of(func, getattr(i, name)) for i in loop.body.walk() for name in i.effects.writes}
    inner = set(loop.body.body)
    found, others = list[Ahead](), list[tuple[Copy, str]]()
    for copy in (inst for inst in loop.body.body if isinstance(inst, Copy)):
        wait = next((i for i in loop.body.body if isinstance(i, Wait) and i.tokens == (copy,)), None)
        address = _address(copy, inner, loop.body)
        overwritten = memory_of(func, copy.array) in written
        reason = "it is read before its wait" if wait is None else _reason(copy, address, overwritten)
        if wait is not None and isinstance(copy.buffer, Alloc) and address is not None and reason is None:
            found.append(Ahead(copy, wait, copy.buffer, address))
        else:
            others.append((copy, reason or ""))
    return found, others


def bulk_copy(copy: Copy, box: Box, buffer: Value, gates: Gates, slot: Value, when: Value) -> BulkCopy:
    """The copy as TMA makes it."""
    how = (box.axes, box.extents, box.span, box.unit)
    return BulkCopy(copy.array, copy.at, buffer, gates, slot, when, *how, loc=copy.loc)


def _tell(copy: Copy, reason: str) -> None:
    if debug.level() >= 1:
        place = f"{copy.loc.file}:{copy.loc.line}: " if copy.loc else ""
        print(f"{place}not pipelined: {reason}")


def _reason(copy: Copy, address: tuple[Inst, ...] | None, overwritten: bool) -> str | None:
    """Why a copy may not run ahead."""
    if address is None:
        return "its address depends on what the loop loads or carries"
    if overwritten:
        return "the loop writes the array"
    return None if isinstance(copy.buffer, Alloc) else "its buffer is not its own"


def _address(copy: Copy, inner: set[Inst], body: Block) -> tuple[Inst, ...] | None:
    """The instructions of a round that a copy's address needs, in order; None where they are not just
    arithmetic.
    """
    carried = set(body.args[1:])
    needed: set[Value] = set()
    todo = [v for v in (*copy.at, copy.array, copy.other)]
    while todo:
        value = todo.pop()
        if value in carried:
            return None
        if value in needed or not isinstance(value, Inst) or value not in inner:
            continue
        if not value.pure or isinstance(value, Load | Item):
            return None
        needed.add(value)
        todo += value.operands
    return tuple(inst for inst in body.body if inst in needed)


class _Pipelined:
    def __init__(self, loop: For, ahead: list[Ahead], emit: Emit) -> None:
        self.old, self.ahead, self.emit, self.stages = loop, ahead, emit, loop.stages
        self.index = loop.start.tile.dtype
        self.rings = [emit(replace(a.buffer, count=loop.stages)) for a in ahead]
        self.bulk = sum(a.box is not None for a in ahead)
        self.gates = emit(Gates(loop.stages, self.bulk)) if self.bulk else None

    def loop(self) -> tuple[Value, ...]:
        """Emits rings, the first copies and the loop; gives what the old loop gave."""
        old, n, emit = self.old, self.stages, self.emit
        tokens: list[Value] = []
        for p in range(n - 1):
            at = emit(Add(old.start, self._steps(p, emit)))
            tokens += self._copies(at, emit(Compare("lt", at, old.stop)), emit(Full(p, dt.i32)), emit)
        lead = emit(Sub(old.stop, self._steps(n - 1, emit)))
        last = self._last()
        init = (*old.init, *tokens, *(emit(Full(x, dt.i32)) for x in (0, n - 1, 0)))
        loop = emit(replace(old, init=init, body=self._body(lead, last, len(tokens)), stages=1))
        left = tuple(emit(Item(loop, len(old.init) + i)) for i in range(len(tokens)))
        if left:
            emit(Wait(left))  # copies that were switched off still write their buffers
        return tuple(emit(Item(loop, i)) for i in range(len(old.init)))

    def _last(self) -> Value | None:
        """The last round's index, where rounds count by one: with it the places of copies that are switched
        off stay those of some round, and are known to be small and not negative.
        """
        if not (isinstance(self.old.step, Full) and self.old.step.value == 1):
            return None
        before_stop = self.emit(Sub(self.old.stop, self.old.step))
        return self.emit(Maximum(before_stop, self.old.start))

    def _steps(self, count: int, place: Place) -> Value:
        """The distance to the round that comes `count` rounds later."""
        return place(Mul(self.old.step, place(Full(count, self.index))))

    def _copies(self, at: Value, when: Value, slot: Value, place: Place) -> list[Value]:
        """The copies of the round with index `at`, each into one buffer of its ring."""
        found: list[Value] = []
        for a, ring in zip(self.ahead, self.rings, strict=True):
            new: dict[Value, Value] = {self.old.body.args[0]: at}
            for inst in a.address:
                new[inst] = place(replace(inst.mapped(partial(_newer, new))))
            moved, buffer = a.copy.mapped(partial(_newer, new)), place(Stage(ring, slot))
            assert isinstance(moved, Copy), "a copy stays one"
            if a.box is None or self.gates is None:
                found.append(place(replace(moved, buffer=buffer, when=when)))
            else:
                place(bulk_copy(moved, a.box, buffer, self.gates, slot, when))
        return found

    def _body(self, lead: Value, last_round: Value | None, tokens: int) -> Block:
        """A round: wait for its own data, start the copies of a later round, and do what it did."""
        old, n, count = self.old.body, self.stages, len(self.ahead) - self.bulk
        under_way = tuple(Arg(TokenType(), f"token{i}") for i in range(tokens))
        # Two buffers, and how often their gates have opened, modulo 2.
        read, write, phase = (Arg(TileType(dt.i32), name) for name in ("read", "write", "phase"))
        body: list[Inst] = []

        def place(inst: Inst) -> Inst:
            body.append(inst)
            return inst

        new: dict[Value, Value] = {
            a.buffer: place(Stage(r, read)) for a, r in zip(self.ahead, self.rings, strict=True)
        }
        if count:
            place(Wait(under_way[:count], pending=(n - 2) * count, loc=self.ahead[0].wait.loc))
        if self.gates is not None:
            there = tuple(new[a.buffer] for a in self.ahead if a.box is not None)
            place(BulkWait(self.gates, read, phase, there, loc=self.ahead[0].wait.loc))
        zero, one, last = (place(Full(i, dt.i32)) for i in (0, 1, n - 1))
        more = place(Compare("lt", old.args[0], lead))
        at = place(Add(old.args[0], self._steps(n - 1, place)))
        at = place(Minimum(at, last_round)) if last_round else at
        started = self._copies(at, more, write, place)
        gone = {x for a in self.ahead for x in (a.copy, a.wait, a.buffer)}
        for inst in old.body:
            if inst not in gone:
                new[inst] = place(rebuilt(inst, new))
        full = place(Compare("eq", read, last))
        following = place(Where(full, zero, place(Add(read, one))))
        turned = place(Where(full, place(Sub(one, phase)), phase))
        places = (following, read, turned)
        results = (*(new.get(v, v) for v in old.results), *under_way[count:], *started, *places)
        return Block((*old.args, *under_way, read, write, phase), tuple(body), results)


def _newer(new: dict[Value, Value], v: Value) -> Value:
    return new.get(v, v)


def rebuilt(inst: Inst, new: dict[Value, Value]) -> Inst:
    """An instruction, its blocks included, over what has taken the place of its operands."""
    moved = inst.mapped(partial(_newer, new))
    blocks = {
        name: _rebuilt_block(b, new)
        for name in field_names(type(inst))
        if isinstance(b := getattr(moved, name), Block)
    }
    return moved.changed(**blocks) if blocks else moved


def _rebuilt_block(block: Block, outer: dict[Value, Value]) -> Block:
    new = dict(outer)
    body = []
    for inst in block.body:
        new[inst] = moved = rebuilt(inst, new)
        body.append(moved)
    return Block(block.args, tuple(body), tuple(new.get(v, v) for v in block.results))
