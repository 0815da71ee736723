"""Reductions along one axis, and scans.

Reduce("sum", x, axis=1): f32[16, 8] -> f32[16]
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.digits import Digit, split, values
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Inst, Value
from tilec.ir.inst.arith import Maximum, Minimum
from tilec.ir.inst.rules import demand_kind, wrap
from tilec.ir.layout import Layout, register
from tilec.ir.run import State
from tilec.ir.tile import TileType

Array = np.ndarray[Any, Any]
WARP = 32
KINDS = {"sum": ("int", "float"), "max": ("int", "float"), "min": ("int", "float"),
         "any": ("bool",), "all": ("bool",)}  # fmt: skip


def without(x: TileType, axis: int) -> TileType:
    """x with one axis reduced away."""
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    return TileType(x.dtype, shape, x.layout.reduce(axis) if x.layout and shape else None)


@dataclass(frozen=True, eq=False)
class Reduce(Inst):
    """sum, max, min, any or all along an axis. Sums of floats: any order, accumulated in the tile's dtype or
    wider.
    """

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


def identity(op: str, dtype: DType) -> int | float | bool:
    """What a reduction may take in without changing."""
    if op in ("sum", "any"):
        return False if dtype.is_bool else 0
    if op == "all":
        return True
    low, high = (dtype.min, dtype.max) if dtype.is_integer or not dtype.has_infinity else (-np.inf, np.inf)
    return low if op == "max" else high


@dataclass(frozen=True, eq=False)
class Partial(Inst):
    """The part of a reduction that each warp can do alone: the axis shrinks to one element per warp that
    holds a part of it. Only after the layout pass, which puts the rest through shared memory.
    """

    op: str
    x: Value
    axis: int

    def result(self) -> TileType:
        x = self.x.tile
        assert x.layout is not None, "a partial reduction is per warp: it needs a layout"
        layout = partial_layout(x.layout, self.axis)
        return TileType(x.dtype, layout.shape, layout)

    def meaning(self, state: State, x: Array) -> Array:
        layout = self.x.tile.layout
        assert layout is not None, "a partial reduction is per warp: it needs a layout"
        part = part_of(layout, self.axis)
        nothing = identity(self.op, self.x.tile.dtype)
        padded = np.append(x, np.full_like(x.take([0], self.axis), nothing), self.axis)
        whole = Reduce(self.op, self.x, self.axis)
        pieces = [whole.meaning(state, padded.compress(np.append(part == i, True), self.axis))
                  for i in range(self.tile.shape[self.axis])]  # fmt: skip
        return np.stack(pieces, self.axis)


def _warp_digits(layout: Layout) -> tuple[tuple[Digit, ...], tuple[Digit, ...]]:
    """A layout's thread digits above the lanes, and those of the lanes."""
    halves = split(layout.digits("thread"), WARP)
    assert halves is not None, "the lanes of a warp are whole digits"
    return halves


def partial_layout(layout: Layout, axis: int) -> Layout:
    """How warps hold their parts of a reduced axis: in each lane, the axis counted by warps."""
    warps, lanes = _warp_digits(layout)
    shape = list(layout.shape)
    shape[axis] = prod(d.extent for d in warps if d.stride[axis])
    place, counted = shape[axis], []
    for d in warps:
        if d.stride[axis]:
            place //= d.extent
            counted.append(Digit(d.extent, (*d.stride[:axis], place, *d.stride[axis + 1 :])))
        else:
            counted.append(d)
    rest = tuple(Digit(d.extent, (*d.stride[:axis], 0, *d.stride[axis + 1 :])) for d in lanes)
    slots = tuple(
        Digit(d.extent, (*d.stride[:axis], 0, *d.stride[axis + 1 :])) for d in layout.digits("slot")
    )
    return register(tuple(shape), (*counted, *rest), tuple(d for d in slots if any(d.stride)))


def part_of(layout: Layout, axis: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each coordinate along the axis, the part (group of warps) that holds it."""
    parts = partial_layout(layout, axis).thread_part()[:, axis]
    points = layout.points()[..., axis]
    inside = points < layout.shape[axis]
    part = np.zeros(layout.shape[axis], np.int64)
    part[points[inside]] = np.broadcast_to(parts[:, None], points.shape)[inside]
    return part


def crosses_warps(layout: Layout, axis: int) -> bool:
    """Whether different warps hold different parts of the axis."""
    return any(d.stride[axis] for d in _warp_digits(layout)[0])


def reduced_lane_bits(layout: Layout, axis: int) -> list[int]:
    """The bits of the lane number that count along the axis; the others do not."""
    lanes = values(_warp_digits(layout)[1], layout.rank)[:, axis]
    return [bit for bit in range(WARP.bit_length() - 1) if lanes[1 << bit] != lanes[0]]


def reducible(layout: Layout, axis: int) -> bool:
    """Whether slots and butterflies can reduce the axis: each element once a replica, lanes by whole bits."""
    halves = split(layout.digits("thread"), WARP)
    if halves is None:
        return False
    powers = all(d.extent & (d.extent - 1) == 0 for d in halves[1] if d.stride[axis])
    digits = [d for _, ds in layout.groups for d in ds if any(d.stride)]
    once = prod(d.extent for d in digits) == prod(layout.cover)
    alone = all(sum(map(bool, d.stride)) == 1 for d in digits if d.stride[axis])
    return powers and once and alone


@dataclass(frozen=True, eq=False)
class ArgReduce(Inst):
    """The index (i32) of the largest or smallest element along an axis, the first of equals; NaN counts as
    extreme.
    """

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
