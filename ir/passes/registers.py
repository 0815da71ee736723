"""Tiles that cannot fit a thread's registers are an error before anything is assembled.

A tile that lives (a carried value, a product, an arithmetic result) takes one 32-bit register per 32 bits of
each thread's slots. Constants, indices and reads of shared memory are made or loaded piece by piece and are
not counted.
"""

from __future__ import annotations

from tilec.ir.errors import TilecError
from tilec.ir.func import Func, Inst
from tilec.ir.inst.mma import Dot, GroupProduct
from tilec.ir.inst.sparse import SparseDot
from tilec.ir.passes.components import ELEMENTWISE, is_tile, remade
from tilec.ir.target import Target

WORD = 32
PRODUCTS = (*ELEMENTWISE, Dot, SparseDot, GroupProduct)


def check_registers(func: Func, target: Target) -> Func:
    """Raises TilecError at the line of the first tile that needs more registers than a thread has."""
    for inst in func.walk():
        if is_tile(inst) and isinstance(inst, PRODUCTS) and not remade(inst):
            _check(inst, func, target)
    return func


def _check(inst: Inst, func: Func, target: Target) -> None:
    tile = inst.tile
    assert tile.layout is not None, "layouts are chosen before registers are counted"
    needed = -(-tile.layout.slots * tile.dtype.bits // WORD)
    most = target.max_registers_per_thread
    if needed <= most:
        return
    threads = func.warps * target.warp_size
    more = [
        w for w in (8, 16, 32) if func.warps < w <= target.max_warps and needed * func.warps // w <= most // 2
    ]
    fits = f"warps={more[0]} would give each {needed * func.warps // more[0]}, or " if more else ""
    raise TilecError(
        f"{tile} needs {needed} registers of each of {threads} threads, {target.name} has {most}: "
        f"{fits}take tiles of at most half of {most * threads * WORD // tile.dtype.bits} elements",
        inst.loc,
    )
