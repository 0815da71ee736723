"""Layouts that people ask for by name (in a kernel: tc.layouts).

    mma_b(f16, (64, 128), warps=4)        a fragment of weights: what each thread feeds to the matrix units
    blocked((64, 128), threads=128, vector=8)     wide, coalesced accesses to a row-major array
A matrix product over warps=(wm, wn) puts wm warps below each other and wn beside each other: a is the same in
the wn warps of a row, b in the wm of a column. An integer: all warps side by side (b, c), or stacked (a).
Of several products at once shapes have an axis in front, (s, m, k), over which wz of warps=(wz, wm, wn) go.
"""

from functools import lru_cache
from math import prod

from tilec.ir.atoms import full_mma_atom, ldmatrix_atom, mma_atom, sparse_atom, wgmma_atom
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.layout import (
    Layout,
    Shape,
    column_local,
    column_spatial,
    local,
    replicas,
    spatial,
)

__all__ = [
    "blocked", "column_local", "column_spatial", "full_mma_atom", "ldmatrix_atom", "local",
    "mma_a", "mma_atom", "mma_b", "mma_c", "mma_places", "mma_sparse_b", "replicas", "sparse_atom",
    "spatial", "wgmma_a", "wgmma_atom", "wgmma_c", "wgmma_places",
]  # fmt: skip

Warps = int | tuple[int, ...]
BELOW, BESIDE = 1, 2  # axes of the warps' grid
SECTOR = 8  # elements of 4 bytes in the 32 bytes that memory moves at once


def mma_a(dtype: DType, shape: Shape, warps: Warps = 1) -> Layout:
    """The left operand (m, k) for mma.sync on elements of this size, slots (m-subtile, k-step, atom)."""
    over, wm, wn = _grid(warps, BELOW)
    return _tiled(shape, over, spatial(wm, 1) * replicas(2, wn), full_mma_atom(dtype.bits).a)


def mma_b(dtype: DType, shape: Shape, warps: Warps = 1) -> Layout:
    """The right operand (k, n) for mma.sync on elements of this size, slots (k-step, n-subtile, atom).

    Neighbours along k that share a register are neighbouring slots, and a warp's columns are neighbours, so
    that `bytes` stores what a thread needs for one step in one piece.
    """
    over, wm, wn = _grid(warps, BESIDE)
    return _tiled(shape, over, replicas(2, wm) * spatial(1, wn), full_mma_atom(dtype.bits).b)


def mma_places(dtype: DType, shape: Shape, warps: Warps = 1) -> Layout:
    """The places (m, k / 2) of a sparse left operand whose values have the layout mma_a(dtype, shape, warps);
    slots (m-subtile, k-step, atom). A thread's 16 places of an atom are one register.
    """
    over, wm, wn = _grid(warps, BELOW)
    return _tiled(shape, over, spatial(wm, 1) * replicas(2, wn), sparse_atom(dtype.bits).places)


def mma_sparse_b(dtype: DType, shape: Shape, warps: Warps = 1) -> Layout:
    """The right operand (k, n) of a product with a sparse one, as mma_b: steps are twice as long."""
    over, wm, wn = _grid(warps, BESIDE)
    return _tiled(shape, over, replicas(2, wm) * spatial(1, wn), sparse_atom(dtype.bits).b)


def mma_c(dtype: DType, shape: Shape, warps: Warps = 1) -> Layout:
    """The accumulator (m, n) of mma.sync, slots (m-subtile, n-subtile, atom); only f64's differs."""
    if dtype.bits < 16:
        raise TilecError(f"mma accumulates in f64, f32, i32 or f16, not {dtype}")
    over, wm, wn = _grid(warps, BESIDE)
    return _tiled(shape, over, spatial(wm, wn), full_mma_atom(64 if dtype.bits == 64 else 16).c)


def wgmma_a(dtype: DType, shape: tuple[int, int], groups: tuple[int, ...] = (1, 1)) -> Layout:
    """The left operand (m, k) of wgmma in registers, over warpgroups below and beside each other; slots
    (m-subtile, k-step, atom).
    """
    return _tiled(shape, 1, spatial(groups[0], 1) * replicas(2, groups[1]), wgmma_atom(8, dtype.bits).a)


