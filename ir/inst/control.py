"""Loops and branches: structured, with the values that they carry.

For(0, n, 1, (x,), body): body.args = (index, x'), body.results = (next x',)
"""

from __future__ import annotations

from dataclasses import dataclass

from tilec.ir.errors import TilecError
from tilec.ir.func import Block, Inst, Value
from tilec.ir.tile import TupleType, Type


def _same(what: str, have: tuple[Type, ...], give: tuple[Type, ...]) -> None:
    for i, (a, b) in enumerate(zip(have, give, strict=True)):
        if a != b:
            raise TilecError(f"{what}: value {i} is {a} before and {b} after")


@dataclass(frozen=True, eq=False)
class For(Inst):
    """index from start to stop (exclusive) by a positive step; `stages` asks for a pipelined loop of that
    depth.
    """

    start: Value
    stop: Value
    step: Value
    init: tuple[Value, ...]
    body: Block
    stages: int = 1

    def result(self) -> TupleType:
        carried = tuple(v.type for v in self.init)
        _same("a loop keeps the types it carries", carried, tuple(v.type for v in self.body.results))
        return TupleType(carried)


@dataclass(frozen=True, eq=False)
class While(Inst):
    """Runs body while condition holds; both blocks take the carried values."""

    init: tuple[Value, ...]
    condition: Block
    body: Block

    def result(self) -> TupleType:
        carried = tuple(v.type for v in self.init)
        _same("a loop keeps the types it carries", carried, tuple(v.type for v in self.body.results))
        return TupleType(carried)


@dataclass(frozen=True, eq=False)
class If(Inst):
    """One of two blocks, by a scalar bool; both give values of the same types."""

    condition: Value
    then: Block
    orelse: Block

    def result(self) -> TupleType:
        gives = tuple(v.type for v in self.then.results)
        _same("both branches give the same types", gives, tuple(v.type for v in self.orelse.results))
        return TupleType(gives)


@dataclass(frozen=True, eq=False)
class Roles(Inst):
    """Two groups of warps, each with a program of its own: those of `producer` start copies, which run ahead
    of those who use them. On numpy the one runs after the other."""

    producer: Block
    consumer: Block

    def result(self) -> TupleType:
        return TupleType(())
