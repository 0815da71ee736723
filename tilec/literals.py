"""Python numbers where the language wants values: a literal takes the dtype of what it meets, if it fits.

number(3, f16) == 3.0      number(300, u8): TilecError, u8 ends at 255
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError

Number = int | float | bool
NUMBERS = (int, float, np.generic)


def plain(x: Any) -> Any:
    """numpy's scalars as Python's."""
    return x.item() if isinstance(x, np.generic) else x


def default_dtype(x: Number) -> DType:
    """The dtype of a Python number that meets no tile: i32, f32 or bool."""
    if isinstance(x, bool):
        return dt.bool
    return dt.i32 if isinstance(x, int) else dt.f32


def number(x: Any, dtype: DType) -> Number:
    """A Python number as a constant of a dtype; TilecError where it is not one or lies outside."""
    x = plain(x)
    if not isinstance(x, int | float):
        raise TilecError(f"expected a number, found {x!r}")
    if isinstance(x, bool) or dtype.is_bool:
        if isinstance(x, bool) and dtype.is_bool:
            return x
        raise TilecError(f"{x!r} is no number of dtype {dtype.name}; compare or cast instead")
    return _integer(x, dtype) if dtype.is_integer else _float(float(x), dtype)


def _integer(x: Number, dtype: DType) -> int:
    if not isinstance(x, int):
        raise TilecError(
            f"the constant {x!r} is not an integer, but meets {dtype.name}: write one, or cast the tile"
        )
    if not dtype.min <= x <= dtype.max:
        raise TilecError(f"the constant {x} is outside {dtype.name}, which holds {dtype.min} to {dtype.max}")
    return x


def _float(x: float, dtype: DType) -> float:
    if x == 0.0 and dtype.has_subnormals:
        return x
    lacks = (math.isnan(x) and not dtype.has_nan) or (math.isinf(x) and not dtype.has_infinity)
    below = not dtype.is_signed and x <= 0
    value = rounded(x, dtype)
    beyond = not math.isinf(x) and (math.isinf(value) or (dtype.saturates and abs(x) > dtype.max))
    if lacks or below or beyond:
        raise TilecError(
            f"the constant {x!r} is outside {dtype.name}, which holds {dtype.min!r} to {dtype.max!r}"
        )
    return value


@lru_cache(4096)
def rounded(x: float, dtype: DType) -> float:
    """The nearest value of a float dtype."""
    return float(codec.round_to(np.asarray(x, np.float64), dtype))


def zero(dtype: DType) -> Number:
    """What a masked read gives where nothing else was said."""
    if dtype.is_bool:
        return False
    return rounded(0.0, dtype) if dtype.is_float else 0


def constant_shape(shape: Any, what: str) -> tuple[int, ...]:
    """A tile's shape: positive Python integers."""
    extents = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    return tuple(_extent(extent, what) for extent in extents)


def _extent(extent: Any, what: str) -> int:
    extent = plain(extent)
    if not isinstance(extent, int) or isinstance(extent, bool):
        raise TilecError(
            f"{what} takes a shape of constants, found {extent!r}: use a keyword constant of the kernel, "
            "or tc.static(x.shape[axis]) where the shape of an array decides"
        )
    if extent < 1:
        raise TilecError(f"{what} takes extents of 1 or more, found {extent}")
    return extent
