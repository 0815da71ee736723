"""Where the bits of a thread's codes lie, so that few instructions make 16-bit floats of them.

Two neighbouring slots share a register once they are 16 bits wide, so their codes lie 16 bits apart in a
word: one mask takes both. A word's lower half holds as many whole codes as fit; bits that are left over in
the words of a unit make up further codes, split into pieces.
    u3: words 0, 1, 2 hold five codes each, at bits 0, 3, 6, 9 and 12; their bits 15 are the sixteenth code
A code needs no shift where it fits the mantissa as it lies (it then counts 2^up times, which the arithmetic
takes back), and codes of one word share shifts. `ups` chooses where; see tilec.backends.ptx.dequantise.
Floats lie as tilec.ir.float_placement finds best.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tilec.ir import byte_placement
from tilec.ir.digits import Ints
from tilec.ir.dtype import DType
from tilec.ir.float_placement import HALF, WORD, Merge, Seen, places, unit

Piece = tuple[int, int, int]  # word of the unit, first bit, bits; a code's lowest first
Code = tuple[Piece, ...]
Codes = np.ndarray[Any, Any]


@lru_cache
def halves(bits: int) -> tuple[Code, ...]:
    """The codes in the lower halves of a unit's words; the upper halves hold their neighbours likewise."""
    if HALF % bits == 0:
        return tuple(((0, first, bits),) for first in range(0, HALF, bits))
    if bits == 6:  # what is left over lies lowest, where four bits of it need no shift
        whole = [((word, first, 6),) for word in range(3) for first in (4, 10)]
        return (*whole, ((0, 0, 4), (1, 0, 2)), ((2, 0, 4), (1, 2, 2)))
    count = HALF // bits
    whole = [((word, i * bits, bits),) for word in range(bits) for i in range(count)]
    if bits in (3, 5):
        return (*whole, tuple((word, HALF - 1, 1) for word in range(bits)))
    assert bits == 7, "codes have at most 8 bits"
    left = tuple((word, 14, 2) for word in range(7) if word != 3)
    return (*whole, (*left[:3], (3, 14, 1)), (*left[3:], (3, 15, 1)))


def unit_words(bits: int) -> int:
    """Words of a unit: what codes of so many bits fill exactly."""
    return 1 + max(piece[0] for code in halves(bits) for piece in code)


def is_float(source: DType, into: DType) -> bool:
    """Whether codes are placed as floats that a 16-bit float has room for."""
    return (
        source.kind == "float" and source.exponent <= into.exponent and source.mantissa <= into.mantissa
    )


@lru_cache
def codes_of(source: DType, into: DType) -> tuple[Code, ...]:
    """Those of a unit that are the lower halves' of a cast; floats may lie in merged words behind its own."""
    if not is_float(source, into):
        return halves(source.bits)
    wanted = places(source, into)
    return tuple(_runs([_shown(code, i, bit) for i, bit in enumerate(wanted)])
                 for code in unit(source, into).codes)  # fmt: skip


def _shown(code: tuple[Seen, ...], i: int, place: int) -> tuple[int, int]:
    """The word and the bit there that a turned word shows in a place, as bit i of a code."""
    word, by = next((word, by) for word, by, mask in code if mask >> i & 1)
    return word, (place - by) % WORD


def merged_of(source: DType, into: DType) -> tuple[Merge, ...]:
    """The words of a unit that are made of its own."""
    return unit(source, into).merged if is_float(source, into) else ()


def _runs(bits: list[tuple[int, int]]) -> Code:
    """Bits of words as pieces, none of which crosses a half."""
    runs: list[Piece] = []
    for word, bit in bits:
        if runs and bit % HALF and runs[-1][:2] == (word, bit - runs[-1][2]):
            runs[-1] = (*runs[-1][:2], runs[-1][2] + 1)
        else:
            runs.append((word, bit, 1))
    return tuple(runs)


def is_placed(source: DType, slots: int, into: DType) -> bool:
    """Whether the codes of so many slots are whole units, and are cast to what codes are placed for; they lie
    in the order of slots where not.
    """
    if into.bits == byte_placement.LANE:
        return byte_placement.is_placed(source, slots, into)
    return into.bits == HALF and source.bits <= 8 and slots % (2 * len(codes_of(source, into))) == 0


