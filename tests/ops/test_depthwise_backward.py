"""Gradients of depthwise convolution: against float64 for random problems, and against torch's."""

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.ops.test_depthwise import BOUNDS, DEFAULTS, normal, some
from tilec import ops
from tilec.backends.ptx.assemble import find
from tilec.ops.depthwise_call import geometry_of
from tilec.ops.depthwise_reference import depthwise_backward_reference
from tilec.ops.reference import relative_error


def last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def agrees(x: np.ndarray, weight: np.ndarray, options: dict[str, Any], layout: str, seed: int = 0) -> None:
    g = geometry_of(x.shape[2:], weight.shape[2:], *(options.get(k, v) for k, v in DEFAULTS))
    d_out = normal(len(x), len(weight), *g.extents, dtype=x.dtype, seed=seed + 1)
    wanted = depthwise_backward_reference(x, weight, d_out, g.stride, g.padding, g.dilation)
    given = (last(x), weight, last(d_out)) if layout == "NHWC" else (x, weight, d_out)
    found = ops.depthwise_conv_backward(*given, **options, layout=layout)
    assert all(each.dtype == x.dtype for each in found)
    d_x = found.x.transpose(0, 3, 1, 2) if layout == "NHWC" else found.x
    for name, a, b in zip(found._fields, (d_x, *found[1:]), wanted, strict=True):
        if np.abs(b).max() < 1e-12:  # no output sees any of it
            assert not np.abs(a).any(), name
        else:
            assert relative_error(a, b) < BOUNDS[x.dtype.type], (name, x.shape, weight.shape, options)


@pytest.mark.parametrize("seed", range(8))
def test_random_problems(seed: int, full: bool) -> None:
    for each in range(seed, 304 if full else 8, 8):
        agrees(*some(2000 + each), layout=("NCHW", "NHWC")[each // 2 % 2], seed=each)


@pytest.mark.parametrize("target", ["reference", "emulator:sm_80", "emulator:sm_90a"])
def test_other_runners(target: str, full: bool) -> None:
    with tc.target(target):
        for each in range(3000, 3030 if full else 3002):
            agrees(*some(each, 4), layout=("NCHW", "NHWC")[each % 2], seed=each)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("size", [(31, 31), (63, 1)])
def test_large_kernels(size: tuple[int, int], layout: str) -> None:
    agrees(normal(1, 3, 33, 40), normal(3, 1, *size), {"padding": "same"}, layout)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_padding_beyond_the_kernel(layout: str) -> None:
    agrees(normal(2, 3, 6, 7), normal(6, 1, 3, 2), {"padding": ((7, 5), (4, 9)), "stride": (2, 3)}, layout)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_strips_of_a_wide_image(layout: str) -> None:
    agrees(normal(1, 2, 90, 150), normal(2, 1, 5, 9), {"padding": 2, "dilation": 2}, layout)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_same_bits_every_time(layout: str) -> None:
    x, w, d = normal(8, 4, 20, 20), normal(20, 1, 7, 7), normal(8, 20, 20, 20)
    if layout == "NHWC":
        w, d = normal(40, 1, 7, 7), normal(8, 4, 20, 40)
    first, second = (ops.depthwise_conv_backward(x, w, d, padding=3, layout=layout) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_channels_last_in_memory_stays_so() -> None:
    x, w, d = normal(2, 9, 10, 12).transpose(0, 3, 1, 2), normal(12, 1, 3, 3), normal(2, 12, 9, 10)
    found = ops.depthwise_conv_backward(x, w, d, padding=1)
    assert found.x.shape == x.shape and found.x.transpose(0, 2, 3, 1).flags.c_contiguous
    wanted = depthwise_backward_reference(x, w, d, padding=((1, 1), (1, 1)))
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_empty_batch(layout: str) -> None:
    x, d = (
        normal(0, *each) for each in (((4, 9, 9), (4, 7, 7)) if layout == "NCHW" else ((9, 9, 4), (7, 7, 4)))
    )
    found = ops.depthwise_conv_backward(x, normal(4, 1, 3, 3), d, layout=layout)
    assert found.x.shape == x.shape and not found.weight.any() and not found.bias.any()


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((7, 7), {"padding": 3}),
        ((5, 3), {"padding": (4, 1), "stride": (2, 1), "dilation": (2, 3)}),
    ],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_torch_agrees(size: tuple[int, int], options: dict[str, Any], channels_last: bool) -> None:
    torch: Any = pytest.importorskip("torch")
    x, w, bias = normal(2, 6, 33, 35), normal(12, 1, *size), normal(12)
    held = [torch.from_numpy(each).requires_grad_() for each in (x, w, bias)]
    y = torch.nn.functional.conv2d(*held, **options, groups=6)
    d_out = normal(*y.shape, seed=3)
    y.backward(torch.from_numpy(d_out))
    if channels_last:
        x, d_out = (last(each).transpose(0, 3, 1, 2) for each in (x, d_out))
    found = ops.depthwise_conv_backward(x, w, d_out, **options)
    for a, b in zip(found, held, strict=True):
        assert relative_error(a, b.grad.numpy()) < 1e-5


LAYERS: list[dict[str, Any]] = [
    {"shape": (64, 96, 56, 56), "kernel_size": 7},
    {"shape": (64, 56, 56, 96), "kernel_size": 7, "layout": "NHWC"},
    {"shape": (64, 384, 14, 14), "kernel_size": 13},
    {"shape": (64, 128, 56, 56), "kernel_size": 31},
    {"shape": (64, 96, 56, 56), "kernel_size": (51, 5)},
]


@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: str(layer["kernel_size"]))
def test_assembles_without_spills(layer: dict[str, Any], target: str, full: bool) -> None:
    if not full and LAYERS.index(layer) % 2 == (target == "sm_80"):
        pytest.skip("make check-all runs it")
    done = ops.depthwise_conv_backward.compile(**layer, padding="same", dtype="bf16", target=target)
    assert "fma.rn.f32" in done.ptx
    if find("ptxas"):
        assert done.resources.spill_bytes == 0


X, W, D = normal(2, 4, 9, 11), normal(4, 1, 3, 3), normal(2, 4, 7, 9)
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"d_out": X}, r"d_out is f32\[2, 4, 9, 11\], expected f32\[2, 4, 7, 9\]"),
    ({"d_out": D.astype(np.float16)}, r"d_out is f16\[2, 4, 7, 9\], expected f32\[2, 4, 7, 9\]"),
    ({"d_out": [1.0]}, "d_out takes an array, found list"),
    ({"weight": normal(6, 1, 3, 3)}, "the weight has 6 kernels for 4 channels"),
    ({"stride": 0}, "stride is a whole number of 1 or more"),
]


@pytest.mark.parametrize(("wrong", "message"), MISTAKES)
def test_mistakes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(tc.TilecError, match=message):
        ops.depthwise_conv_backward(**({"x": X, "weight": W, "d_out": D} | wrong))
