"""Quantising to every type: what codes stand for, how near they are, packing for layouts, and bad input."""

from functools import lru_cache
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Arg
from tilec.ir.inst.shape import View
from tilec.ir.layout import Digit, column_local, local, register, spatial
from tilec.ir.run import State
from tilec.ir.tile import TileType
from tilec.ops.quantize import quantize
from tilec.ops.reference import relative_error
from tilec.ops.weight import QuantizedWeight, code_values

WEIGHT_TYPES = [d for d in dt.ALL if d.bits <= 8 and (d.is_integer or d.kind == "float")]
INTEGERS = [d for d in WEIGHT_TYPES if d.is_integer]
FLOATS = [d for d in WEIGHT_TYPES if d.is_float]
ALL_CASES = [(d, zero) for d in WEIGHT_TYPES for zero in (False, True)]


@lru_cache
def normal(n: int = 32, k: int = 300) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((n, k)).astype(np.float32)


def numbers(dtype: DType) -> np.ndarray:
    """What each code stands for, NaN where that is no number."""
    values = codec.decode(np.arange(1 << dtype.bits), dtype)
    return np.where(np.isfinite(values), values.astype(object), np.nan).astype(np.float64)


def meaning(q) -> np.ndarray:
    """(value of code - zero) * scale, element by element, from the public fields alone."""
    bits, out = q.dtype.bits, np.empty(q.shape)
    implied = 0.0 if q.dtype.is_signed else 0.5 if bits == 1 else 2.0 ** (bits - 1)
    values = numbers(q.dtype)
    for n, k in np.ndindex(*q.shape):
        group = k // q.group_size
        zero = implied if q.zeros is None else float(q.zeros[n, group])
        out[n, k] = (values[q.codes[n, k]] - zero) * float(q.scales[n, group])
    return out


def test_there_are_types_of_every_width():
    assert {d.bits for d in INTEGERS} == set(range(1, 9)) and {d.bits for d in FLOATS} == set(range(3, 9))


@pytest.mark.parametrize(("dtype", "zero_point"), ALL_CASES)
def test_codes_stand_for_the_weight(dtype: DType, zero_point: bool):
    w = normal()
    q = quantize(w, dtype.name, group_size=128, zero_point=zero_point)
    assert (q.shape, q.codes.dtype, q.scales.shape, q.scales.dtype) == (
        (32, 300),
        np.uint8,
        (32, 3),
        np.float16,
    )
    assert q.codes.max() <= dtype.code_mask and (q.zeros is not None) == zero_point
    assert q.dequantize().dtype == np.float32
    assert np.allclose(q.dequantize(), meaning(q), rtol=1e-6, atol=0)
    assert relative_error(q.dequantize(), w) < (
        0.85 if dtype.bits == 1 else 0.45 if dtype.bits == 2 else 0.25
    )


@pytest.mark.parametrize(("dtype", "zero_point"), ALL_CASES)
def test_each_code_is_the_nearest_under_the_stored_scale(dtype: DType, zero_point: bool):
    w = normal()[:4]
    q = quantize(w, dtype, group_size=100, zero_point=zero_point)
    values = numbers(dtype)
    values = values[np.abs(values) <= 256]  # no NaN, no infinity, and none that f16 scales could not follow
    scales = np.repeat(q.scales.astype(np.float64), 100, axis=1)
    zeros = np.repeat(q.zeros, 100, axis=1) if zero_point else q.zero
    candidates = (values - np.asarray(zeros)[..., None]) * scales[..., None]
    best = np.abs(candidates - w[..., None].astype(np.float64)).min(-1)
    assert (np.abs(q.dequantize() - w) <= best + 2e-6 * np.abs(w).max()).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_float_codes_stay_where_f16_is_normal(dtype: DType):
    q = quantize(normal() * 1e4, dtype, group_size=64)
    values = codec.decode(q.codes, dtype).astype(np.float64)
    assert np.isfinite(values).all() and np.abs(values).max() <= 256


@pytest.mark.parametrize("dtype", INTEGERS)
def test_zeros_are_integers_in_code_range(dtype: DType):
    w = normal() + np.linspace(-4, 4, 32, dtype=np.float32)[:, None]  # rows from all negative to all positive
    q = quantize(w, dtype, group_size=50, zero_point=True)
    assert q.zeros.dtype == dtype.reference and q.zeros.shape == q.scales.shape
    assert q.zeros.min() >= dtype.min and q.zeros.max() <= dtype.max
    assert relative_error(q.dequantize(), w) < (0.5, 0.3, 0.15)[min(dtype.bits, 3) - 1]


