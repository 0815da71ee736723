"""How much a block does, roughly, to decide whether threads are worth waking."""

from __future__ import annotations

from tilec.ir.func import Block, Func, Inst
from tilec.ir.inst.control import For, While
from tilec.ir.inst.mma import Dot
from tilec.ir.tile import TileType

ROUNDS = 8  # of a loop, where nobody knows


def work(func: Func) -> int:
    """Element operations of one block."""
    return _block(func.body)


def _block(block: Block) -> int:
    return sum(map(_inst, block.body))


def _inst(inst: Inst) -> int:
    if inst.blocks:
        rounds = ROUNDS if isinstance(inst, For | While) else 1
        return rounds * sum(map(_block, inst.blocks))
    if isinstance(inst, Dot):
        return inst.tile.size * inst.a.tile.shape[1] // 8
    tiles = [v.tile.size for v in (*inst.operands, inst) if isinstance(v.type, TileType)]
    return max(tiles, default=1)
