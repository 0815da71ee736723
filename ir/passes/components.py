"""Components: tiles that share one layout, because elementwise instructions, loops and branches tie them
together.

    y = x * 2;  for ...: acc = acc + y        {x, x * 2, y, acc before, in and after the loop} is one
    component
Constants, indices and broadcasts are in none: they are made again wherever another layout is wanted. Every
instruction that a component's members come from or go to is its border: it proposes layouts and says what
each costs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tilec.ir.func import Func, Inst, Item, Value
from tilec.ir.inst import arith, control
from tilec.ir.inst.inline import InlinePtx
from tilec.ir.inst.memory import Atomic, Gather, Scatter
from tilec.ir.inst.mma import Dot, GroupProduct, GroupWait
from tilec.ir.inst.reduce import Scan
from tilec.ir.inst.shape import Annotate, Broadcast, Permute, Reshape
from tilec.ir.inst.sparse import SparseDot
from tilec.ir.rewrite import uses
from tilec.ir.tile import TileType

ELEMENTWISE = tuple(
    kind
    for kind in (*vars(arith).values(), InlinePtx)
    if isinstance(kind, type) and issubclass(kind, Inst) and kind.__module__ != Inst.__module__
)


def is_tile(value: Value) -> bool:
    """A tile that is spread over threads; scalars are not."""
    return isinstance(value.type, TileType) and value.type.rank > 0


def remade(value: Value, depth: int = 8) -> bool:
    """Whether a tile is cheaper to make again than to convert: constants, indices, and a few operations on
    them.
    """
    if not is_tile(value) or depth == 0:
        return False
    match value:
        case arith.Full() | arith.Iota() | arith.Table():
            return True
        case Broadcast(x=x) | Reshape(x=x):
            return x.tile.rank == 0 or remade(x, depth - 1)
        case Permute(x=x):
            return remade(x, depth - 1)
    if not isinstance(value, ELEMENTWISE) or isinstance(value, arith.Math | InlinePtx):
        return False
    return all(remade(v, depth - 1) for v in value.operands)


@dataclass(eq=False)
class Component:
    """Tiles of one shape and one layout; `number` is the order in which they first appear."""

    number: int
    shape: tuple[int, ...]
    members: list[Value] = field(default_factory=list)
    border: list[Inst] = field(default_factory=list)


class Components:
    """The partition of a function's tiles."""

    def __init__(self, func: Func) -> None:
        self._parent: dict[Value, Value] = {}
        self._tie(func)
        self.all: list[Component] = []
        self._of: dict[Value, Component] = {}
        self._collect(func)

    def of(self, value: Value) -> Component | None:
        """The component of a tile; None for what is made again where it is wanted."""
        return self._of.get(self._find(value)) if value in self._parent else None

    def _find(self, value: Value) -> Value:
        path = []
        while (parent := self._parent.setdefault(value, value)) is not value:
            path.append(value)
            value = parent
        for step in path:
            self._parent[step] = value
        return value

    def _join(self, *values: Value) -> None:
        tiles = [v for v in values if is_tile(v) and not remade(v)]
        for value in tiles:
            self._parent[self._find(value)] = self._find(tiles[0])

    def _tie(self, func: Func) -> None:
        for inst in func.walk():
            if is_tile(inst) and not remade(inst):
                self._find(inst)
            self._tie_one(inst)

    def _tie_one(self, inst: Inst) -> None:
        match inst:
            case Dot(c=c) | SparseDot(c=c) | GroupProduct(c=c):
                self._join(inst, c)
            case Scan() | Annotate() | GroupWait():
                self._join(inst, inst.x)
            case Gather(indices=indices):
                self._join(inst, *indices)
            case Scatter(indices=indices, tile_=tile) | Atomic(indices=indices, tile_=tile):
                self._join(tile, *indices)
            case control.For() | control.While():
                self._tie_loop(inst)
            case Item(
                source=control.For(init=init, body=body) | control.While(init=init, body=body), index=i
            ):
                self._join(inst, body.args[-len(init) :][i], init[i])
            case Item(source=control.If(then=then, orelse=orelse), index=i):
                self._join(inst, then.results[i], orelse.results[i])
            case _ if isinstance(inst, ELEMENTWISE):
                self._join(inst, *inst.operands)

    def _tie_loop(self, loop: control.For | control.While) -> None:
        count = len(loop.init)
        for i in range(count):
            others = [block.args[len(block.args) - count + i] for block in loop.blocks]
            self._carry(loop.init[i], *others, loop.body.results[i])

    def _carry(self, *values: Value) -> None:
        """Carried tiles have one layout even where some are constants: a constant is made in it."""
        for value in values:
            if is_tile(value) and not remade(value):
                self._find(value)
        self._join(*values)

    def _collect(self, func: Func) -> None:
        for inst in func.walk():
            for value in (*inst.operands, inst, *(arg for block in inst.blocks for arg in block.args)):
                if value in self._parent:
                    self._add(value)
        users = uses(func)
        for component in self.all:
            makers = [m for m in component.members if isinstance(m, Inst)]
            takers = [user for m in component.members for user in users.get(m, [])]
            component.border = list(dict.fromkeys([*makers, *takers]))

    def _add(self, value: Value) -> None:
        head = self._find(value)
        if head not in self._of:
            component = Component(len(self.all), value.tile.shape)
            self._of[head] = component
            self.all.append(component)
        members = self._of[head].members
        if value not in members:
            members.append(value)