@lru_cache
def pieces(source: DType, slots: int, into: DType) -> tuple[Code, ...]:
    """For each slot its pieces: word of the thread's, first bit, bits. Of a pair the second's are the
    first's, half a word further. Merged words are each unit's last.
    """
    codes, words = codes_of(source, into), unit_words(source.bits) + len(merged_of(source, into))
    found = []
    for slot in range(slots):
        at, own = divmod(slot, 2 * len(codes))
        up = HALF * (own % 2)
        found.append(tuple(
            (at * words + word, (first + up) % WORD, size) for word, first, size in codes[own // 2]
        ))  # fmt: skip
    return tuple(found)


@lru_cache
def stored(source: DType, slots: int, into: DType) -> tuple[Code, ...]:
    """The same in the words that there are, without merged ones."""
    own, merged = unit_words(source.bits), merged_of(source, into)

    def place(word: int, bit: int) -> tuple[int, int]:
        at, number = divmod(word, own + len(merged))
        inner, bit = merged[number - own].source(bit) if number >= own else (number, bit)
        return at * own + inner, bit

    return tuple(
        _runs([place(word, first + i) for word, first, size in code for i in range(size)])
        for code in pieces(source, slots, into)
    )


@lru_cache
def positions(source: DType, slots: int, into: DType) -> Ints:
    """The bit of a thread's that each bit of each slot is: int32 [slots, bits], a permutation."""
    if into.bits == byte_placement.LANE:
        return byte_placement.positions(source, slots, into)
    rows = [[word * WORD + first + i for word, first, size in code for i in range(size)]
            for code in stored(source, slots, into)]  # fmt: skip
    return np.array(rows, np.int32)


def placed(codes: Codes, source: DType, into: DType) -> Codes:
    """The words of each thread, uint32 [..., slots * bits / 32], from its codes [..., slots]."""
    if into.bits == byte_placement.LANE:
        return byte_placement.placed(codes, source, into)
    slots = codes.shape[-1]
    words = np.zeros((*codes.shape[:-1], slots * source.bits // WORD), np.uint32)
    for slot, code in enumerate(stored(source, slots, into)):
        rest = codes[..., slot].astype(np.uint32)
        for word, first, size in code:
            words[..., word] |= (rest & np.uint32((1 << size) - 1)) << np.uint32(first)
            rest = rest >> np.uint32(size)
    return words


# Reading them.


@lru_cache
def ups(bits: int, mantissa: int, least: int = 0) -> tuple[int, ...]:
    """For each code of a unit's lower half the bit, from `least` on, where it is wanted: chosen so that words
    are shifted by few different distances, 0 above all.
    """
    most = mantissa - bits
    assert least <= most, "codes fit the mantissa"
    shifts: set[tuple[int, int]] = {(word, 0) for word in range(unit_words(bits))}
    whole = [code[0] for code in halves(bits) if len(code) == 1]
    open_ = _shared(whole, least, most)
    found = [_best(code, shifts, open_, least, most) for code in reversed(halves(bits))]  # pieces first
    return tuple(reversed(found))


def _shared(whole: list[Piece], least: int, most: int) -> dict[int, list[range]]:
    """Per word ranges of shifts: any shift of a range serves as many whole codes as one can."""
    found: dict[int, list[range]] = {}
    for word, first, _ in whole:
        wanted = range(first - most, first - least + 1)
        if 0 in wanted:
            continue
        groups = found.setdefault(word, [])
        if groups and wanted.start < groups[-1].stop:
            groups[-1] = range(max(wanted.start, groups[-1].start), min(wanted.stop, groups[-1].stop))
        else:
            groups.append(wanted)
    return found


def _best(
    code: Code, shifts: set[tuple[int, int]], open_: dict[int, list[range]], least: int, most: int
) -> int:
    """The bit that costs fewest shifts beside those made, and settles ranges that it decides."""

    def wanted(up: int) -> list[tuple[int, int]]:
        before = np.cumsum([0, *(size for _, _, size in code)])
        return [(word, first - up - int(i)) for (word, first, _), i in zip(code, before, strict=False)]

    def price(up: int) -> float:
        new = [(word, shift) for word, shift in wanted(up) if (word, shift) not in shifts]
        asked = [any(shift in group for group in open_.get(word, ())) for word, shift in new]
        return sum(0.5 if each else 1.0 for each in asked)  # a shift of that word is made anyway

    up = min(range(least, most + 1), key=price)
    for word, shift in wanted(up):
        shifts.add((word, shift))
        open_[word] = [group for group in open_.get(word, ()) if shift not in group]
    return up


def integer_instructions(bits: int, mantissa: int, least: int = 0) -> float:
    """What reading costs, per code: shifts that words share, a merge for each further piece, and the mask."""
    codes, chosen = halves(bits), ups(bits, mantissa, least)
    shifts: set[tuple[int, int]] = set()
    for code, up in zip(codes, chosen, strict=True):
        for word, first, size in code:
            shifts.add((word, first - up))
            up += size
    moved = sum(shift != 0 for _, shift in shifts)
    return (moved + sum(map(len, codes))) / (2 * len(codes))
