"""Depthwise convolution against float64: random problems on the CPU, some on every other runner."""

from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tilec import ops
from tilec.ops.depthwise_call import geometry_of
from tilec.ops.depthwise_reference import depthwise_reference
from tilec.ops.reference import activation_reference, relative_error

BOUNDS = {np.float64: 1e-13, np.float32: 1e-5, np.float16: 1.5e-3, ml_dtypes.bfloat16: 1e-2}


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def some(seed: int, largest: int = 9) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """An image, kernels and options drawn at random, of any form, that fit each other."""
    rng = np.random.default_rng(seed)
    size = [int(n) for n in rng.integers(1, largest + 1, 2)]
    stride, dilation = ([int(n) for n in rng.integers(1, 4, 2)] for _ in range(2))
    forms = [0, 2, (1, 3), ((0, 2), (3, 1)), "same", "valid"]
    padding = forms[int(rng.integers(0, len(forms)))]
    if padding == "same":
        stride = [1, 1]
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
    image = [int(rng.integers(span, span + 24)) for span in spans]
    n, c, multiplier = (int(x) for x in rng.integers(1, (3, 7, 4)))
    dtype = list(BOUNDS)[int(rng.integers(0, 4))]
    x = normal(n, c, *image, dtype=dtype, seed=seed)
    weight = normal(c * multiplier, 1, *size, dtype=dtype, seed=seed)
    return x, weight, {"stride": tuple(stride), "padding": padding, "dilation": tuple(dilation)}


def expected(x: np.ndarray, weight: np.ndarray, bias: Any = None, **options: Any) -> np.ndarray:
    g = geometry_of(x.shape[2:], weight.shape[2:], *(options.get(k, v) for k, v in DEFAULTS))
    return depthwise_reference(x, weight, bias, g.stride, g.padding, g.dilation)


DEFAULTS = (("stride", 1), ("padding", 0), ("dilation", 1))


def agrees(x: np.ndarray, weight: np.ndarray, options: dict[str, Any], last: bool) -> None:
    bias = normal(len(weight), dtype=x.dtype)
    wanted = expected(x, weight, bias, **options)
    given = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if last else x
    shape = wanted.transpose(0, 2, 3, 1).shape if last else wanted.shape
    out = np.full(shape, np.nan, x.dtype)
    y = ops.depthwise_conv(given, weight, bias, **options, layout="NHWC" if last else "NCHW", out=out)
    assert y is out
    y = y.transpose(0, 3, 1, 2) if last else y
    assert relative_error(y, wanted) < BOUNDS[x.dtype.type], (x.shape, weight.shape, options)


@pytest.mark.parametrize("seed", range(24))
def test_random_problems(seed: int, full: bool) -> None:
    for each in range(seed, 400 if full else 48, 24):
        agrees(*some(each), last=bool(each % 2))


