"""Blocks that order themselves: releases and acquires through flags in global memory.

A release at a flag publishes what its block has done and knows; an acquire of the flag by another block
learns it.
fence (acq_rel or sc, at gpu scope or wider) before a relaxed write is a release too, and after a relaxed
read an acquire. Blocks are taken as one: what orders the threads within a block is its barriers' matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.emulator.ptx_types import Array, Sel

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

Knowledge = dict[int, int]  # block -> the last epoch of it that is known
RELAXED, ACQUIRE, RELEASE = 1, 2, 4
ORDERS = {
    "volatile": RELAXED, "relaxed": RELAXED, "acquire": RELAXED | ACQUIRE, "release": RELAXED | RELEASE,
    "acq_rel": RELAXED | ACQUIRE | RELEASE,
}  # fmt: skip


def learn(to: Knowledge, news: Knowledge) -> None:
    for block, epoch in news.items():
        to[block] = max(to.get(block, 0), epoch)


class Handshakes:
    """epoch: how many releases each block has made, plus one. Blocks are numbered from 1, as in
    GlobalRace."""

    def __init__(self, blocks: int) -> None:
        self.epoch = np.ones(blocks + 1, np.int32)
        self.known: dict[int, Knowledge] = {}
        self.flags: dict[int, Knowledge] = {}
        self.fenced: dict[
            int, Knowledge
        ] = {}  # what the last fence of a block lets its relaxed writes publish
        self.seen: dict[int, Knowledge] = {}  # what its relaxed reads may have shown, for the next fence

    def publish(self, block: int) -> Knowledge:
        news = {**self.known.get(block, {}), block: int(self.epoch[block])}
        self.epoch[block] += 1
        return news

    def access(self, at: Array, block: Array, order: int, read: bool, write: bool) -> None:
        """Strong accesses of flags, block after block."""
        for b, flag in sorted(set(zip(block.tolist(), at.tolist(), strict=True))):
            if read and flag in self.flags:
                learn((self.known if order & ACQUIRE else self.seen).setdefault(b, {}), self.flags[flag])
            if write and order & RELEASE:
                learn(self.flags.setdefault(flag, {}), self.publish(b))
            elif write and b in self.fenced:
                learn(self.flags.setdefault(flag, {}), self.fenced[b])

    def fence(self, m: Machine, s: Sel) -> None:
        for b in np.unique(m.first + 1 + m.block[s]).tolist():
            learn(self.known.setdefault(b, {}), self.seen.pop(b, {}))
            self.fenced[b] = self.publish(b)

    def ordered(self, me: Array, other: Array, epoch: Array) -> Array:
        """Whether each block `me` knows of `other` up to `epoch`."""
        rows, back = np.unique(np.stack([me, np.abs(other), epoch]), axis=1, return_inverse=True)
        known = [self.known.get(int(a), {}).get(int(b), 0) >= int(c) for a, b, c in rows.T]
        return np.array(known, bool)[back.reshape(-1)]
