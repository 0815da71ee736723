"""Where operands of matrix products live: what comes from global memory goes through a buffer in shared
memory.

    dot(load(a), ...)  ->  token = copy(a, buffer); wait(token); dot(load(buffer), ...)
The matrix units of sm_80 take their operands from registers, in fragments that ldmatrix fills from shared
memory. The copy is one wide, coalesced access per element; every warp then reads what it needs. Warpgroups
read buffers themselves, in panels.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.func import Func, Inst, Value
from tilec.ir.inst.arith import Cast, Full
from tilec.ir.inst.control import For
from tilec.ir.inst.memory import Alloc, Copy, Load, Wait
from tilec.ir.inst.mma import Dot
from tilec.ir.inst.shape import Permute, Reshape, View
from tilec.ir.inst.sparse import SparseDot
from tilec.ir.layout import Layout
from tilec.ir.memory_layout import strided
from tilec.ir.passes.anchors import ROWS
from tilec.ir.passes.warpgroups import choose, staged
from tilec.ir.rewrite import Emit, Rewritten, rebuild, uses
from tilec.ir.swizzle import swizzle_for
from tilec.ir.target import Target
from tilec.ir.tile import dense_strides


def widen_dots(func: Func, target: Target) -> Func:
    """Operands that the matrix units do not know become the narrowest dtype that they do and that holds them
    exactly; the product gets its `atom`."""

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if not isinstance(inst, Dot) or inst.atom:
            return None
        a, b = (_operand_dtype(v.tile.dtype, inst.c.tile.dtype, target) for v in (inst.a, inst.b))
        atom = _atom(a, b, inst.c.tile.dtype, target)
        if not atom:
            return None
        wide = [v if v.tile.dtype == d else Cast(v, d) for v, d in ((inst.a, a), (inst.b, b))]
        made = replace(inst, a=wide[0], b=wide[1], atom=atom)
        return replace(made, atom=choose(made, target, func.warps) or atom)

    return rebuild(func, visit)


def _operand_dtype(dtype: DType, sum_: DType, target: Target) -> DType:
    known = {name for m in target.mma for name in (m.a, m.b) if m.acc == sum_.name}
    if dtype.name in known and dtype.bits >= 8:
        return dtype
    if dtype.is_integer:
        return dtype if dtype.bits > 8 else dt.i8 if dtype.is_signed else dt.u8
    for wider in (dt.f16, dt.bf16):
        if dtype.bits <= 8 and dtype.exponent <= wider.exponent and dtype.mantissa <= wider.mantissa:
            return wider
    return dtype


def _atom(a: DType, b: DType, c: DType, target: Target) -> tuple[int, ...]:
    """The shape of the largest mma.sync for these dtypes, () where there is none."""
    shapes = [
        (m.m, m.n, m.k) for m in target.mma if (m.a, m.b, m.acc) == (a.name, b.name, c.name) and m.m == 16
    ]
    return max(shapes, key=lambda shape: shape[2], default=())


def places(func: Func, target: Target) -> Func:
    """Loads from global memory that feed a matrix product go through shared memory."""
    users = uses(func)
    loops = [inst for inst in func.walk() if isinstance(inst, For) and inst.stages > 1]
    ahead = {inst for loop in loops for inst in loop.body.walk()}
    to_buffers = {i for i in func.walk() if isinstance(i, Load) and _is_operand(i, users, i in ahead)}
    in_panels = _in_panels(func)

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if not isinstance(inst, Load) or emit.old not in to_buffers:
            return None
        buffer = emit(Alloc(inst.tile.dtype, inst.shape, in_panels.get(emit.old) or _in_rows(inst)))
        token = emit(Copy(inst.array, inst.at, buffer, inst.other, inside=inst.inside))
        emit(Wait((token,)))
        zero = Full(0, dt.i32)
        everything = tuple(range(len(inst.shape)))
        return Load(buffer, (zero,) * len(inst.shape), inst.shape, inst.other, True, everything)

    return rebuild(func, visit)


def _in_rows(load: Load) -> Layout:
    """A buffer for ldmatrix: neighbours in the array are neighbours in it, so that wide copies fill it."""
    dtype, strides, rank = load.tile.dtype, load.array.array_type.strides, len(load.shape)
    last = next((a for a in reversed(range(rank)) if strides[a] == 1 and load.shape[a] > 1), rank - 1)
    order = (*(a for a in range(rank) if a != last), last)
    shape = tuple(load.shape[a] for a in order)
    swizzle = swizzle_for(shape, dtype.bytes) if prod(shape[:-1]) > 1 and dtype.bits >= 8 else None
    steps = dense_strides(shape)
    return strided(load.shape, tuple(steps[order.index(a)] for a in range(rank)), swizzle)


def _in_panels(func: Func) -> dict[Value, Layout]:
    """The layouts of the buffers that warpgroups read."""
    dots = [inst for inst in func.walk() if isinstance(inst, Dot) and ROWS in inst.atom[:2]]
    found = [staged(v, k_axis) for dot in dots for v, k_axis in ((dot.a, 1), (dot.b, 0))]
    return dict(reversed([each for each in found if each]))


def _is_operand(load: Load, users: dict[Value, list[Inst]], ahead: bool) -> bool:
    """Whether the tile, perhaps reshaped or transposed, is an operand of a product, and worth a buffer. In a
    pipelined loop (`ahead`) so are bytes that a view reads: they come in while earlier ones are used."""
    if load.array.array_type.space != "global" or load.array.array_type.packed:
        return False
    todo: list[Value] = [load]
    while todo:
        value = todo.pop()
        for user in users.get(value, []):
            if isinstance(user, Dot | SparseDot) and value in user.factors:
                return True
            if isinstance(user, View) and ahead:
                return True
            if isinstance(user, Permute | Reshape) and user.tile.rank:
                todo.append(user)
    return False