# How near.


def error(dtype: object, **options) -> float:
    return relative_error(quantize(normal(), dtype, **options).dequantize(), normal())


@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("kind", ["i", "u"])
def test_more_bits_of_an_integer_are_nearer(kind: str, zero_point: bool):
    errors = [error(f"{kind}{bits}", zero_point=zero_point) for bits in range(1, 9)]
    assert all(wide < 0.8 * narrow for narrow, wide in pairwise(errors)), errors
    assert errors[3] < 0.11 and errors[7] < 0.007


def test_more_bits_of_a_float_are_nearer():
    best = [min(error(d) for d in FLOATS if d.bits == bits) for bits in range(3, 9)]
    assert all(wide < 0.7 * narrow for narrow, wide in pairwise(best)), best


def test_one_bit_is_the_least_squares_fit():
    """The best +-c is the mean magnitude: the scale of u1 is twice that."""
    q = quantize(normal(), "u1", group_size=100, scale_dtype="f32")
    mean = np.abs(normal().reshape(32, 3, 100)).mean(-1)
    assert np.allclose(q.scales, 2 * mean, rtol=1e-5)
    assert np.array_equal(q.codes, normal() > 0)


def test_what_fits_is_exact():
    """Weights that some scale of the type hits exactly come back exactly."""
    for dtype in WEIGHT_TYPES:
        if dtype.bits == 1:
            continue
        values = numbers(dtype)
        values = values[np.abs(values) <= 256] - (0 if dtype.is_signed else 1 << dtype.bits - 1)
        q = quantize(values[None] * 0.25, dtype, group_size=None)
        assert np.array_equal(q.dequantize()[0], values * 0.25), dtype


def test_outliers_are_not_clipped_away():
    w = normal().copy()
    w[:, ::100] *= 50
    q = quantize(w, "i8", group_size=None)
    assert np.abs(q.dequantize() - w).max() <= 0.51 * q.scales.max()


# Groups and scales.


def test_groups():
    w = normal(4, 300)
    for size, groups, kept in ((128, 3, 128), (None, 1, 300), (1, 300, 1), (1000, 1, 1000), (300, 1, 300)):
        q = quantize(w, "u4", group_size=size)
        assert q.scales.shape == (4, groups) and q.group_size == kept
    short = quantize(w[:, 256:], "u4", group_size=128)  # the short last group is a group like others
    whole = quantize(w, "u4", group_size=128)
    assert np.array_equal(whole.codes[:, 256:], short.codes) and np.array_equal(
        whole.scales[:, 2:], short.scales
    )


@pytest.mark.parametrize(("dtype", "zero_point"), ALL_CASES)
def test_groups_of_zeros_have_scale_one(dtype: DType, zero_point: bool):
    w = np.zeros((2, 64), np.float32)
    w[1, 32:] = normal()[0, :32]
    q = quantize(w, dtype, group_size=32, zero_point=zero_point)
    assert (q.scales[0] == 1).all() and q.scales[1, 0] == 1 and q.scales[1, 1] != 1
    assert (np.abs(q.dequantize()[0]) == (0.5 if dtype == dt.u1 and not zero_point else 0)).all()


@pytest.mark.parametrize("scale", ["f16", "bf16", "f32", "e8m0", "f8e4m3", "f8e5m2"])
def test_scales_are_numbers_of_their_dtype(scale: str):
    to = dt.dtype(scale)
    for dtype, most in (("i4", 0.16), ("f4e2m1", 0.16), ("u8", 0.02)):
        q = quantize(normal() * 8, dtype, group_size=32, scale_dtype=scale)
        assert q.scale_dtype == to and q.scales.dtype == to.reference
        assert np.array_equal(codec.round_to(q.scales, to), q.scales) and (q.scales > 0).all()
        assert relative_error(q.dequantize(), normal() * 8) < most


def test_any_float_weight():
    w = normal(8, 64)
    for held in (w.astype(np.float16), w.astype(np.float64), w.astype(ml_dtypes.bfloat16), w.T.copy().T):
        assert relative_error(quantize(held, "u8").dequantize(), held.astype(np.float64)) < 0.01
    assert quantize([[1.0, -1.0]], dt.i2).dequantize().tolist() == [[1.0, -1.0]]


