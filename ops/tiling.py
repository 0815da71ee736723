"""Which tiles the products are cut into, per target and problem: data for the kernels, never their meaning.

linear_tiling(16, f16, 128, "sm_90a")       Weighted(bm=16, fragment=mma_b(f16, (128, 128), 4), ...)
"""

import os
from contextlib import suppress
from functools import cache, lru_cache
from math import gcd
from typing import NamedTuple

from tilec.again import forget_plays
from tilec.device import device
from tilec.estimate import NOMINAL
from tilec.ir.boards import BOARDS, Rates
from tilec.ir.digits import Digit
from tilec.ir.dtype import DType, f16, f32
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout, local, register, spatial
from tilec.ir.layouts import mma_b, wgmma_a
from tilec.ir.signature import describable
from tilec.ir.target import parse_target
from tilec.ir.tile import ArrayType, Dim
from tilec.ops import dense_choice
from tilec.ops.dense_choice import Product
from tilec.ops.linear_choice import board_of, chosen
from tilec.ops.linear_cost import Problem, Tiles

Extent = int | str | Dim  # names and Dims: known at the launch
WARPS = 4
MMA_ROWS = 16
BLOCKS_PER_SM = 2  # whose copies are under way at once
MOST_PARTS = 8  # of K: the last block waits for each
LEAST_STEPS = 4  # in a part: fewer than these a pipeline does not fill
WIDE = 1024  # columns for each of the CPU's cores, from which tiles are wider
TMA_BITS = 128  # of which rows are made that TMA brings
WORD = 32  # bits of the lanes that weights are unpacked in


class Dense(NamedTuple):
    """Tiles of a (bm, bk) and b (bk, bn). `producer`: warps of their own bring them, where TMA can."""

    bm: int
    bn: int
    bk: int
    stages: int = 3
    warps: int = WARPS
    producer: bool = False

    def reading(self, *arrays: ArrayType) -> "Dense":
        """The same for these operands: a producer only where TMA can bring all of them."""
        return self._replace(producer=self.producer and all(map(describable, arrays)))


class Weighted(NamedTuple):
    """Tiles of x (bm, bk), and the layout in which weights come, over (bk, bn). `scaled_weights`: scales are
    applied to weights instead of sums. `placed`: what codes are cast to, if their bits lie where that
    takes fewest instructions.
    `split`: blocks that share one tile's sums, each with a part of K. `blocks`, where it is not 0: so many
    share all tiles' steps, each a run of them. `producer` as in Dense. `direct`: threads read what they
    multiply themselves, past shared memory. `rescaled`: instead of a group's sums being scaled and added, all
    sums are multiplied by the ratio of two groups' scales where the second begins, for scales that are
    `steady` (ops/weight.py). `slices`: each step along K is cut into so many, one for each
    group of warps, which hold weights as `sliced` says and add their sums up at the end.
    """

    bm: int
    fragment: Layout
    scaled_weights: bool = False
    placed: DType | None = None
    stages: int = 3
    warps: int = WARPS
    split: int = 1
    blocks: int = 0
    producer: bool = False
    direct: bool = False
    rescaled: bool = False
    slices: int = 1


def has_threads(target: str) -> bool:
    """Does the target spread tiles over threads? A GPU that only its driver knows does."""
    machine = parse_target(target).target
    return machine is None or machine.needs_layouts


def has_warpgroups(target: str) -> bool:
    """Do four warps of the target multiply matrices together? Weights are the left operand then."""
    machine = parse_target(target).target
    return machine is not None and machine.has("wgmma")


def known(target: str) -> str:
    """The target's name; of a GPU, what its driver says that it is, if there is one."""
    place = parse_target(target)
    with suppress(TilecError):
        return str(device(place.device).target.name) if place.target is None else target
    return target


