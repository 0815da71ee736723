"""Dead code: what nothing that matters uses goes, and so do the values that a loop carries for nobody.

What matters is writing memory and effects that keep their place; reading is not one, nor is allocating.
A carried value that a loop never changes is the value from before the loop.
    for i: (a, b) = (a + 1, b)      with only b used after the loop: b, and no loop
    b = 0; for i: b = 0             no b is carried
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tilec.ir.func import Arg, Block, Func, Inst, Item, Value
from tilec.ir.inst.arith import Full
from tilec.ir.inst.control import For, While
from tilec.ir.inst.memory import Alloc
from tilec.ir.inst.sync import BlockIndex


def dce(func: Func, matters: Callable[[Inst], bool] | None = None) -> Func:
    """The function without dead code. One BlockIndex stays even if unused: it says how large the grid is.
    `matters`: what stays, with all that it needs, if not all effects do.
    """
    live = _Live(func, matters or _matters)
    body = _Prune(live).block(func.body, func.body.args, ())
    return func if body is func.body else replace(func, body=body)


def _matters(inst: Inst) -> bool:
    return bool(inst.effects.writes or inst.effects.ordered) and not isinstance(inst, Alloc)


class _Live:
    """Marks from what matters back to what it uses.

    `carried`: the (loop or branch, index) whose value somebody uses.
    """

    def __init__(self, func: Func, matters: Callable[[Inst], bool]) -> None:
        self.owner: dict[Value, Inst] = {}
        self.argument: dict[Value, tuple[Inst, int]] = {}
        self.marked: set[Value] = set()
        self.carried: set[tuple[Inst, int]] = set()
        self.todo: list[Value] = []
        self._own(func.body, None)
        self.todo += [inst for inst in func.walk() if matters(inst)]
        self._run()
        indices = [inst for inst in func.walk() if isinstance(inst, BlockIndex)]
        if indices and self.marked.isdisjoint(indices):
            self.todo.append(indices[0])
            self._run()

    def _own(self, block: Block, owner: Inst | None) -> None:
        for inst in block.body:
            if owner is not None:
                self.owner[inst] = owner
            for inner in inst.blocks:
                first = 1 if isinstance(inst, For) else 0  # the index is no carried value
                self.argument.update((arg, (inst, k - first)) for k, arg in enumerate(inner.args))
                self._own(inner, inst)

    def _run(self) -> None:
        while self.todo:
            v = self.todo.pop()
            if v not in self.marked:
                self.marked.add(v)
                self._mark(v)

    def _mark(self, v: Value) -> None:
        if v in self.owner:
            self.todo.append(self.owner[v])
        if v in self.argument and self.argument[v][1] >= 0:
            self._carry(*self.argument[v])
        elif isinstance(v, Item):
            assert isinstance(v.source, Inst), "only control flow gives several values"
            self.todo.append(v.source)
            self._carry(v.source, v.index)
        elif isinstance(v, Inst) and v.blocks:
            self.todo += v.operands[:3] if isinstance(v, For) else () if isinstance(v, While) else v.operands
            self.todo += v.condition.results if isinstance(v, While) else ()
        elif isinstance(v, Inst):
            self.todo += v.operands

    def _carry(self, inst: Inst, index: int) -> None:
        if (inst, index) in self.carried:
            return
        self.carried.add((inst, index))
        if isinstance(inst, For | While):
            self.todo.append(inst.init[index])
        if unchanging(inst, index) is None:
            self.todo += [b.results[index] for b in inst.blocks if not _is_condition(inst, b)]


def _is_condition(inst: Inst, block: Block) -> bool:
    return isinstance(inst, While) and block is inst.condition


def unchanging(inst: Inst, index: int) -> Value | None:
    """What a loop carries from before to after without ever changing it, or as one constant."""
    if not isinstance(inst, For | While):
        return None
    arg = inst.body.args[index + (1 if isinstance(inst, For) else 0)]
    before, after = inst.init[index], inst.body.results[index]
    return before if after is arg or _one_constant(before, after) else None


def _one_constant(a: Value, b: Value) -> bool:
    """Is it twice the same constant? Its digits tell 0.0 and -0.0 apart."""
    if not (isinstance(a, Full) and isinstance(b, Full)):
        return False
    return a.type == b.type and repr(a.value) == repr(b.value)


class _Prune:
    def __init__(self, live: _Live) -> None:
        self.live = live
        self.env: dict[Value, Value] = {}
        self.kept: dict[Inst, list[int]] = {}

    def new(self, v: Value) -> Value:
        return self.env.get(v, v)

    def block(self, block: Block, args: tuple[Arg, ...], results: tuple[Value, ...]) -> Block:
        made = (self.inst(inst) for inst in block.body if inst in self.live.marked)
        body = tuple(inst for inst in made if inst is not None)
        given = tuple(map(self.new, results))
        unchanged = (args, body, given) == (block.args, block.body, block.results)
        return block if unchanged else Block(args, body, given)

    def inst(self, inst: Inst) -> Inst | None:
        if isinstance(inst, Item):
            return self.item(inst)
        new = self.control(inst) if inst.blocks else inst.mapped(self.new)
        self.env[inst] = new
        return new

    def item(self, item: Item) -> Inst | None:
        assert isinstance(item.source, Inst), "only control flow gives several values"
        if (before := unchanging(item.source, item.index)) is not None:
            self.env[item] = self.new(before)
            return None
        index = self.kept[item.source].index(item.index)
        source = self.new(item.source)
        new = item if source is item.source else Item(source, index, loc=item.loc)
        self.env[item] = new
        return new

    def control(self, inst: Inst) -> Inst:
        count = len(inst.blocks[-1].results)
        keep = [i for i in range(count) if (inst, i) in self.live.carried and unchanging(inst, i) is None]
        self.kept[inst] = keep
        blocks = tuple(self.inner(inst, block, keep) for block in inst.blocks)
        if len(keep) == count:
            return inst.with_parts(tuple(map(self.new, inst.operands)), blocks)
        return self.narrowed(inst, keep, blocks)

    def inner(self, inst: Inst, block: Block, keep: list[int]) -> Block:
        first = 1 if isinstance(inst, For) else 0
        for i, arg in enumerate(block.args[first:]):
            if (before := unchanging(inst, i)) is not None:
                self.env[arg] = self.new(before)
        args = block.args[:first] + tuple(block.args[first + i] for i in keep if len(block.args) > first + i)
        given = block.results if _is_condition(inst, block) else tuple(block.results[i] for i in keep)
        return self.block(block, args, given)

    def narrowed(self, inst: Inst, keep: list[int], blocks: tuple[Block, ...]) -> Inst:
        if not isinstance(inst, For | While):
            return inst.with_parts(tuple(map(self.new, inst.operands)), blocks)
        init = tuple(self.new(inst.init[i]) for i in keep)
        if isinstance(inst, While):
            return replace(inst, init=init, condition=blocks[0], body=blocks[1])
        start, stop, step = map(self.new, (inst.start, inst.stop, inst.step))
        return replace(inst, start=start, stop=stop, step=step, init=init, body=blocks[0])
