"""Waits and reads of shared buffers move down to the first instruction that needs them.

    copy a; wait a; load a; copy b; wait b; load b; dot  ->  copy a; copy b; wait (a, b); load a; load b; dot
All copies of a step are under way before anybody waits, and fragments are in registers only while they are
used. A copy fills a buffer of its own, or a slot of a ring that this round does not read, so a read may move
past other copies; it does not move past loops, barriers, or branches that do more than compute, nor a wait
past writes to what its copies read.
"""

from __future__ import annotations

from dataclasses import replace

from tilec.ir.func import Block, Func, Inst, Value, memory_of
from tilec.ir.inst.bulk import BulkDone
from tilec.ir.inst.control import For, If, While
from tilec.ir.inst.memory import Copy, Load, Stage, Wait
from tilec.ir.inst.shape import Permute, Reshape
from tilec.ir.inst.sync import Barrier
from tilec.ir.inst.turn import PassTurn, TakeTurn
from tilec.ir.target import Target


def late_loads(func: Func, target: Target) -> Func:
    """Moves waits and the reads after them down within their blocks."""
    return replace(func, body=_Sinker(func).block(func.body, {}))


class _Sinker:
    def __init__(self, func: Func) -> None:
        self.func = func

    def block(self, block: Block, outer: dict[Value, Value]) -> Block:
        """The block with its instructions in the new order; `outer` maps loops that were rebuilt."""
        new = dict(outer)
        body: list[Inst] = []
        delayed: list[Inst] = []
        staged: set[Value] = set()
        for old in block.body:
            inst = self.inner(old, new)
            if _moves(inst) or _movable(inst, staged):
                if isinstance(inst, Wait):
                    staged |= {t.buffer for t in inst.tokens if isinstance(t, Copy)}
                else:
                    staged.add(inst)
                delayed.append(inst)
                continue
            if _stops(inst):
                _flush(delayed, body, set(delayed))
            else:
                _flush(delayed, body, _needed(delayed, _used(inst)) | _overtaken(self.func, delayed, inst))
            body.append(inst)
        _flush(delayed, body, set(delayed))
        return Block(block.args, tuple(body), tuple(new.get(v, v) for v in block.results))

    def inner(self, old: Inst, new: dict[Value, Value]) -> Inst:
        """An instruction over what the block has now, its own blocks reordered first."""
        inst = old.mapped(lambda v: new.get(v, v))
        match inst:
            case For():
                inst = replace(inst, body=self.block(inst.body, new))
            case While():
                condition = self.block(inst.condition, new)
                inst = replace(inst, condition=condition, body=self.block(inst.body, new))
            case If():
                inst = replace(inst, then=self.block(inst.then, new), orelse=self.block(inst.orelse, new))
        if inst is not old:
            new[old] = inst
        return inst


def _moves(inst: Inst) -> bool:
    """A wait for copies of its own block; one for an earlier round's stays where the pipeline put it."""
    return isinstance(inst, Wait) and all(isinstance(t, Copy) for t in inst.tokens)


def _movable(inst: Inst, staged: set[Value]) -> bool:
    """A read of a buffer that a copy filled, or a view of one that was moved."""
    if isinstance(inst, Load):
        return inst.array in staged or isinstance(inst.array, Stage)
    return isinstance(inst, Permute | Reshape) and inst.x in staged


def _stops(inst: Inst) -> bool:
    """Loops, barriers, turns and what tells that reading is over, and branches that do more than compute."""
    if isinstance(inst, If):
        return not all(each.pure for block in inst.blocks for each in block.walk())
    return bool(inst.blocks) or isinstance(inst, Barrier | BulkDone | TakeTurn | PassTurn)


def _used(inst: Inst) -> tuple[Value, ...]:
    """What an instruction needs, its blocks included."""
    inner = (v for block in inst.blocks for each in block.walk() for v in each.operands)
    return (*inst.operands, *inner, *(v for block in inst.blocks for v in block.results))


def _needed(delayed: list[Inst], operands: tuple[Value, ...]) -> set[Inst]:
    """The delayed instructions that these operands need, with their waits."""
    wanted: set[Value] = set(operands)
    found: set[Inst] = set()
    for inst in reversed(delayed):
        waited = isinstance(inst, Wait) and any(
            isinstance(t, Copy) and t.buffer in wanted for t in inst.tokens
        )
        if inst in wanted or waited:
            found.add(inst)
            wanted.update(inst.operands)
    return found


def _overtaken(func: Func, delayed: list[Inst], inst: Inst) -> set[Inst]:
    """Waits for copies from an array that the instruction writes: they are still reading it."""
    written = {memory_of(func, getattr(inst, name)) for name in inst.effects.writes}
    return {wait for wait in delayed if isinstance(wait, Wait) for token in wait.tokens
            if isinstance(token, Copy) and memory_of(func, token.array) in written}  # fmt: skip


def _flush(delayed: list[Inst], body: list[Inst], chosen: set[Inst]) -> None:
    """Places the chosen ones: one wait for all their tokens, then the rest in order."""
    mine = [inst for inst in delayed if inst in chosen]
    tokens = tuple(t for inst in mine if isinstance(inst, Wait) for t in inst.tokens)
    if tokens:
        first = next(inst for inst in mine if isinstance(inst, Wait))
        body.append(replace(first, tokens=tokens))
    body.extend(inst for inst in mine if not isinstance(inst, Wait))
    delayed[:] = [inst for inst in delayed if inst not in chosen]
