"""Codes and casts, against the scalar definitions of scalars.py and against ml_dtypes."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ir.scalars import Number, assert_same, brinks, codes_of, converted, samples
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType, dtype
from tilec.ir.errors import TilecError

FLOATS = [d for d in dt.ALL if d.is_float]
NARROW = [d for d in dt.ALL if d.bits <= 16]
ML_FLOATS = [
    "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float8_e8m0fnu",
    "bfloat16",
]  # fmt: skip
each = pytest.mark.parametrize("kind", dt.ALL, ids=str)
each_float = pytest.mark.parametrize("kind", FLOATS, ids=str)


# Codes.


@pytest.mark.parametrize("kind", NARROW, ids=str)
def test_every_code_survives_a_round_trip(kind: DType) -> None:
    codes = codes_of(kind)
    values = codec.decode(codes, kind)
    again = codec.encode(values, kind)
    assert values.dtype == kind.reference and again.dtype == kind.code
    assert np.array_equal(again, codes)
    assert np.array_equal(codec.encode(codec.from_storage(codec.to_storage(values, kind), kind), kind), codes)


@pytest.mark.parametrize("kind", [d for d in dt.ALL if d.bits > 16], ids=str)
def test_wide_codes_survive_a_round_trip(kind: DType) -> None:
    codes = np.random.default_rng(0).integers(0, kind.code_mask, 5000, kind.code, endpoint=True)
    codes = codes >> kind.unused << kind.unused
    assert np.array_equal(codec.encode(codec.decode(codes, kind), kind), codes)


@each_float
def test_decoding_by_the_formula(kind: DType) -> None:
    """(-1)^s 2^(e - bias) (1 + m / 2^M), or without the 1 where e = 0."""
    for number, code in zip(samples(kind), codec.encode(samples(kind), kind).tolist(), strict=True):
        sign, rest = bool(code & kind.sign_code), (code & ~kind.sign_code) >> kind.unused
        e, m = rest >> kind.mantissa, Fraction(rest % 2**kind.mantissa, 2**kind.mantissa)
        if not math.isfinite(number):
            assert e == 2**kind.exponent - 1 and (m == 0) == (math.isinf(number) or kind.mantissa == 0)
        else:
            whole = e > 0 or kind.kind == "scale"
            value = (whole + m) * Fraction(2) ** (max(e, int(kind.kind == "float")) - kind.bias)
            assert Fraction(abs(number)) == value and (math.copysign(1, number) < 0) == sign


@pytest.mark.parametrize("kind", [d for d in FLOATS if d.bits <= 8], ids=str)
def test_small_floats_have_a_number_for_every_code(kind: DType) -> None:
    values = codec.decode(codes_of(kind), kind)
    special = {"f8e4m3": 2, "f8e5m2": 8, "e8m0": 1}.get(kind.name, 0)
    assert np.isfinite(values).sum() == 2**kind.bits - special
    assert (
        len(set(values[np.isfinite(values)].tolist())) == 2**kind.bits - special - kind.is_signed
    )  # +0 = -0


@pytest.mark.parametrize("kind", [d for d in FLOATS if d.bits <= 8], ids=str)
def test_rounding_finds_the_nearest_of_all_numbers(kind: DType) -> None:
    numbers = codec.decode(codes_of(kind), kind)
    numbers = numbers[np.isfinite(numbers)].astype(np.float64)
    points = brinks(kind)
    distance = np.abs(points[:, None] - numbers).min(axis=1)
    assert np.array_equal(np.abs(codec.round_to(points, kind) - points), distance)


@pytest.mark.parametrize("name", ML_FLOATS)
def test_decoding_agrees_with_ml_dtypes(name: str) -> None:
    kind = dtype(name)
    theirs = codes_of(kind).view(getattr(ml_dtypes, name)).astype(np.float32)
    ours = codec.decode(codes_of(kind), kind)
    assert np.array_equal(ours, theirs, equal_nan=True)
    assert np.array_equal(np.signbit(ours[~np.isnan(ours)]), np.signbit(theirs[~np.isnan(theirs)]))


@pytest.mark.parametrize("name", ML_FLOATS)
def test_encoding_agrees_with_ml_dtypes_in_range(name: str) -> None:
    """Of e8m0 only from 2^-126 up: below, they do not take the nearest; and zero is NaN there."""
    kind = dtype(name)
    points = brinks(kind)
    points = points[np.abs(points) <= kind.max].astype(np.float32)
    if not kind.is_signed:
        points = points[points >= 2 * kind.min]
    theirs = points.astype(getattr(ml_dtypes, name)).view(kind.code)
    assert np.array_equal(codec.encode(points, kind), theirs)


@each_float
@given(st.data())
def test_rounding_any_float64(kind: DType, data: st.DataObject) -> None:
    reach = st.floats(-2 * kind.max, 2 * kind.max) if kind.bits < 64 else st.floats()
    x = np.array(data.draw(st.lists(reach | st.floats(), min_size=1)))
    want = [converted(v, kind) for v in x.tolist()]
    assert_same(codec.round_to(x, kind), want, kind, x)
    finite = x[np.isfinite(x)]
    assert_same(
        codec.decode(codec.encode(finite, kind), kind), codec.round_to(finite, kind).tolist(), kind, finite
    )


@each_float
def test_infinity_and_nan_codes(kind: DType) -> None:
    codes = codec.encode([np.inf, -np.inf, np.nan], kind).tolist()
    if kind.has_infinity:
        assert codes[:2] == [kind.infinity_code, kind.infinity_code | kind.sign_code]
    else:
        assert codes[:2] == [kind.max_code, kind.max_code | kind.sign_code if kind.is_signed else 0]
    assert codes[2] == (kind.nan_code if kind.has_nan else kind.max_code)


def test_scales_are_the_nearest_powers_of_two() -> None:
    x = [0.0, -3.0, 1e-45, 2.0**-127 * 1.49, 1.0, 1.49, 1.5, 3.0, 6.5, 1e300, np.inf]
    assert codec.encode(x, dtype("e8m0")).tolist() == [0, 0, 0, 0, 127, 127, 128, 129, 130, 254, 254]


# Casts.


@pytest.mark.parametrize("dst", dt.ALL, ids=str)
def test_casts_from_every_type(dst: DType) -> None:
    for src in dt.ALL:
        values = np.array(samples(src), src.reference)
        want = list(samples(src)) if src == dst else [converted(v, dst) for v in samples(src)]
        assert_same(codec.cast(values, src, dst), want, dst, values)


@pytest.mark.parametrize("dst", FLOATS, ids=str)
def test_casts_next_to_ties(dst: DType) -> None:
    for src in (dtype("f64"), dtype("f32"), dtype("f16")):
        values = codec.round_to(brinks(dst), src)
        assert_same(codec.cast(values, src, dst), [converted(v, dst) for v in values.tolist()], dst, values)


@pytest.mark.parametrize(
    ("value", "src", "dst", "want"),
    [
        (70000, "i32", "f16", math.inf), (-(2**63), "i64", "f32", -(2.0**63)), (300, "i16", "u8", 44),
        (300.7, "f32", "u8", 255), (-0.9, "f32", "u8", 0), (-1.5, "f32", "i8", -1),
        (math.nan, "f32", "i8", 0), (1e30, "f32", "i64", 2**63 - 1), (2.0**64, "f64", "u64", 2**64 - 1),
        (0.5, "f32", "bool", True), (math.nan, "f32", "bool", True), (True, "bool", "i1", -1),
        (True, "bool", "f16", 1.0), (1, "u1", "i1", -1),
        (math.inf, "f32", "f8e5m2", 57344.0), (math.inf, "f8e5m2", "f8e5m2", math.inf),
        (math.nan, "f32", "f4e2m1", 6.0), (-math.inf, "f32", "f4e2m1", -6.0), (1e9, "f32", "f8e4m3", 448.0),
        (65520.0, "f32", "f16", math.inf), (65519.99, "f64", "f16", 65504.0), (-0.0, "f32", "f3e1m1", -0.0),
        (2**24 + 1, "i32", "f32", 2.0**24), (2**60 + 2**36 + 1, "i64", "f32", 2.0**60 + 2.0**37),
        (2**60 + 2**52 + 1, "i64", "bf16", 2.0**60 + 2.0**53), (1.5, "f32", "f4e3m0", 2.0),
    ],
)  # fmt: skip
def test_casts_worth_reading(value: Number, src: str, dst: str, want: Number) -> None:
    values = np.array([value], dtype(src).reference)
    assert_same(codec.cast(values, dtype(src), dtype(dst)), [want], dtype(dst), values)


@each
def test_scalars_stay_zero_dimensional_arrays(kind: DType) -> None:
    one = codec.round_to(np.array(1.0), kind)
    for result in (one, codec.encode(one, kind), codec.decode(codec.encode(one, kind), kind)):
        assert isinstance(result, np.ndarray) and result.shape == ()
    empty = codec.round_to(np.zeros((0, 3)), kind)
    assert empty.shape == (0, 3) and empty.dtype == kind.reference


# Storage.


@each
def test_storage_round_trip(kind: DType) -> None:
    values = np.array(samples(kind), kind.reference)
    stored = codec.to_storage(values, kind)
    assert stored.dtype == kind.storage
    assert_same(codec.from_storage(stored, kind), values.tolist(), kind, values)


@pytest.mark.parametrize("name", [*ML_FLOATS, "int4", "uint4", "int2", "uint2", "int1", "uint1"])
def test_arrays_of_ml_dtypes_are_understood(name: str) -> None:
    kind = dtype(name)
    values = [v for v in samples(kind) if math.isfinite(v)]
    array = np.array(values).astype(getattr(ml_dtypes, name))
    assert_same(codec.from_storage(array, kind), values, kind, values)


def test_reading_storage_copies_and_ignores_bits_that_are_not_the_types() -> None:
    memory = np.full(3, 0xFF, np.uint8)
    assert codec.from_storage(memory, dtype("u3")).tolist() == [7, 7, 7]
    assert codec.from_storage(memory, dtype("f6e3m2")).tolist() == [-28.0, -28.0, -28.0]
    assert codec.from_storage(np.float32([1 + 2.0**-11]), dtype("tf32")).tolist() == [1.0]
    for kind in dt.ALL:
        array = np.zeros(2, kind.storage)
        assert not np.shares_memory(array, codec.from_storage(array, kind)), kind


@pytest.mark.parametrize(
    ("array", "name", "message"),
    [
        (
            np.zeros(3),
            "f32",
            r"expected f32 as numpy float32 \(values\), found float64: convert the array first",
        ),
        (np.zeros(3, "f4"), "bf16", r"expected bf16 as numpy uint16 \(codes\), found float32"),
        (np.zeros(3, "u1"), "i4", r"expected i4 as numpy int8 \(values\), found uint8"),
        (np.zeros(3, ml_dtypes.float8_e4m3fnuz), "f8e4m3", r"numpy uint8 \(codes\), found float8_e4m3fnuz"),
        (np.zeros(3, ">f4"), "f32", "found >f4"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray, name: str, message: str) -> None:
    with pytest.raises(TilecError, match=message):
        codec.from_storage(array, dtype(name))


def test_values_held_wrongly_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match="values of bf16 are held in float32, not float64"):
        codec.to_storage(np.zeros(3), dtype("bf16"))
