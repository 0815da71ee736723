"""Shared memory that one store writes as a whole: it needs no poison, and a load that goes there no copy.

    halo = tc.shared(shape, x.dtype)                         # nobody looks before the store
    halo.store((0, 0), x.load((i - 1, j - 1), shape))        # one pass, from x to halo
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from tilec.backends.cpu.loops import Index
from tilec.backends.cpu.places import reshaped_strides
from tilec.ir.func import Block, Func, Inst, Value, root
from tilec.ir.inst import shape as sh
from tilec.ir.inst.arith import Full
from tilec.ir.inst.memory import Alloc, Load, Store
from tilec.ir.tile import TileType, dense_strides

Strides = tuple[Index, ...]


@dataclass(frozen=True)
class Filled:
    """`allocs`: memory that is written first, and all of it. `loads`: those that go there alone, with the
    strides in which they do.
    """

    allocs: frozenset[Value]
    loads: Mapping[Value, tuple[Alloc, Strides]]


@lru_cache(maxsize=8)
def filled(func: Func) -> Filled:
    """What a function fills at once."""
    reads = Counter(v for inst in func.body.walk() for v in _used(inst))
    allocs: set[Value] = set()
    loads: dict[Value, tuple[Alloc, Strides]] = {}
    for block in (func.body, *(b for inst in func.body.walk() for b in inst.blocks)):
        for inst in block.body:
            if isinstance(inst, Alloc) and (store := _first(block, inst)):
                allocs.add(inst)
                found = _source(store, inst, reads)
                if found and found[0] in block.body and _undisturbed(block, found[0], store):
                    loads[found[0]] = inst, found[1]
    return Filled(frozenset(allocs), loads)


def _used(inst: Inst) -> list[Value]:
    return [*inst.operands, *(v for block in inst.blocks for v in block.results)]


def _touches(inst: Inst, memory: Value) -> bool:
    """Does it, or what is inside of it, know this memory?"""
    used = [v for each in (inst, *(i for b in inst.blocks for i in b.walk())) for v in _used(each)]
    return any(not isinstance(v.type, TileType) and root(v) is memory for v in used)


def _first(block: Block, alloc: Alloc) -> Store | None:
    """The store that writes all of an allocation before anything else in its block touches it."""
    inst = next((i for i in block.body if i is not alloc and _touches(i, alloc)), None)
    if not isinstance(inst, Store) or inst.array is not alloc or alloc.count > 1:
        return None
    whole = inst.tile_.tile.shape == alloc.shape and len(inst.inside) == len(alloc.shape)
    return inst if whole and all(isinstance(v, Full) and v.value == 0 for v in inst.at) else None


def _source(store: Store, alloc: Alloc, reads: Counter[Value]) -> tuple[Load, Strides] | None:
    """The load that the store writes, moved about at most, and the strides in which it lies there."""
    value: Value = store.tile_
    strides: Strides | None = dense_strides(alloc.shape)
    while strides is not None and reads[value] == 1:
        if isinstance(value, Load):
            return value, strides
        if isinstance(value, sh.Permute):
            strides = tuple(strides[value.axes.index(axis)] for axis in range(len(strides)))
        elif isinstance(value, sh.Reshape):
            strides = reshaped_strides(value.shape, strides, value.x.tile.shape)
        elif not isinstance(value, sh.Convert | sh.Annotate):
            return None
        value = value.x
    return None


def _undisturbed(block: Block, load: Load, store: Store) -> bool:
    """Does nothing between them have effects on what is read? Then its place in the order is no matter."""
    body = list(block.body)
    between = body[body.index(load) : body.index(store)]
    return not any(inst.effects.writes or inst.blocks for inst in between)
