"""The nodes of the IR: values, instructions, blocks, functions.

An instruction *is* the value that it computes: its operands are the instructions that made them, so a rewrite
can match `Add(Dot(a, b, c), d)`. It says all about itself: its type rule `result`, its numpy `meaning`, its
`effects`.
    x = Full(TileType(f32, (4,)), 1.0);  y = Add(x, x);  y.type == TileType(f32, (4,))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import prod
from operator import is_
from typing import TYPE_CHECKING, Any, ClassVar

from tilec.ir.errors import Loc
from tilec.ir.tile import ArrayType, TileType, TupleType, Type

if TYPE_CHECKING:
    from tilec.ir.run import State


@dataclass(frozen=True)
class Effects:
    """Names of the fields whose memory is read or written; `ordered` keeps its place among all effects."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    ordered: bool = False


NONE = Effects()
PRODUCER_WARPS = 4


class Value:
    """Anything an instruction can take: an instruction, or an argument of a block."""

    type: Type
    operands: tuple[Value, ...] = ()
    blocks: tuple[Block, ...] = ()

    @property
    def tile(self) -> TileType:
        assert isinstance(self.type, TileType), f"a tile is needed here, not {self.type}"
        return self.type

    @property
    def array_type(self) -> ArrayType:
        assert isinstance(self.type, ArrayType), f"an array is needed here, not {self.type}"
        return self.type


@dataclass(frozen=True, eq=False)
class Arg(Value):
    """A parameter of a kernel, or what a block is entered with (a loop's index and carried values)."""

    type: Type
    name: str = ""


@dataclass(frozen=True, eq=False)
class Inst(Value):
    """One instruction. Subclasses are frozen dataclasses whose fields are operands and attributes."""

    loc: Loc | None = field(default=None, kw_only=True, repr=False)
    effects: ClassVar[Effects] = NONE

    def __post_init__(self) -> None:
        held = self.__dict__  # as fields are frozen, what follows from them is found once
        values = [held[name] for name in field_names(type(self))]
        held["operands"] = tuple(_values(values))
        held["blocks"] = tuple(v for v in values if isinstance(v, Block))
        held["type"] = self.result()

    def result(self) -> Type:
        """The type rule; raises TilecError where operands do not fit."""
        raise AssertionError(f"{type(self).__name__} has no type rule")

    def meaning(self, state: State, *operands: Any) -> Any:
        """What the instruction computes, in numpy: one operand value per entry of `operands`."""
        raise AssertionError(f"{type(self).__name__} has no meaning")

    @property
    def attributes(self) -> dict[str, Any]:
        """The fields that are neither operands nor blocks."""
        named = ((name, getattr(self, name)) for name in field_names(type(self)))
        return {name: v for name, v in named if not _is_operand(v) and not isinstance(v, Block)}

    @property
    def pure(self) -> bool:
        return self.effects == NONE and not self.blocks

    def changed(self, **changes: Any) -> Inst:
        """The same instruction with some fields changed: dataclasses.replace, in half the time."""
        made = object.__new__(type(self))
        made.__dict__.update({name: self.__dict__[name] for name in field_names(type(self))}, loc=self.loc)
        assert changes.keys() <= made.__dict__.keys(), f"{type(self).__name__} has no {', '.join(changes)}"
        made.__dict__.update(changes)
        made.__post_init__()
        return made

    def mapped(self, new: Callable[[Value], Value]) -> Inst:
        """The same instruction over other operands (blocks are left alone)."""
        return self.with_parts(tuple(map(new, self.operands)), self.blocks)

    def with_parts(self, operands: Sequence[Value], blocks: Sequence[Block]) -> Inst:
        """The same instruction over other operands and blocks, given in the order of the old ones."""
        if same(operands, self.operands) and same(blocks, self.blocks):
            return self
        values, inner = iter(operands), iter(blocks)
        changes: dict[str, Any] = {}
        for name in field_names(type(self)):
            old = getattr(self, name)
            if isinstance(old, Value):
                changes[name] = next(values)
            elif isinstance(old, Block):
                changes[name] = next(inner)
            elif isinstance(old, tuple) and _is_operand(old):
                changes[name] = tuple(next(values) if isinstance(v, Value) else v for v in old)
        return self.changed(**changes)


