"""Which tiles an instruction reads: so that a place is free after the last of them."""

from __future__ import annotations

from collections.abc import Iterator

from tilec.ir.func import Block, Inst, Value
from tilec.ir.inst import shape as sh
from tilec.ir.tile import TileType


def reads(inst: Inst) -> Iterator[Value]:
    """The tiles that an instruction reads: its operands, and once each what its blocks take from outside."""
    if isinstance(inst, sh.Convert | sh.Annotate):
        return
    yield from (v for v in inst.operands if not _is_memory(v))
    if inst.blocks:
        yield from outer_values(inst)


def outer_values(inst: Inst) -> list[Value]:
    """What the blocks of a loop or branch read from around it."""
    own: set[Value] = set()
    found: dict[Value, None] = {}
    for block in inst.blocks:
        own |= {*block.args, *block.walk(), *(arg for i in block.walk() for b in i.blocks for arg in b.args)}
    for block in inst.blocks:
        for used in _all_reads(block):
            if used not in own and not _is_memory(used):
                found[used] = None
    return list(found)


def _all_reads(block: Block) -> Iterator[Value]:
    yield from block.results
    for inst in block.walk():
        yield from inst.operands
        for inner in inst.blocks:
            yield from inner.results


def _is_memory(value: Value) -> bool:
    return not isinstance(value.type, TileType) and not _gives_several(value)


def _gives_several(value: Value) -> bool:
    return isinstance(value, Inst) and bool(value.blocks)
