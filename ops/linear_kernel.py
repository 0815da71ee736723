"""The kernel of linear layers with quantised weights, and compiling it for a problem.

compile_linear(m=16, n=4096, k=tc.dim("k", multiple=8), weight="u3", target="sm_80").ptx
"""

from typing import Any

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout
from tilec.ops.activations import CLASSES, check_bytes, check_class
from tilec.ops.epilogue import PLAIN, Epilogue, Extras, check_activation, finish
from tilec.ops.factors import compute_dtype, placed_for, product_dtype, zeros_dtype
from tilec.ops.linear_sums import Form, Weights, summed
from tilec.ops.matmul import matmul_kernel
from tilec.ops.quantize import check_group_size, weight_dtype
from tilec.ops.split import Run, Shared, Turn, gathered, run_of
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
    direct: bool = False,
    rescaled: bool = False,
    slices: int = 1,
    once: bool = False,
) -> None:
    """y = x @ w^T, finished as `epilogue` says: `split` blocks compute one tile (bm, bn) of y, each from its
    part of K. Or so many `blocks` as there are processors share all steps of all tiles evenly, each a run of
    them, of several tiles (stream-K: Osama et al., 2023). A tile's last block finishes it (see ops/split.py).

    x [M, K]; codes [ceil(N / bn), ceil(K / bk), bytes]; scales and zeros [groups, N]; `group` weights of a
    row share a scale, 0: all of them do. Products of `compute`, sums of f32; of i8: a group's are of i32.
    """
    if once:
        codes.read_once()
    ways = direct, rescaled, slices
    form = Form(weight, fragment, group, compute, zero_point, scaled_weights, placed, *ways)
    given, extras = Weights(codes, scales, zeros), Extras(bias, residual, x_scale, u, v)
    Y, steps, shared = (
        y.tiles((bm, fragment.shape[1])),
        tc.cdiv(x.shape[1], fragment.shape[0]),
        Shared(partial, locks),
    )
    if blocks == 0:
        i, j, part = tc.blocks(*Y.shape, split)
        acc = summed(x, given, form, i, j, run_of(steps, part, split, form.steps), bm, stages)
        finish_part(Y, acc, i, j, Turn(tc.block_ticket(), part, split), shared, extras, epilogue)
    else:
        ticket = tc.blocks(blocks)
        run = run_of(Y.shape[0] * Y.shape[1] * steps, ticket, blocks)
        last = run.last
        while last > run.first:  # from its end: what others wait for comes first
            tile = (last - 1) // steps
            start = tile * steps
            first = tc.maximum(run.first, start)
            i, j = tile // Y.shape[1], tile % Y.shape[1]
            before, after = start // run.share, (start + steps - 1) // run.share  # the tile's blocks
            acc = summed(x, given, form, i, j, Run(first - start, last - start), bm, stages)
            turn = Turn(ticket, ticket - before, after - before + 1)
            finish_part(Y, acc, i, j, turn, shared, extras, epilogue)
            last = first


