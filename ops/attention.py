"""Dense attention, and merging what was attended to in parts.

out, lse = attention(q, k, v, return_lse=True)                # q [B, L, H, D], k, v [B, M, Hkv, D or Dv]
out, lse = merge_attentions([out, other], [lse, other_lse])   # as if the keys of both had been one list
"""

from collections.abc import Sequence
from typing import Any

import tilec as tc
from tilec.ir.errors import TilecError
from tilec.ops.arrays import Array, array, empty, empty_like, flat, float_of, result, sums_in, told
from tilec.ops.attention_call import Call, attention_call, heads_of
from tilec.ops.attention_gradients import Gradients, backward
from tilec.ops.attention_kernel import Options, attention_kernel
from tilec.ops.attention_tiling import tiled
from tilec.ops.attention_windows import Axis
from tilec.ops.op import op
from tilec.ops.play import played
from tilec.ops.tiling import Extent

MANY = 4096  # keys, where the launch decides


def forward(call: Call) -> tuple[Array, Array]:
    """out [B, X.., H, Dv] in the query's dtype, lse f32 [B, X.., H] (f64 for f64)."""
    out = result(None, call.out_shape, call.dtype)
    lse = empty(call.lse_shape, sums_in(call.dtype))
    q, k, v, *rest = call.tensors
    tiling = call.tiling()
    attention_kernel(q, k, v, out, lse, *rest, call.scale, options=call.options, **tiling._asdict())
    return out, lse


def compile_attention(
    *,
    length: Extent = "l",
    keys: Extent | None = None,
    batch: Extent = "b",
    heads: Extent = "h",
    kv_heads: Extent | None = None,
    dim: int = 64,
    value_dim: int | None = None,
    is_causal: bool = False,
    dtype: Any = "f16",
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel of query [batch, length, heads, dim]; names: extents that are known at the launch."""
    kind, m = float_of(dtype, "dtype"), length if keys is None else keys
    dv, shared, sharing = heads_of(heads, kv_heads, dim, value_dim)
    tiling = tiled((Axis(0, causal=is_causal),), (MANY,), max(dim, dv), kind.bytes, target)
    nothing = tc.Spec(kind, (1, 1, 1, 1))
    return attention_kernel.compile(
        tc.Spec(kind, (batch, length, heads, dim)),
        tc.Spec(kind, (batch, m, shared, dim)),
        tc.Spec(kind, (batch, m, shared, dv)),
        tc.Spec(kind, (batch, length, heads, dv)),
        tc.Spec(sums_in(kind), (batch, length, heads)),
        nothing,
        nothing,
        tc.Spec(kind, (1, 1)),
        target=target,
        options=Options(sharing),
        **tiling._asdict(),
    )


@op(compile_attention)
def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
) -> Array | tuple[Array, Array]:
    """softmax(scale * query @ key^T) @ value: query [B, L, H, D], key [B, M, Hkv, D], value [B, M, Hkv, Dv]
    -> [B, L, H, Dv] of the same dtype: f16, bf16, f32 (sums in f32) or f64.

    Query head h reads key head h // (H // Hkv). `is_causal`: query i sees keys 0 .. i. `scale` None is
    1 / sqrt(D). With `return_lse` also lse [B, L, H], log(sum(exp(scores))), f32 (f64 for f64). Raises
    TilecError for what does not fit.
    """
    out, lse = forward(attention_call(query, key, value, is_causal, scale))
    return (out, lse) if return_lse else out


@played
def attention_backward(
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    lse: Any,
    d_out: Any,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    d_lse: Any = None,
) -> Gradients:
    """The gradients of sum(out * d_out) + sum(lse * d_lse), where out, lse = attention(..., return_lse=True)
    with the same arguments; `d_lse` None is 0. Raises TilecError for what does not fit.
    """
    return backward(attention_call(query, key, value, is_causal, scale), out, lse, d_out, d_lse)


@tc.kernel
def merge_kernel(
    a: tc.Array,
    a_lse: tc.Array,
    b: tc.Array,
    b_lse: tc.Array,
    out: tc.Array,
    lse: tc.Array,
    *,
    rows: int = 32,
    warps: int = 4,
) -> None:
    """(out, lse) of two results [N, D] with lse [N]: both, weighted with e^lse."""
    n, d, kind = a.shape[0], tc.static(a.shape[1]), sums_in(out.dtype)
    tc.require(a_lse.shape[0] == n, b_lse.shape[0] == n, b.shape[0] == n, b.shape[1] == d)
    at = tc.blocks(tc.cdiv(n, rows)) * rows
    x, y = a_lse.load(at, rows).to(kind), b_lse.load(at, rows).to(kind)
    largest = tc.maximum(tc.maximum(x, y), kind.min)  # a number, also where both saw nothing
    p, q = tc.exp(x - largest), tc.exp(y - largest)
    total = p + q
    mixed = (
        a.load((at, 0), (rows, d)).to(kind) * p[:, None] + b.load((at, 0), (rows, d)).to(kind) * q[:, None]
    )
    out.store((at, 0), (mixed / tc.where(total > 0, total, 1.0)[:, None]).to(out.dtype))
    lse.store(at, (largest + tc.log(total)).to(lse.dtype))


@played
def merge_attentions(outputs: Sequence[Any], lse_tensors: Sequence[Any]) -> tuple[Array, Array]:
    """(out, lse) of attention over all keys, from results over disjoint lists of them: outputs [.., H, D] of
    one shape and dtype, lse [.., H]. Where nothing was seen lse is -inf. Raises TilecError for fewer than two
    results, or shapes and dtypes that differ.
    """
    if len(outputs) < 2 or len(outputs) != len(lse_tensors):
        raise TilecError(
            f"merge_attentions takes two results or more, each with its lse: found {len(outputs)} and "
            f"{len(lse_tensors)}"
        )
    outs, lses = (
        [array(x, "outputs", rank=1) for x in outputs],
        [array(x, "lse", rank=0) for x in lse_tensors],
    )
    shape, dtype = outs[0].shape, float_of(outs[0].dtype, "outputs")
    float_of(lses[0].dtype, "lse")
    for x, y in zip(outs, lses, strict=True):
        if x.shape != shape or x.dtype != outs[0].dtype or y.shape != shape[:-1] or y.dtype != lses[0].dtype:
            like = f"{dtype}{list(shape)} with lse {list(shape[:-1])}"
            raise TilecError(
                f"merge_attentions takes results alike, {like}: found {told(x)} with lse {told(y)}"
            )
    parts = [(flat(x, 2), flat(y, 1)) for x, y in zip(outs, lses, strict=True)]
    merged, lse = parts[0]
    for i, (b, b_lse) in enumerate(parts[1:]):
        kind = dtype if i == len(outs) - 2 else sums_in(dtype)  # rounded once, at the end
        a, a_lse = merged, lse
        merged, lse = result(None, a.shape, kind), empty_like(a_lse)
        merge_kernel(a, a_lse, b, b_lse, merged, lse)
    return merged.reshape(*shape), lse.reshape(*shape[:-1])
