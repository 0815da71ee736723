"""What instructions share: type rules, and pieces of meanings.

wrap(np.array([9]), i4) == -7
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Value
from tilec.ir.tile import TileType

Array = np.ndarray[Any, Any]


def wrap(values: Array, dtype: DType) -> Array:
    """Integers of any width taken modulo 2**bits, as the reference holds them."""
    if dtype.bits == 64:
        return values.astype(dtype.reference)
    low = values.astype(np.int64) & ((1 << dtype.bits) - 1)
    if dtype.is_signed:
        low = low - ((low >> (dtype.bits - 1)) << dtype.bits)
    return low.astype(dtype.reference)


def same_type(name: str, *values: Value) -> TileType:
    """The one type of all operands, or an error that names both.

    Until the layout pass only views have layouts, and what is made of them alone; others agree with any.
    """
    types = [value.tile for value in values]
    if any(t.layout is None for t in types):
        types = [TileType(t.dtype, t.shape) for t in types]
    for other in types[1:]:
        if other != types[0]:
            said = f"{name} takes tiles of one dtype and shape, found {types[0]} and {other}"
            hint = "; cast one with .to(...)" if other.dtype != types[0].dtype else ""
            raise TilecError(said + hint)
    return types[0]


def kind_of(dtype: DType) -> str:
    """int, float or bool: what an operator asks about a dtype."""
    if dtype.is_bool:
        return "bool"
    return "int" if dtype.is_integer else "float"


def demand_kind(name: str, dtype: DType, kinds: tuple[str, ...]) -> None:
    """Operators that do not exist for a kind of dtype say so."""
    if kind_of(dtype) not in kinds:
        raise TilecError(
            f"{name} works on {' and '.join(kinds)} tiles, not on {dtype.name}; cast with .to(...) first"
        )


def extreme(a: Array, b: Array, pick: Callable[..., Array], of_zeros: Callable[..., Array]) -> Array:
    """min or max: NaN if either is NaN, and -0 < +0."""
    with np.errstate(all="ignore"):
        best = pick(a, b)
        if not np.issubdtype(best.dtype, np.floating):
            return best
        zeros = (a == 0) & (b == 0)
        signed = np.where(of_zeros(np.signbit(a), np.signbit(b)), np.copysign(best, -1), np.copysign(best, 1))
        return np.where(zeros, signed, best).astype(best.dtype)


def shift_amount(b: Array, dtype: DType) -> tuple[Array, Array]:
    """The amount clipped to the width, and where it was too large (negative amounts count as huge)."""
    far = (b < 0) | (b >= dtype.bits)
    return far, np.where(far, 0, b).astype(np.int64)


def window(
    extents: tuple[int, ...], at: list[int], shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of the array that a tile at `at` covers, and the part of the tile that it fills."""
    low = [min(max(0, x), e) for x, e in zip(at, extents, strict=True)]
    high = [max(b, min(x + n, e)) for b, x, n, e in zip(low, at, shape, extents, strict=True)]
    theirs = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    return theirs, tuple(slice(min(a - x, n), min(b - x, n)) if b > a else slice(0, 0)
                         for a, b, x, n in zip(low, high, at, shape, strict=True))  # fmt: skip


def in_bounds(extents: tuple[int, ...], indices: list[Array]) -> tuple[Array, tuple[Array, ...]]:
    """Where all indices lie inside, and indices that are safe to use everywhere."""
    inside = np.ones(np.shape(indices[0]), bool)
    for index, extent in zip(indices, extents, strict=True):
        inside &= (index >= 0) & (index < extent)
    safe = tuple(np.where(inside, index, 0).astype(np.int64) for index in indices)
    return (inside, safe) if all(extents) else (inside & False, safe)
