"""Depthwise convolutions as PTX: the layers of known networks assemble without spills."""

from typing import Any

import pytest

from tilec import ops
from tilec.backends.ptx.assemble import find

LAYERS: list[dict[str, Any]] = [
    {"shape": (64, 96, 56, 56), "kernel_size": 7},  # ConvNeXt
    {"shape": (64, 384, 14, 14), "kernel_size": 7, "bias": True},
    {"shape": (64, 56, 56, 96), "kernel_size": 7, "layout": "NHWC", "activation": "gelu"},
    {"shape": (64, 14, 14, 384), "kernel_size": 7, "layout": "NHWC", "residual": True},
    {"shape": (64, 12, 56, 56), "kernel_size": (1, 11)},  # InceptionNeXt
    {"shape": (64, 12, 56, 56), "kernel_size": (11, 1)},
    {"shape": (64, 192, 28, 28), "kernel_size": 13},  # UniRepLKNet
    {"shape": (64, 128, 56, 56), "kernel_size": 31},  # RepLKNet
    {"shape": (64, 96, 56, 56), "kernel_size": (51, 5)},  # SLaK
    {"shape": (64, 96, 56, 56), "kernel_size": (5, 51)},
]


@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: str(layer["kernel_size"]))
def test_assembles_without_spills(layer: dict[str, Any], target: str) -> None:
    done = ops.depthwise_conv.compile(**layer, padding="same", dtype="bf16", target=target)
    assert "fma.rn.f32" in done.ptx
    if find("ptxas"):
        assert done.resources.spill_bytes == 0


def test_small_kernels_are_unrolled() -> None:
    """Each of the 7 x 7 products of 8 sums is there once, and sums share what they read."""
    ptx = ops.depthwise_conv.compile(
        shape=(1, 96, 56, 56), kernel_size=7, padding="same", dtype="f32", target="sm_80"
    ).ptx
    assert ptx.count("fma.rn.f32") == 8 * 7 * 7
    reads = ptx.count("ld.shared") + ptx.count("ldmatrix.sync")
    assert reads <= (8 + 7 - 1) * 7