_FIELDS: dict[type, tuple[str, ...]] = {}
_NAMES: dict[type, str] = {}


def field_names(kind: type[Inst]) -> tuple[str, ...]:
    """Names of an instruction's own fields, in order."""
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(f.name for f in fields(kind) if f.name != "loc")
    return _FIELDS[kind]


def mnemonic(kind: type[Inst]) -> str:
    """Add -> add, AtomicUpdate -> atomic_update."""
    if kind not in _NAMES:
        _NAMES[kind] = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()
    return _NAMES[kind]


def _is_operand(v: object) -> bool:
    return isinstance(v, Value) or (isinstance(v, tuple) and any(isinstance(item, Value) for item in v))


def _values(items: Iterable[Any]) -> Iterator[Value]:
    for item in items:
        if isinstance(item, Value):
            yield item
        elif isinstance(item, tuple):
            for v in item:
                if isinstance(v, Value):
                    yield v


def same(new: Sequence[object], old: Sequence[object]) -> bool:
    """Whether two sequences hold the very same objects."""
    return len(new) == len(old) and all(map(is_, new, old))


@dataclass(frozen=True, eq=False)
class Block:
    """Straight-line instructions: entered with `args`, left with `results`."""

    args: tuple[Arg, ...]
    body: tuple[Inst, ...]
    results: tuple[Value, ...] = ()

    def walk(self) -> Iterator[Inst]:
        """Every instruction, those of inner blocks after the one that holds them."""
        for inst in self.body:
            yield inst
            for block in inst.blocks:
                yield from block.walk()


@dataclass(frozen=True, eq=False)
class Func:
    """A kernel: what one block of threads does. `schedule` holds warps and other launch attributes."""

    name: str
    params: tuple[Arg, ...]
    body: Block
    schedule: Mapping[str, Any] = field(default_factory=dict)
    loc: Loc | None = None

    def walk(self) -> Iterator[Inst]:
        return self.body.walk()

    @property
    def warps(self) -> int:
        return int(self.schedule.get("warps", 4))

    @property
    def all_warps(self) -> int:
        """With those of a producer: a warpgroup, as registers move between such."""
        return self.warps + (PRODUCER_WARPS if self.schedule.get("producer") else 0)

    @property
    def cluster(self) -> int:
        """How many blocks form a cluster, whose blocks run at once; grids are linear, and so are clusters."""
        given = self.schedule.get("cluster", 1)
        return prod(given) if isinstance(given, tuple) else int(given)

    @property
    def grid(self) -> tuple[Value, ...]:
        """Extents of the grid: run-time scalars of the outermost block. () is a grid of one block."""
        from tilec.ir.inst.sync import BlockIndex

        return next((inst.grid for inst in self.walk() if isinstance(inst, BlockIndex)), ())


def written_arrays(func: Func) -> frozenset[Value]:
    """The arrays (parameters, allocations) that some instruction writes; views count as what they look at."""
    found = set()
    for inst in func.walk():
        for name in inst.effects.writes:
            found.add(root(getattr(inst, name)))
    return frozenset(found)


def root(array: Value) -> Value:
    """The parameter or allocation that a view of an array looks at."""
    from tilec.ir.inst.memory import ArrayReshape, ArraySlice, Stage

    while isinstance(array, ArraySlice | ArrayReshape | Stage):
        array = array.array
    return array


def memory_of(func: Func, array: Value) -> Value:
    """What an array is part of: its allocation or parameter; one for all parameters if some may overlap."""
    found = root(array)
    return func.params[0] if func.schedule.get("alias") and found in func.params else found


@dataclass(frozen=True, eq=False)
class Item(Inst):
    """One of the values that a loop or branch gives."""

    source: Value
    index: int

    def result(self) -> Type:
        assert isinstance(self.source.type, TupleType), "only control flow gives several values"
        return self.source.type.items[self.index]

    def meaning(self, state: State, source: tuple[Any, ...]) -> Any:
        return source[self.index]
