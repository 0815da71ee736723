"""Elementary functions: their stated error on every f16 and on samples of f32 and f64, and all special
values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.elementary import FUNCTIONS, ULP, evaluate, program
from tilec.ir.func import Arg, Inst
from tilec.ir.inst.arith import Full
from tilec.ir.math_trig import DIGITS, TWO_OVER_PI
from tilec.ir.tile import TileType

Array = np.ndarray[Any, Any]
INF, NAN = math.inf, math.nan


def _sigmoid(x: Array) -> Array:
    t = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, t) / (1 + t))


EXACT: dict[str, Callable[[Array], Array]] = {  # in float64
    "exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "sin": np.sin, "cos": np.cos,
    "tanh": np.tanh, "erf": lambda x: np.array([math.erf(v) for v in x]), "sigmoid": _sigmoid,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}  # fmt: skip


def distance(found: Array, exact: Array, dtype: DType) -> Array:
    """How far results lie from the true ones, in units of their last place."""
    _, exponent = np.frexp(exact)
    lowest = round(math.log2(dtype.smallest_subnormal))
    unit = np.ldexp(1.0, np.maximum(exponent - dtype.mantissa - 1, lowest))
    return np.asarray(np.abs(found.astype(np.float64) - exact) / unit)


def worst(name: str, x: Array, dtype: DType) -> float:
    """The largest error; infinities and NaNs must stand where the true result, rounded, has them."""
    found = evaluate(name, x, dtype)
    assert found.dtype == dtype.reference and found.shape == x.shape
    with np.errstate(all="ignore"):
        exact = EXACT[name](x.astype(np.float64))
        rounded = exact.astype(dtype.reference)
    finite = np.isfinite(rounded) & np.isfinite(found)
    differ = ~finite & ~((found == rounded) | (np.isnan(found) & np.isnan(rounded)))
    # next to the largest number, an error of one unit may overflow or not
    edge = np.abs(exact[differ]) > float(dtype.max) * (1 - 2.0**-dtype.mantissa)
    assert edge.all(), f"{name}({x[differ][~edge][0]!r}) is {found[differ][~edge][0]!r}"
    return float(distance(found[finite], exact[finite], dtype).max())


def stratified(count: int, seed: int = 0) -> Array:
    """Floats of all exponents and signs, the first and last of each exponent among them."""
    draw = np.random.default_rng(seed)
    step = 2**32 // count
    codes = np.arange(0, 2**32, step, dtype=np.uint64) + draw.integers(
        0, step, 2**32 // step, dtype=np.uint64
    )
    borders = np.arange(0, 2**32, 1 << 23, dtype=np.uint64)
    every = np.concatenate([codes, borders, borders + 1, borders + (1 << 23) - 1])
    return (every % 2**32).astype(np.uint32).view(np.float32)


def usual(count: int, seed: int = 1) -> Array:
    """Floats of the sizes that kernels have, and of the borders between branches."""
    draw = np.random.default_rng(seed)
    borders = np.array(
        [math.pi / 4, 0.65, 0.9, 1, math.sqrt(0.5), math.sqrt(2), 4, 10, 20, 88.7, 103.9, 126, 149]
    )
    near = (borders[:, None] * (1 + np.arange(-200, 201) * 2.0**-24)).reshape(-1)
    return np.concatenate([draw.uniform(-12, 12, count), draw.uniform(-100, 100, count), near, -near]).astype(
        np.float32
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_f16(name: str) -> None:
    """Computed in f32 and rounded once: half a unit, and the little that the f32 result is off."""
    x = np.arange(2**16, dtype=np.uint16).view(np.float16)
    assert worst(name, x, dt.f16) <= 0.51


@pytest.mark.parametrize("name", FUNCTIONS)
def test_f32_keeps_its_bound(name: str, full: bool) -> None:
    x = np.concatenate([stratified(1 << (20 if full else 17)), usual(1 << (20 if full else 16))])
    assert worst(name, x, dt.f32) <= ULP[name]


@pytest.mark.parametrize("name", ["bf16", "tf32", "f8e5m2"])
def test_smaller_types_are_rounded_once_from_f32(name: str) -> None:
    dtype = dt.dtype(name)
    x = np.float32([-3, -0.5, 0, 0.5, 1, 2.5])
    wide = evaluate("exp", x, dt.f32)
    np.testing.assert_array_equal(evaluate("exp", x, dtype), codec.round_to(wide, dtype))


HIGH: dict[str, Callable[[Any], Any]] = {
    "exp": mpmath.exp, "exp2": lambda x: mpmath.power(2, x), "log": mpmath.log,
    "sin": mpmath.sin, "cos": mpmath.cos,
    "log2": lambda x: mpmath.log(x) / mpmath.log(2), "tanh": mpmath.tanh, "erf": mpmath.erf,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)), "rsqrt": lambda x: 1 / mpmath.sqrt(x),
}  # fmt: skip


def precisely(name: str, x: Array, dtype: DType) -> float:
    """The largest error against mpmath; infinite results must belong to huge true ones."""
    units = [0.0]
    with mpmath.workprec(1400):
        for argument, result in zip(x, evaluate(name, x, dtype), strict=True):
            exact = HIGH[name](mpmath.mpf(float(argument)))
            if not np.isfinite(result):
                assert exact > dtype.max, f"{name}({argument!r}) is {result!r}"
                continue
            exponent = mpmath.frexp(exact)[1] if exact else -10000
            lowest = round(math.log2(dtype.smallest_subnormal))
            unit = mpmath.ldexp(1, max(exponent - dtype.mantissa - 1, lowest))
            units.append(float(abs(mpmath.mpf(float(result)) - exact) / unit))
    return max(units)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_f64_keeps_its_bound(name: str, full: bool) -> None:
    draw, count = np.random.default_rng(2), 3000 if full else 150
    wide = draw.integers(0, 2**63, count, dtype=np.uint64).view(np.float64)
    ranges = [(-12, 12), (-1, 1), (0.5, 2), (-740, 709), (-0.7, 1)]
    x = np.concatenate([wide[np.isfinite(wide)], *(draw.uniform(a, b, count) for a, b in ranges)])
    if name in ("log", "log2", "rsqrt"):
        x = np.abs(x)
    if name in ("exp", "exp2", "tanh", "sigmoid"):
        x = x[np.abs(x) < 1100]
    assert precisely(name, x, dt.f64) <= ULP[name]


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_huge_arguments_are_reduced_with_all_digits_of_pi(name: str) -> None:
    """The largest floats, multiples of pi/2 rounded to floats, and the float that is nearest to one
    (Muller's).
    """
    small = np.float32(np.pi / 2 * np.arange(1, 400))
    huge = np.float32(2.0) ** np.arange(20, 128, dtype=np.float32) * np.float32(1.7182817)
    nearest = np.float32([np.finfo(np.float32).max, 16367173 * 2.0**72, 1e30, 2.0**127])
    assert precisely(name, np.concatenate([small, huge, nearest]), dt.f32) <= ULP[name]
    wide = np.array([6381956970095103 * 2.0**797, np.finfo(np.float64).max, 1e300, 2.0**1023])
    assert precisely(name, wide, dt.f64) <= ULP[name]


def test_the_digits_of_pi() -> None:
    with mpmath.workprec(DIGITS + 100):
        assert int(mpmath.floor(2 / mpmath.pi * mpmath.mpf(2) ** DIGITS)) == TWO_OVER_PI


SPECIAL: dict[str, list[tuple[float, float]]] = {
    "exp": [(-INF, 0.0), (INF, INF), (0.0, 1.0), (-0.0, 1.0), (-1e30, 0.0), (1e30, INF)],
    "exp2": [(-INF, 0.0), (INF, INF), (3.0, 8.0), (-149.0, 2.0**-149), (127.0, 2.0**127), (128.0, INF)],
    "log": [(0.0, -INF), (-0.0, -INF), (-1.0, NAN), (-INF, NAN), (INF, INF), (1.0, 0.0)],
    "log2": [
        (0.0, -INF),
        (-0.0, -INF),
        (-1.0, NAN),
        (-INF, NAN),
        (INF, INF),
        (2.0**-149, -149.0),
        (2.0**127, 127.0),
    ],
    "sin": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (2.0**-149, 2.0**-149)],
    "cos": [(0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN)],
    "tanh": [(INF, 1.0), (-INF, -1.0), (0.0, 0.0), (-0.0, -0.0), (30.0, 1.0), (-30.0, -1.0)],
    "erf": [(INF, 1.0), (-INF, -1.0), (0.0, 0.0), (-0.0, -0.0), (30.0, 1.0), (-30.0, -1.0)],
    "sigmoid": [(INF, 1.0), (-INF, 0.0), (0.0, 0.5), (-0.0, 0.5)],
    "rsqrt": [(0.0, INF), (-0.0, -INF), (INF, 0.0), (-1.0, NAN), (4.0, 0.5)],
}


@pytest.mark.parametrize("dtype", [dt.f32, dt.f64], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name: str, dtype: DType) -> None:
    for x, expected in [*SPECIAL[name], (NAN, NAN)]:
        if dtype == dt.f64 and abs(x) not in (0.0, INF) and (x, name) == (128.0, "exp2"):
            continue
        found = evaluate(name, np.array([x], dtype.reference), dtype)[0]
        same = np.isnan(found) if np.isnan(expected) else found == expected
        assert same and np.signbit(found) == np.signbit(expected) | np.isnan(expected) & np.signbit(found), (
            x,
            found,
        )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_program_keeps_the_type_and_the_constants_take_it(name: str) -> None:
    x = Arg(TileType(dt.bf16, (4, 8)), "x")
    y = program(name, dt.bf16)(x)
    assert y.type == x.type
    todo, seen = [y], set()
    while todo:
        v = todo.pop()
        seen.add(v)
        assert v.tile.shape == (4, 8) and (v is x or isinstance(v, Inst))
        todo += [o for o in v.operands if o not in seen] if isinstance(v, Inst) else []
    assert sum(not isinstance(v, Full) for v in seen) < 90


def test_evaluate_takes_any_shape() -> None:
    assert evaluate("exp", np.zeros((2, 0, 3), np.float32), dt.f32).shape == (2, 0, 3)
    assert evaluate("exp", np.float32(0), dt.f32) == 1
    assert evaluate("cos", np.zeros((3, 100, 200), np.float32), dt.f32).shape == (3, 100, 200)


def test_a_program_refuses_another_dtype() -> None:
    with pytest.raises(AssertionError, match=r"exp of f32 does not take f16\[4\]"):
        program("exp", dt.f32)(Arg(TileType(dt.f16, (4,)), "x"))
