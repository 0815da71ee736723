"""Addresses and masks of a tile's elements: who reads what, how many at once, under which condition.

`runs` groups a fragment's slots into runs that one instruction moves. A run is as wide as alignment, the
layout and the masks prove: elements next to each other in memory, all inside or all outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.ptx.emitter import memory_bits
from tilec.backends.ptx.threads import per_thread, predicate
from tilec.ir.func import Value
from tilec.ir.inequalities import Range
from tilec.ir.layout import Layout
from tilec.ir.tile import ArrayType

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

Points = np.ndarray[Any, Any]
WIDEST = 16  # bytes that one instruction moves


@dataclass(frozen=True)
class Window:
    """A tile at `at` of an array, spread over threads by a layout. `masked`: axes on which it may leave the
    array.
    """

    array: Value
    at: tuple[Value, ...]
    layout: Layout
    masked: tuple[int, ...]

    @property
    def type(self) -> ArrayType:
        return self.array.array_type


def run_length(e: Emitter, w: Window, static: Points | None = None) -> int:
    """Slots that one instruction moves: a power of two. `static` (bool [threads, slots]) must agree within a
    run.
    """
    bits = memory_bits(w.type.dtype)
    length = min(WIDEST * 8 // bits, w.layout.slots & -w.layout.slots)
    while length > 1 and not _movable(e, w, length, static):
        length //= 2
    return length


def _movable(e: Emitter, w: Window, length: int, static: Points | None) -> bool:
    if not neighbours(e, w, length, static):
        return False
    return _aligned(e, w, w.layout.slot_part()[::length], length)


def neighbours(e: Emitter, w: Window, length: int, static: Points | None) -> bool:
    """Whether slots come in runs of neighbouring elements, each run all inside or all outside."""
    axis = _fastest(w.type)
    if axis is None:
        return False
    slots = w.layout.slot_part().reshape(-1, length, w.layout.rank)
    step = np.zeros(w.layout.rank, slots.dtype)
    step[axis] = 1
    if not (slots == slots[:, :1] + np.arange(length)[:, None] * step).all():
        return False
    if (
        static is not None
        and (static.reshape(len(static), -1, length) != static[:, ::length][..., None]).any()
    ):
        return False
    return (axis not in w.masked and not w.type.packed) or _uniform(e, w, slots[:, 0], length, axis)


def _fastest(array: ArrayType) -> int | None:
    """The axis whose neighbours are neighbours in memory."""
    return next((axis for axis in reversed(range(array.rank)) if array.strides[axis] == 1), None)


def _aligned(e: Emitter, w: Window, starts: Points, length: int) -> bool:
    size = memory_bits(w.type.dtype) // 8
    common = offset_multiple(e, w, starts)
    return gcd(e.facts.align(w.array), common * size) % (length * size) == 0


def offset_multiple(e: Emitter, w: Window, starts: Points) -> int:
    """A divisor of the element offsets of all threads' slots at `starts` (0: all are 0)."""
    common = 0
    for axis in range(w.type.rank):
        coordinate = _gcd(w.layout.thread_part()[:, axis], starts[:, axis], e.facts.multiple(w.at[axis]))
        common = gcd(common, coordinate * e.facts.stride_multiple(w.array, axis))
    return common


def _uniform(e: Emitter, w: Window, starts: Points, length: int, axis: int) -> bool:
    """Whether runs start at multiples of their length and the extent is one: all inside or all outside."""
    start = _gcd(w.layout.thread_part()[:, axis], starts[:, axis], e.facts.multiple(w.at[axis]))
    return start % length == 0 and e.facts.extent_multiple(w.array, axis) % length == 0


def _gcd(*parts: Points | int) -> int:
    return int(np.gcd.reduce(np.concatenate([np.atleast_1d(np.abs(part)) for part in parts])))


