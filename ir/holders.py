"""Who holds what: a register layout as tables, computed once per layout.

The arrays are shared, so they are read-only. flat_points(spatial(2) * local(3)) is [[0, 1, 2], [3, 4, 5]].
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.ir import digits as dg
from tilec.ir.digits import Digits, Ints

if TYPE_CHECKING:
    from tilec.ir.layout import Layout

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


@lru_cache(4096)
def table(digits: Digits, rank: int) -> Ints:
    table: Ints = frozen(dg.values(digits, rank).astype(np.int32))
    return table


@lru_cache(256)
def points(layout: Layout) -> Ints:
    points: Ints = frozen(layout.thread_part()[:, None] + layout.slot_part())
    return points


@lru_cache(256)
def pad_mask(layout: Layout) -> Mask:
    inside = np.zeros((layout.threads, layout.slots), bool)
    for axis, extent in enumerate(layout.shape):
        if layout.cover[axis] > extent:
            inside |= layout.points()[..., axis] >= extent
    mask: Mask = frozen(inside)
    return mask


@lru_cache(256)
def flat_points(layout: Layout) -> Ints:
    """The row-major number of each held element, int32 [threads, slots]; -1 at pad."""
    weights = [prod(layout.shape[a + 1 :]) for a in range(layout.rank)]
    thread, slot = (part @ np.array(weights, np.int32) for part in (layout.thread_part(), layout.slot_part()))
    flat: Ints = thread[:, None] + slot
    flat[layout.pad_mask()] = -1
    return np.asarray(frozen(flat))


@lru_cache(256)
def section(layout: Layout) -> Ints:
    flat = flat_points(layout).ravel()[::-1]  # backwards: of several holders the lowest index is written last
    table = np.full(layout.size + 1, -1, np.int32)
    table[flat] = np.arange(len(flat), dtype=np.int32)[::-1]
    section: Ints = frozen(table[:-1].reshape(layout.shape))  # pad wrote to the entry behind the last
    return section


@lru_cache(256)
def owner_mask(layout: Layout) -> Mask:
    owners = np.zeros(layout.threads * layout.slots, bool)
    section = layout.section()
    owners[section[section >= 0]] = True
    mask: Mask = frozen(owners.reshape(layout.threads, layout.slots))
    return mask
