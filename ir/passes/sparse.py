"""Products with a sparse operand become one instruction where the target has it; elsewhere zeros are put in.

    dot(sparse(v, p), b, c)   ->  sparse_dot(v, p, b, c)
    dot(a, sparse(v, p), c)   ->  sparse_dot(v^T, p^T, a^T, c^T)^T      the sparse operand is the left one
                                  or stays, with the atom of warpgroups: passes/warpgroups.py
    sparse(v, p)              ->  where(p0 == i, v0, where(p1 == i, v1, 0))      for i = 0 .. 3
"""

from __future__ import annotations

from dataclasses import replace

from tilec.ir import dtype as dt
from tilec.ir.dead import dce
from tilec.ir.func import Func, Inst, Value
from tilec.ir.inst.arith import Cast, Full, Iota
from tilec.ir.inst.mma import Dot
from tilec.ir.inst.shape import Broadcast, Extract, Permute, Reshape
from tilec.ir.inst.sparse import GROUP, KEPT, Sparse, SparseDot
from tilec.ir.passes.anchors import ROWS
from tilec.ir.passes.warpgroups import choose
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.spell import compare, where
from tilec.ir.target import Target

TURN = (1, 0)


def sparse(func: Func, target: Target) -> Func:
    """Every Sparse, alone or in a product."""
    kept = set[Value]()

    def products(inst: Inst, emit: Emit) -> Rewritten:
        if isinstance(inst, Dot) and (grouped := _grouped(inst, target, func.warps)):
            kept.add(grouped.b if grouped.atom[1] == ROWS else grouped.a)
            return grouped
        match inst:
            case Dot(a=Sparse(axis=1) as a, b=b, c=c) if atom := _atom(a, b, c, target):
                return SparseDot(a.values, a.places, b, c, atom)
            case Dot(a=a, b=Sparse(axis=0) as b, c=c) if atom := _atom(b, a, c, target):
                v, p, left, sums = (Permute(v, TURN) for v in (b.values, b.places, a, c))
                return Permute(SparseDot(v, p, left, sums, atom), TURN)
        return None

    def others(inst: Inst, emit: Emit) -> Rewritten:
        return _put_in(inst) if isinstance(inst, Sparse) and emit.old not in kept else None

    found = any(isinstance(inst, Sparse) for inst in func.walk())
    return rebuild(dce(rebuild(func, products)), others) if found else func


def _grouped(dot: Dot, target: Target, warps: int) -> Dot | None:
    """A product that warpgroups had better do, with a sparse operand of its own."""
    if not any(isinstance(v, Sparse) and v.axis == axis for v, axis in ((dot.a, 1), (dot.b, 0))):
        return None
    atom = choose(dot, target, warps)
    if not atom:
        return None
    held = dot.b if atom[1] == ROWS else dot.a
    assert isinstance(held, Sparse), "rows of warpgroups are those of the sparse operand"
    mine = replace(held)
    return replace(dot, b=mine, atom=atom) if held is dot.b else replace(dot, a=mine, atom=atom)


def _atom(a: Sparse, b: Value, c: Value, target: Target) -> tuple[int, int, int] | None:
    """The target's instruction for a product, if there is one whose k divides the product's."""
    names = a.tile.dtype.name, b.tile.dtype.name, c.tile.dtype.name
    for m in target.mma_sparse:
        if (m.a, m.b, m.acc) == names and a.tile.shape[a.axis] % m.k == 0:
            return m.m, m.n, m.k
    return None


def _put_in(inst: Sparse) -> Value:
    if inst.axis == 0:
        return Permute(_put_in(Sparse(Permute(inst.values, TURN), Permute(inst.places, TURN))), TURN)
    values, places = (_pairs(v) for v in (inst.values, inst.places))
    shape = (*values[0].tile.shape[:-1], GROUP)
    here = Broadcast(Reshape(Cast(Iota((GROUP,), 0, dt.i32), dt.u2), (1, 1, GROUP)), shape)
    found: Value = Full(inst.tile.dtype.reference.type(0).item(), inst.tile.dtype, shape)
    for v, place in zip(values, places, strict=True):
        found = where(compare("eq", Broadcast(place, shape), here), Broadcast(v, shape), found)
    return Reshape(found, inst.tile.shape)


def _pairs(x: Value) -> list[Value]:
    """The first ones of all pairs, and the second ones: each (rows, pairs, 1)."""
    rows, columns = x.tile.shape
    cut = Reshape(x, (rows, columns // KEPT, KEPT))
    return [Extract(cut, (0, 0, i), (rows, columns // KEPT, 1)) for i in range(KEPT)]
