"""float64 arithmetic with one rounding, against rationals."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tilec.ir import exact

HUGE, TINY, SUB = 1.7976931348623157e308, 2.0**-1022, 5e-324
ULP = 2.0**-52

moderate = st.floats(-(2.0**500), 2.0**500).filter(lambda x: x == 0 or abs(x) > 2.0**-500)
any_float = st.floats(width=64)


def to_odd(x: Fraction) -> float:
    """The definition: an inexact number goes to the neighbour whose last bit is 1."""
    near = float(x)
    if Fraction(near) == x:
        return near
    other = math.nextafter(near, math.inf if x > near else -math.inf)
    return near if np.float64(near).view(np.int64) & 1 else other


def fused(a: float, b: float, c: float) -> float:
    """a * b + c by IEEE 754: rationals for finite numbers, special cases by hand."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return float(np.float64(a) * np.float64(b) + np.float64(c))
    if not math.isfinite(c):
        return c
    total = Fraction(a) * Fraction(b) + Fraction(c)
    if total == 0:
        negative = math.copysign(1, a) * math.copysign(1, b) < 0 and math.copysign(1, c) < 0
        return -0.0 if negative and c == 0 and (a == 0 or b == 0) else 0.0
    sign = 1 if total > 0 else -1
    try:
        return sign * float(abs(total))
    except OverflowError:
        return sign * math.inf


def assert_same(got: np.ndarray, want: list[float]) -> None:
    expected = np.array(want)
    assert np.array_equal(got, expected, equal_nan=True), (got, expected)
    numbers = ~np.isnan(expected)
    assert np.array_equal(np.signbit(got)[numbers], np.signbit(expected)[numbers])


@given(moderate, moderate)
@example(1.0, 2.0**-80)
@example(1.0, -(2.0**-80))
@example(-1.0, 2.0**-80)
@example(1.0, -1.0)
@example(2.0**53, 1.0)
def test_odd_sum(a: float, b: float) -> None:
    assert exact.odd_sum(np.array(a), np.array(b)) == to_odd(Fraction(a) + Fraction(b))


def test_odd_sum_keeps_special_values() -> None:
    a = np.array([np.inf, np.inf, -np.inf, np.nan, -0.0, 0.0])
    b = np.array([1.0, -np.inf, 1.0, 1.0, -0.0, -0.0])
    assert_same(exact.odd_sum(a, b), [np.inf, np.nan, -np.inf, np.nan, -0.0, 0.0])


@given(st.integers(-(2**63), 2**63 - 1))
@example(2**53 + 1)
@example(-(2**63))
def test_odd_float_signed(n: int) -> None:
    assert exact.odd_float(np.array(n, np.int64)) == to_odd(Fraction(n))


@given(st.integers(0, 2**64 - 1))
@example(2**64 - 1)
def test_odd_float_unsigned(n: int) -> None:
    assert exact.odd_float(np.array(n, np.uint64)) == to_odd(Fraction(n))


@given(st.lists(st.tuples(moderate, moderate, moderate), min_size=1))
def test_fma_moderate(rows: list[tuple[float, float, float]]) -> None:
    got = exact.fma(*(np.array(column) for column in zip(*rows, strict=True)))
    assert_same(got, [fused(*row) for row in rows])


@given(any_float, any_float, any_float)
@example(HUGE, 2.0, -math.inf)
@example(HUGE, 2.0, -HUGE)
@example(HUGE, HUGE, -1.0)
@example(TINY, 0.5, SUB)
@example(TINY, ULP / 2, 0.0)
@example(TINY, -ULP / 2, -0.0)
@example(SUB, SUB, -0.0)
@example(-SUB, SUB, 0.0)
@example(2.0**-600, 2.0**-600, 1.0)
@example(1 + ULP, 1 - ULP, -1.0)
@example(math.inf, 0.0, 1.0)
@example(-0.0, 1.0, -0.0)
@example(-0.0, 1.0, 0.0)
@example(3.0, 5.0, -15.0)
def test_fma_anywhere(a: float, b: float, c: float) -> None:
    with np.errstate(all="ignore"):
        want = fused(a, b, c)
    assert_same(exact.fma(np.array([a]), np.array([b]), np.array([c])), [want])


@pytest.mark.parametrize("scale", [0, -1060, 950])
def test_fma_next_to_ties(scale: int) -> None:
    """a * b lies halfway between two float64 numbers, c tips it: rounding the product first goes wrong."""
    rng = np.random.default_rng(0)
    b = rng.integers(2**52, 2**53, 2000) | 1
    a = np.full(len(b), 3)
    tie = np.array([int(x * y).bit_length() for x, y in zip(a, b, strict=True)]) == 54
    a, b = np.ldexp(a[tie], scale // 2), np.ldexp(b[tie], scale - scale // 2)
    tips = np.ldexp(rng.choice([-1.0, 0.0, 1.0], len(a)), max(scale - 60, -1074))
    assert len(a) > 100
    assert_same(exact.fma(a, b, tips), [fused(*map(float, row)) for row in zip(a, b, tips, strict=True)])
    if scale == 0:
        assert (a * b + tips != exact.fma(a, b, tips)).any()


def test_fma_broadcasts() -> None:
    got = exact.fma(np.ones((3, 1)), np.arange(4.0), np.array(1.0))
    assert got.tolist() == [[1.0, 2.0, 3.0, 4.0]] * 3
