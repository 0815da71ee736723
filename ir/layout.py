"""Layouts: functions from an index to a point.

A layout's index is split into groups, each read in mixed radix by its digits; digits times strides add up.
    c = spatial(8, 4) * local(1, 2)          a register layout: 32 threads, 2 slots, over a tile of 8 x 8
    c.at(thread=5, slot=1) == (1, 3)         thread 5 is (1, 1) of 8 x 4, each holds 1 x 2 neighbours
    row_major((8, 64)).offset((2, 3)) == 131 a memory layout: one group per axis, coordinates to an offset

Register layouts have groups `thread` and `slot` (index = thread * slots + slot) and may hold a point several
times (stride 0: replication; overlapping digits: halos) or go past the tile (pad). All holders of a point
hold the same value; its `owner` is the lowest thread's lowest slot. Layouts are kept in canonical form
(`digits.canonical`), which is unique: two layouts over one shape are equal if and only if they are the same
function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.ir import digits as dg
from tilec.ir import holders
from tilec.ir.digits import Digit, Digits, Ints
from tilec.ir.errors import TilecError
from tilec.ir.holders import Mask
from tilec.ir.swizzle import Swizzle

if TYPE_CHECKING:
    from tilec.ir.dtype import DType

Shape = tuple[int, ...]
kept = lru_cache(4096)  # of layouts made from others: the passes ask for the same few again and again


@dataclass(frozen=True)
class Layout:
    """A function from an index to a point, in mixed radix.

    `groups`: named digits, strides with one entry per axis of `shape`. `shape`: the tile that is covered,
    or (size,) of a memory layout, whose `swizzle` then moves byte offsets.
    """

    groups: tuple[tuple[str, Digits], ...]
    shape: Shape
    swizzle: Swizzle | None = None

    def __post_init__(self) -> None:
        for digit in (d for _, digits in self.groups for d in digits):
            if digit.extent < 1 or len(digit.stride) != len(self.shape) or min(digit.stride, default=0) < 0:
                raise TilecError(
                    f"a digit needs an extent of 1 or more and {len(self.shape)} strides of 0 or more, "
                    f"one per axis of {list(self.shape)}: found {digit}"
                )
        if min(self.shape, default=1) < 1:
            raise TilecError(f"a layout covers a tile of extents of 1 or more, not {list(self.shape)}")
        tidy = tuple((name, dg.canonical(digits)) for name, digits in self.groups)
        object.__setattr__(self, "groups", tidy)
        object.__setattr__(self, "_hash", hash((tidy, self.shape, self.swizzle)))

    def __hash__(self) -> int:
        """Found once: layouts are constants of kernels, and so part of what every call looks up."""
        found: int = self.__dict__["_hash"]
        return found

    def __str__(self) -> str:
        groups = "; ".join(f"{name} {' '.join(map(str, digits))}".rstrip() for name, digits in self.groups)
        xor = f" ^ {self.swizzle.bits},{self.swizzle.base},{self.swizzle.shift}" if self.swizzle else ""
        return f"{{[{', '.join(map(str, self.shape))}] {groups}{xor}}}"

    # What it is

    @property
    def rank(self) -> int:
        """How many axes a point has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Elements of the tile (or of the memory)."""
        return prod(self.shape)

    @property
    def parts(self) -> dg.Parts:
        """The digits of every group, in order."""
        return tuple(digits for _, digits in self.groups)

    @property
    def domain(self) -> Shape:
        """How many indices each group counts: (threads, slots), or the extents of an array in memory."""
        return tuple(map(dg.size, self.parts))

    def digits(self, group: str) -> Digits:
        """The digits of a group; none where there is no such group."""
        return dict(self.groups).get(group, ())

    @property
    def threads(self) -> int:
        """How many threads hold the tile."""
        return dg.size(self.digits("thread"))

    @property
    def slots(self) -> int:
        """How many elements each thread holds."""
        return dg.size(self.digits("slot"))

    @property
    def cover(self) -> Shape:
        """One more than the largest coordinate on each axis: past `shape` where there is pad."""
        flat = [d for part in self.parts for d in part]
        return tuple(dg.top(flat, axis) + 1 for axis in range(self.rank))

    # The function

    def __call__(self, index: Any) -> Any:
        """The point of an index over all groups: a tuple, or an array [..., rank] for an array of indices."""
        at = np.zeros((*np.shape(index), self.rank), np.int64)
        for place, digit in dg.places(tuple(d for part in self.parts for d in part)):
            at += (np.asarray(index)[..., None] // place % digit.extent) * np.array(digit.stride, np.int64)
        return tuple(at.tolist()) if np.ndim(index) == 0 else at

    def at(self, thread: int, slot: int) -> Shape:
        """The point that a thread holds in a slot."""
        point: Shape = self(thread * self.slots + slot)
        return point

    def thread_part(self) -> Ints:
        """Coordinates of every thread's slot 0, int32 [threads, rank]."""
        return holders.table(self.digits("thread"), self.rank)

    def slot_part(self) -> Ints:
        """Coordinates of thread 0's slots, int32 [slots, rank]."""
        return holders.table(self.digits("slot"), self.rank)

    def points(self) -> Ints:
        """All coordinates, int32 [threads, slots, rank]: thread_part + slot_part."""
        return holders.points(self)

    def offset(self, coordinates: Sequence[Any] | Ints) -> Any:
        """The element offset of coordinates (integers or arrays, one per axis), before any swizzle."""
        total: Any = sum(c * 0 for c in coordinates)
        for digits, c in zip(self.parts, coordinates, strict=True):
            for position, (place, digit) in enumerate(dg.places(digits)):
                count = c // place % digit.extent if position else c // place
                total = total + count * digit.stride[0]
        return total

    def byte_offset(self, coordinates: Sequence[Any] | Ints, element_bits: int) -> Any:
        """The byte that an element starts in, swizzled."""
        plain = self.offset(coordinates) * element_bits // 8
        return self.swizzle.apply(plain) if self.swizzle else plain

    # Who holds what

    @property
    def is_bijection(self) -> bool:
        """Whether every element has exactly one holder and nothing else is held."""
        ladders = dg.ladders(self.parts, self.rank)
        dense = ladders is not None and all(map(dg.is_dense, ladders))
        return dense and self.cover == self.shape and prod(self.domain) == self.size

    def covers(self) -> bool:
        """Whether every element has a holder."""
        return bool((self.section() >= 0).all())

    def pad_mask(self) -> Mask:
        """True where a holder's point lies outside the tile, bool [threads, slots]."""
        return holders.pad_mask(self)

    def section(self) -> Ints:
        """The owner of each element as thread * slots + slot, int32 [*shape]; -1 where nobody holds it."""
        return holders.section(self)

    def owner_mask(self) -> Mask:
        """True at the one owner of each element, bool [threads, slots]."""
        return holders.owner_mask(self)

    def inverse(self, names: tuple[str, ...] = ()) -> Layout:
        """From points to (thread, slot); TilecError unless every element has exactly one holder."""
        from tilec.ir.layout_ops import inverse

        return inverse(self, names)

    def section_layout(self) -> Layout | None:
        """The owner of each element as a layout, where digits can say it: see layout_ops."""
        from tilec.ir.layout_ops import section_layout

        return section_layout(self)

    def find_slots(self, offsets: Ints) -> Ints:
        """For each vector of `offsets` [n, rank] the lowest slot with that slot_part, else -1: int64 [n]."""
        same = (self.slot_part()[None] == offsets[:, None]).all(axis=2)
        return np.where(same.any(axis=1), same.argmax(axis=1), -1)

    # Other layouts from it

    @kept
    def __mul__(self, inner: Layout) -> Layout:
        """Tiling: every element of this layout becomes a tile of `inner`.

        (a * b)(i, j) = a(i) * b.shape + b(j); associative. Each group counts this layout's digits first, then
        inner's. Where inner has pad, its tiles overlap: the pad holds the neighbour's elements.
        """
        if self.rank != inner.rank:
            raise TilecError(f"a product needs layouts of one rank: {self} and {inner}")
        names = dict.fromkeys([*dict(self.groups), *dict(inner.groups)])
        groups = ((n, dg.times(self.digits(n), inner.shape) + inner.digits(n)) for n in names)
        return Layout(tuple(groups), tuple(a * b for a, b in zip(self.shape, inner.shape, strict=True)))

    def replicated(self, threads: int = 1, slots: int = 1) -> Layout:
        """The same tile held by `threads` times as many threads (the new digit is the most significant)."""
        return replicas(self.rank, threads, slots) * self

    def with_shape(self, shape: Shape) -> Layout:
        """The same function over a tile of another shape: what goes past it is pad."""
        return replace(self, shape=shape)

    def _strides(self, change: Callable[[Shape], Shape], shape: Shape) -> Layout:
        groups = ((n, tuple(Digit(d.extent, change(d.stride)) for d in ds)) for n, ds in self.groups)
        return Layout(tuple(groups), shape)

    def _keep(self, axes: tuple[int, ...]) -> Layout:
        return self._strides(lambda s: tuple(s[a] for a in axes), tuple(self.shape[a] for a in axes))

    @kept
    def permute(self, axes: tuple[int, ...]) -> Layout:
        """Axis i of the result is axis axes[i]."""
        return self._keep(axes)

    @kept
    def insert_axis(self, axis: int, extent: int = 1) -> Layout:
        """A new axis; with an extent above 1 only its coordinate 0 is held."""
        shape = (*self.shape[:axis], extent, *self.shape[axis:])
        return self._strides(lambda s: (*s[:axis], 0, *s[axis:]), shape)

    @kept
    def reduce(self, axis: int) -> Layout:
        """Without the axis: who held any part of it holds the reduced element. Threads that differed only
        along it become replicas; slots that did are one.
        """
        return self._keep(tuple(a for a in range(self.rank) if a != axis)).without_slot_replicas()

    def without_slot_replicas(self) -> Layout:
        """The same elements per thread, with the slots that repeat others left out."""
        groups = ((n, tuple(d for d in ds if n != "slot" or any(d.stride))) for n, ds in self.groups)
        return replace(self, groups=tuple(groups))

    def broadcast(self, axis: int, extent: int) -> Layout | None:
        """An axis of extent 1 repeated in new slots (their digit leads); None if there is pad on it."""
        if self.shape[axis] != 1:
            raise TilecError(f"broadcast needs an axis of extent 1: axis {axis} of {list(self.shape)} is not")
        if self.cover[axis] != 1:
            return None
        ones: list[int] = [1] * self.rank
        ones[axis] = extent
        return local(*ones) * self

    @kept
    def reshape(self, shape: Shape) -> Layout | None:
        """The row-major reshape with each element where it was; None where digits cannot say it."""
        if prod(shape) != self.size:
            raise TilecError(f"reshape keeps the number of elements: {list(self.shape)} to {list(shape)}")
        if shape == self.shape:
            return self
        bare = self._keep(tuple(a for a in range(self.rank) if (self.shape[a], self.cover[a]) != (1, 1)))
        wanted = tuple(n for n in shape if n != 1)
        parts = dg.reshape_axes(bare.parts, bare.shape, wanted)
        if parts is None:
            return None
        result = Layout(tuple(zip(dict(self.groups), parts, strict=True)), wanted)
        for axis in (axis for axis, n in enumerate(shape) if n == 1):
            result = result.insert_axis(axis)
        return result

    def slice(self, start: Shape, shape: Shape) -> Layout | None:
        """The part of the tile at `start`: see layout_ops.slice_tile."""
        from tilec.ir.layout_ops import slice_tile

        return slice_tile(self, start, shape)

    def compose(self, inner: Layout) -> Layout | None:
        """This layout after `inner`: see layout_ops.compose."""
        from tilec.ir.layout_ops import compose

        return compose(self, inner)

    # To look at

    def formula(self) -> tuple[Any, ...]:
        """The closed form of each coordinate in sympy: see draw.formula."""
        from tilec.ir.draw import formula

        return formula(self)

    def draw(self) -> str:
        """An SVG of who holds what: see draw.draw."""
        from tilec.ir.draw import draw

        return draw(self)

    # Bits

    def nbytes(self, dtype: DType) -> int:
        """Bytes of all threads' slots, each thread's packed to whole bytes."""
        return self.threads * self._thread_bytes(dtype)

    def bytes(self, dtype: DType) -> Layout:
        """The flat uint8 tile whose bytes are each thread's slots, packed in order, little-endian:
        chunk-major, then thread, then gcd(bytes per thread, 16) bytes, so that neighbouring threads load
        neighbouring chunks.

        TilecError unless every element has exactly one holder and a thread's bits are whole bytes.
        """
        if not self.is_bijection:
            raise TilecError(f"bytes() needs one holder for every element, and nothing else held: {self}")
        count = self._thread_bytes(dtype)
        chunk = gcd(count, 16)
        slots = (Digit(count // chunk, (self.threads * chunk,)), Digit(chunk, (1,)))
        return register((self.threads * count,), (Digit(self.threads, (chunk,)),), slots)

    def _thread_bytes(self, dtype: DType) -> int:
        bits = self.slots * dtype.bits
        if bits % 8:
            raise TilecError(
                f"a thread's {self.slots} slots of {dtype} are {bits} bits, not whole bytes: "
                "choose a tile that gives each thread a multiple of 8 elements"
            )
        return bits // 8


# Constructors


def register(shape: Shape, thread: Digits = (), slot: Digits = ()) -> Layout:
    return Layout((("thread", thread), ("slot", slot)), shape)


def memory(axes: Sequence[Digits], size: int, swizzle: Swizzle | None = None) -> Layout:
    """One group of digits per axis, strides in elements; `size` elements are kept."""
    return Layout(tuple(zip(axis_names(len(axes)), axes, strict=True)), (size,), swizzle)


def axis_names(rank: int) -> tuple[str, ...]:
    return tuple(map(str, range(rank)))


def _axes(shape: Shape, order: Sequence[int]) -> Digits:
    """One digit per axis, the axes of `order` from most to least significant."""
    return tuple(Digit(shape[a], tuple(int(a == b) for b in range(len(shape)))) for a in order)


def local(*shape: int) -> Layout:
    """One thread holds the tile, slots in row-major order."""
    return register(shape, (), _axes(shape, range(len(shape))))


def spatial(*shape: int) -> Layout:
    """Each element has its thread, threads in row-major order."""
    return register(shape, _axes(shape, range(len(shape))))


def column_local(*shape: int) -> Layout:
    """As `local`, the first axis fastest."""
    return register(shape, (), _axes(shape, range(len(shape))[::-1]))


def column_spatial(*shape: int) -> Layout:
    """As `spatial`, the first axis fastest."""
    return register(shape, _axes(shape, range(len(shape))[::-1]))


def replicas(rank: int, threads: int = 1, slots: int = 1) -> Layout:
    """A tile of one element, held by every thread in every slot."""
    zero = (0,) * rank
    return register((1,) * rank, (Digit(threads, zero),), (Digit(slots, zero),))