def dense_tiling(
    m: Extent,
    n: Extent,
    dtype: DType,
    target: str,
    finished: bool = False,
    along: bool = False,
    k: Extent = "k",
    batch: Extent = 1,
) -> Dense:
    """For a [batch, m, k] @ [batch, k, n]; sums that an epilogue finishes leave room for what it needs in
    registers. `along`: the elements of a column of the right operand are neighbours. In 16 bits on a GPU it
    is the cost model's choice (ops/dense_choice.py).
    """
    if not has_threads(target):
        bm = rows_of(m, 1, 256)
        few = 32 if along else 128  # columns, where vectors lie along them or across
        return Dense(bm, rows_of(n, 8, 256 if bm > MMA_ROWS else few), 128)
    if dtype.bits >= 32:  # no matrix instruction is exact enough
        return Dense(rows_of(m, MMA_ROWS, 64), 64, 16)
    p = Product(_nominal(m) * (batch if isinstance(batch, int) else 1), _nominal(n), _nominal(k), finished)
    t = dense_choice.chosen(p, _board(target))
    return Dense(t.bm, t.bn, t.bk, t.stages, t.warps, t.producer > 0)


def linear_tiling(
    m: Extent,
    dtype: DType,
    group: int,
    target: str,
    bits: int = 16,
    n: Extent = "n",
    k: Extent = "k",
    finished: bool = False,
    steady: bool = False,
) -> Weighted:
    """For a [m, k] times weights [n, k] of `bits` bits in groups of `group` (0: the whole row); `finished`:
    an epilogue follows; `steady`: the weight is, so that its scales may be divided by each other. On a GPU it
    is the cost model's choice (ops/linear_choice.py), with one fragment for every m.
    """
    dtype = summed_as(dtype, group, target)
    if has_threads(target):
        return _modelled(m, dtype, group, target, known(target), bits, n, k, finished, steady)
    wide = isinstance(n, int) and n >= WIDE * _cores()
    return _vectors(m, dtype, group, bits, wide)


def direct(tiling: Weighted) -> Weighted:
    """The same bytes of weights, for few rows: read by the threads that multiply them. As a left operand they
    take 8 rows of x, else 16. Where threads have no whole words of them, the tiling as it is.
    """
    held = tiling.fragment
    if held.slots % WORD:
        return tiling
    bk, bn = held.shape
    left = held != sliced(f16, (bk, bn), tiling.warps, tiling.slices)
    return tiling._replace(bm=8 if left else 16, stages=1, producer=False, direct=True)


