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
    return ops.fft_conv(
        u, k, mode=mode, k_reverse=k_reverse, skip=skip, pregate=pregate, postgate=postgate
    )


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
