"""Where the bits of a thread's codes lie, so that few instructions make bytes of them: int8, or small floats.

Four neighbouring slots share a register once they are 8 bits wide: one in each of its bytes, its lanes. A
rotation of a word of codes and a mask so give four of them at once, wherever in a lane their bits are wanted:
    i8       a code of n bits at the lane's top: it stands for 2^(8 - n) times the number, signed
    u8       at the lane's foot, as it is
    floats   mantissa, exponent and sign where the wider float has them: off by the exponents' biases
    integers as floats of 4 exponent bits: sign, and a magnitude of up to 16 units of the least subnormal
    u4 -> i8:  (w & 0xf0f0f0f0) ^ 0x80808080,  (w <<< 4 & 0xf0f0f0f0) ^ 0x80808080
What whole codes leave over in the lanes of a unit's words makes up further codes, piece by piece.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple

import numpy as np

from tilec.ir.digits import Ints
from tilec.ir.dtype import DType

LANE, WORD = 8, 32  # bits
LANES = WORD // LANE
Codes = np.ndarray[Any, Any]


class Piece(NamedTuple):
    """Bits `mask` of a lane, found there once word `word` of the unit is rotated right by `turn`."""

    word: int
    turn: int
    mask: int


Code = tuple[Piece, ...]
Wanted = tuple[int, ...]  # the lane's bit where each bit of a code is wanted, the lowest first


def wanted(source: DType, into: DType) -> Wanted:
    """Where the bits of `source` are wanted in a lane of `into`, which has 8 bits."""
    n = source.bits
    if into.is_integer:
        return tuple(range(LANE - n, LANE) if into.is_signed else range(n))
    if source.is_integer:
        return (*range(n - 1), LANE - 1)
    low = into.mantissa - source.mantissa
    return (*range(low, low + n - 1), LANE - 1)


def serves(source: DType, into: DType) -> bool:
    """Whether codes of `source` can lie so, each bit in a place of its own."""
    if into.bits != LANE or source.bits > LANE:
        return False
    if into.is_integer or source.is_integer:
        return source.is_integer and (into.is_integer or source.bits <= into.mantissa + 2)
    same = (source.exponent, source.mantissa) == (into.exponent, into.mantissa)  # then so are special codes
    fits = source.mantissa <= into.mantissa and source.exponent <= into.exponent
    return source.is_signed and fits and (source == into or not same)


@lru_cache
def unit(places: Wanted) -> tuple[Code, ...]:
    """The codes whose first lanes fill words exactly: whole ones, then those in pieces."""
    n = len(places)
    words, count = n // gcd(n, LANE), LANE // gcd(n, LANE)
    turns = _together(places)
    codes: list[Code] = [(Piece(word, turn, _mask(places)),) for word in range(words) for turn in turns]
    used = {(p + turn) % LANE for turn in turns for p in places}
    free = {(word, bit) for word in range(words) for bit in range(LANE) if bit not in used}
    made = {(word, turn) for word in range(words) for turn in turns}
    while len(codes) < count:
        codes.append(_in_pieces(places, free, made))
    return tuple(codes)


def _together(places: Wanted) -> tuple[int, ...]:
    """Rotations, none first, that take as many whole codes from one word as it has room for."""
    turns: list[int] = []
    used: set[int] = set()
    for turn in range(LANE):
        mine = {(p + turn) % LANE for p in places}
        if not mine & used:
            turns.append(turn)
            used |= mine
    return tuple(turns)


def _in_pieces(places: Wanted, free: set[tuple[int, int]], made: set[tuple[int, int]]) -> Code:
    """A code of bits that are left: most at once first, by rotations that are made anyway if they serve."""
    need, found = set(places), []
    words = sorted({word for word, _ in free})
    while need:
        ways = [(word, turn) for word in words for turn in range(LANE)]
        word, turn = max(ways, key=lambda way: (len(_covered(way, need, free)), way in made))
        got = _covered((word, turn), need, free)
        free -= {(word, (p + turn) % LANE) for p in got}
        made.add((word, turn))
        need -= got
        found.append(Piece(word, turn, _mask(tuple(got))))
    return tuple(found)


def _covered(way: tuple[int, int], need: set[int], free: set[tuple[int, int]]) -> set[int]:
    word, turn = way
    return {p for p in need if (word, (p + turn) % LANE) in free}


def _mask(bits: Wanted) -> int:
    return sum(1 << bit for bit in bits)


def unit_words(places: Wanted) -> int:
    """Words of a unit."""
    return len(places) // gcd(len(places), LANE)


def is_placed(source: DType, slots: int, into: DType) -> bool:
    """Whether the codes of so many slots are whole units; they lie in the order of slots where not."""
    return serves(source, into) and slots % (LANES * LANE // gcd(source.bits, LANE)) == 0


def quads(source: DType, slots: int, into: DType) -> list[Code]:
    """For each four neighbouring slots their pieces, words counted over all of the thread's."""
    places = wanted(source, into)
    codes, words = unit(places), unit_words(places)
    return [
        tuple(piece._replace(word=piece.word + i // len(codes) * words) for piece in codes[i % len(codes)])
        for i in range(slots // LANES)
    ]


@lru_cache
def positions(source: DType, slots: int, into: DType) -> Ints:
    """The bit of a thread's that each bit of each slot is: int32 [slots, bits], a permutation."""
    places = wanted(source, into)
    rows = [
        [_position(code, bit, lane) for bit in places]
        for code in quads(source, slots, into) for lane in range(LANES)
    ]  # fmt: skip
    return np.array(rows, np.int32)


def _position(code: Code, bit: int, lane: int) -> int:
    piece = next(p for p in code if p.mask >> bit & 1)
    return piece.word * WORD + (lane * LANE + bit + piece.turn) % WORD


def placed(codes: Codes, source: DType, into: DType) -> Codes:
    """The words of each thread, uint32 [..., slots * bits / 32], from its codes [..., slots]."""
    slots, bits = codes.shape[-1], source.bits
    words = np.zeros((*codes.shape[:-1], slots * bits // WORD), np.uint32)
    for slot, row in enumerate(positions(source, slots, into).tolist()):
        held = codes[..., slot].astype(np.uint32)
        for bit, (word, at) in enumerate(divmod(p, WORD) for p in row):
            words[..., word] |= (held >> np.uint32(bit) & np.uint32(1)) << np.uint32(at)
    return words


def integer_instructions(places: Wanted) -> float:
    """What it takes, per code: rotations that words share, a merge for each further piece, and the mask."""
    codes = unit(places)
    moved = {(piece.word, piece.turn) for code in codes for piece in code if piece.turn}
    return (len(moved) + sum(map(len, codes))) / (LANES * len(codes))