def wgmma_places(dtype: DType, shape: tuple[int, int], groups: tuple[int, ...] = (1, 1)) -> Layout:
    """The places (m, k / 2) of a sparse left operand whose values have the layout wgmma_a(dtype, shape,
    groups); slots as those of mma_places.
    """
    atom = spatial(4, 1) * sparse_atom(dtype.bits).places
    return _tiled(shape, 1, spatial(groups[0], 1) * replicas(2, groups[1]), atom)


def wgmma_c(shape: tuple[int, int], groups: tuple[int, int] = (1, 1)) -> Layout:
    """The accumulator (m, n) of wgmma, slots (m-subtile, n-subtile of 8, atom)."""
    return _tiled(shape, 1, spatial(*groups), wgmma_atom(8, 16).c)


def _grid(warps: Warps, along: int) -> tuple[int, int, int]:
    """Warps over several products, below and beside each other; a number: all of them along one axis."""
    if isinstance(warps, int):
        warps = tuple(warps if axis == along else 1 for axis in (BELOW, BESIDE))
    if min(warps) < 1:
        raise TilecError(f"a product needs at least one warp on each axis, not {warps}")
    over, wm, wn = (1, *warps)[-3:]
    return over, wm, wn


def _tiled(shape: Shape, over: int, warps: Layout, atom: Layout) -> Layout:
    """Atoms side by side in each warp; they go past the tile where that does not divide."""
    if len(shape) not in (2, 3) or (len(shape) == 2 and over > 1):
        axes = "three axes, as its warps have," if over > 1 else "two axes, of several products three,"
        raise TilecError(f"a fragment of a matrix product has {axes} not {list(shape)}")
    repeats = [-(-n // (w * a)) for n, w, a in zip(shape[-2:], warps.shape, atom.shape, strict=True)]
    one = warps * local(*repeats) * atom
    if len(shape) == 3:
        one = spatial(over, 1, 1) * local(-(-shape[0] // over), 1, 1) * one.insert_axis(0)
    return one.with_shape(shape)


@lru_cache(1024)
def blocked(shape: Shape, threads: int, vector: int = 1) -> Layout:
    """The register layout for row-major memory: `vector` neighbours of the last axis in a thread, threads
    side by side, then slots that step over the whole width of the threads. For any shape: goes past the tile
    where extents do not divide, and replicates where there are more threads than elements.

    Threads are shared out among the axes so that the fewest slots result; rows that are narrower than a
    sector of 32 bytes count as that wide, and of equals the widest row wins.
    """
    if threads < 1 or vector < 1:
        raise TilecError(
            f"a layout needs at least 1 thread and 1 element a vector, not {threads} and {vector}"
        )
    if not shape:
        return replicas(0, threads)
    vector = min(vector, shape[-1])
    cells = (*shape[:-1], -(-shape[-1] // vector))
    width = min(_useful(threads, cells[-1]), key=lambda w: (_cost(cells, threads, w, vector), -w))
    across = (*_shares(cells[:-1], threads // width)[1], width)
    steps = tuple(-(-n // t) for n, t in zip(cells, across, strict=True))
    run = local(*(1,) * (len(shape) - 1), vector)
    spare = replicas(len(shape), threads // prod(across))
    return (spare * local(*steps) * spatial(*across) * run).with_shape(shape)


def _cost(cells: Shape, threads: int, width: int, vector: int) -> float:
    """Slots if `width` threads share the last axis, times what rows narrower than a sector lose."""
    steps = -(-cells[-1] // width) * _shares(cells[:-1], threads // width)[0]
    return steps * max(1.0, min(SECTOR, cells[-1] * vector) / (width * vector))


@lru_cache(4096)
def _shares(extents: Shape, threads: int) -> tuple[int, Shape]:
    """The fewest steps in which `threads` go over the axes, and how many go along each (divisors)."""
    if not extents:
        return 1, ()
    options = (
        (-(-extents[-1] // here) * rest[0], -here, (*rest[1], here))
        for here in _useful(threads, extents[-1])
        for rest in [_shares(extents[:-1], threads // here)]
    )
    steps, _, shares = min(options)
    return steps, shares


@lru_cache(1024)
def _useful(threads: int, extent: int) -> tuple[int, ...]:
    """The divisors of `threads` up to the first that reaches `extent`: more would only be pad."""
    divisors = [d for d in range(1, threads + 1) if threads % d == 0]
    enough = next((d for d in divisors if d >= extent), threads)
    return tuple(d for d in divisors if d <= enough)
