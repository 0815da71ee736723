"""Sums leave by TMA: products' tiles are put into shared memory, from where one thread stores whole boxes.

    c.store(at, tile)  ->  store(tile, buffer); bulk_store(buffer, c, at); ... before the end: bulk_stored
Threads hold sums in pieces of a few bytes each, so that a store of their own would write half sectors, with a
mask for each. Here the pieces go into panels, by stmatrix, and what leaves the array is left out by the
hardware. For arguments that this store alone touches and TMA can describe, where the buffer does not cost an
SM a block.
"""

from __future__ import annotations

from dataclasses import replace

from tilec.ir import dtype as dt
from tilec.ir.facts import Facts, analyse
from tilec.ir.func import Arg, Block, Func, Inst, Item, Value, memory_of
from tilec.ir.inst.arith import Full
from tilec.ir.inst.bulk import BulkStore, BulkStored, Gates
from tilec.ir.inst.control import For, While
from tilec.ir.inst.memory import Alloc, Store
from tilec.ir.inst.mma import GroupProduct, GroupWait
from tilec.ir.inst.shape import Permute, Reshape
from tilec.ir.panels import panels
from tilec.ir.passes.bulk import box_in_panels
from tilec.ir.passes.components import ELEMENTWISE
from tilec.ir.passes.shared_memory import plan_shared_memory
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.signature import Box
from tilec.ir.target import Target

LEAST = 16 * 1024  # bytes: a smaller tile is written before a thread could have asked TMA


def bulk_stores(func: Func, target: Target) -> Func:
    """After warpgroups, whose sums these are; before layouts, as buffers have none that matters to tiles."""
    facts, again = analyse(func), _in_loops(func)
    found = {i: b for i in func.walk() if isinstance(i, Store) and (b := _buffer(func, i, facts, target))}
    for store, (buffer, box) in found.items():
        made = _stored(func, store, buffer, box, store in again)
        func = made if _blocks(made, target) == _blocks(func, target) else func
    return func


def _in_loops(func: Func) -> set[Inst]:
    return {i for loop in func.walk() if isinstance(loop, For | While) for b in loop.blocks for i in b.walk()}


def _buffer(func: Func, store: Store, facts: Facts, target: Target) -> tuple[Alloc, Box] | None:
    """Where a store's tile waits for TMA, and the box of each of its panels; None where threads store it."""
    tile, array = store.tile_.tile, memory_of(func, store.array)
    if (
        tile.rank < 2
        or tile.size * tile.dtype.bits < 8 * LEAST
        or not _of_products(func, store.tile_)
        or len(_touching(func, array)) > 1
    ):
        return None
    strides = store.array.array_type.strides
    axis = next((a for a in range(tile.rank) if strides[a] == 1), None)
    layout = panels(tile.shape, axis, tile.dtype.bytes) if axis is not None and tile.dtype.bits >= 8 else None
    buffer = Alloc(tile.dtype, tile.shape, layout, loc=store.loc) if layout else None
    box = box_in_panels(func, store.array, layout, tile.shape, facts, target) if layout else None
    return (buffer, box) if buffer and box else None


def _of_products(func: Func, v: Value) -> bool:
    """Whether a tile is computed from warpgroups' sums, each of its elements from some of them."""
    todo, seen = [v], set[Value]()
    carried = {arg: loop.body.results[i] for loop in func.walk() if isinstance(loop, For)
               for i, arg in enumerate(loop.body.args[1:])}  # fmt: skip
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        match value:
            case GroupProduct():
                return True
            case Arg() if value in carried:
                todo.append(carried[value])
            case Item(source=source, index=i) if isinstance(source, Inst):
                todo += [block.results[i] for block in source.blocks if i < len(block.results)]
            case Inst() if isinstance(value, (*ELEMENTWISE, GroupWait, Permute, Reshape)):
                todo += [x for x in value.operands if getattr(x.type, "size", 0) == v.tile.size]
    return False


def _touching(func: Func, array: Value) -> list[Inst]:
    """Who reads or writes an array."""
    return [inst for inst in func.walk() for name in (*inst.effects.reads, *inst.effects.writes)
            if memory_of(func, getattr(inst, name)) is array]  # fmt: skip


def _blocks(func: Func, target: Target) -> int:
    """How many blocks' shared memory an SM has; 0 where one block's is too much."""
    made = plan_shared_memory(func, target)
    ends = [i.offset + i.nbytes for i in made.walk() if isinstance(i, Alloc | Gates) and i.offset is not None]
    size = max(ends, default=0)
    each = size + target.shared_bytes_reserved
    return target.shared_bytes_per_sm // each if size <= target.shared_bytes_per_block else 0


def _stored(func: Func, store: Store, buffer: Alloc, box: Box, again: bool) -> Func:
    """The function with one store by TMA. In a loop, it waits for the round before to have been written."""
    top = next(
        i for i in func.body.body if i is store or any(store is each for b in i.blocks for each in b.walk())
    )
    at = func.body.body.index(top)
    func = replace(
        func, body=Block((), (*func.body.body[:at], buffer, *func.body.body[at:], BulkStored((buffer,))))
    )

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if emit.old is not store or not isinstance(inst, Store):
            return None
        if again:
            emit(BulkStored((buffer,), written=True))
        everything = tuple(range(inst.tile_.tile.rank))
        emit(Store(buffer, (Full(0, dt.i32),) * len(everything), inst.tile_, everything))
        return BulkStore(inst.array, inst.at, buffer, box.axes, box.extents, box.span, box.unit)

    return rebuild(func, visit)