@pytest.mark.parametrize("target", ["reference", "emulator:sm_80", "emulator:sm_90a"])
@pytest.mark.parametrize("seed", range(1000, 1004))
def test_other_runners(seed: int, target: str, full: bool) -> None:
    with tc.target(target):
        for each in range(seed, 1040 if full else 1004, 4):
            agrees(*some(each, 5), last=bool(each // 2 % 2))


SIZES = [(1, 1), (63, 1), (1, 63), (31, 31), (51, 5), (5, 51), (2, 17), (63, 63)]


@pytest.mark.parametrize(("size", "last"), list(product(SIZES, [False, True])))
def test_large_kernels(size: tuple[int, int], last: bool) -> None:
    agrees(normal(1, 3, 33, 40), normal(3, 1, *size), {"padding": "same"}, last)


@pytest.mark.parametrize("last", [False, True])
def test_large_kernels_dilated_and_strided(last: bool) -> None:
    agrees(
        normal(1, 2, 70, 80),
        normal(2, 1, 31, 13),
        {"stride": (2, 3), "dilation": (3, 2), "padding": 20},
        last,
    )


@pytest.mark.parametrize("last", [False, True])
def test_large_kernel_emulated(last: bool) -> None:
    with tc.target("emulator:sm_80"):
        agrees(normal(1, 2, 15, 18), normal(2, 1, 31, 31), {"padding": "same"}, last)


@pytest.mark.parametrize("extent", [1, 7, 31, 33, 127, 129])
def test_ragged_extents(extent: int) -> None:
    agrees(normal(2, extent, 9, extent), normal(extent, 1, 3, 3), {"padding": 1}, False)
    agrees(normal(2, extent, 9, extent), normal(extent, 1, 3, 3), {"padding": 1}, True)


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "silu"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_endings(activation: str | None, layout: str) -> None:
    """activation(conv * scale + bias) + residual"""
    x, w, scale, bias = normal(2, 5, 9, 12), normal(5, 1, 3, 3), normal(5), normal(5, seed=1)
    sums = expected(x, w, padding=1) * scale[:, None, None] + bias[:, None, None]
    residual = normal(*sums.shape, seed=2)
    wanted = activation_reference(sums, activation) + residual
    order = (0, 1, 2, 3) if layout == "NCHW" else (0, 2, 3, 1)
    given = {
        "scale": scale,
        "activation": activation,
        "residual": residual.transpose(order),
        "layout": layout,
    }
    y = ops.depthwise_conv(x.transpose(order).copy(), w, bias, padding=1, **given)
    assert relative_error(y, wanted.transpose(order)) < 1e-5


def test_channels_last_in_memory_stays_so() -> None:
    x, w, residual = normal(2, 9, 10, 12).transpose(0, 3, 1, 2), normal(12, 1, 3, 3), normal(2, 12, 9, 10)
    wanted = expected(x, w, padding=1) + residual
    y = ops.depthwise_conv(x, w, padding=1, residual=residual)
    assert y.shape == (2, 12, 9, 10) and y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert relative_error(y, wanted) < 1e-5
    assert ops.depthwise_conv(x, w, padding=1, residual=residual, out=residual * 0) is not y
    out = np.full_like(residual, np.nan)
    assert ops.depthwise_conv(x, w, padding=1, residual=residual, out=out) is out
    assert relative_error(out, wanted) < 1e-5


def test_views_are_read_where_they_are() -> None:
    x, w = normal(3, 8, 20, 24)[::2, 1::3, ::2, 1::2], normal(3, 1, 5, 5)
    assert relative_error(ops.depthwise_conv(x, w), expected(x, w)) < 1e-5


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_empty_batch(layout: str) -> None:
    x = normal(0, 4, 9, 9) if layout == "NCHW" else normal(0, 9, 9, 4)
    y = ops.depthwise_conv(x, normal(8, 1, 3, 3), stride=2, layout=layout)
    assert y.shape == ((0, 8, 4, 4) if layout == "NCHW" else (0, 4, 4, 8))


X, W = normal(2, 4, 9, 11), normal(4, 1, 3, 3)
MISTAKES = [
    ({"weight": normal(4, 1, 12, 3)}, r"spans 12 rows \(12, dilation 1\), and the padded image has 9"),
    ({"dilation": (1, 6)}, r"spans 13 columns \(3, dilation 6\), and the padded image has 11"),
    ({"padding": -1}, r"padding is a whole number of 0 or more, or two of them \(or 'same', .*found -1"),
    ({"padding": ((0, 1), (-1, 0))}, r"padding is a whole number of 0 or more.*found \(-1, 0\)"),
    ({"padding": (1, 2, 3)}, r"padding is a whole number of 0 or more, or two of them.*found \(1, 2, 3\)"),
    ({"padding": "full"}, "expected padding 'same', 'valid' or numbers, found 'full'"),
    ({"padding": "same", "stride": (1, 2)}, r"'same' keeps the extents, and stride \[1, 2\] does not"),
    ({"stride": 0}, "stride is a whole number of 1 or more, or two of them: found 0"),
    ({"stride": True}, "stride is a whole number of 1 or more, or two of them: found True"),
    ({"dilation": (1, 1.5)}, r"dilation is a whole number of 1 or more, or two of them: found \(1, 1.5\)"),
    (
        {"weight": normal(4, 3, 3)},
        r"takes a weight \[C \* multiplier, 1, kh, kw\]: the weight is \[4, 3, 3\]",
    ),
    ({"weight": normal(4, 2, 3, 3)}, r"takes a weight \[C \* multiplier, 1, kh, kw\]"),
    ({"weight": normal(4, 1, 0, 3)}, r"takes a weight \[C \* multiplier, 1, kh, kw\]"),
    ({"weight": normal(6, 1, 3, 3)}, "the weight has 6 kernels for 4 channels, expected a multiple"),
    ({"weight": normal(4, 1, 64, 3)}, "kernels have up to 63 rows and columns"),
    ({"layout": "NHWC"}, r"has 4 kernels for 11 channels.*is x \[N, C, H, W\]\? then pass layout='NCHW'"),
    ({"layout": "NCWH"}, "expected layout 'NCHW' or 'NHWC', found 'NCWH'"),
    ({"x": X[0]}, r"takes x \[N, C, H, W\], of rank 4: found \[4, 9, 11\]"),
    ({"x": X.astype(np.int32)}, "x is i32, expected f16, bf16, f32 or f64"),
    ({"weight": W.astype(np.float16)}, "x and weight are of one dtype: x is f32, the weight f16; cast one"),
    ({"x": [1.0]}, "x takes an array, found list"),
    ({"bias": normal(3)}, r"bias is f32\[3\], expected floats \[4\]"),
    ({"scale": np.zeros(4, np.int8)}, r"scale is i8\[4\], expected floats \[4\]"),
    ({"residual": X}, r"residual is f32\[2, 4, 9, 11\], expected floats \[2, 4, 7, 9\]"),
    ({"activation": "tanh"}, "expected activation None, 'relu', 'gelu' or 'silu', found 'tanh'"),
    ({"out": X}, r"out is f32\[2, 4, 9, 11\], and the result f32\[2, 4, 7, 9\]"),
]


@pytest.mark.parametrize(("wrong", "message"), MISTAKES)
def test_mistakes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(tc.TilecError, match=message):
        ops.depthwise_conv(**({"x": X, "weight": W} | wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shape": (2, 4, 9)}, r"takes x \[N, C, H, W\], of rank 4: found \[2, 4, 9\]"),
        ({"layout": "NCWH"}, "expected layout 'NCHW' or 'NHWC', found 'NCWH'"),
        ({"kernel_size": (64, 3)}, "kernels have up to 63 rows and columns"),
        ({"kernel_size": 0}, "kernel_size is a whole number of 1 or more, or two of them: found 0"),
        ({"multiplier": 0}, r"takes a weight \[C \* multiplier, 1, kh, kw\]: the weight is \[0, 1, 3, 3\]"),
        ({"dtype": "i8"}, "dtype is i8, expected f16, bf16, f32 or f64"),
    ],
)
def test_bad_problems(wrong: dict[str, Any], message: str) -> None:
    """What nothing can be compiled for."""
    for op in (ops.depthwise_conv, ops.depthwise_conv_backward):
        with pytest.raises(tc.TilecError, match=message):
            op.compile(**{"shape": (2, 4, 9, 11), "kernel_size": 3, **wrong}, target="cpu")


def test_out_of_another_shape_channels_last() -> None:
    last = normal(2, 9, 11, 4).transpose(0, 3, 1, 2)
    with pytest.raises(tc.TilecError, match=r"out is f32\[2, 4, 9, 11\], expected \[2, 4, 7, 9\]"):
        ops.depthwise_conv(last, W, out=X)
