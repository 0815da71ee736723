"""Linear layers whose weights keep two of each four neighbours along a row: the kernel, and calling it.

    y = linear(x, sparsify(prune_2_4(w), "u4"))       # x [..., K], w [N, K] -> y [..., N]
What is kept is unpacked in registers like any quantised weight (linear_kernel.py); on GPUs it is the left
operand of mma.sp or wgmma.sp, whose places come packed as the machine takes them.
Source of the idea: Frantar et al. 2024, "MARLIN", section 3.5 (Sparse-MARLIN).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType, u2
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout
from tilec.ir.layouts import mma_a, mma_b, mma_places, wgmma_a, wgmma_places
from tilec.ops.arrays import Array
from tilec.ops.callers import there
from tilec.ops.epilogue import PLAIN, Epilogue, Extras
from tilec.ops.factors import by_elements, compute_dtype, factors, unit, zeros_dtype
from tilec.ops.linear_kernel import NOTHING, count, finish_part, shared_specs, whole_group
from tilec.ops.linear_sums import Weights, ends_group
from tilec.ops.sparse_weight import SparseWeight, check_columns, kept_of
from tilec.ops.split import Run, Shared, Turn, room, run_of
from tilec.ops.tiling import (
    MMA_ROWS,
    WARPS,
    Extent,
    Weighted,
    columns,
    has_threads,
    has_warpgroups,
    known,
    rows_of,
)
from tilec.ops.tiling import split as parts
from tilec.places import current_target

Fragment = Callable[[DType, tuple[int, int], tuple[int, int]], Layout]
LEAST_ROWS = 8  # of x: columns of the right operand


class Sparse(NamedTuple):
    """Tiles of x (bm, bk), and the layouts in which what is kept and its places come, over (bk / 2, bn);
    `placed` and `split` as in tiling.Weighted.
    """

    bm: int
    fragment: Layout
    spots: Layout
    placed: DType | None = None
    stages: int = 3
    warps: int = WARPS
    split: int = 1


@tc.kernel
def sparse_linear_kernel(
    x: tc.Array,
    codes: tc.Array,
    places: tc.Array,
    scales: tc.Array,
    zeros: tc.Array,
    y: tc.Array,
    bias: tc.Array,
    residual: tc.Array,
    x_scale: tc.Array,
    u: tc.Array,
    v: tc.Array,
    partial: tc.Array,
    locks: tc.Array,
    *,
    weight: DType,
    fragment: Layout,
    spots: Layout,
    group: int,
    compute: DType,
    zero_point: bool = False,
    epilogue: Epilogue = PLAIN,
    placed: DType | None = None,
    bm: int = 16,
    stages: int = 3,
    warps: int = 4,
    split: int = 1,
    once: bool = False,
) -> None:
    """y = x @ w^T, finished as `epilogue` says: `split` blocks compute one tile (bm, bn) of y (ops/split.py).

    x [M, K]; codes and places [ceil(N / bn), ceil(K / bk), bytes]; scales and zeros [groups, N]; `group`
    columns of w share a scale, 0: all of them do. Products of `compute`, sums of f32.
    """
    if once:
        codes.read_once()
        places.read_once()
    Y, steps = y.tiles((bm, fragment.shape[1])), tc.cdiv(x.shape[1], 2 * fragment.shape[0])
    i, j, part = tc.blocks(*Y.shape, split)
    form = Form(weight, fragment, spots, group, compute, zero_point, placed)
    given, extras = Weights(codes, scales, zeros), Extras(bias, residual, x_scale, u, v)
    acc = summed(x, given, places, form, i, j, run_of(steps, part, split), bm, stages)
    turn = Turn(tc.block_ticket(), part, split)
    finish_part(Y, acc, i, j, turn, Shared(partial, locks), extras, epilogue)


class Form(NamedTuple):
    """As linear_sums.Form, over (bk / 2, bn); `spots` is the layout of places."""

    weight: DType
    fragment: Layout
    spots: Layout
    group: int
    compute: DType
    zero_point: bool
    placed: DType | None


def summed(
    x: tc.Array, given: Weights, places: tc.Array, form: Form, i: Any, j: Any, run: Run, bm: int, stages: int
) -> tc.Tile:
    """The sums (bm, bn) f32 of tile (i, j), over the steps of a run along K."""
    (half, bn), group, compute, zero_point = form.fragment.shape, form.group, form.compute, form.zero_point
    weight, placed, scales, zeros, bk = form.weight, form.placed, given.scales, given.zeros, 2 * half
    X, W = x.tiles((bm, bk)), given.codes.tiles((1, 1, form.fragment.nbytes(weight)))
    P = places.tiles((1, 1, form.spots.nbytes(tc.u2)))
    acc, part = tc.zeros((bm, bn), tc.f32), tc.zeros((bm, bn), tc.f32)  # all sums, and those of a group
    held = weight.all_numbers if weight.exponent < compute.exponent else weight  # no code is special
    worth = unit(weight, compute, zero_point, placed) if group % bk == 0 else 1.0
    for s in tc.range(run.first, run.last, stages=stages):
        xs, w = X[i, s].to(compute), tc.view(W[j, s, 0], held, form.fragment, placed=placed)
        p = tc.view(P[j, s, 0], tc.u2, form.spots)
        if group % bk == 0:
            at = (s * bk // group if group else 0, j * bn)
            w = factors(w, zeros, at, compute, zero_point, placed)
            part = tc.dot(xs, tc.sparse(w, p, axis=0), part)
            if group and ends_group(s, run.last, bk, group):
                acc = tc.fma(part, scales.load(at, (1, bn)).to(tc.f32), acc)
                part = tc.zeros((bm, bn), tc.f32)
        else:  # groups end within a step: each weight gets its own scale
            g, n = (s * half + tc.arange(half)[:, None]) // (group // 2), j * bn + tc.arange(bn)[None, :]
            scaled = by_elements(w, scales, zeros, (g, n), zero_point).to(compute)
            acc = tc.dot(xs, tc.sparse(scaled, p, axis=0), acc)
    if not group:
        acc = part * scales.load((0, j * bn), (1, bn)).to(tc.f32)
    return acc if worth == 1 else acc * worth


def sparse_tiling(
    m: Extent, dtype: DType, group: int, target: str, bits: int, n: Extent = "n", k: Extent = "k"
) -> Sparse:
    """For a [m, k] times weights [n, k] that keep codes of `bits` bits; `group` columns share a scale, 0: all
    do."""
    found = _tiling(m, dtype, group, known(target), bits)
    if not has_threads(target):
        return found
    kept = k // 2 if isinstance(k, int) else k
    return found._replace(split=parts(Weighted(found.bm, found.fragment), m, n, kept, known(target)))


@lru_cache(1024)
def _tiling(m: Extent, dtype: DType, group: int, target: str, bits: int) -> Sparse:
    if not has_threads(target):
        shape = _half(group, 128), 128
        return Sparse(rows_of(m, 1, 128), columns(shape, bits), columns(shape, u2.bits))
    if dtype.bits == 32:  # no matrix instruction is exact enough
        fragment = mma_b(dtype, (16, 64), WARPS)
        return Sparse(rows_of(m, MMA_ROWS, 32), fragment, fragment)
    placed = None if bits > 8 else dtype
    if has_warpgroups(target):  # one fragment for every m
        fragment, spots = _turned((wgmma_a, wgmma_places), dtype, (128, _half(group, 128)), (2, 1))
        return Sparse(rows_of(m, LEAST_ROWS, 128), fragment, spots, placed, warps=2 * WARPS)
    bm = rows_of(m, LEAST_ROWS, 64)
    shape = 128, _half(group, 128 if bm <= MMA_ROWS else 64)  # a warp's 32 rows fill its registers
    fragment, spots = _turned((mma_a, mma_places), dtype, shape, (WARPS, 1))
    return Sparse(bm, fragment, spots, placed)


def _turned(
    made: Sequence[Fragment], dtype: DType, shape: tuple[int, int], across: tuple[int, int]
) -> Iterator[Layout]:
    """Of what is kept and its places, a left operand's (bn, bk / 2): over (bk / 2, bn)."""
    return (layout(dtype, shape, across).permute((1, 0)) for layout in made)


