"""Blocks that share the sums of one tile: each has a part of them, and the last adds them up in their order.

    acc = gathered(acc, Shared(partial, locks), Turn(ticket, part, parts))   # whole in the last's block
    linear_kernel(..., *room(y.shape, bm, bn, split))                        # what the host lends it
The order is the same every time, so the result is; who waits is a block, for blocks that started before it.
"""

from typing import Any, NamedTuple

import numpy as np

import tilec as tc
from tilec.ir.dtype import f32
from tilec.ops.arrays import NOTHING, Array, empty
from tilec.ops.callers import caller_stream, there

LOCKS = 4096  # at least so many at once: calls of all sizes share them


class Shared(NamedTuple):
    """Where blocks leave sums: each has its place in `partial` f32 [blocks * bm, bn], and one of `locks` i32
    [blocks or more], zeros before and after each launch. NOTHING where no block waits for another.
    """

    partial: Any = NOTHING
    locks: Any = NOTHING


_locks: dict[tuple[int, int], Array] = {}  # zeros, by device and stream; their copies there are the locks


def room(y: tuple[int, ...], bm: int, bn: int, split: int, blocks: int = 0) -> Shared:
    """Room for the sums of y [M, N], in tiles (bm, bn) of `split` parts or for `blocks` blocks, where the
    caller's arrays are: one set of locks for each stream, whose kernels follow each other. None where each
    tile is one block's.
    """
    if split == 1 and not blocks:
        return Shared()
    count = blocks or -(-y[0] // bm) * -(-y[1] // bn) * split
    return Shared(empty((count * bm, bn), f32), _zeroed(count))


def _zeroed(count: int) -> Any:
    at = caller_stream()
    if at is None:
        return np.zeros(count, np.int32)
    if at not in _locks or len(_locks[at]) < count:
        _locks[at] = np.zeros(max(LOCKS, 1 << (count - 1).bit_length()), np.int32)
    return there(_locks[at])


# In kernels.


class Run(NamedTuple):
    """Steps from `first` to before `last`; `share`: of how many all runs but the last ones are."""

    first: Any
    last: Any
    share: Any = None


def run_of(steps: Any, part: Any, parts: int, multiple: int = 1) -> Run:
    """One of `parts` even runs of all the steps, `multiple` at a time; the last may be short, or empty."""
    share = tc.cdiv(steps, parts * multiple) * multiple
    first = part * share
    return Run(first, tc.minimum(first + share, steps), share)


class Turn(NamedTuple):
    """A block's ticket, and which of a tile's parts it has: those of one tile have tickets in a row."""

    ticket: Any
    part: Any
    parts: Any


def gathered(acc: tc.Tile, given: Shared, turn: Turn) -> tc.Tile:
    """The sum over all parts of a tile, in the block that has the last; those of the others are the blocks
    just before it, whose `acc` stays what it is.

    A block's lock: 0, then 1 once its sums lie there, and 0 again when they have been waited for.
    """
    P, ticket, part, parts = given.partial.tiles(acc.shape), *turn
    if part + 1 < parts:
        P[ticket, 0] = acc
        with tc.turn(given.locks, ticket, 0):
            pass
    else:
        for other in tc.range(ticket - part, ticket):
            with tc.turn(given.locks, other, 1, 2):
                pass
        for other in tc.range(ticket - part, ticket):
            acc = acc + P[other, 0]
    return acc
