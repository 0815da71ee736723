"""Two programs out of one, where a producer's warps start the copies: after all other passes.

    gates; x = loads of scalars; for s: room; copy; wait; use; done
becomes
    gates; barrier; roles  producer: x = ..; for s: room; copy      consumer: x = ..; for s: wait; use; done
Each keeps of loops and branches what it needs. Scalars that are only computed stand before both; what a
producer's loops and addresses hang on may also be read from arrays that the kernel does not write, but not be
what the consumer's warps compute together.
"""

from __future__ import annotations

from dataclasses import replace

from tilec.ir.dead import dce
from tilec.ir.errors import TilecError
from tilec.ir.func import Block, Func, Inst, Item, Value, memory_of, written_arrays
from tilec.ir.inst.bulk import BulkCopy, BulkRoom, Gates
from tilec.ir.inst.control import For, If, Roles, While
from tilec.ir.inst.memory import Alloc
from tilec.ir.inst.sync import Barrier, ReadOnce, Require
from tilec.ir.rewrite import Emit, Rewritten, inline, rebuild
from tilec.ir.target import Target
from tilec.ir.tile import TileType

CONTROL = For | While | If | Item


def roles(func: Func, target: Target) -> Func:
    """Splits a function that is to have a producer."""
    if not func.schedule.get("producer"):
        return func
    before = _before(func)
    producer = _copied(_rest(dce(func, _produces), before))
    _check(func, producer)
    consumer = _rest(dce(rebuild(func, _without_copies)), before)
    return replace(func, body=Block((), (*before, Barrier(), Roles(producer, consumer))))


def _produces(inst: Inst) -> bool:
    return isinstance(inst, BulkRoom | BulkCopy)


def _without_copies(inst: Inst, emit: Emit) -> Rewritten:
    return () if _produces(inst) else None


def _before(func: Func) -> dict[Inst, None]:
    """What both need and each thread has for itself: buffers, gates, arithmetic on scalars; in order."""
    found: dict[Inst, None] = {}
    known: set[Value] = {*func.params}
    for inst in func.body.body:
        scalar = not isinstance(inst.type, TileType) or not inst.tile.rank
        plain = isinstance(inst, Alloc | Gates | ReadOnce | Require) or (
            inst.pure and scalar and not isinstance(inst, Item)
        )
        if plain and known.issuperset(inst.operands):
            found[inst] = None
            known.add(inst)
    return found


def _rest(func: Func, before: dict[Inst, None]) -> Block:
    return Block((), tuple(inst for inst in func.body.body if inst not in before))


def _copied(block: Block) -> Block:
    """The same with instructions of its own."""
    body: list[Inst] = []
    inline(block, (), body.append)
    return Block((), tuple(body))


def _check(func: Func, producer: Block) -> None:
    """Raises TilecError where the producer would need what other warps compute."""
    written = {memory_of(func, array) for array in written_arrays(func)}
    for inst in producer.walk():
        if not (_produces(inst) or isinstance(inst, CONTROL) or _alone(func, inst, written)):
            copy = next(each for each in producer.walk() if isinstance(each, BulkCopy))
            where = f"{copy.loc.file}:{copy.loc.line}" if copy.loc else "a loop"
            raise TilecError(
                f"producer=True lets warps of their own start the copies of {where}, and where or if they "
                f"start would hang on what the other warps compute here; leave producer= out", inst.loc,
            )  # fmt: skip


def _alone(func: Func, inst: Inst, written: set[Value]) -> bool:
    """Whether a thread can do it without the others, and whenever it likes."""
    if isinstance(inst.type, TileType) and inst.tile.rank:
        return False
    read = [getattr(inst, name) for name in inst.effects.reads]
    readable = all(a.array_type.space == "global" and memory_of(func, a) not in written for a in read)
    return readable and not inst.blocks and not inst.effects.writes and not inst.effects.ordered
