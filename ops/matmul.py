"""Dense matrix products, batched, accumulated in f32, or f64 for f64.

c = matmul(a, b)          # a [..., M, K] @ b [..., K, N] -> [..., M, N]; numpy's rules for the leading axes
"""

from typing import Any

import numpy as np

import tilec as tc
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.signature import describable
from tilec.ops.arrays import Array, broadcast, flat, operand, result, result_dtype, sums_in, written_flat
from tilec.ops.callers import there
from tilec.ops.epilogue import PLAIN, Epilogue, Extras, finish
from tilec.ops.op import op
from tilec.ops.tiling import Extent, dense_tiling
from tilec.places import current_target, element_strides
from tilec.specialise import array_type


@tc.kernel
def matmul_kernel(
    a: tc.Array,
    b: tc.Array,
    c: tc.Array,
    bias: tc.Array,
    residual: tc.Array,
    x_scale: tc.Array,
    u: tc.Array,
    v: tc.Array,
    *,
    epilogue: Epilogue = PLAIN,
    bm: int = 64,
    bn: int = 64,
    bk: int = 32,
    stages: int = 3,
    warps: int = 4,
) -> None:
    """c[z] = a[z] @ b[z], finished as `epilogue` says: a block computes one tile of c."""
    (batch, m, k), n = a.shape, b.shape[2]
    tc.require(b.shape[0] == batch, b.shape[1] == k, c.shape[0] == batch, c.shape[1] == m, c.shape[2] == n)
    z, i, j = tc.blocks(batch, tc.cdiv(m, bm), tc.cdiv(n, bn))
    A, B, C = a[z].tiles((bm, bk)), b[z].tiles((bk, bn)), c[z].tiles((bm, bn))
    acc = tc.zeros((bm, bn), sums_in(b.dtype))
    for s in tc.range(A.shape[1], stages=stages):
        acc = tc.dot(A[i, s].to(b.dtype), B[s, j], acc)
    acc = finish(acc, i, j, Extras(bias, residual, x_scale, u, v), epilogue)
    C[i, j] = acc.to(c.dtype)


def product(a: Array, b: Array, c: Array, given: Extras = Extras(), epilogue: Epilogue = PLAIN) -> None:  # noqa: B008
    """c = a @ b for a [B, M, K], b [B, K, N], c [B, M, N]; what finishes it belongs to a batch of one."""
    (batch, m, n), k, along = c.shape, a.shape[2], element_strides(b)[1] == 1
    tiling = dense_tiling(m, n, find_dtype(b.dtype), current_target(), epilogue != PLAIN, along, k, batch)
    if tiling.producer and not (_brought(a) and _brought(b)):
        tiling = tiling._replace(producer=False)
    matmul_kernel(a, b, c, *map(there, given), epilogue=epilogue, **tiling._asdict())


def _brought(x: Array) -> bool:
    """Whether TMA can bring an operand."""
    return describable(array_type(x, "x"))


def compile_matmul(
    *,
    m: Extent,
    n: Extent,
    k: Extent,
    batch: Extent = 1,
    dtype: Any = "f16",
    out_dtype: Any = None,
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel of a [batch, m, k] @ b [batch, k, n]; extents are numbers, or names or tc.dim."""
    kind = find_dtype(dtype)
    a, b = tc.Spec(kind, (batch, m, k)), tc.Spec(kind, (batch, k, n))
    c = tc.Spec(out_dtype or kind, (batch, m, n))
    nothing = [tc.Spec("f32", (1,)) for _ in Extras._fields]
    tiling = dense_tiling(m, n, kind, target, k=k, batch=batch).reading(a.type, b.type)
    return matmul_kernel.compile(a, b, c, *nothing, target=target, **tiling._asdict())


@op(compile_matmul)
def matmul(a: Any, b: Any, *, out_dtype: Any = None, out: Any = None) -> Array:
    """a [..., M, K] @ b [..., K, N] -> [..., M, N], f16, bf16, f32 or f64; leading axes broadcast as numpy's.

    The result has a's dtype unless `out_dtype` says otherwise; `out` is written in place. Raises TilecError
    for other dtypes, and shapes that do not fit.
    """
    (x, dtype), (y, other) = operand(a, "a", 2), operand(b, "b", 2)
    if dtype != other:
        raise TilecError(f"matmul multiplies arrays of one dtype: a is {dtype}, b is {other}")
    if x.shape[-1] != y.shape[-2]:
        raise TilecError(
            f"matmul takes [..., M, K] and [..., K, N]: a is {list(x.shape)}, b is {list(y.shape)}"
        )
    lead = _leading(x, y)
    c = result(out, (*lead, x.shape[-2], y.shape[-1]), result_dtype(out_dtype, out, dtype))
    rank = 2 if y.ndim == 2 else 3  # one b for all: the rows of every a are the rows of one
    if rank == 3:
        x, y = (broadcast(t, (*lead, *t.shape[-2:])) for t in (x, y))
    with written_flat(c, rank) as work:
        product(_batch(flat(x, rank)), _batch(flat(y, rank)), _batch(work))
    return c


def _batch(x: Array) -> Array:
    """[M, N] as a batch of one."""
    return x if x.ndim == 3 else x[None]


def _leading(a: Array, b: Array) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise TilecError(
            f"the leading axes of a {list(a.shape)} and b {list(b.shape)} do not broadcast"
        ) from None
