"""The kernel of linear layers with quantised weights, and compiling it for a problem.

compile_linear(m=16, n=4096, k=tc.dim("k", multiple=8), weight="u3", target="sm_80").ptx
"""

from typing import Any

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.layout import Layout
from tilec.ops.activations import check_bytes, check_class
from tilec.ops.epilogue import PLAIN, Epilogue, Extras, check_activation, finish
from tilec.ops.linear_sums import Form, Weights, summed
from tilec.ops.matmul import matmul_kernel
from tilec.ops.quantize import weight_dtype
from tilec.ops.split import Run, Shared, gathered, run_of
from tilec.ops.tiling import Extent, Weighted, dense_tiling, linear_tiling


@tc.kernel
def linear_kernel(
    x: tc.Array,
    codes: tc.Array,
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
    group: int,
    compute: DType,
    zero_point: bool = False,
    epilogue: Epilogue = PLAIN,
    scaled_weights: bool = False,
    placed: DType | None = None,
    bm: int = 16,
    stages: int = 3,
    warps: int = 4,
    split: int = 1,
    blocks: int = 0,
) -> None:
    """y = x @ w^T, finished as `epilogue` says: `split` blocks compute one tile (bm, bn) of y, each from its
    part of K. Or so many `blocks` as there are processors share all steps of all tiles evenly, each a run of
    them, of several tiles (stream-K: Osama et al., 2023). A tile's last block finishes it (see ops/split.py).

    x [M, K]; codes [ceil(N / bn), ceil(K / bk), bytes]; scales and zeros [groups, N]; `group` weights of a
    row share a scale, 0: all of them do. Products of `compute`, sums of f32; of i8: a group's are of i32.
    """
    form = Form(weight, fragment, group, compute, zero_point, scaled_weights, placed)
    given, extras = Weights(codes, scales, zeros), Extras(bias, residual, x_scale, u, v)
    Y, steps = y.tiles((bm, fragment.shape[1])), tc.cdiv(x.shape[1], fragment.shape[0])
    if blocks == 0:
        i, j, part = tc.blocks(*Y.shape, split)
        run = run_of(steps, part, split)
        acc = summed(x, given, form, i, j, run, bm, stages)
        finish_part(Y, acc, i, j, tc.block_ticket(), part, split, Shared(partial, locks), extras, epilogue)
    else:
        ticket, shared = tc.blocks(blocks), Shared(partial, locks)
        run = run_of(Y.shape[0] * Y.shape[1] * steps, ticket, blocks)
        last = run.last
        while last > run.first:  # from its end: what others wait for comes first
            tile = (last - 1) // steps
            start = tile * steps
            first = tc.maximum(run.first, start)
            i, j = tile // Y.shape[1], tile % Y.shape[1]
            before, after = start // run.share, (start + steps - 1) // run.share  # the tile's blocks
            acc = summed(x, given, form, i, j, Run(first - start, last - start), bm, stages)
            finish_part(Y, acc, i, j, ticket, ticket - before, after - before + 1, shared, extras, epilogue)
            last = first


def finish_part(
    Y: Any, acc: tc.Tile, i: Any, j: Any, ticket: Any, part: Any, parts: Any, shared: Shared, extras: Extras,
    epilogue: Epilogue,
) -> None:  # fmt: skip
    """Tile (i, j) of y from the sums of all its parts, in the block of the last."""
    if not isinstance(parts, int) or parts > 1:
        acc = gathered(acc, shared, ticket, part, parts)
    if part + 1 == parts:
        Y[i, j] = finish(acc, i, j, extras, epilogue).to(Y.dtype)


def compute_dtype(x: DType) -> DType:
    """What products are made of: x's dtype, or f16, which holds every number of 8 bits that x may have."""
    return find_dtype("f16") if x.bits == 8 else x


def whole_group(group_size: int | None, k: Extent) -> int:
    """The group size as the kernel takes it: 0 where one group is the whole row."""
    return 0 if group_size is None or (isinstance(k, int) and group_size >= k) else group_size


