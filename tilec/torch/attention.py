"""Attention in torch: dense, and of neighborhoods along 1 to 3 axes, with gradients by kernels.

out = na2d(query, key, value, kernel_size=7)        # [B, X, Y, H, D], as tilec.ops.na2d takes and returns it
"""

from collections.abc import Callable
from typing import Any

import torch

from tilec import ops
from tilec.ir.errors import TilecError
from tilec.ops.attention_call import per_axis
from tilec.torch.register import Gradient, Tensor, cast, register


def _shapes(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Of out and lse."""
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    out = query.new_empty((*query.shape[:-1], value.shape[-1]))
    return out, query.new_empty(query.shape[:-1], dtype=wide)


def _like(x: Tensor | None, other: Tensor) -> Tensor:
    """A tensor like x; one without elements for None."""
    return other.new_empty((0,)) if x is None else x.new_empty(x.shape)


# Dense.

DENSE = "(Tensor query, Tensor key, Tensor value, bool is_causal, float? scale) -> (Tensor, Tensor)"
DENSE_BACKWARD = (
    "(Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse, Tensor d_out, Tensor? d_lse,"
    " bool is_causal, float? scale) -> (Tensor, Tensor, Tensor)"
)


def _attention(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float | None) -> Any:
    return ops.attention(query, key, value, is_causal=is_causal, scale=scale, return_lse=True)


def _attention_backward(query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, d_out: Tensor,
                        d_lse: Tensor, is_causal: bool, scale: float | None) -> Any:  # fmt: skip
    found = ops.attention_backward(
        query, key, value, out, lse, d_out, is_causal=is_causal, scale=scale, d_lse=d_lse
    )
    return tuple(found[:3])


def _gradient_shapes(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (query, key, value))


_backward_op = register("attention_backward", DENSE_BACKWARD, _attention_backward, _gradient_shapes)


def _of_attention(saved: Any, rest: Any, d_out: Tensor, d_lse: Tensor) -> tuple[Any, ...]:
    q, k, v, out, lse = saved
    d_out = torch.zeros_like(out) if d_out is None else d_out
    return *_backward_op(q, k, v, out, lse, d_out, d_lse, *rest[3:]), None, None


_attention_op = register(
    "attention", DENSE, _attention, _shapes, Gradient(lambda x, out: (*x[:3], *out), _of_attention)
)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
) -> Any:
    """ops.attention on tensors, with a gradient, that of lse included."""
    query, key, value = cast(query, key, value)
    out, lse = _attention_op(query, key, value, is_causal, scale)
    return (out, lse) if return_lse else out


# Neighborhoods.

WINDOW = (
    "int[] kernel_size, int[] stride, int[] dilation, bool[] is_causal, float? scale,"
    " Tensor? additional_keys, Tensor? additional_values, str border, Tensor? bias"
)
NA = f"(Tensor query, Tensor key, Tensor value, {WINDOW}) -> (Tensor, Tensor)"
NA_BACKWARD = (
    f"(Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse, Tensor d_out, Tensor? d_lse, {WINDOW})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _na(query: Tensor, key: Tensor, value: Tensor, size: Any, stride: Any, dilation: Any, causal: Any,
        scale: Any, more_keys: Tensor, more_values: Tensor, border: str, bias: Tensor) -> Any:  # fmt: skip
    return ops.neighborhood_attention(
        query, key, value, tuple(size), tuple(stride), tuple(dilation), tuple(causal), scale, more_keys,
        more_values, True, border=border, bias=bias,
    )  # fmt: skip


def _na_backward(query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, d_out: Tensor,
                 d_lse: Tensor, size: Any, stride: Any, dilation: Any, causal: Any, scale: float | None,
                 more_keys: Tensor, more_values: Tensor, border: str, bias: Tensor) -> Any:  # fmt: skip
    found = ops.neighborhood_attention_backward(
        query, key, value, out, lse, d_out, tuple(size), tuple(stride), tuple(dilation), tuple(causal), scale,
        more_keys, more_values, d_lse=d_lse, border=border, bias=bias,
    )  # fmt: skip
    return tuple(query.new_empty((0,)) if x is None else x for x in found)


def _na_gradient_shapes(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    more_keys, more_values, _, bias = rest[-4:]
    return tuple(_like(x, query) for x in (query, key, value, bias, more_keys, more_values))


_na_backward_op = register("neighborhood_attention_backward", NA_BACKWARD, _na_backward, _na_gradient_shapes)


def _of_na(saved: Any, rest: Any, d_out: Tensor, d_lse: Tensor) -> tuple[Any, ...]:
    q, k, v, more_keys, more_values, bias, out, lse = saved
    d_out = torch.zeros_like(out) if d_out is None else d_out
    window = (*rest[3:8], more_keys, more_values, rest[10], bias)
    d_q, d_k, d_v, *more = _na_backward_op(q, k, v, out, lse, d_out, d_lse, *window)
    d_bias, d_keys, d_values = (
        None if x is None else d for x, d in zip((bias, more_keys, more_values), more, strict=True)
    )
    return d_q, d_k, d_v, None, None, None, None, None, d_keys, d_values, None, d_bias


def _na_saves(given: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
    return *given[:3], given[8], given[9], given[11], *outputs


_na_op = register("neighborhood_attention", NA, _na, _shapes, Gradient(_na_saves, _of_na))


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Any,
    stride: Any = 1,
    dilation: Any = 1,
    is_causal: Any = False,
    scale: float | None = None,
    additional_keys: Tensor = None,
    additional_values: Tensor = None,
    return_lse: bool = False,
    *,
    border: str = "shift",
    bias: Tensor = None,
) -> Any:
    """ops.neighborhood_attention on tensors, with a gradient: of all tensors, through lse too."""
    n = query.dim() - 3
    query, key, value, additional_keys, additional_values = cast(
        query, key, value, additional_keys, additional_values
    )
    out, lse = _na_op(
        query,
        key,
        value,
        per_axis(kernel_size, "kernel_size", n),
        per_axis(1 if stride is None else stride, "stride", n),
        per_axis(1 if dilation is None else dilation, "dilation", n),
        per_axis(False if is_causal is None else is_causal, "is_causal", n, bool),
        scale,
        additional_keys,
        additional_values,
        border,
        bias,
    )
    return (out, lse) if return_lse else out


def _of_rank(name: str, rank: int) -> Callable[..., Any]:
    def na(query: Tensor, *args: Any, **named: Any) -> Any:
        if query.dim() != rank + 3:
            axes = ", ".join("XYZ"[:rank])
            raise TilecError(
                f"{name} takes query [B, {axes}, H, D], of rank {rank + 3}: found {list(query.shape)}"
            )
        return neighborhood_attention(query, *args, **named)

    na.__name__ = na.__qualname__ = name
    na.__doc__ = f"ops.{name} on tensors: neighborhood_attention along {rank} of their axes."
    return na


na1d = _of_rank("na1d", 1)
na2d = _of_rank("na2d", 2)
na3d = _of_rank("na3d", 3)