def sliced(dtype: DType, shape: tuple[int, int], warps: int, slices: int = 1) -> Layout:
    """Weights (bk, bn) for mma.sync, of which each of `slices` groups of warps holds its part of bk."""
    (bk, bn), beside = shape, warps // slices
    if bk % slices or warps % slices:
        raise TilecError(f"{warps} warps and steps of {bk} are not cut into {slices} equal slices")
    held = mma_b(dtype, (slices, bk // slices, bn), (slices, 1, beside)).reshape(shape)
    assert held is not None, "neighbouring axes are one"
    return held


def _board(target: str) -> Rates:
    """What stands for a GPU that nobody can ask is the oldest."""
    with suppress(TilecError):
        return board_of(target)
    return BOARDS["A100"]


@lru_cache(4096)
def _modelled(
    m: Extent,
    dtype: DType,
    group: int,
    place: str,
    target: str,
    bits: int,
    n: Extent,
    k: Extent,
    finished: bool,
    steady: bool,
) -> Weighted:
    """Blocks share tiles only where all extents are known, and there is something to do."""
    exact = all(isinstance(extent, int) and extent > 0 for extent in (m, n, k))
    p = Problem(_nominal(m), _nominal(n), _nominal(k), bits, group, finished, operands(dtype))
    found = weighted(chosen(p, _board(place), exact, steady), dtype, target)
    return found._replace(producer=found.producer and _multiple(k) * dtype.bits % TMA_BITS == 0)


def forget() -> None:
    """Tiles were measured: what was chosen before counts no more."""
    _modelled.cache_clear()
    forget_plays()


def weighted(tiles: Tiles, dtype: DType, target: str) -> Weighted:
    """The tiles as a kernel takes them on this target."""
    shape, warps = (tiles.bk, tiles.bn), tiles.warps
    if has_warpgroups(target) and dtype.bits < 32:
        fragment = wgmma_a(dtype, shape[::-1], (warps // WARPS, 1)).permute((1, 0))
    else:
        fragment = mma_b(dtype, shape, warps)
    placed = dtype if dtype.bits < 32 else None
    found = Weighted(tiles.bm, fragment, False, placed, tiles.stages, warps, tiles.split, tiles.blocks,
                     tiles.producer > 0, rescaled=tiles.rescaled > 0)  # fmt: skip
    return direct(found) if tiles.direct else found


def _multiple(extent: Extent) -> int:
    """What is known to divide an extent."""
    return extent if isinstance(extent, int) else extent.multiple if isinstance(extent, Dim) else 1


def _nominal(extent: Extent) -> int:
    """An extent that only the launch knows, as the model takes it."""
    return max(extent, 1) if isinstance(extent, int) else NOMINAL


def split(tiling: Weighted, m: Extent, n: Extent, k: Extent, target: str) -> int:
    """Into how many parts K is cut, so that tiles which are fewer than a GPU's processors become blocks for
    all of them; not where an extent is known at the launch only.
    """
    machine = parse_target(target).target
    if machine is None or machine.rates is None or not isinstance(m, int) or m < 1:
        return 1
    if not isinstance(n, int) or not isinstance(k, int):
        return 1
    bk, bn = tiling.fragment.shape
    tiles, steps = -(-m // tiling.bm) * -(-n // bn), -(-k // bk)
    parts = min(BLOCKS_PER_SM * machine.rates.sms // tiles, MOST_PARTS, steps // LEAST_STEPS)
    return -(-steps // -(-steps // parts)) if parts > 1 else 1  # no part is empty


def sums_bytes(group: int, target: str) -> bool:
    """Are a group's sums those of products of 8 bits, as the target's units make them?"""
    step = _steps(group, 128)
    return group % step == 0 and step >= (32 if has_threads(target) else 16)


def summed_as(dtype: DType, group: int, target: str) -> DType:
    """f32 for bytes of groups whose sums the target's units do not make."""
    return f32 if dtype.is_integer and not sums_bytes(group, target) else dtype


def operands(dtype: DType) -> str:
    """What the model calls products of a dtype: those of 16 bits take as long."""
    return dtype.name if dtype.bits != 16 else f16.name


@lru_cache(4096)
def _vectors(m: Extent, dtype: DType, group: int, bits: int, wide: bool) -> Weighted:
    """For the CPU."""
    bm = rows_of(m, 1, 128)
    many = 512 if wide else 256  # the more columns, the less often x is copied
    shape = _steps(group, 128), many if bm > MMA_ROWS else 128
    return Weighted(bm, columns(shape, bits), dtype.bits == 32 and bm > MMA_ROWS)


def columns(shape: tuple[int, int], bits: int) -> Layout:
    """A fragment (k, n) for vectors: each column's next weights lie in words of 32 bits, neighbours side by
    side. Where a word holds them whole those that share a byte are four rows apart, so that a mask leaves
    four rows in bytes, as products of bytes take them. Where a column is no whole words, row by row.
    """
    run = min(WORD // gcd(WORD, bits), shape[0])
    if run * bits % WORD:
        return local(*shape)
    planes = max(1, 8 // bits) if run * bits == WORD else 1
    digits = Digit(run // planes, (1, 0)), Digit(planes, (run // planes, 0))
    return spatial(shape[0] // run, shape[1]) * register((run, 1), (), digits)


@cache
def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rows_of(m: Extent, least: int, most: int) -> int:
    """The power of two that is as large as m, between bounds; an extent known at the launch is large."""
    rows = least
    while rows < most and (not isinstance(m, int) or rows < m):
        rows *= 2
    return rows


def _steps(group: int, most: int) -> int:
    """The longest step along K of which a group is made; 32 where no step of 16 or more divides it."""
    return next((bk for bk in (128, 64, 32, 16) if bk <= most and group % bk == 0), 32)
