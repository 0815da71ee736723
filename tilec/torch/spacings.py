"""Dilated convolution with learnable spacings in torch: kernels of points whose places are learned.

kernel = dcls_kernel(weight, positions, (17, 17))     # [C, 1, points], [2, C, 1, points] -> [C, 1, 17, 17]
"""

from typing import Any

from tilec import ops
from tilec.torch.register import Gradient, Tensor, cast, register

HOW = "str version, str convention"


def _run(weight: Tensor, positions: Tensor, sigma: Tensor, size: Any, version: str, convention: str) -> Any:
    return ops.dcls_kernel(
        weight, positions, tuple(size), sigma=sigma, version=version, convention=convention
    )


def _backward(weight: Tensor, positions: Tensor, sigma: Tensor, d_out: Tensor, *how: Any) -> list[Tensor]:
    version, convention = how
    found = ops.dcls_kernel_backward(
        weight, positions, d_out, sigma=sigma, version=version, convention=convention
    )
    return [x for x in found if x is not None]


_backward_op = register(
    "dcls_kernel_backward",
    f"(Tensor weight, Tensor positions, Tensor? sigma, Tensor d_out, {HOW}) -> Tensor[]",
    _backward,
    lambda weight, positions, sigma, *rest: [
        x.new_empty(x.shape) for x in (weight, positions, sigma) if x is not None
    ],
)


def _gradient(saved: Any, rest: Any, d: Tensor) -> tuple[Any, ...]:
    found = list(_backward_op(*saved, d.contiguous(), *rest[4:]))
    return (*found, *[None] * (6 - len(found)))


_op = register(
    "dcls_kernel",
    f"(Tensor weight, Tensor positions, Tensor? sigma, int[] size, {HOW}) -> Tensor",
    _run,
    lambda weight, positions, sigma, size, *rest: weight.new_empty((*weight.shape[:-1], *size)),
    Gradient(lambda given, _: given[:3], _gradient),
)


def dcls_kernel(
    weight: Tensor,
    positions: Tensor,
    size: tuple[int, int],
    *,
    sigma: Tensor = None,
    version: str = "v1",
    convention: str = "upstream",
) -> Tensor:
    """ops.dcls_kernel on tensors, with a gradient of all three."""
    return _op(*cast(weight, positions, sigma), list(size), version, convention)
