"""Masked reads of global memory that found nothing: tiles that lie wholly outside their arrays.

A block that reaches a source line's loads, and never with a lane that is not masked, has read nothing there.
That is rarely meant: x.load(i * block) where i counts elements already. Kept beside the findings, for masks
of foreign code mean other things too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.emulator.program import Instruction
from tilec.backends.emulator.ptx_types import Array, Sel
from tilec.backends.emulator.report import Finding

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Launch, Machine


class Unread:
    """By pc and block of the launch: whether a masked load was reached, and whether it read anything."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.reached: dict[int, Array] = {}
        self.read: dict[int, Array] = {}

    def note(self, m: Machine, reached: Sel, read: Sel | None) -> None:
        for table, lanes in ((self.reached, reached), (self.read, read)):
            row = table.setdefault(m.pc, np.zeros(self.blocks, bool))
            if lanes is not None:
                row[m.first + m.block[lanes]] = True


def is_load(i: Instruction) -> bool:
    return i.root in ("ld", "ldu") and "global" in i.modifiers


def warnings(launch: Launch) -> list[Finding]:
    """One for each source line at which some block read nothing of what it asked for."""
    lines: dict[tuple[str, int], list[int]] = {}
    for pc, step in enumerate(launch.program.steps):
        place = launch.program.source_place(step.instruction)
        masked = pc in launch.unread.reached
        plain = is_load(step.instruction) and launch.executed[pc] > 0 and not masked
        if place is not None and place[1] and (masked or plain):
            lines.setdefault(place, []).append(-1 if plain else pc)
    return [found for place, pcs in lines.items() if -1 not in pcs and (found := warning(launch, place, pcs))]


def warning(launch: Launch, place: tuple[str, int], pcs: list[int]) -> Finding | None:
    table = launch.unread
    empty = np.any([table.reached[pc] for pc in pcs], 0) & ~np.any([table.read[pc] for pc in pcs], 0)
    if not empty.any():
        return None
    count, first, (gx, gy, _) = int(empty.sum()), int(np.flatnonzero(empty)[0]), launch.grid
    block, i = (first % gx, first // gx % gy, first // (gx * gy)), launch.program.steps[pcs[0]].instruction
    message = (
        f"a tile that is read here lies wholly outside its array: {count} of {launch.blocks} blocks read "
        f"nothing, the first is block {block}"
    )
    return Finding("out-of-bounds", i.line, True, message, i.text, place)
