"""Fewer instructions of the same meaning: equations, constants folded, equal values computed once, dead code
gone.

    x * 1 + (2 + 3)     x + 5
Equations are in tilec.ir.passes.identities; here is what needs to see more than one expression. Bits stay as
they are, but for dot(a, b, 0) + c, whose sums may be made in any order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tilec.ir.dead import dce
from tilec.ir.func import Func, Inst, Value, field_names
from tilec.ir.inst import arith
from tilec.ir.inst.arith import Add, Full, Math, Table
from tilec.ir.inst.control import For, If, While
from tilec.ir.inst.mma import Dot
from tilec.ir.inst.shape import Extract, Permute, Reshape
from tilec.ir.inst.sync import BlockIndex
from tilec.ir.passes.identities import is_exactly, number, rewritten
from tilec.ir.rewrite import Emit, Rewritten, inline, rebuild, uses
from tilec.ir.run import State
from tilec.ir.target import Target

ROUNDS = 8  # of all rules; two or three are usual


def simplify(func: Func, target: Target) -> Func:
    """The function after all rules, until none applies. Every target takes part."""
    for _ in range(ROUNDS):
        visit = _Round(func)
        made = rebuild(func, visit)
        func = dce(made)
        if not visit.again and not (visit.loops and func is not made):
            break
    return func


class _Round:
    """One walk: a visit that also remembers which pure values stand where.

    Users are visited after what they use, so most equations meet their chance in one walk. Not so what a
    rule makes beneath its result, what a settled branch brings, and what a loop no longer carries: `again`
    asks for one more.
    """

    def __init__(self, func: Func) -> None:
        self.uses = uses(func)
        self.seen: dict[tuple[Any, ...], Inst] = {}
        self.indices = [inst for inst in func.walk() if isinstance(inst, BlockIndex)]
        self.again = self.loops = False

    def __call__(self, inst: Inst, emit: Emit) -> Rewritten:
        if inst.blocks:
            found = settled(inst, emit)
            self.again |= found is not None
            self.loops |= isinstance(inst, For | While)
            return found
        value = self._simpler(inst, emit)
        self.again |= isinstance(value, Inst) and not all(map(emit.visible, value.operands))
        if not isinstance(value, Inst) or not value.pure or emit.visible(value):
            return None if value is inst else value
        first = self.seen.get(key := _key(value))
        if first is not None and emit.visible(first):
            return first
        self.seen[key] = value
        return None if value is inst else value

    def _simpler(self, inst: Inst, emit: Emit) -> Value:
        value: Value = inst
        while isinstance(value, Inst) and not emit.visible(value):
            found = rewritten(value) or folded(value) or self.only_block(value)
            found = found or self.dot_takes_the_sum(value, emit)
            if found is None:
                break
            value = found
        return value

    def only_block(self, inst: Inst) -> Value | None:
        """The number of the only block along an axis -> 0, if another still tells of a larger grid"""
        if not isinstance(inst, BlockIndex) or number(inst.grid[inst.axis]) != 1:
            return None
        larger = any(number(extent) != 1 for extent in inst.grid)
        told = any(number(other.grid[other.axis]) != 1 for other in self.indices)
        return Full(0, inst.tile.dtype) if told or not larger else None

    def dot_takes_the_sum(self, inst: Inst, emit: Emit) -> Value | None:
        """dot(a, b, 0) + c, c + dot(a, b, 0) -> dot(a, b, c), if nobody else wants the product"""
        if not isinstance(inst, Add) or not isinstance(emit.old, Add):
            return None
        for dot, c, old in ((inst.a, inst.b, emit.old.a), (inst.b, inst.a, emit.old.b)):
            if isinstance(dot, Dot) and number(dot.c) == 0 and len(self.uses.get(old, ())) == 1:
                return replace(dot, c=c, loc=inst.loc)
        return None


def _key(inst: Inst) -> tuple[Any, ...]:
    return (type(inst), *(_part(getattr(inst, name)) for name in field_names(type(inst))))


def _part(v: Any) -> Any:
    """What tells two fields apart: 0.0 and -0.0 are equal in Python, and two NaNs are not."""
    if isinstance(v, tuple):
        return tuple(map(_part, v))
    return repr(v) if isinstance(v, float) else v


def folded(inst: Inst) -> Value | None:
    """An elementwise instruction on constants -> the constant that its meaning gives (NaN is left to the
    runner)
    """
    operands = inst.operands
    if any(isinstance(v, Table) for v in operands):
        return _folded_table(inst)
    if not operands or not all(isinstance(v, Full) for v in operands) or not is_elementwise(inst):
        return None
    scalars = [np.asarray(v.value, v.dtype.reference) for v in operands if isinstance(v, Full)]
    with np.errstate(all="ignore"):
        value = np.asarray(inst.meaning(State(), *scalars)).item()
    tile = inst.tile
    return None if value != value else Full(value, tile.dtype, tile.shape, tile.layout, loc=inst.loc)


def _folded_table(inst: Inst) -> Value | None:
    """What is computed from tables, or moves their elements -> the table that its meaning gives"""
    if not (is_elementwise(inst) or isinstance(inst, Reshape | Permute | Extract)):
        return None
    if not all(isinstance(v, Full | Table) for v in inst.operands):
        return None
    held = [v.meaning(State()) for v in inst.operands if isinstance(v, Full | Table)]
    with np.errstate(all="ignore"):
        values = np.asarray(inst.meaning(State(), *held))
    return replace(Table.of(values, inst.tile.dtype), layout=inst.tile.layout, loc=inst.loc)


def is_elementwise(inst: Inst) -> bool:
    """Whether each element of the result comes from the same element of the operands alone."""
    return type(inst).__module__ == arith.__name__ and not (isinstance(inst, Math) and inst.approx)


# Control.


def settled(inst: Inst, emit: Emit) -> Rewritten:
    """Loops and branches of which constants decide the course: the instructions that run."""
    match inst:
        case If(Full(condition), then, orelse):
            return inline(then if condition else orelse, (), emit)
        case While(init, condition) if is_exactly(condition.results[0], False):
            return init
        case For(Full(start), Full(stop), Full(step), init, body):
            trips = max(0, -(-(int(stop) - int(start)) // int(step)))
            if trips == 0:
                return init
            return inline(body, (inst.start, *init), emit) if trips == 1 else None
    return None
