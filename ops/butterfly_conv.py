"""Long convolutions whose transforms are learned, stage by stage (Fu et al., 2023: FlashButterfly).

    y = butterfly_conv(u, k, blocks)        # u [B, H, L], k [H, taps], blocks: matrices [H, n_i, n_i, 2]
    grads = butterfly_conv_backward(dy, u, k, blocks)
The period is the product of the n_i. With roots of unity as blocks, or additive zeros, it is fft_conv.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.arrays import Array, assign, empty, empty_like, sums_in, told
from tilec.ops.butterfly_conv_kernel import (
    Stages,
    block_kernel,
    butterfly_conv_backward_kernel,
    butterfly_conv_kernel,
)
from tilec.ops.fft_conv_call import floats
from tilec.ops.op import op

SIZES = (2, 16)
LONGEST = 1 << 17


class ButterflyGradients(NamedTuple):
    """One for each argument of butterfly_conv; blocks_k is None where blocks served for both."""

    u: Array
    k: Array
    blocks: tuple[Array, ...]
    blocks_k: tuple[Array, ...] | None


def compile_butterfly_conv(
    *,
    batch: int,
    channels: int,
    length: int,
    factors: tuple[int, ...],
    additive: bool = False,
    dtype: Any = "f32",
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel for u [batch, channels, length] and a period of these factors."""
    u, k, matrices, stages = _specs(batch, channels, length, factors, additive, dtype)
    return butterfly_conv_kernel.compile(u, k, matrices, matrices, u, stages=stages, target=target)


