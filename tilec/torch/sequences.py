"""Convolutions as long as their sequences in torch, with gradients by kernels.

y = fft_conv(u, k)          # u [B, H, L], k [H, up to L], as tilec.ops.fft_conv takes and returns them
"""

from typing import Any

from tilec import ops
from tilec.torch.register import Gradient, Tensor, cast, register

MORE = "Tensor? k_reverse, Tensor? skip, Tensor? pregate, Tensor? postgate, str mode"
FORWARD = f"(Tensor u, Tensor k, {MORE}) -> Tensor"
BACKWARD = f"(Tensor dy, Tensor u, Tensor k, {MORE}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"


def _fft_conv(u: Tensor, k: Tensor, k_reverse: Any, skip: Any, pregate: Any, postgate: Any, mode: str) -> Any:
    return ops.fft_conv(u, k, mode=mode, k_reverse=k_reverse, skip=skip, pregate=pregate, postgate=postgate)


def _backward(dy: Tensor, u: Tensor, k: Tensor, k_reverse: Any, skip: Any, pregate: Any, postgate: Any,
              mode: str) -> Any:  # fmt: skip
    found = ops.fft_conv_backward(
        dy, u, k, mode=mode, k_reverse=k_reverse, skip=skip, pregate=pregate, postgate=postgate
    )
    return tuple(u.new_empty((0,)) if x is None else x for x in found)


def _gradient_shapes(dy: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(dy.new_empty((0,)) if x is None else x.new_empty(x.shape) for x in rest[:6])


_backward_op = register("fft_conv_backward", BACKWARD, _backward, _gradient_shapes)


def _of_fft_conv(saved: Any, rest: Any, d: Tensor) -> tuple[Any, ...]:
    found = _backward_op(d, *saved, rest[6])
    return *(None if x is None else y for x, y in zip(saved, found, strict=True)), None


_fft_conv_op = register(
    "fft_conv", FORWARD, _fft_conv, lambda u, *rest: u.new_empty(u.shape),
    Gradient(lambda given, _: given[:6], _of_fft_conv),
)  # fmt: skip


def fft_conv(
    u: Tensor,
    k: Tensor,
    *,
    mode: str = "causal",
    k_reverse: Tensor = None,
    skip: Tensor = None,
    pregate: Tensor = None,
    postgate: Tensor = None,
) -> Tensor:
    """ops.fft_conv on tensors, with a gradient of all of them; torch.autocast leaves k as it is."""
    u, skip, pregate, postgate = cast(u, skip, pregate, postgate)
    return _fft_conv_op(u, k, k_reverse, skip, pregate, postgate, mode)


# Butterflies: transforms whose blocks are learnt.

BUTTERFLY = "(Tensor u, Tensor k, Tensor[] blocks, Tensor[] blocks_k, bool additive) -> Tensor"
BUTTERFLY_BACKWARD = (
    "(Tensor dy, Tensor u, Tensor k, Tensor[] blocks, Tensor[] blocks_k, bool additive) -> Tensor[]"
)


def _butterfly(u: Tensor, k: Tensor, blocks: Any, blocks_k: Any, additive: bool) -> Tensor:
    return ops.butterfly_conv(u, k, tuple(blocks), tuple(blocks_k) or None, additive=additive)


def _butterfly_gradients(dy: Tensor, u: Tensor, k: Tensor, blocks: Any, blocks_k: Any, additive: bool) -> Any:
    found = ops.butterfly_conv_backward(dy, u, k, tuple(blocks), tuple(blocks_k) or None, additive=additive)
    return [*found[:2], *found[2], *(found[3] or ())]


def _butterfly_shapes(dy: Tensor, u: Tensor, k: Tensor, blocks: Any, blocks_k: Any, additive: bool) -> Any:
    return [x.new_empty(x.shape) for x in (u, k, *blocks, *blocks_k)]


_butterfly_backward_op = register(
    "butterfly_conv_backward", BUTTERFLY_BACKWARD, _butterfly_gradients, _butterfly_shapes
)


def _of_butterfly(saved: Any, rest: Any, d: Tensor) -> tuple[Any, ...]:
    u, k, *blocks = saved
    n = len(rest[2])
    du, dk, *found = _butterfly_backward_op(d, u, k, blocks[:n], blocks[n:], rest[4])
    return du, dk, found[:n], found[n:], None


_butterfly_op = register(
    "butterfly_conv", BUTTERFLY, _butterfly, lambda u, *rest: u.new_empty(u.shape),
    Gradient(lambda given, _: (*given[:2], *given[2], *given[3]), _of_butterfly),
)  # fmt: skip


def butterfly_conv(
    u: Tensor, k: Tensor, blocks: Any, blocks_k: Any = None, *, additive: bool = False
) -> Tensor:
    """ops.butterfly_conv on tensors, with a gradient, that of the blocks included."""
    return _butterfly_op(u, k, list(blocks), list(blocks_k or ()), additive)


# Kernels that are kept small and smooth while they are learnt.

_tame_backward_op = register(
    "tame_kernel_backward",
    "(Tensor d_out, Tensor k, float squash, int smooth) -> Tensor",
    lambda d_out, k, squash, smooth: ops.tame_kernel_backward(d_out, k, squash=squash, smooth=smooth),
    lambda d_out, k, *rest: k.new_empty(k.shape),
)
_tame_op = register(
    "tame_kernel",
    "(Tensor k, float squash, int smooth) -> Tensor",
    lambda k, squash, smooth: ops.tame_kernel(k, squash=squash, smooth=smooth),
    lambda k, *rest: k.new_empty(k.shape),
    Gradient(
        lambda given, _: given[:1],
        lambda saved, rest, d: (_tame_backward_op(d, *saved, *rest[1:]), None, None),
    ),
)


def tame_kernel(k: Tensor, *, squash: float = 0.0, smooth: int = 1) -> Tensor:
    """ops.tame_kernel on tensors, with a gradient."""
    return _tame_op(k, squash, smooth)
