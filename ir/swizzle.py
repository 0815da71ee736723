"""Swizzles: an exclusive or on byte offsets that spreads the rows of a tile over the banks of shared memory.

    Swizzle(bits=3, base=4, shift=3).apply(x) == x ^ (x >> 3 & 0b111_0000)
is for rows of 128 bytes: the 16-byte chunk of a row is xored with the number of the row. Like CuTe's
Swizzle<b, m, s>; the 128-, 64- and 32-byte swizzles of TMA and wgmma are bits 3, 2, 1, base 4, shift 3.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tilec.ir.digits import Ints
from tilec.ir.errors import TilecError

Offset = TypeVar("Offset", int, Ints)
CHUNK = 16  # bytes: the widest access of one thread, and a row of ldmatrix
LINE = 128  # bytes: all 32 banks once


@dataclass(frozen=True, slots=True)
class Swizzle:
    """Bits [base + shift, base + shift + bits) of a byte offset are xored onto bits [base, base + bits)."""

    bits: int
    base: int
    shift: int

    def __post_init__(self) -> None:
        if self.bits < 0 or self.base < 0 or self.shift < self.bits:
            raise TilecError(
                f"a swizzle needs bits, base >= 0 and shift >= bits (else it is not its own inverse): {self}"
            )

    @property
    def mask(self) -> int:
        """The bits that are read."""
        return ((1 << self.bits) - 1) << (self.base + self.shift)

    @property
    def block(self) -> int:
        """Bytes: the swizzle maps every aligned block of this size onto itself."""
        return 1 << (self.base + self.bits) if self.bits else 1

    @property
    def period(self) -> int:
        """Bytes: a buffer aligned to this sees the same pattern as one at address 0."""
        return 1 << (self.base + self.shift + self.bits) if self.bits else 1

    def apply(self, offset: Offset) -> Offset:
        """The swizzled byte offset (an integer or an array); applied twice it is the offset again."""
        moved: Offset = (offset & self.mask) >> self.shift
        return offset ^ moved


def swizzle_for(shape: tuple[int, ...], element_bytes: int, chunk: int = CHUNK) -> Swizzle | None:
    """The swizzle of a row-major tile with which one column of chunks of any neighbouring rows (as many as
    fit the banks: 8 of 16 bytes, as ldmatrix reads them) lies in different banks, and so does every aligned
    128 bytes (as wide stores write them).

    None where rows need none, or are not whole chunks (then `padded` helps). Rows of 2^t * odd bytes repeat
    their banks every 2^(7 - t) rows; the chunk bits that repeat are xored with the row bits that tell those
    rows apart: 128 bytes Swizzle(3, 4, 3), 64 (2, 4, 3), 32 (1, 4, 3), 256 (3, 4, 4), 96 (1, 4, 3), 48 none.
    """
    row = (shape[-1] if shape else 1) * element_bytes
    base = chunk.bit_length() - 1
    twos = (row & -row).bit_length() - 1
    return Swizzle(min(twos, 7) - base, base, max(twos, 7) - base) if twos > base else None


def wavefronts(addresses: Ints, active: Ints, access_bytes: int) -> Ints:
    """Trips to shared memory for warp-wide requests: int64 [requests] of byte addresses [requests, 32].

    32 banks of 4 bytes. Lanes go 32 at a time for up to 4 bytes each, 16 for 8, 8 for 16; in one trip a bank
    gives one word, to every lane that wants it. `active`, bool [requests, 32]: lanes that take part.
    """
    lanes = min(32, LINE // max(access_bytes, 4))
    words = np.arange(max(1, access_bytes // 4)) + addresses[..., None] // 4
    words = np.where(active[..., None], words, -1).reshape(len(addresses), 32 // lanes, -1)
    words = np.sort(words, axis=-1)
    new = np.diff(words, axis=-1, prepend=-1) != 0
    rows = np.arange(words[..., 0].size).reshape(*words.shape[:2], 1)
    counts = np.bincount((rows * 32 + words % 32)[new], minlength=rows.size * 32)
    return np.asarray(counts.reshape(*words.shape[:2], 32).max(axis=-1).sum(axis=-1))
