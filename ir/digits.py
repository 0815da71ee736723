"""Digits: the arithmetic under layouts.

A list of digits is a function from an index to a vector. The index is read in mixed radix, the first digit
most significant, and each digit's value multiplies its stride:
    (Digit(4, (8,)), Digit(2, (1,)))  takes  0 1 2 3 4 5 6 7  to  0 1 8 9 16 17 24 25
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import gcd, prod
from typing import Any

import numpy as np

Ints = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Digit:
    """`extent` values; each step adds `stride`, one entry per axis of the result."""

    extent: int
    stride: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.extent}:{','.join(map(str, self.stride))}"


Digits = tuple[Digit, ...]


def size(digits: Digits) -> int:
    """How many indices the digits count."""
    return prod(d.extent for d in digits)


def scale(stride: tuple[int, ...], factor: int) -> tuple[int, ...]:
    return tuple(s * factor for s in stride)


def canonical(digits: Iterable[Digit]) -> Digits:
    """The same function with the fewest digits: extents of 1 dropped, neighbours that count on merged.

    It is unique. The last digit's extent must be the first e with f(e) != e * f(1), since a larger one would
    be wrong and a smaller one would merge; the rest follows for f(e * i).
    """
    kept: list[Digit] = []
    for digit in digits:
        if digit.extent == 1:
            continue
        if kept and kept[-1].stride == scale(digit.stride, digit.extent):
            digit = Digit(kept.pop().extent * digit.extent, digit.stride)
        kept.append(digit)
    return tuple(kept)


def places(digits: Digits) -> Iterator[tuple[int, Digit]]:
    """Each digit with its place: the digit's value at index i is i // place % extent."""
    place = size(digits)
    for digit in digits:
        place //= digit.extent
        yield place, digit


def values(digits: Digits, rank: int) -> Ints:
    """The function's table, int64 [size, rank]."""
    table = np.zeros((1, rank), np.int64)
    for digit in digits:
        step = np.arange(digit.extent)[:, None] * np.array(digit.stride, np.int64)
        table = (table[:, None] + step).reshape(len(table) * digit.extent, rank)
    return table


def from_values(table: Ints) -> Digits | None:
    """The digits of a table [size, rank], or None where no digits count like it."""
    count, rank = table.shape
    found: Digits = ()
    place = 1
    while place < count:
        steps = table[::place]
        straight = (steps == np.arange(len(steps))[:, None] * steps[1]).all(axis=1)
        extent = len(steps) if straight.all() else int(straight.argmin())
        if extent < 2 or len(steps) % extent:
            return None
        found = (Digit(extent, tuple(steps[1].tolist())), *found)
        place *= extent
    return found if np.array_equal(values(found, rank), table) else None


