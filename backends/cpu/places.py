"""Where the value of a tile is: in one register, a formula of its coordinates, or memory.

    Splat("%v3")                      every element is the register %v3
    Affine((0, 1), 5)                 element (i, j) is 0 * i + 1 * j + 5
    Ref("%v7", f32, (8, 4), (4, 1))   element (i, j) lies at %v7 + (4 * i + j) elements

Instructions that only move elements give another place and no code where strides can say it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from tilec.backends.cpu.arena import Buffer
from tilec.backends.cpu.lanes import memory_type
from tilec.backends.cpu.loops import Index, add, mul, step_pointer
from tilec.backends.writer import Writer
from tilec.ir.dtype import DType
from tilec.ir.func import Value
from tilec.ir.tile import dense_strides

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Splat:
    """One register for all elements; what scalars and tiles of one element are."""

    register: str
    dtype: DType


@dataclass(frozen=True)
class Affine:
    """Integers by a formula: the sum of coefficient * coordinate, plus a constant, wrapped."""

    dtype: DType
    shape: Shape
    strides: tuple[int, ...]
    start: int = 0


@dataclass(frozen=True)
class Ref:
    """Elements in memory, strides in elements.

    `buffer` is what keeps them, in the arena. `raw` memory is the user's: it may hold any bits; `root` is
    the array that it belongs to, while the value was read from there and not yet copied.
    """

    base: str
    dtype: DType
    shape: Shape
    strides: tuple[Index, ...]
    buffer: Buffer | None = None
    raw: bool = False
    root: Value | None = None

    @property
    def element(self) -> str:
        return memory_type(self.dtype)

    @property
    def dense(self) -> bool:
        """Are the elements one after the other, in row-major order?"""
        plain = dense_strides(self.shape)
        return all(n == 1 or s == p for n, s, p in zip(self.shape, self.strides, plain, strict=True))


Place = Splat | Affine | Ref


def broadcast(place: Place, shape: Shape) -> Place:
    """Extents of 1 repeated."""
    if isinstance(place, Splat):
        return place
    strides = tuple(0 if old == 1 else s for old, s in zip(place.shape, place.strides, strict=True))
    return _moved(place, shape, strides)


def permute(place: Place, axes: Sequence[int]) -> Place:
    if isinstance(place, Splat):
        return place
    shape = tuple(place.shape[axis] for axis in axes)
    return _moved(place, shape, tuple(place.strides[axis] for axis in axes))


def extract(w: Writer, place: Place, start: Sequence[int], shape: Shape) -> Place:
    """A part of a tile, by constant offsets."""
    if isinstance(place, Splat):
        return place
    if isinstance(place, Affine):
        skipped = sum(at * s for at, s in zip(start, place.strides, strict=True))
        return Affine(place.dtype, shape, place.strides, place.start + skipped)
    offset: Index = 0
    for at, stride in zip(start, place.strides, strict=True):
        offset = add(w, offset, mul(w, at, stride))
    base = step_pointer(w, place.base, place.element, offset)
    return Ref(base, place.dtype, shape, place.strides, place.buffer, place.raw, place.root)


def reshape(place: Place, shape: Shape) -> Place | None:
    """The same elements in row-major order; None where strides can't say it."""
    if isinstance(place, Splat):
        return place
    strides = reshaped_strides(place.shape, place.strides, shape)
    return None if strides is None else _moved(place, shape, strides)


def _moved(place: Affine | Ref, shape: Shape, strides: tuple[Index, ...]) -> Affine | Ref:
    if isinstance(place, Affine):
        whole = tuple(s for s in strides if isinstance(s, int))
        return Affine(place.dtype, shape, whole, place.start)
    return Ref(place.base, place.dtype, shape, strides, place.buffer, place.raw, place.root)


def reshaped_strides(old: Shape, strides: Sequence[Index], new: Shape) -> tuple[Index, ...] | None:
    """Strides under another shape: axes are matched in groups of equal size, whose old axes must merge into
    one.
    """
    axes = [(n, s) for n, s in zip(old, strides, strict=True) if n != 1]
    found: list[Index] = []
    at = 0
    while at < len(new):
        if new[at] == 1:
            found.append(0)
            at += 1
            continue
        taken = [axes.pop(0)]
        until = at + 1
        while (have := prod(n for n, _ in taken)) != (want := prod(new[at:until])):
            if have < want:
                taken.append(axes.pop(0))
            else:
                until += 1
        while until < len(new) and new[until] == 1:
            until += 1
        inner = _merged(taken)
        if inner is None or (isinstance(inner, str) and sum(n != 1 for n in new[at:until]) > 1):
            return None
        found += _split(inner, new[at:until])
        at = until
    return tuple(found)


def _merged(axes: Sequence[tuple[int, Index]]) -> Index | None:
    """The stride of the innermost of some axes, if they are one axis split up."""
    for (_, outer), (n, inner) in pairwise(axes):
        if not (isinstance(outer, int) and isinstance(inner, int) and outer == inner * n):
            return None
    return axes[-1][1]


def _split(inner: Index, extents: Shape) -> list[Index]:
    if isinstance(inner, str):
        return [inner if n != 1 else 0 for n in extents]
    return [inner * prod(extents[i + 1 :]) for i in range(len(extents))]
