"""Several matrix products: one after the other, in a loop.

    for each z:  c[z] += a[z] @ b[z]
Operands are dense and of the registers' type; what is not is copied first.
"""

from __future__ import annotations

from dataclasses import replace

from tilec.backends.cpu import dot_bytes
from tilec.backends.cpu.dot import Product, accumulator, converted, summed_in
from tilec.backends.cpu.loops import Index, loop, mul, step_pointer
from tilec.backends.cpu.lower import Lowering
from tilec.backends.cpu.places import Ref
from tilec.backends.cpu.right import InMemory
from tilec.backends.writer import Writer
from tilec.ir.dtype import DType
from tilec.ir.func import Value
from tilec.ir.inst import mma
from tilec.ir.tile import TileType


def dot(lo: Lowering, inst: mma.Dot) -> None:
    """One product as such, several in a loop."""
    if inst.tile.rank == 2:
        dot_bytes.dot(lo, inst)
        return
    total = summed_in(inst)
    into, start = accumulator(lo, inst, total)
    a, b = (_dense(lo, v, total) for v in inst.factors)
    sums = into if into.dtype == total else lo.temporary(TileType(total, into.shape))
    if start is None and sums is not into:
        converted(lo, into, sums)
    count, m, n = inst.tile.shape
    with loop(lo.w, 0, count) as run:
        product = Product(lo, total, (m, n, a.shape[-1]), 0)
        product.start = start
        product.a, right, product.into = (_one(lo.w, ref, run.index) for ref in (a, b, sums))
        product.b = InMemory(lo.w, right, total)
        product.run()
    if sums is not into:
        converted(lo, sums, into)
    lo.define(inst, into)
    lo.used(inst)


def _dense(lo: Lowering, v: Value, total: DType) -> Ref:
    place = lo.place(v)
    if isinstance(place, Ref) and place.dtype == total and place.strides[-1] == 1:
        return place
    into = lo.temporary(TileType(total, v.tile.shape))
    converted(lo, place, into)
    return into


def _one(w: Writer, ref: Ref, z: Index) -> Ref:
    """The matrix of one product."""
    base = step_pointer(w, ref.base, ref.element, mul(w, z, ref.strides[0]))
    return replace(ref, base=base, shape=ref.shape[1:], strides=ref.strides[1:])
