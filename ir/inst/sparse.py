"""Tiles that keep two of each four elements, and their product.

    values  3 5 | 7 1      places  0 3 | 1 2      sparse(values, places)  3 0 0 5 | 0 7 1 0
The form of NVIDIA's sparse matrix units ("2:4"): Mishra et al. 2021, "Accelerating Sparse Deep Neural
Networks".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tilec.ir import dtype as dt
from tilec.ir.errors import Loc, TilecError
from tilec.ir.func import Effects, Inst, Value
from tilec.ir.inst.mma import GroupProduct, matrix, matrix_shape, product
from tilec.ir.run import Memory, State
from tilec.ir.tile import TileType

Array = np.ndarray[Any, Any]
KEPT, GROUP = 2, 4  # elements that are kept, of how many


@dataclass(frozen=True, eq=False)
class Sparse(Inst):
    """The tile of which `values` are kept: along `axis`, two of each four elements; the others are 0.

    `places` (u2, the shape of values) says where they go among the four, the first before the second.
    """

    values: Value
    places: Value
    axis: int = 1

    def result(self) -> TileType:
        values, places = self.values.tile, self.places.tile
        if places.dtype != dt.u2 or places.shape != values.shape or values.rank != 2:
            raise TilecError(
                "sparse takes two tiles of one shape of rank 2, numbers and their places of u2: found "
                f"{values} and {places}"
            )
        if values.shape[self.axis] % KEPT:
            raise TilecError(
                f"sparse keeps two of each four elements: {values} has an odd extent along axis {self.axis}"
            )
        shape = tuple(n * GROUP // KEPT if a == self.axis else n for a, n in enumerate(values.shape))
        return TileType(values.dtype, shape)

    def meaning(self, state: State, values: Array, places: Array) -> Array:
        return expanded(values, places, self.axis, self.loc)


def expanded(values: Array, places: Array, axis: int, loc: Loc | None = None) -> Array:
    """Zeros with each pair of values at its places; TilecError where those are not in order."""
    x, at = (np.moveaxis(v, axis, -1).reshape(-1, KEPT) for v in (values, places))
    wrong = np.flatnonzero(at[:, 0] >= at[:, 1])
    if len(wrong):
        first, second = at[wrong[0]]
        raise TilecError(
            "sparse takes places in order, the first of a pair before the second: "
            f"found {first} and {second}",
            loc,
        )
    out = np.zeros((len(x), GROUP), values.dtype)
    np.put_along_axis(out, at.astype(np.intp), x, axis=1)
    rest = np.moveaxis(values, axis, -1).shape
    return np.moveaxis(out.reshape(*rest[:-1], rest[-1] * GROUP // KEPT), -1, axis)


@dataclass(frozen=True, eq=False)
class SparseDot(Inst):
    """sparse(values, places) @ b + c by one instruction: values and places (m, k / 2), b (k, n), c (m, n).

    A pass makes it of Dot; `atom` is the shape (m, n, k) of the target's instruction.
    """

    values: Value
    places: Value
    b: Value
    c: Value
    atom: tuple[int, int, int]

    @property
    def factors(self) -> tuple[Value, ...]:
        """What is multiplied."""
        return self.values, self.places, self.b

    def result(self) -> TileType:
        (m, half), (k, n) = self.values.tile.shape, self.b.tile.shape
        assert self.places.tile.shape == (m, half) and k * KEPT == half * GROUP, "half of a is kept"
        assert self.c.tile.shape == (m, n), "c is the product's shape"
        return self.c.tile

    def meaning(self, state: State, values: Array, places: Array, b: Array, c: Array) -> Array:
        return product(expanded(values, places, 1, self.loc), b, c, self.c.tile.dtype)


@dataclass(frozen=True, eq=False)
class HeldSparseDot(GroupProduct):
    """HeldDot whose left operand is sparse(a, places): a and places (m, k / 2) are held alike."""

    places: Value = field(kw_only=True)
    effects: ClassVar[Effects] = Effects(reads=("b",))
    held: ClassVar[tuple[str, ...]] = ("a", "places")

    @property
    def shape(self) -> tuple[int, int, int]:
        m, half = matrix_shape(self.a.tile.shape, self.turned[0])
        k, n = matrix_shape(self.b.array_type.shape, self.turned[1])
        assert self.places.tile.shape == self.a.tile.shape and k * KEPT == half * GROUP, "half of a is kept"
        return m, n, k

    def meaning(self, state: State, a: Array, b: Memory, *rest: Array) -> Array:
        *others, places = rest
        whole = expanded(a, places, int(not self.turned[0]), self.loc)
        return self._product(whole, matrix(b.read(...)), *others)
