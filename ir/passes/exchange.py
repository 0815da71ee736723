"""Conversions that cross warps become a store to shared memory and a load from it.

    convert(x, layout)  ->  buffer = alloc; store(buffer, x); load(buffer, layout)
The buffer's layout is the one in which the two meet the fewest bank conflicts. Barriers and places come
later.
"""

from __future__ import annotations

from tilec.ir import dtype as dt
from tilec.ir.conversion import conversion
from tilec.ir.exchange import exchange_layout
from tilec.ir.func import Func, Inst
from tilec.ir.inst.arith import Full
from tilec.ir.inst.memory import Alloc, Load, Store
from tilec.ir.inst.shape import Convert
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.target import Target


def exchange(func: Func, target: Target) -> Func:
    """Writes out the conversions that need shared memory."""

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if not isinstance(inst, Convert):
            return None
        have = inst.x.tile.layout
        assert have is not None, "layouts are chosen before elements travel"
        dtype, shape = inst.x.tile.dtype, inst.tile.shape
        bits = max(8, dtype.bits)
        if conversion(have, inst.layout, bits).kind != "shared":
            return None
        buffer = emit(Alloc(dtype, shape, exchange_layout(have, inst.layout, bits)))
        at, everything = (Full(0, dt.i32),) * len(shape), tuple(range(len(shape)))
        emit(Store(buffer, at, inst.x, everything))
        return Load(buffer, at, shape, Full(0, dtype), True, everything, inst.layout)

    return rebuild(func, visit)