def compile_butterfly_conv_backward(
    *,
    batch: int,
    channels: int,
    length: int,
    factors: tuple[int, ...],
    additive: bool = False,
    dtype: Any = "f32",
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel of the gradients."""
    u, k, m, stages = _specs(batch, channels, length, factors, additive, dtype)
    return butterfly_conv_backward_kernel.compile(u, u, k, m, m, u, k, m, m, stages=stages, target=target)


def _specs(
    batch: int, channels: int, length: int, factors: tuple[int, ...], additive: bool, dtype: Any
) -> tuple[tc.Spec, tc.Spec, tc.Spec, Stages]:
    kind = find_dtype(dtype)
    u, k = tc.Spec(kind, (batch, channels, length)), tc.Spec(kind, (channels, length))
    matrices = tc.Spec(sums_in(kind), (channels, sum(n * n for n in factors), 2))
    return u, k, matrices, Stages(factors, additive, sums_in(kind))


class Call(NamedTuple):
    """Arrays that fit each other; matrices packed, [H, sum of n_i^2, 2]."""

    u: Array
    k: Array
    for_u: Array
    for_k: Array
    stages: Stages


@op(compile_butterfly_conv)
def butterfly_conv(
    u: Any, k: Any, blocks: Sequence[Any], blocks_k: Sequence[Any] | None = None, *, additive: bool = False
) -> Array:
    """Re(inverse DFT of T(u) * T'(k)), as far as u goes: u [B, H, L], k [H, up to L], of one dtype.

    T is Cooley and Tukey's transform with `blocks`, T' with `blocks_k` (None: the same): complex matrices
    [H, n, n, 2] or, for all heads, [n, n, 2], of 2 to 16 rows, the first for the slowest index of time. They
    stand for the roots of unity, or are added to them where `additive`. Their sizes multiply to the period; 2
    L or more make it causal. Raises TilecError for what does not fit.
    """
    call = _call(u, k, blocks, blocks_k, additive)
    y = empty_like(call.u)
    if 0 not in y.shape:
        butterfly_conv_kernel(*call[:4], y, stages=call.stages)
    return y


@op(compile_butterfly_conv_backward)
def butterfly_conv_backward(
    dy: Any, u: Any, k: Any, blocks: Sequence[Any], blocks_k: Sequence[Any] | None = None, *,
    additive: bool = False,
) -> ButterflyGradients:  # fmt: skip
    """How sum(dy * butterfly_conv(...)) changes with each argument: dy [B, H, L]. Raises TilecError for what
    does not fit.
    """
    call = _call(u, k, blocks, blocks_k, additive)
    g = floats(dy, "dy")
    if g.shape != call.u.shape:
        raise TilecError(f"dy is {told(g)}, expected the shape of u, {list(call.u.shape)}")
    found = [empty_like(x) for x in call[:4]]
    butterfly_conv_backward_kernel(g, *call[:4], *found, stages=call.stages)
    du, dk, for_u, for_k = found
    if blocks_k is None:
        return ButterflyGradients(du, dk, _unpacked(blocks, call.stages, for_u, for_k), None)
    ours, theirs = _unpacked(blocks, call.stages, for_u), _unpacked(blocks_k, call.stages, for_k)
    return ButterflyGradients(du, dk, ours, theirs)


def _call(u: Any, k: Any, blocks: Any, blocks_k: Any, additive: bool) -> Call:
    x, taps = floats(u, "u"), floats(k, "k")
    if x.ndim != 3 or taps.ndim != 2 or taps.shape[0] != x.shape[1] or taps.dtype != x.dtype:
        raise TilecError(
            f"butterfly_conv takes u [B, H, L] and k [H, taps] of one dtype: u is {told(x)}, k {told(taps)}"
        )
    factors = _factors(blocks, "blocks", x.shape[1])
    period = prod(factors)
    if blocks_k is not None and _factors(blocks_k, "blocks_k", x.shape[1]) != factors:
        raise TilecError("blocks_k has other sizes than blocks: both make one period, factor by factor")
    if not max(x.shape[2], taps.shape[1]) <= period <= LONGEST:
        raise TilecError(
            f"blocks of {list(factors)} rows make a period of {period}: expected {x.shape[2]}, the length of "
            f"u, or more, and up to {LONGEST}"
        )
    kind = sums_in(find_dtype(x.dtype))
    ours = _packed(blocks, x.shape[1], kind)
    theirs = ours if blocks_k is None else _packed(blocks_k, x.shape[1], kind)
    return Call(x, taps, ours, theirs, Stages(factors, additive, kind))


def _factors(blocks: Any, name: str, channels: int) -> tuple[int, ...]:
    found = []
    for block in blocks:
        held = floats(block, name)
        rows = held.shape[-2] if held.ndim in (3, 4) else 0
        heads = held.ndim == 3 or (held.ndim == 4 and held.shape[0] == channels)
        if held.shape[-3:] != (rows, rows, 2) or not heads or not SIZES[0] <= rows <= SIZES[1]:
            raise TilecError(
                f"{name} are complex matrices of 2 to 16 rows, [{channels}, n, n, 2] or [n, n, 2]: found "
                f"{told(held)}"
            )
        found.append(int(rows))
    return tuple(found)


def _packed(blocks: Any, channels: int, kind: DType) -> Array:
    """[H, sum of n_i^2, 2]"""
    sizes = [block.shape[-2] ** 2 for block in blocks]
    packed, start = empty((channels, sum(sizes), 2), kind), 0
    for block, size in zip(blocks, sizes, strict=True):
        for head in range(channels):
            one = block[head] if block.ndim == 4 else block
            assign(packed[head, start : start + size], one.reshape(size, 2))
        start += size
    return packed


def _unpacked(blocks: Any, stages: Stages, gradient: Array, other: Array | None = None) -> tuple[Array, ...]:
    """As the blocks came, of one gradient or the sum of two: those for all heads have the sum over the
    heads."""
    found, start = [], 0
    for block in blocks:
        size = block.shape[-2] ** 2
        made = empty_like(block)
        block_kernel(gradient, other, made.reshape(-1, size, 2), start=start, accumulator=stages.kind)
        found.append(made)
        start += size
    return tuple(found)