def _half(group: int, most: int) -> int:
    """Half the step along K: the longest of which a group is made, of 64 columns or more."""
    return next((bk // 2 for bk in (128, 64) if bk <= most and group % bk == 0), most // 2)


def suited(weight: SparseWeight, compute: DType) -> Any:
    """The weight as the target multiplies it best: the CPU with its zeros written out, where codes have them.
    Raises TilecError for weights of floats that are not of `compute`.
    """
    _check_dtype(weight.dtype, compute)
    whole = weight.whole if current_target() == "cpu" else None
    return weight if whole is None else whole


def sparse_product(x: Array, weight: SparseWeight, y: Array, given: Extras, epilogue: Epilogue) -> None:
    """y = x @ weight^T, finished: x [M, K], y [M, N]."""
    compute = compute_dtype(find_dtype(x.dtype))
    kept, group = weight.kept, whole_group(weight.group_size, weight.shape[1])
    tiling = sparse_tiling(x.shape[0], compute, group, current_target(), weight.dtype.bits, *weight.shape)
    sparse_linear_kernel(
        x,
        there(kept.packed(tiling.fragment, tiling.placed)),
        there(weight.packed_places(tiling.spots)),
        there(kept.kernel_scales),
        there(kept.kernel_zeros),
        y,
        *map(there, given),
        *map(there, room(y.shape, tiling.bm, tiling.fragment.shape[1], tiling.split)),
        weight=weight.dtype,
        group=group,
        compute=compute,
        zero_point=kept.zeros is not None,
        epilogue=epilogue,
        once=x.shape[0] <= tiling.bm,
        **tiling._asdict(),
    )


def _check_dtype(weight: DType, compute: DType) -> None:
    if weight.bits > 8 and weight != compute:
        raise TilecError(f"x is multiplied in {compute}, the 2:4 weight is of {weight}: expected one dtype")


class Problem(NamedTuple):
    """What compile_linear was asked for."""

    m: Extent
    n: Extent
    k: Extent
    x: DType
    compute: DType
    weight: DType
    group_size: int | None
    zero_point: bool
    scale_dtype: Any


def compile_sparse(p: Problem, out: tc.Spec, extras: Extras, epilogue: Epilogue, target: str) -> tc.Compiled:
    """The kernel of compile_linear for weights of which two of each four are kept."""
    _check_dtype(p.weight, p.compute)
    quantised = p.weight.bits <= 8
    kept_of(p.group_size)
    if isinstance(p.k, int):
        check_columns(p.k)
    group = whole_group(p.group_size, p.k) if quantised else 0
    tiling = sparse_tiling(p.m, p.compute, group, target, p.weight.bits, p.n, p.k)
    (half, bn), groups = tiling.fragment.shape, count(p.k, group, "groups") if group else 1
    tiles = count(p.n, bn, "tiles"), count(p.k, 2 * half, "steps")
    return sparse_linear_kernel.compile(
        tc.Spec(p.x, (p.m, p.k)),
        tc.Spec("u8", (*tiles, tiling.fragment.nbytes(p.weight))),
        tc.Spec("u8", (*tiles, tiling.spots.nbytes(u2))),
        tc.Spec(p.scale_dtype if quantised else "f32", (groups, p.n)),
        tc.Spec(zeros_dtype(p.weight), (groups, p.n)) if p.zero_point else NOTHING,
        out,
        *extras,
        *shared_specs(bn, tiling.split > 1),
        target=target,
        weight=p.weight,
        group=group,
        compute=p.compute,
        zero_point=p.zero_point,
        epilogue=epilogue,
        once=isinstance(p.m, int) and p.m <= tiling.bm,
        **tiling._asdict(),
    )
