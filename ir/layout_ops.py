"""The algebra of layouts: divide, compose, complement, and the part of a tile.

    divide(local(2, 1) * spatial(8, 4) * local(1, 2), spatial(8, 4) * local(1, 2)) == local(2, 1)
    compose(row_major((8, 8)), spatial(8, 4) * local(1, 2))      thread t, slot s -> the offset of its element
Each function returns None where no layout says the answer.
"""

from math import prod

import numpy as np

from tilec.ir import digits as dg
from tilec.ir.digits import Digit, Digits, Ints
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout, Shape, axis_names, kept, register


def divide(a: Layout, b: Layout) -> Layout | None:
    """The c with a == c * b: how instructions that hold their operands like b tile one held like a."""
    if a.rank != b.rank or any(x % y for x, y in zip(a.shape, b.shape, strict=True)):
        return None
    names = dict.fromkeys([*dict(a.groups), *dict(b.groups)])
    groups = []
    for name in names:
        quotient = _divide(a.digits(name), b.digits(name), b.shape)
        if quotient is None:
            return None
        groups.append((name, quotient))
    return Layout(tuple(groups), tuple(x // y for x, y in zip(a.shape, b.shape, strict=True)))


def _divide(a: Digits, b: Digits, shape: Shape) -> Digits | None:
    """Both are canonical: a = c * b exactly if a's last digits are b's and the others count whole tiles."""
    halves = dg.split(a, dg.size(b))
    if halves is None or dg.canonical(halves[1]) != b:
        return None
    return dg.divided(halves[0], shape)


def compose(outer: Layout, inner: Layout) -> Layout | None:
    """outer after inner: outer has a group for each axis of inner's tile; the result has inner's groups.

    Of a memory and a register layout: where in memory each (thread, slot) lies, swizzle and all.
    """
    if len(outer.groups) != inner.rank:
        raise TilecError(f"compose needs a group of {outer} for each axis of {list(inner.shape)}")
    assert inner.swizzle is None, "a swizzled offset is no coordinate"
    parts: dg.Parts | None = inner.parts
    for axis in reversed(range(inner.rank)):
        parts = dg.split_axis(parts, axis, tuple(d.extent for d in outer.parts[axis])) if parts else None
    if parts is None:
        return None
    weights = np.array([d.stride for part in outer.parts for d in part], np.int64).reshape(-1, outer.rank)
    linear = (tuple(Digit(d.extent, _apply(d.stride, weights)) for d in part) for part in parts)
    return Layout(tuple(zip(dict(inner.groups), linear, strict=True)), outer.shape, outer.swizzle)


def _apply(stride: Shape, weights: Ints) -> Shape:
    return tuple((np.array(stride, np.int64) @ weights).tolist())


def inverse(layout: Layout, names: tuple[str, ...] = ()) -> Layout:
    """From points to indices: one group per axis ("0", "1", ... or `names`), codomain (threads, slots).

    TilecError unless every element has exactly one holder.
    """
    if not layout.is_bijection:
        raise TilecError(
            f"only a bijection has an inverse: {layout} has {prod(layout.domain)} holders for "
            f"{layout.size} elements (section() gives one holder per element)"
        )
    found = section_layout(layout)
    assert found is not None, "a bijection's digits form ladders"
    groups = zip(names or axis_names(layout.rank), found.parts, strict=True)
    return Layout(tuple(groups), layout.domain)


def section_layout(layout: Layout) -> Layout | None:
    """The owner of each element as a layout, axes "0", "1", ... to (thread, slot); None if no digits say it.

    Replicated threads and slots are left at 0. Its domain is `layout.cover`, which may go past the tile.
    """
    ladders = dg.ladders(layout.parts, layout.rank)
    if ladders is None or not all(map(dg.is_dense, ladders)):
        return None
    unit = np.eye(len(layout.parts), dtype=int).tolist()
    axes = (
        tuple(Digit(r.extent, dg.scale(tuple(unit[r.part]), r.place)) for r in reversed(ladder))
        for ladder in ladders
    )
    return Layout(tuple(zip(axis_names(layout.rank), axes, strict=True)), layout.domain)


def complement(layout: Layout, shape: Shape | None = None) -> Layout | None:
    """The slots with which the layout counts every point of `shape` (its own, if None) once, in order.

    None where its digits overlap. Where the extents do not divide, the two together go past the tile.
    """
    shape = layout.shape if shape is None else shape
    ladders = dg.ladders(layout.parts, layout.rank)
    if ladders is None:
        return None
    unit = np.eye(len(shape), dtype=int).tolist()
    slots = (
        Digit(extent, dg.scale(tuple(unit[axis]), stride))
        for axis, ladder in enumerate(ladders)
        for extent, stride in reversed(_gaps(ladder, shape[axis]))
    )
    return register(shape, (), tuple(slots))


def _gaps(ladder: dg.Ladder, extent: int) -> list[tuple[int, int]]:
    """What a ladder leaves out of 0 ... extent - 1, as (extent, stride) by growing stride."""
    gaps, reached = [], 1
    for stride, width in [*((r.stride, r.extent) for r in ladder), (extent, 1)]:
        if reached < min(stride, extent):
            whole = stride // reached if stride < extent else -(-extent // reached)
            gaps.append((whole, reached))
            reached *= whole
        reached = max(reached, stride * width)
    return gaps


@kept
def slice_tile(layout: Layout, start: Shape, shape: Shape) -> Layout | None:
    """The part of the tile at `start` with each element where it was; None where that is not a layout.

    Thread t's slot of the part is the slot of the whole that holds the same element (see `part_slots`). Of
    slots that overlap (a halo) only those are kept that the part needs.
    """
    if not all(0 <= at <= at + n <= extent for at, n, extent in zip(start, shape, layout.shape, strict=True)):
        raise TilecError(f"a slice must lie inside its tile: {list(shape)} at {list(start)} of {layout}")
    threads = layout.digits("thread")
    slots = _needed_slots(layout, start, shape)
    if slots is None:
        slots = _inside_slots(layout, start, shape)
    if slots is None:
        return None
    part = register(shape, threads, slots)
    return part if part.covers() else None


def part_slots(layout: Layout, start: Shape, part: Layout) -> tuple[int, ...]:
    """For each slot of a part made by `slice_tile` the slot of the whole layout that it is."""
    found = layout.find_slots(part.slot_part() + np.array(start, np.int32))
    assert (found >= 0).all(), f"{part} is no part of {layout} at {start}"
    return tuple(found.tolist())


def _needed_slots(layout: Layout, start: Shape, shape: Shape) -> Digits | None:
    """The fewest slots that complete the threads, in the layout's order if digits can say it."""
    needed = complement(register(layout.shape, layout.digits("thread")), shape)
    if needed is None:
        return None
    offsets = needed.slot_part()
    found = layout.find_slots(offsets + np.array(start, np.int32))
    if (found < 0).any():
        return None
    same_order = dg.from_values(offsets[np.argsort(found)].astype(np.int64))
    return needed.digits("slot") if same_order is None else same_order


def _inside_slots(layout: Layout, start: Shape, shape: Shape) -> Digits | None:
    """All slots that lie in the part for thread 0 (they lie further on for every other thread)."""
    offsets = layout.slot_part().astype(np.int64) - np.array(start)
    inside = ((offsets >= 0) & (offsets < np.array(shape))).all(axis=1)
    return dg.from_values(offsets[inside]) if inside.any() else None
