"""Which copies and stores TMA can make: one thread describes a box, and the hardware computes all addresses.

It takes arrays that are arguments, with neighbours along one axis and all other strides multiples of 16
bytes, zeros outside, and buffers in panels: a box is one panel, of extents of at most 256. A buffer that is
one row is filled in equal pieces of up to 256 words.
"""

from __future__ import annotations

from math import copysign, prod

from tilec.ir.facts import Facts
from tilec.ir.func import Func, Value, root, written_arrays
from tilec.ir.inst.arith import Full
from tilec.ir.inst.memory import Alloc, ArraySlice, Copy
from tilec.ir.layout import Layout
from tilec.ir.panels import match_panels
from tilec.ir.signature import MOST_AXES, UNIT, Box, describable
from tilec.ir.target import Target

MOST_EXTENT = 256
WORD = 8  # bytes of the largest elements that TMA counts
ALIGNED = 128  # bytes: where in shared memory a box begins


def box_of(func: Func, copy: Copy, facts: Facts, target: Target) -> Box | None:
    """The box of a copy, its axes those of the argument; None where TMA cannot make it."""
    array = root(copy.array)
    if not target.has("tma") or func.schedule.get("alias") or array not in func.params:
        return None
    if array in written_arrays(func) or not is_zero(copy.other) or not describable(array.array_type):
        return None
    kept = kept_axes(copy.array, facts)
    if kept is None:
        return None
    layout = copy.buffer.layout if isinstance(copy.buffer, Alloc) else None
    return _panel(layout, copy.shape, kept, array) or _row(copy, kept, array, facts)


def box_in_panels(
    func: Func, array: Value, layout: Layout, shape: tuple[int, ...], facts: Facts, target: Target
) -> Box | None:
    """The box of one panel of a tile that leaves by TMA for this array or view; None where it cannot."""
    kept, whole = kept_axes(array, facts), root(array)
    if not target.has("tma") or func.schedule.get("alias") or whole not in func.params:
        return None
    return _panel(layout, shape, kept, whole) if kept is not None and describable(whole.array_type) else None


def is_zero(other: Value) -> bool:
    """Are all bits 0, which is what asynchronous copies fill with?"""
    return isinstance(other, Full) and other.value == 0 and copysign(1, other.value) > 0


def kept_axes(array: Value, facts: Facts) -> tuple[int, ...] | None:
    """For each axis of a view, the argument's axis that it is all of; None where it is only part of one."""
    if not isinstance(array, ArraySlice):
        return tuple(range(array.array_type.rank))
    before = kept_axes(array.array, facts)
    kept = [axis for axis in range(array.array.array_type.rank) if axis not in array.dropped]
    whole = all(_whole(array, axis, facts) for axis in kept)
    return tuple(before[axis] for axis in kept) if before is not None and whole else None


def _whole(view: ArraySlice, axis: int, facts: Facts) -> bool:
    start = view.starts[axis]
    from_first = start is None or facts.constant(start) == 0
    return from_first and view.stops[axis] is None and view.steps[axis] == 1


def _panel(layout: Layout | None, shape: tuple[int, ...], kept: tuple[int, ...], array: Value) -> Box | None:
    """The box that is one panel of a buffer."""
    size = array.array_type.dtype.bytes
    lies = match_panels(layout, shape, size)
    if lies is None or array.array_type.strides[kept[lies.axis]] != 1:
        return None
    others = [axis for axis in reversed(range(len(shape))) if axis != lies.axis]
    axes = [kept[lies.axis], *(kept[axis] for axis in others)]
    extents = [lies.span // size, *(shape[axis] for axis in others)]
    dropped = [axis for axis in range(array.array_type.rank) if axis not in kept]
    if max(extents) > MOST_EXTENT:
        return None
    return Box((*axes, *dropped), (*extents, *(1 for _ in dropped)), lies.span, size)


def _row(copy: Copy, kept: tuple[int, ...], array: Value, facts: Facts) -> Box | None:
    """The box of a buffer that is one row of an array's last axis, in words of 8 bytes; all of an axis may be
    cut into pieces, which one copy brings."""
    kind, last = array.array_type, array.array_type.rank - 1
    each = WORD // kind.dtype.bytes
    if prod(copy.shape[:-1]) != 1 or kept[-1] != last or kind.strides[last] != 1 or each == 0:
        return None
    starts = (copy.shape[-1], facts.multiple(copy.at[-1]), facts.extent_multiple(array, last))
    words = copy.shape[-1] // each
    extent = _piece(words)
    if any(n % each for n in starts) or extent is None:
        return None
    axes = tuple(reversed(range(last + 1)))
    pieces = words // extent
    whole = kind.shape[last] == copy.shape[-1] and facts.constant(copy.at[-1]) == 0
    if whole and 1 < pieces <= MOST_EXTENT and kind.rank < MOST_AXES:
        return Box((last, *axes), (extent, pieces, *(1 for _ in range(last))), UNIT, WORD)
    return Box(axes, (extent, *(1 for _ in range(last))), UNIT, WORD)


def _piece(words: int) -> int | None:
    """The longest extent of a box of which so many words are a whole number, each where a box may begin."""
    if words <= MOST_EXTENT:
        return words if words and words * WORD % UNIT == 0 else None
    step = ALIGNED // WORD
    return next((n for n in range(MOST_EXTENT, 0, -step) if words % n == 0), None)
