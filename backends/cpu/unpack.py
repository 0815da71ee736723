"""Bits that follow each other: a view whose elements lie in source bytes in the same pattern, group after
group.

    u3:  64 elements in 24 bytes.  Each lane picks the two bytes that it lies in, shifts, and masks:
         lane 5 has bits 15..17:   bytes 1 and 2   >> 7   & 7
Three instructions for as many elements as a vector has 16-bit lanes; gathers (view.py) are for everything
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilec.backends.writer import Writer

Table = np.ndarray[Any, np.dtype[np.int64]]
WINDOW = 64  # bytes that one group may lie in


@dataclass(frozen=True)
class Pattern:
    """Groups of `size` elements: `first[g]` is the byte where group g starts, `bits` where each lane's bits
    do then.
    """

    size: int
    first: Table
    bits: tuple[int, ...]


def pattern(starts: Table, width: int) -> Pattern | None:
    """The largest groups that all look alike, given the first bit of each element (of `width` bits, 8 or
    fewer).
    """
    for size in (64, 32, 16):
        if starts.size % size == 0 and (found := _alike(starts.reshape(-1, size), width)):
            return found
    return None


def _alike(groups: Table, width: int) -> Pattern | None:
    first = groups.min(1) // 8
    inside = groups - first[:, None] * 8
    if (inside != inside[0]).any() or int(inside[0].max()) + width > WINDOW * 8:
        return None
    return Pattern(groups.shape[1], first, tuple(int(bit) for bit in inside[0]))


def unpacked(w: Writer, pointer: str, found: Pattern, mask: int) -> str:
    """The codes (i8 lanes) of the group whose bytes start at `pointer`; a whole window may be read."""
    assert w.width == found.size, "a group is a vector"
    window = w.let(f"load <{WINDOW} x i8>, ptr {pointer}, align 1")
    pairs = [byte for bit in found.bits for byte in (bit // 8, min(bit // 8 + 1, WINDOW - 1))]
    order = f"<{len(pairs)} x i32> <{', '.join(f'i32 {byte}' for byte in pairs)}>"
    bytes_ = f"<{WINDOW} x i8>"
    spread = w.let(f"shufflevector {bytes_} {window}, {bytes_} poison, {order}")
    words = w.let(f"bitcast <{len(pairs)} x i8> {spread} to {w.vector('i16')}")
    shifted = w.op("lshr", "i16", words, constants("i16", [bit % 8 for bit in found.bits]))
    return w.convert("trunc", "i16", w.op("and", "i16", shifted, w.integer(mask, "i16")), "i8")


def constants(element: str, values: Sequence[int]) -> str:
    """A vector of constants."""
    return f"<{', '.join(f'{element} {value}' for value in values)}>"