def test_nbytes_and_repr():
    q = quantize(normal(32, 256), "u3", zero_point=True)
    assert q.nbytes == 32 * 256 * 3 // 8 + 32 * 2 * 2 + 32 * 2
    assert repr(q) == "QuantizedWeight(u3 [32, 256], groups of 128, f16 scales, with zeros)"
    assert quantize(normal(32, 256), "f6e3m2", scale_dtype="e8m0").nbytes == 32 * 256 * 6 // 8 + 32 * 2


# Packing for a layout.

ATOM = register((16, 8), (Digit(8, (0, 1)), Digit(4, (2, 0))), (Digit(2, (8, 0)), Digit(2, (1, 0))))
LAYOUTS = [
    spatial(1, 2) * local(2, 2) * ATOM,  # mma.sync's B: [32, 32] on 64 threads
    local(8, 16),
    column_local(32, 8),
    spatial(4, 8) * local(8, 1),
]


def viewed(tile: np.ndarray, dtype: DType, layout) -> np.ndarray:
    """What tc.view gives for the bytes of a tile: codes [bk, bn]."""
    source = layout.bytes(dtype)
    view = View(Arg(TileType(dt.u8, source.shape)), dtype, layout, source)
    return codec.encode(view.meaning(State(), tile), dtype)