def split(digits: Digits, count: int) -> tuple[Digits, Digits] | None:
    """The digits as (major, minor) with `minor` counting `count` indices; None where no digit ends there."""
    minor: Digits = ()
    for position in range(len(digits) - 1, -1, -1):
        if count == 1:
            return digits[: position + 1], minor
        digit = digits[position]
        taken = min(digit.extent, count)
        if digit.extent % taken or count % taken:
            return None
        minor = (Digit(taken, digit.stride), *minor)
        if taken < digit.extent:
            rest = Digit(digit.extent // taken, scale(digit.stride, taken))
            return ((*digits[:position], rest), minor) if taken == count else None
        count //= taken
    return ((), minor) if count == 1 else None


def times(digits: Digits, factors: tuple[int, ...]) -> Digits:
    """Every stride multiplied, axis by axis."""
    return tuple(
        Digit(d.extent, tuple(s * f for s, f in zip(d.stride, factors, strict=True))) for d in digits
    )


def divided(digits: Digits, factors: tuple[int, ...]) -> Digits | None:
    """The digits of which `times(..., factors)` makes these; None where a stride does not divide."""
    pairs = [(s, f) for d in digits for s, f in zip(d.stride, factors, strict=True)]
    if any(s % f for s, f in pairs):
        return None
    return tuple(
        Digit(d.extent, tuple(s // f for s, f in zip(d.stride, factors, strict=True))) for d in digits
    )


def top(digits: Iterable[Digit], axis: int) -> int:
    """The largest coordinate that the digits reach on an axis."""
    return sum((d.extent - 1) * d.stride[axis] for d in digits)


Parts = tuple[Digits, ...]  # the digits of several groups, whose vectors are summed


def merge_axes(parts: Parts, first: int, extents: tuple[int, ...]) -> Parts | None:
    """Axes first, first + 1, ... of these extents as one, row-major (no extents: a new axis of extent 1).

    None where a coordinate but the leading one goes past its extent: it would run into the next row.
    """
    stop = first + len(extents)
    flat = [digit for part in parts for digit in part]
    if any(top(flat, axis) >= extents[axis - first] for axis in range(first + 1, stop)):
        return None
    weights = [prod(extents[i + 1 :]) for i in range(len(extents))]

    def merged(stride: tuple[int, ...]) -> tuple[int, ...]:
        total = sum(s * w for s, w in zip(stride[first:stop], weights, strict=True))
        return (*stride[:first], total, *stride[stop:])

    return tuple(canonical(Digit(d.extent, merged(d.stride)) for d in part) for part in parts)


def split_axis(parts: Parts, axis: int, extents: tuple[int, ...]) -> Parts | None:
    """One axis as several of these extents, in row-major order; the first may go past its own.

    None where digits would carry from one new axis into the next, or there is no new axis to carry on.
    """
    if not extents:
        flat = [digit for part in parts for digit in part]
        gone = tuple(tuple(Digit(d.extent, d.stride[:axis] + d.stride[axis + 1 :]) for d in p) for p in parts)
        return None if top(flat, axis) else gone
    for inner in reversed(extents[1:]):
        cut = tuple(tuple(new for d in part for new in _cut(d, axis, inner)) for part in parts)
        if top([digit for part in cut for digit in part], axis + 1) >= inner:
            return None
        parts = cut
    return parts


def _cut(digit: Digit, axis: int, inner: int) -> Digits:
    """The digit over axes (axis // inner, axis % inner): two where it counts across a multiple of inner."""
    turn = inner // gcd(digit.stride[axis], inner)
    if turn < 2 or turn >= digit.extent or digit.extent % turn:
        return (_divmod(digit, axis, inner),)
    major = Digit(digit.extent // turn, scale(digit.stride, turn))
    return _divmod(major, axis, inner), _divmod(Digit(turn, digit.stride), axis, inner)


def _divmod(digit: Digit, axis: int, inner: int) -> Digit:
    step = digit.stride[axis]
    return Digit(digit.extent, (*digit.stride[:axis], *divmod(step, inner), *digit.stride[axis + 1 :]))


@dataclass(frozen=True, slots=True)
class Rung:
    """One digit of a ladder: `part` and `place` say where in which index it stands."""

    stride: int
    extent: int
    part: int
    place: int


Ladder = tuple[Rung, ...]


def ladders(parts: Parts, rank: int) -> tuple[Ladder, ...] | None:
    """Each axis's digits by growing stride, where they count the axis without overlap; None where they do
    not.

    Then a coordinate c on the axis has digit c // stride % extent of each rung. Stride 0 is left out.
    """
    rungs: list[list[Rung]] = [[] for _ in range(rank)]
    for index, part in enumerate(parts):
        for place, digit in places(part):
            moving = [axis for axis, s in enumerate(digit.stride) if s]
            if len(moving) > 1:
                return None
            for axis in moving:
                rungs[axis].append(Rung(digit.stride[axis], digit.extent, index, place))
    found = tuple(tuple(sorted(axis, key=lambda r: r.stride)) for axis in rungs)
    pairs = [(low, high) for ladder in found for low, high in pairwise(ladder)]
    return None if any(high.stride % (low.stride * low.extent) for low, high in pairs) else found


def is_dense(ladder: Ladder) -> bool:
    """Whether the rungs count 0, 1, 2, ... without gaps."""
    reached = 1
    for rung in ladder:
        if rung.stride != reached:
            return False
        reached *= rung.extent
    return True


def matched_axes(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """The shortest runs of axes of both shapes with equal products, in order; the shapes' sizes are equal."""
    runs: list[tuple[slice, slice]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        i1, j1 = min(i + 1, len(old)), min(j + 1, len(new))
        while (p := prod(old[i:i1])) != (q := prod(new[j:j1])):
            i1, j1 = (i1 + 1, j1) if p < q else (i1, j1 + 1)
        runs.append((slice(i, i1), slice(j, j1)))
        i, j = i1, j1
    return runs


def reshape_axes(parts: Parts, old: tuple[int, ...], new: tuple[int, ...]) -> Parts | None:
    """All axes as others in row-major order, run by run (from the last: the others keep their numbers)."""
    for here, there in reversed(matched_axes(old, new)):
        if old[here] == new[there]:
            continue
        merged = merge_axes(parts, here.start, old[here])
        split_up = merged and split_axis(merged, here.start, new[there])
        if split_up is None:
            return None
        parts = split_up
    return parts
