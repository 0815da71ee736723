"""Linear layers whose weights are quantised to any type of 1 to 8 bits: one kernel text for all of them.

    y = linear(x, quantize(w, "u3"), bias, activation="gelu")        # x [..., K], w [N, K] -> y [..., N]
Weights are unpacked in registers. Their bytes come in the order in which threads feed them to the matrix
units (`QuantizedWeight.packed`), so that `tc.view` costs nothing; a group's scale is applied to its sums.
"""

from typing import Any

import numpy as np

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout
from tilec.ops.arrays import Array, array, flat, numpy_dtype, operand, result, result_dtype, written_flat
from tilec.ops.epilogue import PLAIN, Epilogue, Extras, check_activation, finish, finishing
from tilec.ops.matmul import product
from tilec.ops.op import op
from tilec.ops.tiling import Extent, linear_tiling
from tilec.ops.weight import QuantizedWeight, default_zero
from tilec.places import current_target


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
    *,
    weight: DType,
    fragment: Layout,
    group: int,
    compute: DType,
    zero_point: bool = False,
    epilogue: Epilogue = PLAIN,
    bm: int = 16,
    stages: int = 3,
    warps: int = 4,
) -> None:
    """y = x @ w^T, finished as `epilogue` says: a block computes one tile (bm, bn) of y.

    x [M, K]; codes [ceil(N / bn), ceil(K / bk), bytes]; scales and zeros [groups, N]; `group` weights of a
    row share a scale, 0: all of them do. Products of `compute`, sums of f32.
    """
    bk, bn = fragment.shape
    X, W, Y = x.tiles((bm, bk)), codes.tiles((1, 1, fragment.nbytes(weight))), y.tiles((bm, bn))
    i, j = tc.blocks(*Y.shape)
    steps = X.shape[1]
    acc = tc.zeros((bm, bn), tc.f32)
    part = tc.zeros((bm, bn), tc.f32)  # the sums of the group under way
    for s in tc.range(steps, stages=stages):
        xs, w = X[i, s].to(compute), tc.view(W[j, s, 0], weight, fragment)
        if group % bk == 0:
            at = (s * bk // group if group else 0, j * bn)
            zero = zeros.load(at, (1, bn)).to(compute) if zero_point else default_zero(weight)
            part = tc.dot(xs, w.to(compute) - zero, part)
            if group and ends_group(s, steps, bk, group):
                acc = tc.fma(part, scales.load(at, (1, bn)).to(tc.f32), acc)
                part = tc.zeros((bm, bn), tc.f32)
        else:  # groups end within a step: each weight gets its own scale
            g, n = (s * bk + tc.arange(bk)[:, None]) // group, j * bn + tc.arange(bn)[None, :]
            zero = zeros.gather(g, n).to(tc.f32) if zero_point else default_zero(weight)
            scaled = (w.to(tc.f32) - zero) * scales.gather(g, n).to(tc.f32)
            acc = tc.dot(xs, scaled.to(compute), acc)
    if not group:
        acc = part * scales.load((0, j * bn), (1, bn)).to(tc.f32)
    acc = finish(acc, i, j, Extras(bias, residual, x_scale, u, v), epilogue)
    Y[i, j] = acc.to(y.dtype)


def ends_group(step: Any, steps: Any, bk: int, group: int) -> Any:
    """Is this the last step of its group, or the last of all?"""
    return True if group == bk else ((step + 1) * bk % group == 0) | (step + 1 == steps)


def compute_dtype(x: DType) -> DType:
    """What products are made of: x's dtype, or f16, which holds every number of 8 bits that x may have."""
    return find_dtype("f16") if x.bits == 8 else x


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
    out_dtype: Any = None,
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel of x [m, k] times a weight [n, k]; extents are numbers, or names known at the launch."""
    kind, held, group = find_dtype(x), find_dtype(weight), _group(group_size, k)
    check_activation(activation)
    tiling = linear_tiling(m, compute_dtype(kind), group, target)
    bk, bn = tiling.fragment.shape
    groups = _count(k, group, "groups") if group else 1
    nothing, out = tc.Spec("f32", (1,)), tc.Spec(out_dtype or compute_dtype(kind), (m, n))
    return linear_kernel.compile(
        tc.Spec(kind, (m, k)),
        tc.Spec("u8", (_count(n, bn, "tiles"), _count(k, bk, "steps"), tiling.fragment.nbytes(held))),
        tc.Spec(scale_dtype, (groups, n)),
        tc.Spec(_zeros_dtype(held), (groups, n)) if zero_point else nothing,
        out,
        tc.Spec(kind, (n,)) if bias else nothing,
        tc.Spec(out.dtype, (m, n)) if residual else nothing,
        nothing,
        nothing,
        nothing,
        target=target,
        weight=held,
        group=group,
        compute=compute_dtype(kind),
        zero_point=zero_point,
        epilogue=Epilogue(bias, activation, residual),
        **tiling._asdict(),
    )


def _count(extent: Extent, size: int, name: str) -> Extent:
    return name if isinstance(extent, str) else -(-extent // size)


def _zeros_dtype(weight: DType) -> str:
    """Zeros are integers of a byte, or of two where the type's range is wider."""
    return f"{'i' if weight.is_signed else 'u'}8" if weight.is_integer else "i16"


def _group(group_size: int | None, k: Extent) -> int:
    """The group size as the kernel takes it: 0 where one group is the whole row."""
    whole = group_size is None or (isinstance(k, int) and group_size >= k)
    return 0 if whole or group_size is None else group_size


@op(compile_linear)
def linear(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: str | None = None,
    residual: Any = None,
    low_rank: Any = None,
    x_scale: Any = None,
    out_dtype: Any = None,
    out: Any = None,
) -> Array:
    """activation(x @ weight^T + bias) + residual: x [..., K], weight [N, K] -> [..., N].

    `x` is f16, bf16 or f32, `weight` a QuantizedWeight or a dense array of x's dtype; sums are in f32.
    `activation`: relu, gelu, silu. `low_rank` = (a [R, K], b [N, R]) adds (x @ a^T) @ b^T before the bias.
    With `x_scale` (one number per row, [...] or [..., 1]) x may be i8, f8e4m3 or f8e5m2, and stands for
    x * x_scale. The result has x's dtype (f16 for 8 bits) unless `out_dtype` says otherwise; `out` is written
    in place. Raises TilecError for what does not fit.
    """
    held, dtype = _rows(x, x_scale is not None)
    n, k = _weight_shape(weight)
    if held.shape[-1] != k:
        raise TilecError(
            f"linear needs x [..., K] and a weight [N, K]: x is {list(held.shape)}, the weight [{n}, {k}]"
        )
    shape, rows = (*held.shape[:-1], n), flat(held, 2)
    u, v = (None, None) if low_rank is None else _low_rank(rows, dtype, low_rank, n)
    given, epilogue = finishing(shape, bias, activation, residual, x_scale, u, v)
    y = result(out, shape, result_dtype(out_dtype, out, compute_dtype(dtype)))
    with written_flat(y, 2) as work:
        if isinstance(weight, QuantizedWeight):
            quantised_product(rows, weight, work, given, epilogue)
        else:
            dense = _same_dtype(weight, "a dense weight", compute_dtype(dtype))
            product(rows[None], dense.T[None], work[None], given, epilogue)
    return y


def quantised_product(x: Array, weight: QuantizedWeight, y: Array, given: Extras, epilogue: Epilogue) -> None:
    """y = x @ weight^T, finished: x [M, K], y [M, N]."""
    compute, group = compute_dtype(find_dtype(x.dtype)), _group(weight.group_size, weight.shape[1])
    tiling = linear_tiling(x.shape[0], compute, group, current_target())
    linear_kernel(
        x,
        weight.packed(tiling.fragment),
        weight.kernel_scales,
        weight.kernel_zeros,
        y,
        *given,
        weight=weight.dtype,
        group=group,
        compute=compute,
        zero_point=weight.zeros is not None,
        epilogue=epilogue,
        **tiling._asdict(),
    )


def _rows(x: Any, scaled: bool) -> tuple[Array, DType]:
    """x, of a dtype that products are made of, or with scales of one of 8 bits."""
    held = array(x, "x", rank=1)
    if scaled and find_dtype(held.dtype).name in ("i8", "f8e4m3", "f8e5m2"):
        return held, find_dtype(held.dtype)
    return operand(held, "x")


def _weight_shape(weight: Any) -> tuple[int, int]:
    if not isinstance(weight, QuantizedWeight | np.ndarray) or len(weight.shape) != 2:
        found = f"shape {list(weight.shape)}" if hasattr(weight, "shape") else type(weight).__name__
        raise TilecError(f"linear takes a weight [N, K], a QuantizedWeight or a numpy array, found {found}")
    n, k = weight.shape
    return n, k


def _same_dtype(x: Any, name: str, dtype: DType) -> Array:
    held, found = operand(x, name)
    if found != dtype:
        raise TilecError(f"{name} of linear has the dtype of its products, {dtype} here, found {found}")
    return held


def _low_rank(x: Array, dtype: DType, low_rank: Any, n: int) -> tuple[Array, Array]:
    """u = x @ a^T [M, R] and v = b^T [R, N] of low_rank = (a [R, K], b [N, R])."""
    if not isinstance(low_rank, tuple | list) or len(low_rank) != 2:
        raise TilecError(f"low_rank is a pair (a [R, K], b [N, R]), found {type(low_rank).__name__}")
    a, b = (_same_dtype(each, "low_rank", compute_dtype(dtype)) for each in low_rank)
    if a.ndim != 2 or a.shape[1] != x.shape[1] or b.shape != (n, len(a)):
        found = f"{list(a.shape)} and {list(b.shape)}"
        raise TilecError(f"low_rank is (a [R, {x.shape[1]}], b [{n}, R]) here, found {found}")
    u = np.empty((len(x), len(a)), numpy_dtype(compute_dtype(dtype)))
    product(x[None], a.T[None], u[None])
    return u, b.T