def finish_part(
    Y: Any, acc: tc.Tile, i: Any, j: Any, turn: Turn, shared: Shared, extras: Extras, epilogue: Epilogue
) -> None:
    """Tile (i, j) of y from the sums of all its parts, in the block of the last."""
    if not isinstance(turn.parts, int) or turn.parts > 1:
        acc = gathered(acc, shared, turn)
    if turn.part + 1 == turn.parts:
        Y[i, j] = finish(acc, i, j, extras, epilogue).to(Y.dtype)


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
    sparsity: str | None = None,
    schedule: Weighted | None = None,
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel of x [m, k] times a weight [n, k], quantised or of x's dtype; extents are numbers, or names
    or tc.dim that the launch knows. An x of 8 bits has scales, `low_rank` is a rank. With `activations`
    it is the kernel after the one that rounds x. `schedule`, for a quantised weight, stands in for what the
    target would choose, ops.tiling.linear_tiling(...): _replace(split=4) is four blocks to a tile. Of a
    weight that is `steady`, linear_tiling(..., steady=True) may sum many rows in units of its scales.
    With sparsity="2:4" the weight keeps two of each four (ops.sparsify).
    """
    check_activation(activation)
    check_class(activations)
    compute, kind = compute_dtype(find_dtype(x)), CLASSES[activations] or find_dtype(x)
    epilogue = Epilogue(bias, activation, residual, kind.bits == 8, low_rank > 0)
    out = tc.Spec(out_dtype or compute, (m, n))
    extras = _specs(m, n, compute, out, low_rank, epilogue)
    if sparsity is not None:
        check_sparsity(sparsity, activations)
        from tilec.ops.sparse_linear import Problem, compile_sparse  # its kernel is made of this one's parts

        asked = Problem(m, n, k, kind, compute, find_dtype(weight), group_size, zero_point, scale_dtype)
        return compile_sparse(asked, out, extras, epilogue, target)
    if find_dtype(weight) == compute and activations is None:
        a, b = tc.Spec(kind, (1, m, k)), tc.Spec(compute, (1, k, n), (0, 1, k))
        dense = a, b, tc.Spec(out.dtype, (1, m, n))
        tiles = dense_tiling(m, n, compute, target, epilogue != PLAIN, True, k).reading(a.type, b.type)
        return matmul_kernel.compile(*dense, *extras, target=target, epilogue=epilogue, **tiles._asdict())
    check_group_size(group_size)
    held, group = weight_dtype(weight), whole_group(group_size, k)
    if activations == "int8":
        check_bytes(held)
    zeros = zeros_dtype(held) if zero_point else None
    made_of = product_dtype(kind, held, zeros, group, target)
    own = linear_tiling(m, made_of, group, target, held.bits, n, k, epilogue != PLAIN)
    tiling = placed_for(schedule or own, held, zero_point, target)
    bk, bn = tiling.fragment.shape
    groups = count(k, group, "groups") if group else 1
    return linear_kernel.compile(
        tc.Spec(kind, (m, k)),
        tc.Spec("u8", (count(n, bn, "tiles"), count(k, bk, "steps"), tiling.fragment.nbytes(held))),
        tc.Spec(scale_dtype, (groups, n)),
        tc.Spec(zeros, (groups, n)) if zeros else NOTHING,
        out,
        *extras,
        *shared_specs(bn, tiling.split > 1 or tiling.blocks > 0),
        target=target,
        weight=held,
        group=group,
        compute=made_of,
        zero_point=zero_point,
        epilogue=epilogue,
        once=isinstance(m, int) and m <= tiling.bm,
        **tiling._asdict(),
    )


def check_sparsity(sparsity: str, activations: str | None) -> None:
    """Raises TilecError for what there is not."""
    if sparsity != "2:4":
        raise TilecError(f"expected sparsity None or '2:4', found {sparsity!r}")
    if activations is not None:
        raise TilecError(f"2:4 weights take x as it is: activations={activations!r} is not for them")


NOTHING = tc.Spec("f32", (1,))


def shared_specs(bn: int, shared: bool) -> Shared:
    """What `split.room` gives for tiles of bn columns."""
    if not shared:
        return Shared(NOTHING, NOTHING)
    return Shared(tc.Spec("f32", ("partial", bn)), tc.Spec("i32", ("locks",)))


def _specs(m: Extent, n: Extent, compute: DType, out: tc.Spec, rank: int, there: Epilogue) -> Extras:
    """What finishes the product, in the dtypes that callers mostly have."""
    return Extras(
        tc.Spec(compute, (n,)) if there.bias else NOTHING,
        tc.Spec(out.dtype, (m, n)) if there.residual else NOTHING,
        tc.Spec("f32", (m,)) if there.x_scale else NOTHING,
        tc.Spec(compute, (m, rank)) if there.low_rank else NOTHING,
        tc.Spec(compute, (rank, n), (1, rank)) if there.low_rank else NOTHING,
    )


def count(extent: Extent, size: int, name: str) -> Extent:
    """How many parts of a size there are; a name where only the launch knows."""
    return -(-extent // size) if isinstance(extent, int) else name
