"""The kernel of linear layers with quantised weights, and compiling it for a problem.

compile_linear(m=16, n=4096, k=tc.dim("k", multiple=8), weight="u3", target="sm_80").ptx
"""

from math import gcd
from typing import Any

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout
from tilec.ops.activations import CLASSES, check_bytes, check_class
from tilec.ops.epilogue import PLAIN, Epilogue, Extras, check_activation, finish
from tilec.ops.factors import (
    compute_dtype,
    factors,
    floats,
    placed_for,
    product_dtype,
    unit,
    zeros_dtype,
)
from tilec.ops.matmul import matmul_kernel
from tilec.ops.quantize import weight_dtype
from tilec.ops.split import Shared, gathered
from tilec.ops.tiling import Extent, Weighted, dense_tiling, linear_tiling
from tilec.ops.weight import default_zero

WHOLE = 1 << 30  # more weights than a row has
LONGEST = 1 << 14  # products of bytes whose sum an i32 holds: 2^14 * 127 * 255 < 2^31


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
) -> None:
    """y = x @ w^T, finished as `epilogue` says: `split` blocks compute one tile (bm, bn) of y, each from its
    part of K; the last finishes it (`partial` and `locks`: see ops/split.py).

    x [M, K]; codes [ceil(N / bn), ceil(K / bk), bytes]; scales and zeros [groups, N]; `group` weights of a
    row share a scale, 0: all of them do. Products of `compute`, sums of f32; of i8: a group's are of i32.
    """
    bk, bn = fragment.shape
    X, W, Y = x.tiles((bm, bk)), codes.tiles((1, 1, fragment.nbytes(weight))), y.tiles((bm, bn))
    i, j, part = tc.blocks(*Y.shape, split)
    share = tc.cdiv(X.shape[1], split)
    first = part * share
    last = tc.minimum(first + share, X.shape[1])
    acc = tc.zeros((bm, bn), tc.f32)
    sums = tc.i32 if compute.is_integer else tc.f32
    run = tc.zeros((bm, bn), sums)  # those of the group under way
    span = gcd(group, LONGEST) if compute.is_integer else group
    apart = compute.is_integer and zero_point and zeros.dtype.is_float  # differences that are no bytes
    held = weight.all_numbers if weight.exponent < compute.exponent else weight  # no code is special
    plain = group % bk == 0 and not (apart or scaled_weights)
    worth = unit(weight, compute, zero_point, placed) if plain else 1.0
    for s in tc.range(first, last, stages=stages):
        xs, w = X[i, s].to(compute), tc.view(W[j, s, 0], held, fragment, placed=placed)
        if group % bk == 0 and not apart:
            at = (s * bk // group if group else 0, j * bn)
            if scaled_weights:
                w = floats(w, zeros, at, compute, zero_point) * scales.load(at, (1, bn)).to(compute)
                acc = tc.dot(xs, w, acc)
            else:
                run = tc.dot(xs, factors(w, zeros, at, compute, zero_point, placed), run)
            if not scaled_weights and span and ends_group(s, last, bk, span):
                acc = tc.fma(run.to(tc.f32), scales.load(at, (1, bn)).to(tc.f32), acc)
                run = tc.zeros((bm, bn), sums)
        else:  # groups end within a step: each weight gets its own scale
            g, n = (s * bk + tc.arange(bk)[:, None]) // (group or WHOLE), j * bn + tc.arange(bn)[None, :]
            zero = zeros.gather(g, n).to(tc.f32) if zero_point else default_zero(weight)
            scaled = (w.to(tc.f32) - zero) * scales.gather(g, n).to(tc.f32)
            exact = tc.f32 if compute.is_integer else compute
            acc = tc.dot(xs.to(exact), scaled.to(exact), acc)
    if not span and not scaled_weights:
        acc = run * scales.load((0, j * bn), (1, bn)).to(tc.f32)
    if worth != 1:
        acc = acc * worth
    if split > 1:
        acc = gathered(acc, Shared(partial, locks), tc.block_ticket(), part, split)
    if part + 1 == split:
        acc = finish(acc, i, j, Extras(bias, residual, x_scale, u, v), epilogue)
        Y[i, j] = acc.to(y.dtype)


def ends_group(step: Any, steps: Any, bk: int, group: int) -> Any:
    """Is this the last step of its group, or the last of all?"""
    return True if group == bk else ((step + 1) * bk % group == 0) | (step + 1 == steps)


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
    target would choose, ops.tiling.linear_tiling(...): _replace(split=4) is four blocks to a tile.
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
        tiles = dense_tiling(m, n, compute, target, epilogue != PLAIN, along=True)
        return matmul_kernel.compile(*dense, *extras, target=target, epilogue=epilogue, **tiles._asdict())
    held, group = weight_dtype(weight), whole_group(group_size, k)
    if activations == "int8":
        check_bytes(held)
    zeros = zeros_dtype(held) if zero_point else None
    made_of = product_dtype(kind, held, zeros, group, target)
    own = linear_tiling(m, made_of, group, target, held.bits, n, k, epilogue != PLAIN)
    tiling = placed_for(schedule or own, zero_point)
    bk, bn = tiling.fragment.shape
    groups = _count(k, group, "groups") if group else 1
    return linear_kernel.compile(
        tc.Spec(kind, (m, k)),
        tc.Spec("u8", (_count(n, bn, "tiles"), _count(k, bk, "steps"), tiling.fragment.nbytes(held))),
        tc.Spec(scale_dtype, (groups, n)),
        tc.Spec(zeros, (groups, n)) if zeros else NOTHING,
        out,
        *extras,
        *_shared_specs(tiling),
        target=target,
        weight=held,
        group=group,
        compute=made_of,
        zero_point=zero_point,
        epilogue=epilogue,
        **tiling._asdict(),
    )


def check_sparsity(sparsity: str, activations: str | None) -> None:
    """Raises TilecError for what there is not."""
    if sparsity != "2:4":
        raise TilecError(f"expected sparsity None or '2:4', found {sparsity!r}")
    if activations is not None:
        raise TilecError(f"2:4 weights take x as it is: activations={activations!r} is not for them")


NOTHING = tc.Spec("f32", (1,))


def _shared_specs(tiling: Weighted) -> Shared:
    if tiling.split == 1:
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