def compile_linear(
    *,
    m: Extent,
    n: Extent,
    k: Extent,
    x: Any = "f16",
    weight: Any = "u4",
    group_size: int | None = 128,
    zero_point: bool = False,
    scale_dtype: Any = "f16",
    bias: bool = False,
    activation: str | None = None,
    residual: bool = False,
    low_rank: int = 0,
    out_dtype: Any = None,
    activations: str | None = None,
    schedule: Weighted | None = None,
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel of x [m, k] times a weight [n, k], quantised or of x's dtype; extents are numbers, or names
    or tc.dim that the launch knows. An x of 8 bits has scales, `low_rank` is a rank. With activations="int8"
    it is the kernel after the one that rounds x. `schedule`, for a quantised weight, stands in for what the
    target would choose, ops.tiling.linear_tiling(...): _replace(split=4) is four blocks to a tile.
    """
    kind, compute = find_dtype(x), compute_dtype(find_dtype(x))
    check_activation(activation)
    check_class(activations)
    epilogue = Epilogue(bias, activation, residual, kind.bits == 8 or activations == "int8", low_rank > 0)
    out = tc.Spec(out_dtype or compute, (m, n))
    extras = _specs(m, n, compute, out, low_rank, epilogue)
    if find_dtype(weight) == compute and activations is None:
        a, b = tc.Spec(kind, (1, m, k)), tc.Spec(compute, (1, k, n), (0, 1, k))
        dense = a, b, tc.Spec(out.dtype, (1, m, n))
        tiles = dense_tiling(m, n, compute, target, epilogue != PLAIN, along=True)
        return matmul_kernel.compile(*dense, *extras, target=target, epilogue=epilogue, **tiles._asdict())
    held, group = weight_dtype(weight), whole_group(group_size, k)
    if activations == "int8":
        check_bytes(held)
        kind = compute = tc.i8
    tiling = schedule or linear_tiling(m, compute, group, target, held.bits, n, k)
    bk, bn = tiling.fragment.shape
    groups = _count(k, group, "groups") if group else 1
    return linear_kernel.compile(
        tc.Spec(kind, (m, k)),
        tc.Spec("u8", (_count(n, bn, "tiles"), _count(k, bk, "steps"), tiling.fragment.nbytes(held))),
        tc.Spec(scale_dtype, (groups, n)),
        tc.Spec(_zeros_dtype(held), (groups, n)) if zero_point else NOTHING,
        out,
        *extras,
        *_shared_specs(tiling),
        target=target,
        weight=held,
        group=group,
        compute=compute,
        zero_point=zero_point,
        epilogue=epilogue,
        **tiling._asdict(),
    )


NOTHING = tc.Spec("f32", (1,))


def _shared_specs(tiling: Weighted) -> Shared:
    if tiling.split == 1 and not tiling.blocks:
        return Shared(NOTHING, NOTHING)
    return Shared(tc.Spec("f32", ("partial", tiling.fragment.shape[1])), tc.Spec("i32", ("locks",)))


def _specs(m: Extent, n: Extent, compute: DType, out: tc.Spec, rank: int, there: Epilogue) -> Extras:
    """What finishes the product, in the dtypes that callers mostly have."""
    return Extras(
        tc.Spec(compute, (n,)) if there.bias else NOTHING,
        tc.Spec(out.dtype, (m, n)) if there.residual else NOTHING,
        tc.Spec("f32", (m,)) if there.x_scale else NOTHING,
        tc.Spec(compute, (m, rank)) if there.low_rank else NOTHING,
        tc.Spec(compute, (rank, n), (1, rank)) if there.low_rank else NOTHING,
    )


def _count(extent: Extent, size: int, name: str) -> Extent:
    return -(-extent // size) if isinstance(extent, int) else name


def _zeros_dtype(weight: DType) -> str:
    """Zeros are integers of a byte, or of two where the type's range is wider."""
    return f"{'i' if weight.is_signed else 'u'}8" if weight.is_integer else "i16"
