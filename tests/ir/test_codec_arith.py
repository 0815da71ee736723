"""Arithmetic is exact and then rounded once, for every float type: against rationals."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from tests.ir.scalars import assert_same, converted, nearest, samples
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType, dtype

FLOATS = [d for d in dt.ALL if d.is_float]
WIDE = [d for d in FLOATS if d.bits > 8]
each_float = pytest.mark.parametrize("kind", FLOATS, ids=str)
EXACT: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "add": Fraction.__add__,
    "sub": Fraction.__sub__,
    "mul": Fraction.__mul__,
    "div": Fraction.__truediv__,
}


def rounded(x: Fraction, kind: DType, zero: float = 0.0) -> float:
    """A rational in `kind`; `zero` is what an exact zero looks like."""
    return nearest(x, kind) if x else converted(zero, kind)


def in_float64(f: Callable[..., np.ndarray], *operands: float) -> float:
    """What IEEE 754 says about infinities, NaN and the signs of zeros is the same in every type."""
    with np.errstate(all="ignore"):
        return float(f(*map(np.float64, operands)))


def operands(kind: DType, count: int = 1500) -> list[np.ndarray]:
    """Three columns: any codes at all, then numbers near one, whose results collide, cancel and tie."""
    rng = np.random.default_rng(7)
    codes = rng.integers(0, kind.code_mask, (3, count // 3), kind.code, endpoint=True)
    some = rng.choice(np.array(samples(kind), kind.reference), (3, count // 3))
    near = codec.round_to(rng.integers(-64, 64, (3, count // 3)) / 16, kind)
    return list(np.concatenate([codec.decode(codes, kind), some, near], axis=1))


def by_definition(name: str, a: float, b: float, kind: DType) -> float:
    ieee = in_float64({"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}[name], a, b)
    if not (math.isfinite(a) and math.isfinite(b)) or (name == "div" and b == 0):
        return converted(ieee, kind)
    return rounded(EXACT[name](Fraction(a), Fraction(b)), kind, ieee)


@each_float
@pytest.mark.parametrize("name", EXACT)
def test_binary(kind: DType, name: str) -> None:
    a, b, _ = operands(kind)
    want = [by_definition(name, x, y, kind) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert_same(codec.binary(name, a, b, kind), want, kind, a, b)


def root(x: float, kind: DType) -> float:
    """The integer square root of x * 4^k, half a step more if there is a rest: no tie is made or lost."""
    if not x > 0 or math.isinf(x):
        return converted(in_float64(np.sqrt, x), kind)
    scaled = Fraction(x) * 4**1200
    floor = math.isqrt(scaled.numerator // scaled.denominator)
    return rounded(Fraction(2 * floor + (floor * floor != scaled), 2 * 2**1200), kind)


@each_float
def test_sqrt(kind: DType) -> None:
    x = operands(kind, 900)[0]
    assert_same(codec.sqrt(x, kind), [root(v, kind) for v in x.tolist()], kind, x)


def fused(a: float, b: float, c: float, kind: DType) -> float:
    if not (math.isfinite(a) and math.isfinite(b)):
        return converted(in_float64(lambda x, y, z: x * y + z, a, b, c), kind)
    if not math.isfinite(c):
        return converted(c, kind)
    zero = in_float64(lambda x, y, z: x * y + z, math.copysign(a != 0, a), math.copysign(b != 0, b), c)
    total = Fraction(a) * Fraction(b) + Fraction(c)
    return rounded(total, kind, 0.0 if a and b else zero)


def assert_fused(a: np.ndarray, b: np.ndarray, c: np.ndarray, kind: DType) -> None:
    rows = zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    assert_same(codec.fma(a, b, c, kind), [fused(*row, kind) for row in rows], kind, a, b, c)


@each_float
def test_fma(kind: DType) -> None:
    a, b, c = operands(kind)
    assert_fused(a, b, c, kind)
    assert_fused(a, b, -codec.binary("mul", a, b, kind) if kind.is_signed else c, kind)  # cancels


def ties(kind: DType, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a * b is odd and has one bit more than the type; c, far below, tips it up, down or not at all."""
    digits = kind.mantissa + 1
    b = rng.integers(2 ** (digits - 1), 2**digits, 600, endpoint=False) | 1
    a = np.full(len(b), 3)
    keep = a * b < 2 ** (digits + 1)
    a, b = a[keep].astype(np.float64), b[keep] * rng.choice([-1.0, 1.0], keep.sum())
    c = rng.choice([-1.0, 0.0, 1.0], len(a)) * kind.smallest_subnormal * 2.0 ** rng.integers(0, 4, len(a))
    return tuple(codec.round_to(x, kind) for x in (a, b * 2.0 ** (-digits), c))


@pytest.mark.parametrize("kind", WIDE, ids=str)
def test_fma_next_to_ties(kind: DType) -> None:
    a, b, c = ties(kind, np.random.default_rng(3))
    assert len(a) > 100
    assert_fused(a, b, c, kind)


def test_these_ties_are_hard() -> None:
    """Rounding to float64 first, as one would without rounding to odd, gets some of them wrong."""
    kind = dtype("f32")
    a, b, c = (x.astype(np.float64) for x in ties(kind, np.random.default_rng(3)))
    assert (codec.round_to(a * b + c, kind) != codec.fma(a, b, c, kind)).any()


@pytest.mark.parametrize("kind", WIDE, ids=str)
def test_fma_into_subnormals_and_overflow(kind: DType) -> None:
    rng = np.random.default_rng(4)
    half = codec.round_to(kind.smallest_normal**0.5 * rng.uniform(0.01, 4, (2, 300)), kind)
    c = codec.round_to(kind.smallest_subnormal * rng.integers(-9, 9, 300), kind)
    assert_fused(*half, c, kind)
    high = codec.round_to(kind.max**0.5 * rng.uniform(0.9, 1.1, (2, 300)), kind)
    assert_fused(*high, codec.round_to(kind.max * rng.uniform(-0.5, 0.5, 300), kind), kind)


def test_results_that_show_the_rules() -> None:
    f16, f4, scale = dtype("f16"), dtype("f4e2m1"), dtype("e8m0")
    assert codec.binary("add", [2048.0], [1.0], f16).tolist() == [2048.0]
    assert codec.binary("div", [1.0, -1.0, 0.0], [0.0, 0.0, 0.0], f4).tolist() == [6.0, -6.0, 6.0]
    assert codec.binary("mul", [2.0], [2.0**126], scale).tolist() == [2.0**127]
    assert codec.binary("sub", [1.0], [1.0], scale).tolist() == [2.0**-127]
    assert np.isnan(codec.sqrt([-1.0], f16)).all()


def test_only_floats() -> None:
    for call in (lambda k: codec.binary("add", [1], [1], k), lambda k: codec.fma([1], [1], [1], k)):
        with pytest.raises(AssertionError, match="i8 is not a float"):
            call(dtype("i8"))
