"""Swaps of slots' digits with lanes' (tilec.ir.swaps): for two registers one shuffle and three selects."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.ptx.emitter import WORD, Fragment, memory_bits
from tilec.backends.ptx.reduce import shuffle
from tilec.backends.ptx.threads import predicate
from tilec.backends.ptx.words import as_words, from_words
from tilec.ir import dtype as dt
from tilec.ir.swaps import Swap, Swaps, together

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

Words = dict[int, list[str]]  # by the first slot of those whose elements they hold


def swapped(e: Emitter, x: Fragment, swaps: Swaps) -> list[str]:
    """The slots after the swaps; small elements travel several in a register."""
    dtype = x.dtype
    groups = dict(_groups(len(x.slots), together(x.layout, swaps, memory_bits(dtype))))
    per = len(groups[0])
    words = {first: as_words(e, [x.slots[s] for s in group], dtype) for first, group in groups.items()}
    narrow = min(WORD, per * memory_bits(dtype))
    words = {first: _resized(e, found, "zext", narrow, WORD) for first, found in words.items()}
    for swap in swaps:
        words = _swap(e, words, swap)
    slots = list(x.slots)
    for first, group in groups.items():
        given = from_words(e, _resized(e, words[first], "trunc", WORD, narrow), per, dtype)
        for s, slot in zip(group, given, strict=True):
            slots[s] = slot
    return slots


def _groups(count: int, places: tuple[int, ...]) -> Iterator[tuple[int, list[int]]]:
    """The slots that differ only in the digits of these places, by the first of them."""
    steps = [sum(chosen) for chosen in product(*((0, place) for place in reversed(places)))]
    for first in range(count):
        if not any(first // place % 2 for place in places):
            yield first, [first + step for step in steps]


def _resized(e: Emitter, words: list[str], how: str, source: int, target: int) -> list[str]:
    return words if source == target else [e.let(f"{how} i{source} {word} to i{target}") for word in words]


def _swap(e: Emitter, words: Words, swap: Swap) -> Words:
    """Lanes whose digit is 0 keep the first of two registers and send the second, the others the reverse."""
    upper = predicate(e, np.arange(e.threads) // swap.lane % 2 == 1)
    assert upper is not None, "a lane has both digits"

    def one(low: str, high: str) -> tuple[str, str]:
        came = shuffle(e, _select(e, upper, low, high), dt.i32, "bfly", str(swap.lane))
        return _select(e, upper, came, low), _select(e, upper, high, came)

    found = dict(words)
    for first in (first for first in words if first // swap.slot % 2 == 0):
        second = first + swap.slot
        pairs = [one(low, high) for low, high in zip(words[first], words[second], strict=True)]
        found[first], found[second] = ([pair[i] for pair in pairs] for i in range(2))
    return found


def _select(e: Emitter, condition: str, yes: str, no: str) -> str:
    return e.let(f"select i1 {condition}, i32 {yes}, i32 {no}")
