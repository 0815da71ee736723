"""Swaps: within a warp, a binary digit of the slots changes places with one of the lanes.

Of two slots that differ in the digit, each lane of a pair keeps one and sends the other: one shuffle.
    lane 0:  a0 a1         a0 b0
    lane 1:  b0 b1   ->    a1 b1           swapped(spatial(2) * local(2), (Swap(slot=1, lane=1),))
Elements of less than 32 bits travel together, as far as there are slots that no swap touches. Zhou et al.,
2025 (Linear Layouts), bring fragments of products to memory so.
"""

from dataclasses import dataclass

from tilec.ir import digits as dg
from tilec.ir.digits import Digit, Digits
from tilec.ir.layout import Layout, register

WARP, WORD = 32, 32  # lanes; bits of a register


@dataclass(frozen=True)
class Swap:
    """The places of two digits: slot s has `s // slot % 2`, thread t `t // lane % 2`."""

    slot: int
    lane: int


Swaps = tuple[Swap, ...]  # of different digits: their order does not matter
Places = dict[int, Digit]  # digits by their places, the most significant first


def binary(digits: Digits) -> Places:
    """The same function with every extent split into an odd one and twos."""
    found: list[Digit] = []
    for digit in digits:
        twos = (digit.extent & -digit.extent).bit_length() - 1
        found.append(Digit(digit.extent >> twos, dg.scale(digit.stride, 1 << twos)))
        found += [Digit(2, dg.scale(digit.stride, 1 << i)) for i in reversed(range(twos))]
    return dict(dg.places(tuple(d for d in found if d.extent > 1)))


def lanes(layout: Layout) -> Places:
    """The binary digits of the lanes of a warp."""
    threads = binary(layout.digits("thread"))
    return {p: d for p, d in threads.items() if p < WARP and p & (p - 1) == 0 and d.extent == 2}


def swapped(layout: Layout, swaps: Swaps) -> Layout:
    """The layout after the swaps."""
    threads, slots = (binary(layout.digits(name)) for name in ("thread", "slot"))
    for swap in swaps:
        threads[swap.lane], slots[swap.slot] = slots[swap.slot], threads[swap.lane]
    return register(layout.shape, tuple(threads.values()), tuple(slots.values()))


def swaps_between(a: Layout, b: Layout) -> Swaps | None:
    """Swaps after which the threads of a have the digits of b's; None where no swaps do that."""
    have, want = (binary(layout.digits("thread")) for layout in (a, b))
    if have.keys() != want.keys():
        return None
    inside, slots, found = lanes(a), binary(a.digits("slot")), list[Swap]()
    for lane in (place for place in have if have[place] != want[place]):
        slot = next((place for place, digit in slots.items() if digit == want[lane]), None)
        if slot is None or lane not in inside:
            return None
        del slots[slot]
        found.append(Swap(slot, lane))
    return tuple(found)


def together(layout: Layout, swaps: Swaps, bits: int) -> tuple[int, ...]:
    """The places of the slots' digits whose elements share a register while they travel, the lowest first."""
    taken = {swap.slot for swap in swaps}
    free = [p for p, d in reversed(binary(layout.digits("slot")).items()) if d.extent == 2 and p not in taken]
    return tuple(free[: (WORD // bits).bit_length() - 1] if bits < WORD else ())


def travelling(layout: Layout, swaps: Swaps, bits: int) -> int:
    """Registers of a thread that the swaps move about; of pairs of them, from 64 bits on."""
    return layout.slots >> len(together(layout, swaps, bits))