class Coordinates:
    """Coordinates, offsets and masks of one window, with what its slots share computed once."""

    def __init__(self, e: Emitter, w: Window) -> None:
        self.e, self.w, self.ref = e, w, e.array(w.array)
        self.threads = [per_thread(e, w.layout.thread_part()[:, axis]) for axis in range(w.type.rank)]
        self.at = [e.scalar(v) for v in w.at]
        self.starts = [self._sum32(a, t) for a, t in zip(self.at, self.threads, strict=True)]
        self._steps: dict[tuple[int, int], str] = {}
        self._inside: dict[tuple[int, int], str] = {}
        self._base: str | None = None

    def _sum32(self, a: str, b: str) -> str:
        return a if b == "0" else b if a == "0" else self.e.let(f"add i32 {a}, {b}")

    @property
    def base(self) -> str:
        """Byte pointer of slot coordinates 0: the uniform part first, then the thread's."""
        if self._base is None:
            there = self._pointer(self.ref.base, self.at, [self.e.facts.range(v) for v in self.w.at])
            own = self.w.layout.thread_part()
            limits = list(zip(own.min(axis=0).tolist(), own.max(axis=0).tolist(), strict=True))
            self._base = self._pointer(there, self.threads, limits)
        return self._base

    def _pointer(self, pointer: str, coordinates: Sequence[str], limits: Sequence[Range]) -> str:
        size = memory_bits(self.w.type.dtype) // 8
        for coordinate, stride, limit in zip(coordinates, self.ref.strides, limits, strict=True):
            if coordinate == "0" or stride == 0:
                continue
            offset = self._scaled(coordinate, stride, size, limit)
            pointer = self.e.let(f"getelementptr i8, {self.space} {pointer}, i64 {offset}")
        return pointer

    def _scaled(self, coordinate: str, stride: str | int, size: int, limit: Range) -> str:
        """coordinate * stride * size: one multiplication of 32-bit numbers where both factors are such."""
        e, positive = self.e, limit[0] >= 0
        narrow = e.narrow.get(stride) if isinstance(stride, str) else None
        if narrow and positive and limit[1] * size < 1 << 32:
            scaled = coordinate if size == 1 else e.let(f"mul nuw i32 {coordinate}, {size}")
            return e.let(f'call i64 asm "mul.wide.u32 $0, $1, $2;", "=l,r,r"(i32 {scaled}, i32 {narrow})')
        extend = "zext nneg" if positive else "sext"
        wide = coordinate if coordinate.lstrip("-").isdigit() else e.let(f"{extend} i32 {coordinate} to i64")
        if isinstance(stride, int):
            return wide if stride * size == 1 else e.let(f"mul nsw i64 {wide}, {stride * size}")
        return e.let(f"mul nsw i64 {e.let(f'mul nsw i64 {wide}, {stride}')}, {size}")

    @property
    def space(self) -> str:
        return "ptr addrspace(1)" if self.w.type.space == "global" else "ptr addrspace(3)"

    def pointer(self, slot: Sequence[int]) -> str:
        """Byte pointer of the element at a slot's coordinates."""
        size, fixed, pointer = memory_bits(self.w.type.dtype) // 8, 0, self.base
        for axis, (c, stride) in enumerate(zip(slot, self.ref.strides, strict=True)):
            if isinstance(stride, int):
                fixed += int(c) * stride * size
            elif c:
                pointer = self.e.let(
                    f"getelementptr i8, {self.space} {pointer}, i64 {self._step(axis, int(c), stride)}"
                )
        return self.e.let(f"getelementptr i8, {self.space} {pointer}, i64 {fixed}") if fixed else pointer

    def _step(self, axis: int, c: int, stride: str) -> str:
        if (axis, c) not in self._steps:
            size = memory_bits(self.w.type.dtype) // 8
            self._steps[axis, c] = self.e.let(f"mul nsw i64 {stride}, {c * size}")
        return self._steps[axis, c]

    def inside(self, slot: Sequence[int]) -> list[str]:
        """Conditions (i1) under which the element at a slot's coordinates lies inside the array."""
        return [self._axis_inside(axis, int(slot[axis])) for axis in self.w.masked]

    def _axis_inside(self, axis: int, c: int) -> str:
        """0 <= coordinate < extent in one comparison: unsigned, as a negative coordinate is a huge one. Where
        none is negative, c is taken from the extent instead, outside loops.
        """
        if (axis, c) not in self._inside:
            start, extent = self.starts[axis], self.ref.extents[axis]
            if c and isinstance(extent, str) and self.e.facts.range(self.w.at[axis])[0] >= 0:
                extent = self.e.call("llvm.usub.sat.i32", "i32", f"i32 {extent}", f"i32 {c}")
            elif c:
                start = self._sum32(start, str(c))
            self._inside[axis, c] = self.e.let(f"icmp ult i32 {start}, {extent}")
        return self._inside[axis, c]


def conjunction(e: Emitter, conditions: Sequence[str]) -> str | None:
    """All of them, as one i1; None where there are none."""
    whole: str | None = None
    for condition in conditions:
        whole = condition if whole is None else e.let(f"and i1 {whole}, {condition}")
    return whole


def runs(
    e: Emitter, w: Window, length: int, static: Points, when: str | None = None
) -> Iterator[tuple[range, str, str | None]]:
    """(slots, pointer, condition or None) of each run; `static`: which threads take part in which slot.

    Conditions are joined in the order in which runs share them: `when`, then the last axis, then the others.
    """
    place = Coordinates(e, w)
    for first in range(0, w.layout.slots, length):
        taking = static[:, first]
        if not taking.any():
            continue
        slot = w.layout.slot_part()[first]
        conditions = [when, *reversed(place.inside(slot)), predicate(e, taking)]
        joined = conjunction(e, [c for c in conditions if c])
        yield range(first, first + length), place.pointer(slot), joined
