"""Neighborhood attention: each query sees a window of keys around it, along 1 to 3 axes.

    out = na2d(q, k, v, kernel_size=7)                       # q, k, v [B, X, Y, H, D] -> [B, X, Y, H, D]
Names, parameters and meaning are NATTEN's (Hassani et al., "Neighborhood Attention Transformer", 2023;
"Generalized Neighborhood Attention", 2025). Windows shift at borders, so that all of them have as many keys.
"""

from typing import Any

import tilec as tc
from tilec.ops.arrays import Array, float_of
from tilec.ops.attention import forward
from tilec.ops.attention_call import heads_of, neighborhood_call, windows
from tilec.ops.attention_gradients import Gradients, backward
from tilec.ops.attention_kernel import Options, attention_kernel
from tilec.ops.attention_tiling import group_lengths, tiled
from tilec.ops.neighborhood_plan import plan
from tilec.ops.op import Op, P, Q, R
from tilec.ops.play import played
from tilec.ops.tiling import Extent


@played
def neighborhood_attention_backward(
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    lse: Any,
    d_out: Any,
    kernel_size: Any,
    stride: Any = 1,
    dilation: Any = 1,
    is_causal: Any = False,
    scale: float | None = None,
    additional_keys: Any = None,
    additional_values: Any = None,
    *,
    d_lse: Any = None,
    border: str = "shift",
    bias: Any = None,
) -> Gradients:
    """The gradients of sum(out * d_out) + sum(lse * d_lse), where out, lse = neighborhood_attention(...,
    return_lse=True) with the same arguments; `d_lse` None is 0. The same bits every time. Raises TilecError
    for what does not fit.
    """
    call = neighborhood_call(
        query, key, value, kernel_size, stride, dilation, is_causal, scale, additional_keys,
        additional_values, border, bias,
    )  # fmt: skip
    return backward(call, out, lse, d_out, d_lse)


def compile_neighborhood(
    *,
    shape: tuple[int, ...] | int,
    kernel_size: Any,
    stride: Any = 1,
    dilation: Any = 1,
    is_causal: Any = False,
    batch: Extent = "b",
    heads: Extent = "h",
    kv_heads: Extent | None = None,
    dim: int = 64,
    value_dim: int | None = None,
    dtype: Any = "f16",
    additional: bool = False,
    border: str = "shift",
    bias: bool = False,
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel of query [batch, *shape, heads, dim]; a name for batch or heads: known at the launch."""
    extents = (shape,) if isinstance(shape, int) else tuple(shape)
    kind, (dv, shared, sharing) = float_of(dtype, "dtype"), heads_of(heads, kv_heads, dim, value_dim)
    axes = windows(extents, kernel_size, stride, dilation, is_causal, border)
    tiling = tiled(axes, group_lengths(extents, axes), max(dim, dv), kind.bytes, target)
    nothing = tc.Spec(kind, (1, 1, 1, 1))
    return attention_kernel.compile(
        tc.Spec(kind, (batch, *extents, heads, dim)),
        tc.Spec(kind, (batch, *extents, shared, dim)),
        tc.Spec(kind, (batch, *extents, shared, dv)),
        tc.Spec(kind, (batch, *extents, heads, dv)),
        tc.Spec(kind if kind.name == "f64" else "f32", (batch, *extents, heads)),
        tc.Spec(kind, (batch, "t", shared, dim)) if additional else nothing,
        tc.Spec(kind, (batch, "t", shared, dv)) if additional else nothing,
        tc.Spec("f32", (heads, *(2 * axis.window - 1 for axis in axes)) if bias else (1,) * (len(axes) + 1)),
        target=target,
        options=Options(sharing, additional, bias),
        **tiling._asdict(),
    )


class NeighborhoodOp(Op[P, Q, R]):
    """An operator that also counts beforehand what it will do: `print(na2d.plan((56, 56), 7))`."""

    plan = staticmethod(plan)


def _na(name: str, rank: int | None) -> NeighborhoodOp[..., Any, Any]:
    """neighborhood_attention for arrays of this many axes; None: of any."""

    def na(
        query: Any,
        key: Any,
        value: Any,
        kernel_size: Any,
        stride: Any = 1,
        dilation: Any = 1,
        is_causal: Any = False,
        scale: float | None = None,
        additional_keys: Any = None,
        additional_values: Any = None,
        return_lse: bool = False,
        *,
        border: str = "shift",
        bias: Any = None,
    ) -> Array | tuple[Array, Array]:
        """softmax(scale * query @ key^T) @ value over the keys of each query's window.

        query [B, X.., H, D], key [B, X.., Hkv, D], value [B, X.., Hkv, Dv] -> [B, X.., H, Dv] of the same
        dtype: f16, bf16, f32 (sums in f32) or f64. Query head h reads key head h // (H // Hkv). Per axis, or
        one for all: `kernel_size` keys, `dilation` apart, in windows that `stride` queries share; `is_causal`
        axes see no key behind the query. `scale` None is 1 / sqrt(D). Additional keys and values [B, T, Hkv,
        D or Dv] are seen by all. `border`: "shift" moves windows inside, "zero" lets them stick out, where
        keys and values are 0. `bias` [H, 2 * kernel_size - 1 ..] is added to scores, by how far the key lies
        behind the query; -inf hides it, and where all are hidden out is 0 and lse -inf. With `return_lse`
        also lse [B, X.., H], log(sum(exp(scores))), f32 (f64 for f64). Queries are computed in boxes: what is
        no number in a value reaches the whole box that sees it, in queries and keys only those concerned.
        Raises TilecError for what does not fit.
        """
        call = neighborhood_call(
            query, key, value, kernel_size, stride, dilation, is_causal, scale, additional_keys,
            additional_values, border, bias, name, rank,
        )  # fmt: skip
        out, lse = forward(call)
        return (out, lse) if return_lse else out

    na.__name__ = na.__qualname__ = name
    return NeighborhoodOp(na, compile_neighborhood)


na1d = _na("na1d", 1)
na2d = _na("na2d", 2)
na3d = _na("na3d", 3)
neighborhood_attention = _na("neighborhood_attention", None)
