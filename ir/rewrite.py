"""Rewriting a function: one walk in order, from old values to new ones.

A pass is a `visit`: it gets each instruction over operands already rewritten, and gives what takes its place.
    def halve(inst: Inst, emit: Emit) -> Rewritten:
        return Add(inst.x, inst.x) if isinstance(inst, Twice) else None
    rebuild(func, halve)
What `visit` gives back: None keeps the instruction; a Value takes its place, and whatever is new in that
expression is placed before the uses, operands first, with the line of the instruction; a tuple of Values
takes the place of what a loop or branch gives; () removes an instruction that has effects. Linear time, all
of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from tilec.ir.func import Arg, Block, Func, Inst, Item, Value, same
from tilec.ir.inst.control import For, While
from tilec.ir.tile import Type

Rewritten = Value | tuple[Value, ...] | None
Env = dict[Value, Value | tuple[Value, ...]]
Node = TypeVar("Node", bound=Value)


class Emit:
    """The block under construction. `emit(x)` places what is new in the expression x and gives x back.

    `old` is the instruction being visited as it stood before the pass: the key to analyses of that function.
    """

    def __init__(self, env: Env) -> None:
        self.old: Inst
        self._env = env
        self._bodies: list[list[Inst]] = []
        self._visible: set[Value] = set()  # all that stands in open blocks

    def __call__(self, value: Node) -> Node:
        for inst in self._new(value):
            self.place(inst)
        return value

    def place(self, inst: Inst) -> None:
        """Appends an instruction whose operands are all visible."""
        if inst.loc is None:
            object.__setattr__(inst, "loc", self.old.loc)  # fresh: nobody else has seen it
        self._bodies[-1].append(inst)
        self._visible.add(inst)

    def visible(self, value: Value) -> bool:
        """Whether instructions placed now may use it: it stands in this block, or in one around it."""
        return value in self._visible or not isinstance(value, Inst)

    def _new(self, value: Value) -> Iterator[Inst]:
        """The instructions of an expression that stand nowhere yet, operands first; chains may be long."""
        if self.visible(value):
            return
        todo = [(value, False)]
        while todo:
            inst, ready = todo.pop()
            if not isinstance(inst, Inst) or self.visible(inst):
                continue
            if ready:
                yield inst
                continue
            assert self._env.get(inst, inst) is inst, f"{inst} stands in the function before the rewrite"
            todo.append((inst, True))
            todo += [(operand, False) for operand in reversed(inst.operands)]

    def open(self) -> None:
        """Starts an inner block."""
        self._bodies.append([])

    def close(self) -> tuple[Inst, ...]:
        """Ends the innermost block and gives its instructions."""
        body = self._bodies.pop()
        self._visible.difference_update(body)
        return tuple(body)


Visit = Callable[[Inst, Emit], Rewritten]
Enter = Callable[[Inst, tuple[Value, ...], Emit], Sequence[Value]]
Leave = Callable[[Inst, tuple[Value, ...], Emit], Sequence[Value]]


def rebuild(
    func: Func,
    visit: Visit,
    enter: Enter | None = None,
    leave: Leave | None = None,
    take: Enter | None = None,
) -> Func:
    """The function with every instruction replaced by what `visit` makes of it.

    `enter(old, operands, emit)` may change what a loop or branch is entered with (its blocks' arguments take
    those types), `leave(old, results, emit)` what a block of it is left with, `take(old, operands, emit)` the
    operands of every other instruction; all before `visit` sees it.
    """
    body = _Rebuilder(visit, enter or _keep, leave or _keep, take).block(func.body, func.body.args, None)
    return func if body is func.body else replace(func, body=body)


def _keep(old: Inst, values: tuple[Value, ...], emit: Emit) -> tuple[Value, ...]:
    return values


class _Rebuilder:
    def __init__(self, visit: Visit, enter: Enter, leave: Leave, take: Enter | None) -> None:
        self.visit, self.enter, self.leave, self.take = visit, enter, leave, take
        self.env: Env = {}
        self.emit = Emit(self.env)

    def new(self, old: Value) -> Value:
        value = self.env.get(old, old)
        assert not isinstance(value, tuple), "what a loop or branch gives is used through Item only"
        return value

    def block(self, block: Block, args: tuple[Arg, ...], owner: Inst | None) -> Block:
        self.env.update(zip(block.args, args, strict=True))
        self.emit.open()
        for inst in block.body:
            self.inst(inst)
        results = tuple(map(self.new, block.results))
        if owner is not None:
            self.emit.old = owner
            results = tuple(map(self.emit, self.leave(owner, results, self.emit)))
        made = Block(args, self.emit.close(), results)
        pairs = ((made.args, block.args), (made.body, block.body), (made.results, block.results))
        return block if all(same(new, old) for new, old in pairs) else made

    def inst(self, old: Inst) -> None:
        self.emit.old = old
        if isinstance(old, Item) and isinstance(given := self.env.get(old.source), tuple):
            self.env[old] = given[old.index]
            return
        inst = self.control(old) if old.blocks else self.plain(old)
        self.emit.old = old
        found = self.visit(inst, self.emit)
        if found is None:
            self.emit.place(inst)
            self.env[old] = inst
        else:
            self.env[old] = tuple(map(self.emit, found)) if isinstance(found, tuple) else self.emit(found)

    def plain(self, old: Inst) -> Inst:
        if self.take is not None and old.operands:
            taken = self.take(old, tuple(map(self.new, old.operands)), self.emit)
            return old.with_parts(tuple(map(self.emit, taken)), ())
        for v in old.operands:
            if self.env.get(v, v) is not v:
                return old.mapped(self.new)
        return old

    def control(self, old: Inst) -> Inst:
        entered = self.enter(old, tuple(map(self.new, old.operands)), self.emit)
        operands = tuple(map(self.emit, entered))
        types = entry_types(old, operands)
        blocks = tuple(self.block(block, _typed(block.args, types), old) for block in old.blocks)
        return old.with_parts(operands, blocks)


def _typed(args: tuple[Arg, ...], types: tuple[Type, ...]) -> tuple[Arg, ...]:
    return tuple(arg if arg.type == type_ else Arg(type_, arg.name)
                 for arg, type_ in zip(args, types, strict=True))  # fmt: skip


def entry_types(inst: Inst, operands: Sequence[Value]) -> tuple[Type, ...]:
    """The types that the blocks of a loop or branch are entered with, from its operands."""
    match inst:
        case For():
            return (operands[0].type, *(v.type for v in operands[3:]))
        case While():
            return tuple(v.type for v in operands)
    return ()


def inline(block: Block, args: Sequence[Value], emit: Callable[[Inst], object]) -> tuple[Value, ...]:
    """Emits a copy of a block's instructions, entered with `args`; gives what the copy is left with."""
    return _inline(block, args, {}, emit)


def _inline(
    block: Block, args: Sequence[Value], env: dict[Value, Value], emit: Callable[[Inst], object]
) -> tuple[Value, ...]:
    env.update(zip(block.args, args, strict=True))
    for inst in block.body:
        env[inst] = copied = _copy(inst, env)
        emit(copied)
    return tuple(env.get(v, v) for v in block.results)


def _copy(inst: Inst, env: dict[Value, Value]) -> Inst:
    blocks = []
    for block in inst.blocks:
        body: list[Inst] = []
        args = tuple(Arg(arg.type, arg.name) for arg in block.args)
        results = _inline(block, args, env, body.append)
        blocks.append(Block(args, tuple(body), results))
    copied = inst.with_parts([env.get(v, v) for v in inst.operands], blocks)
    return replace(copied) if copied is inst else copied


def uses(func: Func) -> dict[Value, list[Inst]]:
    """Who uses each value. A loop or branch uses what its blocks are left with."""
    found: dict[Value, list[Inst]] = {}
    for inst in func.walk():
        given = (v for block in inst.blocks for v in block.results)
        for v in (*inst.operands, *given):
            found.setdefault(v, []).append(inst)
    return found
