"""How many bytes of global memory a kernel's blocks move, told before anything is compiled.

    moved(func, env)     env: its parameters as Memory and numbers, as run(func, ...) takes them
Every tile that is read or written counts whole, whatever caches hold: of two schedules of one kernel the one
that moves less reuses more. Loops are counted for the block in the middle of the grid, and for a few rounds
where their extent depends on data.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from tilec.ir.func import Block, Func, Inst, Value
from tilec.ir.inst.control import For, While
from tilec.ir.run import State, grid_size
from tilec.ir.tile import ArrayType, TileType

ROUNDS = 8  # of a loop, where nobody knows


def moved(func: Func, env: Mapping[Value, Any]) -> int:
    """Bytes that all blocks read and write."""
    blocks = grid_size(func, env)
    return blocks * Middle(env, blocks // 2).bytes(func.body)


class Middle:
    """One block of the grid, and what is known of its scalars."""

    def __init__(self, env: Mapping[Value, Any], block: int) -> None:
        self.known: dict[Value, Any] = dict(env)
        self.state = State(block)

    def bytes(self, block: Block) -> int:
        return sum(self.of(inst) for inst in block.body)

    def of(self, inst: Inst) -> int:
        """Bytes of an instruction, and of the loop that it may be."""
        inner = [self.bytes(block) for block in inst.blocks]
        if isinstance(inst, For | While):
            return self.rounds(inst) * sum(inner)
        return max(inner, default=0) + _own(inst)

    def rounds(self, inst: For | While) -> int:
        if isinstance(inst, While):
            return ROUNDS
        start, stop, step = (self.value(v) for v in (inst.start, inst.stop, inst.step))
        if start is None or stop is None or not step:
            return ROUNDS
        return max(0, -(-(int(stop) - int(start)) // int(step)))

    def value(self, v: Value) -> Any:
        """A scalar of this block; None where it depends on data or on a loop."""
        if v not in self.known:
            self.known[v] = self.computed(v) if isinstance(v, Inst) and v.pure else None
        return self.known[v]

    def computed(self, inst: Inst) -> Any:
        operands = [self.value(v) for v in inst.operands]
        meaning: Any = inst.meaning
        return None if any(x is None for x in operands) else meaning(self.state, *operands)


def _own(inst: Inst) -> int:
    """What an instruction itself moves: the tile that it gives or takes, once for each way."""
    reads, writes = (
        any(_is_global(getattr(inst, name)) for name in names)
        for names in (inst.effects.reads, inst.effects.writes)
    )
    if not reads and not writes:
        return 0
    tiles = [v.type for v in (inst, *inst.operands) if isinstance(v.type, TileType)]
    largest = max((prod(tile.shape) * tile.dtype.bits // 8 for tile in tiles), default=0)
    return largest * (reads + writes)


def _is_global(v: Any) -> bool:
    return isinstance(v, Value) and isinstance(v.type, ArrayType) and v.type.space == "global"
