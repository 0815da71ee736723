"""Layouts that people ask for by name (in a kernel: tc.layouts).

    mma_b(f16, (64, 128), warps=4)        a fragment of weights: what each thread feeds to the matrix units
    blocked((64, 128), threads=128, vector=8)     wide, coalesced accesses to a row-major array
A matrix product over warps=(wm, wn) puts wm warps below each other and wn beside each other: a is the same in
the wn warps of a row, b in the wm of a column. An integer: all warps side by side (b, c), or stacked (a).
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

Warps = int | tuple[int, int]
SECTOR = 8  # elements of 4 bytes in the 32 bytes that memory moves at once


def mma_a(dtype: DType, shape: tuple[int, int], warps: Warps = 1) -> Layout:
    """The left operand (m, k) for mma.sync on elements of this size, slots (m-subtile, k-step, atom)."""
    wm, wn = _grid(warps if isinstance(warps, tuple) else (warps, 1))
    atom = full_mma_atom(dtype.bits).a
    rows, steps = _repeats(shape, (wm, 1), atom)
    return (spatial(wm, 1) * replicas(2, wn) * local(rows, steps) * atom).with_shape(shape)


def mma_b(dtype: DType, shape: tuple[int, int], warps: Warps = 1) -> Layout:
    """The right operand (k, n) for mma.sync on elements of this size, slots (k-step, n-subtile, atom).

    Neighbours along k that share a register are neighbouring slots, and a warp's columns are neighbours, so
    that `bytes` stores what a thread needs for one step in one piece.
    """
    wm, wn = _grid(warps if isinstance(warps, tuple) else (1, warps))
    atom = full_mma_atom(dtype.bits).b
    steps, columns = _repeats(shape, (1, wn), atom)
    return (replicas(2, wm) * spatial(1, wn) * local(steps, columns) * atom).with_shape(shape)


def mma_places(dtype: DType, shape: tuple[int, int], warps: Warps = 1) -> Layout:
    """The places (m, k / 2) of a sparse left operand whose values have the layout mma_a(dtype, shape, warps);
    slots (m-subtile, k-step, atom). A thread's 16 places of an atom are one register.
    """
    wm, wn = _grid(warps if isinstance(warps, tuple) else (warps, 1))
    atom = sparse_atom(dtype.bits).places
    rows, steps = _repeats(shape, (wm, 1), atom)
    return (spatial(wm, 1) * replicas(2, wn) * local(rows, steps) * atom).with_shape(shape)


def mma_sparse_b(dtype: DType, shape: tuple[int, int], warps: Warps = 1) -> Layout:
    """The right operand (k, n) of a product with a sparse one, as mma_b: steps are twice as long."""
    wm, wn = _grid(warps if isinstance(warps, tuple) else (1, warps))
    atom = sparse_atom(dtype.bits).b
    steps, columns = _repeats(shape, (1, wn), atom)
    return (replicas(2, wm) * spatial(1, wn) * local(steps, columns) * atom).with_shape(shape)


def mma_c(dtype: DType, shape: tuple[int, int], warps: Warps = 1) -> Layout:
    """The accumulator (m, n) of mma.sync, slots (m-subtile, n-subtile, atom); only f64's differs."""
    if dtype.bits < 16:
        raise TilecError(f"mma accumulates in f64, f32, i32 or f16, not {dtype}")
    wm, wn = _grid(warps if isinstance(warps, tuple) else (1, warps))
    atom = full_mma_atom(64 if dtype.bits == 64 else 16).c
    rows, columns = _repeats(shape, (wm, wn), atom)
    return (spatial(wm, wn) * local(rows, columns) * atom).with_shape(shape)


def wgmma_a(dtype: DType, shape: tuple[int, int], groups: tuple[int, int] = (1, 1)) -> Layout:
    """The left operand (m, k) of wgmma in registers, over warpgroups below and beside each other; slots
    (m-subtile, k-step, atom).
    """
    atom = wgmma_atom(8, dtype.bits).a
    rows, steps = _repeats(shape, (groups[0], 1), atom)
    return (spatial(groups[0], 1) * replicas(2, groups[1]) * local(rows, steps) * atom).with_shape(shape)


def wgmma_places(dtype: DType, shape: tuple[int, int], groups: tuple[int, int] = (1, 1)) -> Layout:
    """The places (m, k / 2) of a sparse left operand whose values have the layout wgmma_a(dtype, shape,
    groups); slots as those of mma_places.
    """
    atom = spatial(4, 1) * sparse_atom(dtype.bits).places
    rows, steps = _repeats(shape, (groups[0], 1), atom)
    return (spatial(groups[0], 1) * replicas(2, groups[1]) * local(rows, steps) * atom).with_shape(shape)


def wgmma_c(shape: tuple[int, int], groups: tuple[int, int] = (1, 1)) -> Layout:
    """The accumulator (m, n) of wgmma, slots (m-subtile, n-subtile of 8, atom)."""
    atom = wgmma_atom(8, 16).c
    rows, columns = _repeats(shape, groups, atom)
    return (spatial(*groups) * local(rows, columns) * atom).with_shape(shape)


def _grid(warps: tuple[int, int]) -> tuple[int, int]:
    if min(warps) < 1:
        raise TilecError(f"a product needs at least one warp on each axis, not {warps}")
    return warps


def _repeats(shape: tuple[int, int], warps: tuple[int, int], atom: Layout) -> list[int]:
    """How often each warp repeats the atom on each axis; it goes past the tile where that does not divide."""
    if len(shape) != 2:
        raise TilecError(f"a fragment of a matrix product has two axes, not {list(shape)}")
    return [-(-n // (w * a)) for n, w, a in zip(shape, warps, atom.shape, strict=True)]


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
