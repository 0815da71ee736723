"""Reductions along one axis, and scans.

    Reduce("sum", x, axis=1): f32[16, 8] -> f32[16]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilec.ir import codec, dtype as dt
from tilec.ir.errors import TilecError
from tilec.ir.func import Inst, Value
from tilec.ir.inst.arith import Maximum, Minimum, demand_kind, wrap
from tilec.ir.run import State
from tilec.ir.tile import TileType

Array = np.ndarray[Any, Any]
KINDS = {"sum": ("int", "float"), "max": ("int", "float"), "min": ("int", "float"),
         "any": ("bool",), "all": ("bool",)}  # fmt: skip


def without(x: TileType, axis: int) -> TileType:
    """x with one axis reduced away."""
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    return TileType(x.dtype, shape, x.layout.reduce(axis) if x.layout and shape else None)


@dataclass(frozen=True, eq=False)
class Reduce(Inst):
    """sum, max, min, any or all along an axis. Sums of floats: any order, accumulated in the tile's dtype or wider."""

    op: str
    x: Value
    axis: int

    def result(self) -> TileType:
        demand_kind(self.op, self.x.tile.dtype, KINDS[self.op])
        return without(self.x.tile, self.axis)

    def meaning(self, state: State, x: Array) -> Array:
        dtype, axis = self.x.tile.dtype, self.axis
        if self.op in ("any", "all"):
            return np.asarray(getattr(np, self.op)(x, axis))
        if self.op == "sum":
            return self._sum(x)
        kind = Maximum if self.op == "max" else Minimum
        combine = kind(self.x, self.x).meaning
        best = x.take(0, axis)
        for i in range(1, x.shape[axis]):
            best = combine(state, best, x.take(i, axis))
        assert best.dtype == dtype.reference, "a reduction keeps its dtype"
        return np.asarray(best)

    def _sum(self, x: Array) -> Array:
        dtype = self.x.tile.dtype
        if dtype.is_integer:
            return wrap(np.sum(x.astype(np.int64), self.axis), dtype)
        with np.errstate(all="ignore"):
            return codec.round_to(np.sum(x.astype(np.float64), self.axis), dtype)


@dataclass(frozen=True, eq=False)
class ArgReduce(Inst):
    """The index (i32) of the largest or smallest element along an axis, the first of equals; NaN counts as extreme."""

    op: str
    x: Value
    axis: int

    def result(self) -> TileType:
        demand_kind(f"arg{self.op}", self.x.tile.dtype, ("int", "float"))
        rest = without(self.x.tile, self.axis)
        return TileType(dt.i32, rest.shape, rest.layout)

    def meaning(self, state: State, x: Array) -> Array:
        find = np.argmax if self.op == "max" else np.argmin
        return np.asarray(find(x, self.axis)).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Scan(Inst):
    """Inclusive running sum, max or min along an axis."""

    op: str
    x: Value
    axis: int

    def result(self) -> TileType:
        if self.op not in ("sum", "max", "min"):
            raise TilecError(f"scan runs sum, max or min, not {self.op!r}")
        demand_kind("scan", self.x.tile.dtype, ("int", "float"))
        return self.x.tile

    def meaning(self, state: State, x: Array) -> Array:
        prefixes = [Reduce(self.op, self.x, self.axis).meaning(state, x.take(range(i + 1), self.axis))
                    for i in range(x.shape[self.axis])]  # fmt: skip
        return np.stack(prefixes, self.axis)
