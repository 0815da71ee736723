"""What proposes layouts, and what each costs: matrix atoms, wide accesses to memory, reductions, views.

Prices are in cycles of one SM for one warp, as in tilec.ir.conversion: an access of a warp costs one cycle,
and one for every two 32-byte sectors that it touches.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd, prod

import numpy as np

from tilec.ir.conversion import conversion
from tilec.ir.digits import Digit
from tilec.ir.dtype import DType
from tilec.ir.facts import Facts
from tilec.ir.inst.memory import Load, Store
from tilec.ir.inst.mma import Dot, GroupProduct, matrix_shape
from tilec.ir.inst.shape import Permute, Reshape
from tilec.ir.inst.sparse import SparseDot
from tilec.ir.layout import Layout, Shape, local, register, spatial
from tilec.ir.layouts import (
    blocked,
    mma_a,
    mma_b,
    mma_c,
    mma_places,
    mma_sparse_b,
    wgmma_a,
    wgmma_c,
    wgmma_places,
)
from tilec.ir.tile import ArrayType

WARP, SECTOR, SECTORS = 32, 32, 2  # threads; bytes; that come from L2 in a cycle
GROUP, ROWS = 4, 64  # warps of a warpgroup, and rows of its product
Trio = tuple[Layout, Layout, Layout]
Split = tuple[int, ...]  # warps below and beside each other; in front, over several products


# -- products ---------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def dot_layouts(
    shape: Shape, dtypes: tuple[DType, DType, DType], atom: bool, across: Split, apart: bool
) -> Trio:
    """Layouts of a, b and c for a product of (m, n, k), or several, that warps share out as `across`."""
    if not atom:
        return _fma_layouts(shape, prod(across) * WARP, apart)
    *count, m, n, k = shape
    rows, right, sums = (*count, m, k), (*count, k, n), (*count, m, n)
    a, b, c = dtypes
    return mma_a(a, rows, across), mma_b(b, right, across), mma_c(c, sums, across)


def splits(warps: int, shape: Shape = ()) -> list[Split]:
    """The ways to share out a product with a result of this shape among warps, or several."""
    if len(shape) == 3:
        over = [wz for wz in range(1, shape[0] + 1) if warps % wz == 0 and shape[0] % wz == 0]
        return [(wz, *rest) for wz in over for rest in splits(warps // wz)]
    return [(wm, warps // wm) for wm in range(1, warps + 1) if warps % wm == 0]


def traffic(shape: Shape, across: Split, chained: bool) -> tuple[int, int, int]:
    """Work of each warp on c (m, n), idle parts counted, then the rows and columns that it reads. `chained`:
    a comes from another product, whose accumulators are its fragments if warps lie below each other."""
    (*count, m, n), (*over, wm, wn) = shape, across
    rows, columns = -(-m // (16 * wm)) * 16, -(-n // (8 * wn)) * 8
    each = prod(count) // prod(over)
    work = each * rows * columns
    return work * (2 if chained and wn > 1 else 1), each * (rows + columns), wn


def _fma_layouts(shape: Shape, threads: int, apart: bool) -> Trio:
    """Each thread a rectangle of c, as square as can be: rows * columns products for rows + columns reads.
    Its columns are neighbours, or `apart`: then those of neighbouring threads are, which lie in different
    banks where b's columns are rows of its buffer.
    """
    *count, m, n, k = shape
    if count:
        over = gcd(count[0], threads)
        each = spatial(over, 1, 1) * local(count[0] // over, 1, 1)
        a, b, c = (each * one.insert_axis(0) for one in _fma_layouts((m, n, k), threads // over, apart))
        return a, b, c
    down = min(
        (d for d in range(1, threads + 1) if threads % d == 0),
        key=lambda d: (-(-m // d) * -(-n // (threads // d)), -(-m // d) + -(-n // (threads // d))),
    )
    across = threads // down
    rows, columns = -(-m // down), -(-n // across)
    there, here = (1, across) if apart else (columns, 1)
    down_m, down_0 = (Digit(down, (step, 0)) for step in (rows, 0))
    across_n, across_0 = (Digit(across, (0, step)) for step in (there, 0))
    row, column = Digit(rows, (1, 0)), Digit(columns, (0, here))
    a = register((m, k), (down_m, across_0), (row, Digit(k, (0, 1))))
    b = register((k, n), (down_0, across_n), (Digit(k, (1, 0)), column))
    return a, b, register((m, n), (down_m, across_n), (row, column))


def layouts_of_group(dot: GroupProduct, threads: int) -> tuple[Layout, ...]:
    """Of what threads hold of the factors, then of the sums."""
    (m, n, _), groups = dot.shape, split(dot.shape[0], threads // (WARP * GROUP))
    sums, factors = wgmma_c((m, n), groups), list[Layout]()
    if dot.held:
        left = dot.a.tile
        shape = matrix_shape(left.shape, dot.turned[0])
        factors = [made(left.dtype, shape, groups) for made in (wgmma_a, wgmma_places)[: len(dot.held)]]
    turned = [dot.turned[0]] * len(factors) + [dot.turned[2]]
    return tuple(x.permute((1, 0)) if t else x for x, t in zip((*factors, sums), turned, strict=True))


def split(m: int, groups: int) -> tuple[int, int]:
    """How warpgroups share out a product of m rows: below each other while there are rows, then beside."""
    below = gcd(m // ROWS, groups)
    return below, groups // below


def reads_along_k(dot: Dot | SparseDot) -> bool:
    """Whether b comes from a buffer in which k is the axis of neighbours."""
    v, axis = dot.b, 0
    while isinstance(v, Permute | Reshape):
        if isinstance(v, Permute):
            axis = v.axes[axis]
        elif axis == v.tile.rank - 1 and v.shape[-1:] == v.x.tile.shape[-1:]:
            axis = v.x.tile.rank - 1
        else:
            return False
        v = v.x
    memory = v.array.array_type.layout if isinstance(v, Load) else None
    return memory is not None and any(digit.stride == (1,) for digit in memory.parts[axis])


def layouts_of_dot(dot: Dot | SparseDot, across: Split, apart: bool = False) -> tuple[Layout, ...]:
    """Of its factors, then of c."""
    if isinstance(dot, SparseDot):
        return _sparse_layouts(dot, across)
    dtypes = (dot.a.tile.dtype, dot.b.tile.dtype, dot.c.tile.dtype)
    shape = (*dot.tile.shape, dot.a.tile.shape[-1])
    return dot_layouts(shape, dtypes, bool(dot.atom), across, apart)


def _sparse_layouts(dot: SparseDot, across: Split) -> tuple[Layout, ...]:
    """Values as a dense operand of half the columns."""
    a, b, c = dot.values.tile, dot.b.tile, dot.c.tile
    values, places = (layout(a.dtype, a.shape, across) for layout in (mma_a, mma_places))
    return values, places, mma_sparse_b(b.dtype, b.shape, across), mma_c(c.dtype, c.shape, across)


# -- memory -----------------------------------------------------------------------------------------


def wide(inst: Load | Store, shape: tuple[int, ...], threads: int, facts: Facts) -> Layout:
    """The layout of the widest coalesced access to a tile of an array that alignment proves."""
    kind = inst.array.array_type
    axis = next((a for a in reversed(range(kind.rank)) if kind.strides[a] == 1), kind.rank - 1)
    vector = proven_vector(inst, shape, axis, facts, max(1, prod(shape) // threads))
    if axis == kind.rank - 1:
        return blocked(shape, threads, vector)
    order = (*(a for a in range(kind.rank) if a != axis), axis)
    turned = blocked(tuple(shape[a] for a in order), threads, vector)
    return turned.permute(tuple(order.index(a) for a in range(kind.rank)))


def proven_vector(
    inst: Load | Store, shape: tuple[int, ...], axis: int, facts: Facts, most: int = 16
) -> int:
    """Elements per access: a power of two that divides tile, alignment and, where masked, the extent."""
    kind, at = inst.array.array_type, inst.at
    if kind.packed and isinstance(inst, Store):
        return 8 // gcd(8, kind.dtype.bits)  # whole bytes: no two threads may write one
    size = max(1, kind.dtype.bits // 8)
    vector = 1 << (max(1, min(16 // size, most)).bit_length() - 1)
    while vector > 1:
        steps = [
            facts.multiple(at[a]) * facts.stride_multiple(inst.array, a)
            for a in range(kind.rank)
            if a != axis
        ]
        moves = [facts.stride_multiple(inst.array, a) for a in range(kind.rank) if a != axis and shape[a] > 1]
        starts = int(np.gcd.reduce([shape[axis], facts.multiple(at[axis]), *steps, *moves]))
        whole = axis not in inst.masked or facts.extent_multiple(inst.array, axis) % vector == 0
        if starts % vector == 0 and facts.align(inst.array) % (vector * size) == 0 and whole:
            break
        vector //= 2
    return vector


@lru_cache(maxsize=4096)
def access_cost(layout: Layout, kind: ArrayType, vector_limit: int) -> float:
    """Sectors that the warps of a block touch in one access of the whole tile, per warp."""
    axis = next((a for a in reversed(range(kind.rank)) if kind.strides[a] == 1), None)
    size = max(1, kind.dtype.bits // 8)
    slots = layout.slot_part()
    run = 1
    while (
        axis is not None
        and run * 2 <= vector_limit
        and layout.slots % (run * 2) == 0
        and _contiguous(slots, run * 2, axis)
    ):
        run *= 2
    points = layout.points()[:, ::run].astype(np.int64)
    last = axis if axis is not None else kind.rank - 1
    rows = np.zeros(points.shape[:2], np.int64)
    for a in range(layout.rank):
        if a != last:
            rows = rows * 4096 + points[..., a]
    sectors = (
        rows * (1 << 20) + points[..., last] * size // SECTOR
        if axis is not None
        else rows * (1 << 20) + points[..., last]
    )
    warps = np.sort(sectors.reshape(-1, WARP, sectors.shape[1]), axis=1)
    touched = (np.diff(warps, axis=1) != 0).sum() + warps.shape[0] * warps.shape[2]
    return float(touched / warps.shape[0] / SECTORS + sectors.shape[1])


def _contiguous(slots: np.ndarray, run: int, axis: int) -> bool:
    step = np.zeros(slots.shape[1], slots.dtype)
    step[axis] = 1
    grouped = slots.reshape(-1, run, slots.shape[1])
    return bool((grouped == grouped[:, :1] + np.arange(run)[:, None] * step).all())


# -- reductions, scans, scalars ---------------------------------------------------------------------


@lru_cache(maxsize=1024)
def in_warp(shape: tuple[int, ...], axis: int, warps: int) -> Layout:
    """The axis within one warp, its lanes side by side; the other axes over warps."""
    rest = shape[:axis] + shape[axis + 1 :]
    outer = blocked(rest, warps, 1).insert_axis(axis)
    return _along(outer, axis, -(-shape[axis] // WARP), WARP).with_shape(shape)


@lru_cache(maxsize=1024)
def scanned(shape: tuple[int, ...], axis: int, threads: int) -> Layout:
    """The axis within neighbouring lanes, each with a run of it, the other axes over the other threads: with
    as many lanes as leave a thread the fewest slots.
    """
    return min((_runs(shape, axis, threads, 1 << bits) for bits in range(6)), key=lambda found: found.slots)


def _runs(shape: tuple[int, ...], axis: int, threads: int, lanes: int) -> Layout:
    outer = blocked(shape[:axis] + shape[axis + 1 :], threads // lanes, 1).insert_axis(axis)
    side, run = ([1] * len(shape) for _ in range(2))
    side[axis], run[axis] = lanes, -(-shape[axis] // lanes)
    return (outer * spatial(*side) * local(*run)).with_shape(shape)


def _along(outer: Layout, axis: int, slots: int, lanes: int) -> Layout:
    ones = [1] * outer.rank
    steps, side = (tuple([*ones[:axis], n, *ones[axis + 1 :]]) for n in (slots, lanes))
    return outer * local(*steps) * spatial(*side)


def in_parts(shape: tuple[int, ...], part: tuple[int, ...], threads: int) -> list[Layout]:
    """Equal parts of a tile beside each other in slots: each thread has the same places of all of them."""
    counts = [-(-n // m) for n, m in zip(shape, part, strict=True)]
    if any(n != m * count for n, m, count in zip(shape, part, counts, strict=True)):
        return []
    return [local(*counts) * blocked(part, threads, 1)]


def everywhere(shape: tuple[int, ...], threads: int) -> Layout:
    """Every thread holds all of it."""
    return (
        blocked(shape, threads, 1)
        if prod(shape) == 1
        else register(shape, (Digit(threads, (0,) * len(shape)),), local(*shape).digits("slot"))
    )


# -- conversions ------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def conversion_cost(a: Layout, b: Layout, bits: int = 32) -> float:
    """What it takes to come from a to b with elements of so many bits."""
    return 0.0 if a == b else conversion(a, b, bits).cost


@lru_cache(maxsize=4096)
def collapsed(layout: Layout, operand: tuple[int, ...]) -> Layout:
    """The layout of a broadcast's operand that makes it free: the result's, with the repeated axes at 0."""
    kept = tuple(0 if n == 1 and m != 1 else 1 for n, m in zip(operand, layout.shape, strict=True))

    def strides(digits: tuple[Digit, ...]) -> tuple[Digit, ...]:
        return tuple(
            Digit(d.extent, tuple(s * k for s, k in zip(d.stride, kept, strict=True))) for d in digits
        )

    slots = tuple(d for d in strides(layout.digits("slot")) if any(d.stride))
    return register(operand, strides(layout.digits("thread")), slots)
