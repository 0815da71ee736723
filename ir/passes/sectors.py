"""Whole sectors: how a tile in fragments of products comes to global memory, after a few swaps within warps.

A warp holds 8 sums of 16 bits beside each other: half a sector of 32 bytes. The other half is in other slots
of the same threads; one swap (tilec.ir.swaps) brings the halves together, and accesses are twice as wide:
    mma_c(f32, (16, 64)) to f16     32 lanes x 4 bytes, 8 half sectors  ->  32 lanes x 8 bytes, 8 sectors
Prices are those of tilec.ir.passes.anchors, found digit by digit, as many swaps are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod

from tilec.ir.conversion import SELECT, SHUFFLE
from tilec.ir.digits import Digit
from tilec.ir.layout import Layout, register
from tilec.ir.swaps import Swap, Swaps, binary, lanes, swapped, travelling

SECTOR, SECTORS = 32, 2  # bytes; that memory takes in a cycle
MOST = 2  # swaps


@lru_cache(1024)
def whole_sectors(layout: Layout, axis: int, size: int, vector: int) -> Layout:
    """The layout after those swaps with which a warp is done soonest; itself where all sectors are whole.
    Elements of `size` bytes are neighbours on `axis`, and an instruction may move up to `vector` of them.
    """
    threads, slots = (
        {place: _held(digit, layout, axis) for place, digit in group.items()}
        for group in (lanes(layout), binary(layout.digits("slot")))
    )
    warp = Warp(threads, slots, size, vector)
    swaps: Swaps = ()
    least = warp.cycles
    while len(swaps) < MOST and not warp.is_whole:
        after = {swap: warp.after(swap) for swap in warp.swaps() if _is_apart(swap, swaps)}
        swap = min(after, key=lambda each: after[each].cycles, default=None)
        if swap is None or after[swap].cycles + _moving(layout, (*swaps, swap), 8 * size) >= least:
            break
        swaps, warp = (*swaps, swap), after[swap]
        least = warp.cycles + _moving(layout, swaps, 8 * size)
    return _with_runs(swapped(layout, swaps), axis) if swaps else layout


def _is_apart(swap: Swap, swaps: Swaps) -> bool:
    return all(swap.slot != other.slot and swap.lane != other.lane for other in swaps)


def _moving(layout: Layout, swaps: Swaps, bits: int) -> float:
    return len(swaps) * travelling(layout, swaps, bits) // 2 * (SHUFFLE + 3 * SELECT)


@dataclass(frozen=True)
class Held:
    """A digit as memory sees it: `step` elements along the axis of neighbours, 0 of others. Of an `idle` one
    only the first value counts: replicas or pad are all that differ in it.
    """

    extent: int
    step: int
    idle: bool


def _held(digit: Digit, layout: Layout, axis: int) -> Held:
    step = _step(digit, axis)
    past = any(s >= n for s, n in zip(digit.stride, layout.shape, strict=True))
    return Held(digit.extent, step, past or not any(digit.stride))


def _step(digit: Digit, axis: int) -> int:
    """Of a binary digit that goes along the axis alone; 0 of others."""
    return digit.stride[axis] if digit.extent == 2 and sum(digit.stride) == digit.stride[axis] else 0


@dataclass(frozen=True)
class Warp:
    """The digits of a warp's lanes and slots by their places, and what an access may be."""

    lanes: dict[int, Held]
    slots: dict[int, Held]
    size: int
    vector: int

    def swaps(self) -> Iterator[Swap]:
        """Those with a digit inside of a sector."""
        for slot, there in reversed(self.slots.items()):
            for lane, here in reversed(self.lanes.items()):
                if there.extent == 2 and (self._inside(here) or self._inside(there)):
                    yield Swap(slot, lane)

    def after(self, swap: Swap) -> Warp:
        there, here = self.slots[swap.slot], self.lanes[swap.lane]
        return replace(self, lanes={**self.lanes, swap.lane: there}, slots={**self.slots, swap.slot: here})

    def _inside(self, held: Held) -> bool:
        return 0 < held.step * self.size < SECTOR and not held.idle

    @cached_property
    def run(self) -> int:
        """Elements of an access, with slots in the best order."""
        run, steps = 1, {held.step for held in self.slots.values() if not held.idle}
        while run * 2 <= self.vector and run in steps:
            run *= 2
        return run

    @cached_property
    def sectors(self) -> float:
        """That an access of the warp touches."""
        apart = [held for held in self.lanes.values() if not held.idle and not self._inside(held)]
        return max(1.0, self.run * self.size / SECTOR) * (1 << len(apart))

    @property
    def is_whole(self) -> bool:
        """Whether an access moves all bytes of its sectors."""
        busy = sum(not held.idle for held in self.lanes.values())
        return self.sectors * SECTOR <= (self.run * self.size) << busy

    @property
    def cycles(self) -> float:
        elements = prod(held.extent for held in self.slots.values() if not held.idle)
        return elements / self.run * (1 + self.sectors / SECTORS)


def _with_runs(layout: Layout, axis: int) -> Layout:
    """Neighbours on the axis are neighbouring slots."""
    slots = list(binary(layout.digits("slot")).values())
    run: list[Digit] = []
    while near := [d for d in slots if _step(d, axis) == 1 << len(run)]:
        run = [near[0], *run]
    return register(layout.shape, layout.digits("thread"), (*(d for d in slots if d not in run), *run))
