"""Which lanes act: a slice where they are contiguous (views, no copies), else a sorted index array.

part(slice(0, 4), array([True, True, False, False])) == slice(0, 2)
"""

from __future__ import annotations

import numpy as np

from tilec.backends.emulator.ptx_types import Array, Sel


def size(sel: Sel) -> int:
    return int(sel.stop - sel.start) if isinstance(sel, slice) else len(sel)


def tidy(lanes: Array) -> Sel:
    """A sorted index array, as a slice when it is one."""
    first, last = int(lanes[0]), int(lanes[-1])
    return slice(first, last + 1) if last - first + 1 == len(lanes) else lanes


def part(sel: Sel, mask: Array) -> Sel | None:
    """The lanes of `sel` where `mask` (a bool per lane of sel, or one for all) holds; None when there are
    none."""
    if mask.ndim == 0:
        return sel if mask else None
    count = np.count_nonzero(mask)
    if count == len(mask):
        return sel
    if count == 0:
        return None
    chosen = np.flatnonzero(mask)
    return tidy(chosen + sel.start if isinstance(sel, slice) else sel[chosen])


def lanes_of(sel: Sel) -> Array:
    return np.arange(sel.start, sel.stop) if isinstance(sel, slice) else sel


def first(sel: Sel) -> int:
    return int(sel.start if isinstance(sel, slice) else sel[0])


def union(a: Sel, b: Sel) -> Sel:
    """Lanes of either; the two never overlap."""
    if isinstance(a, slice) and isinstance(b, slice):
        if a.stop == b.start:
            return slice(a.start, b.stop)
        if b.stop == a.start:
            return slice(b.start, a.stop)
    both = np.concatenate((lanes_of(a), lanes_of(b)))
    both.sort()
    return tidy(both)