@pytest.mark.parametrize("dtype", WEIGHT_TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_view_undoes_packing(dtype: DType, layout):
    n, k = 19, 45
    (bk, bn), q = layout.shape, quantize(normal()[:n, :k], dtype, group_size=16)
    packed = q.packed(layout)
    assert packed.dtype == np.uint8 and packed.shape == (-(-n // bn), -(-k // bk), layout.nbytes(dtype))
    tiles = [np.concatenate([viewed(tile, dtype, layout) for tile in row], axis=0) for row in packed]
    codes = np.concatenate(tiles, axis=1).T
    assert np.array_equal(codes[:n, :k], q.codes)
    values = np.abs(numbers(dtype) - q.zero)
    outside = np.concatenate([codes[n:].ravel(), codes[:n, k:].ravel()])
    assert (values[outside] == np.nanmin(values)).all()  # 0 in all types but u1


def test_its_arrays_are_read_only():
    """Kernels have copies of them."""
    q = quantize(normal(), "u4", zero_point=True)
    for x in (q.codes, q.scales, q.zeros):
        with pytest.raises(ValueError, match="read-only"):
            x *= 2


def test_weights_made_by_hand():
    codes, scales = np.full((4, 8), 3, np.uint8), np.ones((4, 2), np.float32)
    assert (QuantizedWeight(codes, scales, None, "u4", "f32", 4).dequantize() == -5).all()
    for given, message in (
        (
            (codes, scales.T, None, "u4", "f32", 4),
            r"scales of a weight u4 \[4, 8\] in groups of 4 are \[4, 2\]",
        ),
        ((codes, scales, scales[:1], "u4", "f32", 4), r"zeros of a weight .* are \[4, 2\], found \[1, 2\]"),
        ((codes, scales, None, "u4", "f32", 4, np.arange(7)), r"order of a weight .* are \[8\], found \[7\]"),
        ((codes.astype(int), scales, None, "u4", "f32", 4), "codes uint8 .*, found int64 and 4"),
        ((codes, scales, None, "u4", "f32", 0), "group_size from 1 on, found uint8 and 0"),
    ):
        with pytest.raises(TilecError, match=message):
            QuantizedWeight(*given)
    with pytest.raises(TilecError, match="codes of u1 end at 1, found 3"):
        QuantizedWeight(codes, scales, None, "u1", "f32", 4).packed(local(8, 4))


def test_packed_is_cached():
    q = quantize(normal(), "u4")
    assert q.packed(local(8, 16)) is q.packed(local(8, 16)) is not q.packed(local(16, 8))


# Bad input.


@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        (np.full((2, 4), np.nan), {}, r"cannot quantise nan \(weight\[0, 0\]\): weights are"),
        (np.array([[1.0, -np.inf]]), {}, r"cannot quantise -inf \(weight\[0, 1\]\)"),
        (np.array([[1.0], [1e300]]), {}, r"cannot quantise 1e\+300 \(weight\[1, 0\]\)"),
        (np.ones((2, 4), np.int32), {}, "expected a weight of floats, found int32: convert it"),
        (np.ones(4), {}, r"expected a weight \[N, K\] with elements, found shape \(4,\)"),
        (np.ones((0, 4)), {}, r"expected a weight \[N, K\] with elements, found shape \(0, 4\)"),
        (np.ones((2, 4)), {"dtype": "int9"}, "expected a dtype, found 'int9': did you mean"),
        (np.ones((2, 4)), {"dtype": "f16"}, "an integer or float type of 1 to 8 bits, not to f16"),
        (np.ones((2, 4)), {"dtype": "bool"}, "an integer or float type of 1 to 8 bits, not to bool"),
        (np.ones((2, 4)), {"dtype": "e8m0"}, "an integer or float type of 1 to 8 bits, not to e8m0"),
        (np.ones((2, 4)), {"group_size": 0}, "expected a group_size of 1 or more, or None .* found 0"),
        (np.ones((2, 4)), {"group_size": "row"}, "expected a group_size of 1 or more, .* found 'row'"),
        (np.ones((2, 4)), {"scale_dtype": "u8"}, "scales are of a float type of 8, 16 or 32 bits, .* not u8"),
        (np.ones((2, 4)), {"scale_dtype": "f6e3m2"}, "scales are of a float type .* not f6e3m2"),
        (np.full((2, 4), 1e-9), {}, "the scale 1.43e-10 of a group underflows in f16: quantise with"),
        (np.full((2, 4), 6e-7), {}, "the scale 8.57e-08 of a group underflows in f16"),
        (np.full((2, 4), 1e9), {}, r"the scale 1.43e\+08 of a group overflows f16, which ends at 65504"),
        (np.full((2, 4), 1e4), {"scale_dtype": "f8e4m3"}, "the scale 1.43e[+]03 .* overflows f8e4m3, .* 448"),
    ],
)  # fmt: skip
def test_bad_input(weight, options, message):
    with pytest.raises(TilecError, match=message):
        quantize(weight, **{"dtype": "i4", "group_size": 4, **options})


def test_small_weights_are_fine_in_wider_scales():
    w = normal() * 1e-9
    for scale in ("f32", "bf16", "e8m0"):
        assert relative_error(quantize(w, "i4", scale_dtype=scale).dequantize(), w) < 0.16


def test_bad_layouts():
    q = quantize(normal(), "u3")
    with pytest.raises(TilecError, match=r"packed for a layout of tiles \(bk, bn\), not of shape \(8,\)"):
        q.packed(local(8))
    with pytest.raises(TilecError, match="not whole bytes"):
        q.packed(local(3, 3))


@pytest.mark.parametrize("dtype", ["f3e2m0", "f4e3m0", "f5e4m0", "f6e5m0"])
def test_powers_of_two(dtype: str) -> None:
    """Under scales that are powers of two themselves weights are too, or 0, and no other such is nearer."""
    w = np.random.default_rng(1).standard_normal((8, 200)).astype(np.float32)
    held = quantize(w, dtype, group_size=None, scale_dtype="e8m0")
    found = held.dequantize()
    assert (np.abs(np.frexp(found)[0][found != 0]) == 0.5).all()
    powers = code_values(held.dtype) * held.scales[:, :, None]
    nearest = np.abs(powers - w[:, :, None]).min(2)
    clipped = np.abs(w) > np.abs(found).max(1, keepdims=True)
    np.testing.assert_array_equal(np.abs(found - w)[~clipped], nearest[~clipped])
    exact = np.exp2(np.random.default_rng(2).integers(0, 2, (4, 64))).astype(np.float32)
    again = quantize(-exact, dtype, group_size=None, scale_dtype="e8m0")
    np.testing.assert_array_equal(again.dequantize(), -exact)


def test_one_bit_is_signs() -> None:
    """Each row's are worth the mean of its magnitudes, which is nearest."""
    w = np.random.default_rng(3).standard_normal((5, 96)).astype(np.float32)
    found = quantize(w, "u1", group_size=None, scale_dtype="f32").dequantize()
    np.testing.assert_allclose(found, np.sign(w) * np.abs(w).mean(1, keepdims=True), rtol=1e-6)


def test_weights_on_the_side_without_codes() -> None:
    """i1 has 0 and -1: no scale is the nearest for what is above 0, and powers of two have no 0 to say so."""
    assert not quantize(np.ones((2, 3)), "i1", scale_dtype="e8m0").dequantize().any()
