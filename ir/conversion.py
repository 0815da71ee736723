"""From one register layout to another: what it takes.

Thread t's slot s of b reads a holder, in a, of the element b(t, s). By growing cost:
    nothing   a(t, s) = b(t, s)
    rename    a(t, slots[s]) = b(t, s) for all threads: registers under other names
    swap      digits of slots and lanes change places (tilec.ir.swaps), then a rename
    shuffle   a holder in the same warp: lane lanes[s, t], its slot sources[s, t]
    shared    a trip through shared memory (memory_layout.exchange_layout says where to)
    conversion(mma_c(f32, (16, 16)), mma_a(f16, (16, 16))).kind == "rename"     a product as the next operand
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from tilec.ir.digits import Ints
from tilec.ir.errors import TilecError
from tilec.ir.holders import Mask, flat_points, frozen
from tilec.ir.layout import Layout
from tilec.ir.swaps import Swaps, swapped, swaps_between, travelling

WARP = 32
# Prices in cycles of one SM for one warp: it shuffles 32 lanes a cycle, selects 64, a bank gives one word.
SHUFFLE, SELECT, WAVEFRONT = 1.0, 0.5, 1.0
BARRIER = 30.0  # the wait between the stores and the loads, and before the buffer can be used again


@dataclass(frozen=True, eq=False)
class Conversion:
    """How to come from a to b. Arrays are int32 [b.slots, threads] and say nothing at pad.

    A shuffled slot s is `shuffles[s]` shuffles and `selects[s]` selects per thread. Where `select_first[s]`,
    every lane t picks its slot sent[s, t] and one shuffle follows; else each source slot in turn is shuffled
    to the lanes that want it, and they select. shuffles[s] == 0: every lane reads its own.
    """

    kind: Literal["nothing", "rename", "swap", "shuffle", "shared"]
    cost: float
    slots: tuple[int, ...] | None = None
    swaps: Swaps = ()
    lanes: Ints | None = None
    sources: Ints | None = None
    sent: Ints | None = None
    select_first: tuple[bool, ...] = ()
    shuffles: tuple[int, ...] = ()
    selects: tuple[int, ...] = ()


@lru_cache(512)
def conversion(a: Layout, b: Layout, bits: int = 32) -> Conversion:
    """The cheapest kind that comes from a to b, for elements of so many bits in memory; TilecError where a
    does not hold what b needs.
    """
    if a.shape != b.shape or a.threads != b.threads:
        raise TilecError(
            f"a conversion keeps the tile and its threads: {a} has {a.threads} threads, "
            f"{b} has {b.threads} threads"
        )
    held, wanted = flat_points(a), flat_points(b)
    if not a.is_bijection and (a.section().ravel()[wanted[wanted >= 0]] < 0).any():
        raise TilecError(f"{a} does not hold every element that {b} needs")
    if a.slots == b.slots and ((held == wanted) | (wanted < 0)).all():
        return Conversion("nothing", 0.0, tuple(range(b.slots)))
    slots = _rename(held, wanted)
    if slots is not None:
        return Conversion("rename", 0.0, slots)
    shared = Conversion("shared", BARRIER + WAVEFRONT * (a.slots + b.slots))
    ways = (_shuffle(a, held, wanted), _swap(a, b, wanted, bits), shared)
    return min((way for way in ways if way is not None), key=lambda way: way.cost)


def _rename(held: Ints, wanted: Ints) -> tuple[int, ...] | None:
    """One slot of a for each of b, the same in all threads: candidates are what b's first thread needs."""
    slots = np.arange(wanted.shape[1])
    thread = (wanted >= 0).argmax(axis=0)
    element = wanted[thread, slots]
    candidates = (held[thread] == element[:, None]) | (element < 0)[:, None]
    while True:
        chosen = candidates.argmax(axis=1)
        if not candidates[slots, chosen].all():
            return None
        right = ((held[:, chosen] == wanted) | (wanted < 0)).all(axis=0)
        if right.all():
            return tuple(chosen.tolist())
        candidates[slots[~right], chosen[~right]] = False


def _swap(a: Layout, b: Layout, wanted: Ints, bits: int) -> Conversion | None:
    swaps = swaps_between(a, b)
    slots = _rename(flat_points(swapped(a, swaps)), wanted) if swaps else None
    if not swaps or slots is None:
        return None
    pairs = travelling(a, swaps, min(bits, 32)) // 2 * len(swaps)  # 64 bits take twice as long either way
    return Conversion("swap", pairs * (SHUFFLE + 3 * SELECT), slots, swaps)


def _shuffle(a: Layout, held: Ints, wanted: Ints) -> Conversion | None:
    holders = np.zeros(wanted.shape, np.int32)  # lane * a.slots + slot
    seats = np.zeros(a.size + 1, np.int32)  # the last seat is for pad
    replica = _replica_lanes(a)
    for first in range(0, len(held), WARP):
        warp, want = held[first : first + WARP], wanted[first : first + WARP]
        seats[warp.ravel()[::-1]] = np.arange(warp.size, dtype=np.int32)[::-1]
        found = np.minimum(seats[want], warp.size - 1)  # a seat of an earlier warp holds something else here
        nearer = np.minimum(found + replica[: len(want), None] * a.slots, warp.size - 1)
        found = np.where(warp.ravel()[nearer] == want, nearer, found)
        if ((warp.ravel()[found] != want) & (want >= 0)).any():
            return None
        holders[first : first + WARP] = found
    return _priced(*np.divmod(holders.T, np.int32(a.slots)), (wanted >= 0).T)


def _replica_lanes(a: Layout) -> Ints:
    """What each lane's digits of stride 0 add to its number: replicas read from the lane that is like them,
    so that no lane is asked for more than it must be.
    """
    own = np.zeros(WARP, np.int32)
    place = a.threads
    for digit in a.digits("thread"):
        place //= digit.extent
        if not any(digit.stride):
            own += (np.arange(WARP, dtype=np.int32) // place % digit.extent) * place
    return own


def _priced(lanes: Ints, sources: Ints, real: Mask) -> Conversion:
    """The shuffles and selects of each slot; `real` is False where a thread's slot is pad."""
    count, threads = lanes.shape
    own = np.arange(threads, dtype=np.int32) % WARP
    lanes = np.where(real, lanes, own)
    rows = np.arange(count)[:, None]
    sender = np.arange(threads) // WARP * WARP + lanes
    first = sources[rows, real.argmax(axis=1)[:, None]]
    sources = np.where(real, sources, first).astype(np.int32)
    sent = np.broadcast_to(first, sources.shape).copy()
    sent[np.broadcast_to(rows, sender.shape)[real], sender[real]] = sources[real]
    select_first = ((sent[rows, sender] == sources) | ~real).all(axis=1)
    used = np.zeros((count, int(sources.max()) + 1), bool)
    used[np.broadcast_to(rows, sources.shape), sources] = True
    distinct = used.sum(axis=1)
    shuffles = np.where((lanes == own).all(axis=1), 0, np.where(select_first, 1, distinct))
    selects = distinct - 1
    return Conversion(
        "shuffle",
        SHUFFLE * int(shuffles.sum()) + SELECT * int(selects.sum()),
        lanes=frozen(lanes.astype(np.int32)),
        sources=frozen(sources),
        sent=frozen(sent),
        select_first=tuple(select_first.tolist()),
        shuffles=tuple(shuffles.tolist()),
        selects=tuple(selects.tolist()),
    )
