"""InceptionNeXt's mixer against float64: both layouts, in place or not, on every runner."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import emulate
from tilec import ops
from tilec.backends.ptx.assemble import find
from tilec.ops.inception_kernel import in_place_kernel
from tilec.ops.inception_tiling import WARPS, inception_parts
from tilec.ops.reference import relative_error

BOUNDS = {np.float64: 1e-13, np.float32: 1e-5, np.float16: 1.5e-3, ml_dtypes.bfloat16: 1e-2}
SIZES = ((3, 3), (1, 11), (11, 1))


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def some(counts: Any = (2, 2, 2), sizes: Any = SIZES, dtype: Any = np.float32) -> tuple[list[Any], list[Any]]:
    """Weights and biases of the three parts."""
    weights = [
        normal(g, 1, *size, dtype=dtype, seed=i)
        for i, (g, size) in enumerate(zip(counts, sizes, strict=True))
    ]
    return weights, [normal(g, dtype=dtype, seed=i) for i, g in enumerate(counts)]


def filtered(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Every element's surroundings [kh, kw], times the weight, in float64."""
    kh, kw = weight.shape[2:]
    around = ((kh - 1) // 2, kh // 2), ((kw - 1) // 2, kw // 2)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *around))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(2, 3))
    return np.einsum("nchwrq,crq->nchw", seen, weight[:, 0].astype(np.float64))


def expected(x: np.ndarray, weights: list[np.ndarray], biases: list[Any]) -> np.ndarray:
    y, first = x.astype(np.float64), x.shape[1] - sum(map(len, weights))
    for weight, bias in zip(weights, biases, strict=True):
        ours = slice(first, first := first + len(weight))
        y[:, ours] = filtered(x[:, ours], weight)
        y[:, ours] += 0 if bias is None else bias.astype(np.float64)[:, None, None]
    return y


def agrees(x: np.ndarray, weights: list[np.ndarray], biases: list[Any], last: bool) -> None:
    """Into a poisoned array, and in place: the channels that stay are the same bits."""
    wanted, stay = expected(x, weights, biases), x.shape[1] - sum(map(len, weights))
    order = (0, 2, 3, 1) if last else (0, 1, 2, 3)
    given, layout = x.transpose(order).copy(), "NHWC" if last else "NCHW"
    out = np.full_like(given, np.nan)
    assert ops.inception_depthwise_conv(given, *weights, *biases, layout=layout, out=out) is out
    np.testing.assert_array_equal(given, x.transpose(order))
    assert ops.inception_depthwise_conv(given, *weights, *biases, layout=layout, in_place=True) is given
    for y in (out, given):
        found = y.transpose(0, 3, 1, 2) if last else y
        np.testing.assert_array_equal(found[:, :stay], x[:, :stay])
        assert relative_error(found[:, stay:], wanted[:, stay:]) < BOUNDS[x.dtype.type]
        assert found[:, stay:].any()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_dtypes_and_layouts(dtype: Any, last: bool, full: bool) -> None:
    if not full and (dtype in (np.float32, np.float64) or last != (dtype == np.float16)):
        pytest.skip("make check-all runs it")
    agrees(normal(2, 17, 14, 13, dtype=dtype), *some((2, 3, 1), dtype=dtype), last)


def test_random_problems(full: bool) -> None:
    for seed in range(48 if full else 2):
        rng = np.random.default_rng(seed)
        k, b, c = 2 * rng.integers(0, 4) + 1, rng.integers(1, 18), rng.integers(1, 18)
        counts = [int(g) for g in rng.integers(1, 5, 3)]
        image = [int(n) for n in rng.integers((1, sum(counts), 1, 1), (4, sum(counts) + 9, 40, 40))]
        weights, biases = some(counts, ((k, k), (1, b), (c, 1)))
        agrees(normal(*image, seed=seed), weights, biases if seed % 2 else [None] * 3, bool(seed // 2 % 2))


@pytest.mark.parametrize("target", ["reference", "emulator:sm_80", "emulator:sm_90a"])
@pytest.mark.parametrize("last", [False, True])
def test_other_runners(target: str, last: bool, full: bool) -> None:
    if not full and last == (target == "emulator:sm_80"):
        pytest.skip("make check-all runs it")
    with tc.target(target):
        agrees(normal(2, 11, 9, 13), *some(), last)


def test_large_images_in_place_take_a_copy() -> None:
    """Of what is filtered: no block holds 300 rows and columns."""
    agrees(normal(1, 4, 300, 310), *some((1, 1, 1)), False)


def test_no_channel_stays(full: bool) -> None:
    if not full:
        pytest.skip("make check-all runs it")
    agrees(normal(2, 6, 9, 8), *some(), False)


def test_channels_last_in_memory_stay_so() -> None:
    x, (weights, biases) = normal(2, 9, 10, 8).transpose(0, 3, 1, 2), some()
    y = ops.inception_depthwise_conv(x, *weights, *biases)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous and not x.flags.c_contiguous
    wanted = expected(x, weights, biases)
    assert relative_error(y, wanted) < 1e-5
    out = np.full(x.shape, np.nan, x.dtype)
    assert ops.inception_depthwise_conv(x, *weights, *biases, out=out) is out
    assert relative_error(out, wanted) < 1e-5
    assert ops.inception_depthwise_conv(x, *weights, *biases, in_place=True) is x
    assert relative_error(x, wanted) < 1e-5


def test_views_are_read_and_written_where_they_are() -> None:
    x, (weights, biases) = normal(3, 8, 20, 24)[::2, :, ::2, 1::2], some()
    room = np.zeros((2, 9, 12, 12), np.float32)
    out = room[:, 1:, 1:11]
    ops.inception_depthwise_conv(x, *weights, *biases, out=out)
    assert relative_error(out, expected(x, weights, biases)) < 1e-5
    assert not room[:, 0].any() and not room[:, :, 0].any() and not room[:, :, 11].any()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_empty_batch(layout: str) -> None:
    x = normal(0, 8, 9, 9) if layout == "NCHW" else normal(0, 9, 9, 8)
    assert ops.inception_depthwise_conv(x, *some()[0], layout=layout).shape == x.shape


LAYERS: list[dict[str, Any]] = [
    {"shape": (64, 96, 56, 56)},
    {"shape": (64, 96, 56, 56), "in_place": True},
    {"shape": (64, 384, 14, 14), "in_place": True},
    {"shape": (64, 56, 56, 96), "layout": "NHWC"},
    {"shape": (64, 768, 7, 7), "dtype": "f32"},
]


@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("layer", LAYERS)
def test_assembles_without_spills(layer: dict[str, Any], target: str, full: bool) -> None:
    if not full and (layer not in LAYERS[:2] or (target == "sm_80") == ("in_place" in layer)):
        pytest.skip("make check-all runs it")
    done = ops.inception_depthwise_conv.compile(**layer, target=target)
    assert "fma.rn.f32" in done.ptx and len(done.kernels) == 1
    if find("ptxas"):
        assert done.resources.spill_bytes == 0


@pytest.mark.parametrize("image", [(3, 56, 56), (12, 14, 14)])
def test_warps_meet_no_bank_twice(image: tuple[int, int, int], full: bool) -> None:
    """In place, where blocks hold whole images."""
    if not full and image[1] == 56:
        pytest.skip("make check-all runs it")
    count = image[0] // 3
    weights, _ = some((count,) * 3)
    parts = inception_parts(image, (count,) * 3, SIZES, False, tc.f32, "sm_80", True)
    assert parts is not None
    x, given = normal(1, *image), [each for w in weights for each in (w[:, 0], None)]
    wanted = expected(x, weights, [None] * 3)
    done = in_place_kernel.compile(x, *given, parts=parts, warps=WARPS, target="sm_80")
    report = emulate(done.code, [x, *(w[:, 0] for w in weights)])
    assert report.completed and not report.findings
    assert relative_error(x, wanted) < 1e-5
    lines = done.ptx.splitlines()
    loads = [t for i, t in report.metrics.shared.items() if "ld.shared" in lines[i - 1]]
    assert loads and all(traffic.ratio == 1 for traffic in loads)


X, ((S, R, C), _) = normal(2, 8, 9, 11), some()
KEPT = normal(2, 8, 9, 11)
KEPT.flags.writeable = False
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"x": X[0]}, r"takes x \[N, C, H, W\], of rank 4: found \[8, 9, 11\]"),
    ({"layout": "CHWN"}, "expected layout 'NCHW' or 'NHWC', found 'CHWN'"),
    ({"row": C, "column": R}, r"row \[g, 1, 1, b\] and column.*found square.*row \[2, 1, 11, 1\], column"),
    ({"square": S[:, :, :2]}, r"expected square \[g, 1, k, k\].*found square \[2, 1, 2, 3\]"),
    ({"square": S[:, 0]}, r"expected square \[g, 1, k, k\].*found square \[2, 3, 3\]"),
    ({"row": R[:0]}, r"expected square.*row \[0, 1, 1, 11\]"),
    ({"x": X[:, :5]}, r"x \[2, 5, 9, 11\], NCHW, has 5 channels, fewer than there are kernels"),
    ({"x": X.astype(np.int32)}, "x is i32, expected f16, bf16, f32 or f64"),
    ({"row": R.astype(np.float16)}, "x and weight are of one dtype: x is f32, the weight f16"),
    ({"row": normal(2, 1, 1, 65)}, "kernels have up to 63 rows and columns"),
    ({"row_bias": normal(3)}, r"row_bias is f32\[3\], expected floats \[2\]"),
    ({"out": X[:1]}, r"out is f32\[1, 8, 9, 11\], and the result f32\[2, 8, 9, 11\]"),
    ({"out": X}, "out shares bytes with x: pass in_place=True, or another array"),
    ({"out": X, "in_place": True}, "in_place=True writes over x: leave out= away"),
    ({"x": X[:, ::-1], "in_place": True}, "x runs backwards.*in_place needs x itself"),
    ({"x": KEPT, "in_place": True}, "x is read-only: leave in_place=True away"),
]


@pytest.mark.parametrize(("wrong", "message"), MISTAKES)
def test_mistakes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(tc.TilecError, match=message):
        ops.inception_depthwise_conv(**({"x": X, "square": S, "row": R, "column": C} | wrong))


def test_mistakes_of_compile() -> None:
    with pytest.raises(
        tc.TilecError, match=r"three parts of 0\.125 of 6 channels are 3 x 0: expected 1 to 6"
    ):
        ops.inception_depthwise_conv.compile(shape=(1, 6, 9, 9))
    with pytest.raises(tc.TilecError, match="300 x 300 images are too large for a block of sm_80"):
        ops.inception_depthwise_conv.compile(shape=(1, 32, 300, 300), in_place=True, target="sm_80")
