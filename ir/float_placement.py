"""Where the bits of small floats lie, so that few instructions make wider ones of them.

A float's exponent and mantissa belong where the wider one's mantissa ends, its sign belongs on top, zeros
between them. A word turned by some distance shows one code in these places, or parts of some:
    f8e4m3 -> f16: bits 15 and 13 to 7 are a code where they lie; of the other, seven bits show when the word
    is turned left by 9, and the eighth when it is turned by 3
A code that one turn shows is masked by one instruction; each further turn it needs costs two. Codes of two
halves lie 16 bits apart, so distances count modulo 16. `unit` searches: codes that one turn shows side by
side, the rest greedily. Where that leaves codes of four bits in pieces, two turns of the word are merged into
another one that shows two codes whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from tilec.ir.dtype import DType

HALF, WORD = 16, 32
Seen = tuple[int, int, int]  # word, distance that it is turned to the left, the code's bits seen then


@dataclass(frozen=True)
class Merge:
    """A further word: the bits of `mask` (of both halves) of a word turned by `first`, others by `second`."""

    word: int
    first: int
    second: int
    mask: int

    def source(self, bit: int) -> tuple[int, int]:
        """The word and the bit there that one of its bits comes from."""
        by = self.first if self.mask >> bit % HALF & 1 else self.second
        return self.word, (bit - by) % WORD


@dataclass(frozen=True)
class Turns:
    """The codes of a unit of `words`, which may be followed by merged ones."""

    words: int
    codes: tuple[tuple[Seen, ...], ...]
    merged: tuple[Merge, ...] = ()

    @property
    def instructions(self) -> int:
        """Turns that are not none, masks of what they show, and three for a merged word."""
        turns = {(word, by) for code in self.codes for word, by, _ in code if by}
        return len(turns) + sum(map(len, self.codes)) + 3 * len(self.merged)


def places(source: DType, into: DType) -> tuple[int, ...]:
    """The bit of a half where each bit of a code belongs."""
    low = into.mantissa - source.mantissa
    return (*range(low, low + source.bits - 1), HALF - 1)


@lru_cache
def unit(source: DType, into: DType) -> Turns:
    """The arrangement that costs fewest instructions of those looked at."""
    wanted = places(source, into)
    words = next(n for n in range(1, 9) if n * HALF % source.bits == 0)
    starts = (0,) if source.bits % 2 else range(HALF)  # odd units are long: fewer are tried
    sets = [turns for start in starts for turns in _side_by_side(wanted, start)]
    most = max(map(len, sets))  # codes of a word that turns show whole; one fewer may leave better room
    found = [_filled(wanted, words, turns) for turns in sets if len(turns) >= most - 1]
    best = min(found, key=lambda each: each.instructions)
    merged = _merged(wanted) if source.bits == 4 and best.instructions > 9 else None
    return merged or best


def _shown(wanted: tuple[int, ...], by: int) -> frozenset[int]:
    """The bits of a half that a turn brings to their places."""
    return frozenset((bit - by) % HALF for bit in wanted)


def _side_by_side(wanted: tuple[int, ...], start: int) -> Iterator[tuple[int, ...]]:
    """Turns from `start` on that show whole codes, no bit twice."""

    def more(turns: tuple[int, ...], used: frozenset[int]) -> Iterator[tuple[int, ...]]:
        yield turns
        for by in range(turns[-1] + 1, HALF):
            if not used & (new := _shown(wanted, by)):
                yield from more((*turns, by), used | new)

    return more((start,), _shown(wanted, start))


def _filled(wanted: tuple[int, ...], words: int, turns: tuple[int, ...]) -> Turns:
    """Whole codes that `turns` show in each word, then others of what is left."""
    size, count = len(wanted), words * HALF // len(wanted)
    rest = _Rest(wanted, words)
    taken: list[tuple[Seen, ...]] = []
    for word, by in [(word, by) for word in range(words) for by in turns][:count]:
        taken.append(((word, by, (1 << size) - 1),))
        rest.take(taken[-1])
    while len(taken) < count:
        taken.append(rest.next())
    return Turns(words, tuple(taken))


class _Rest:
    """The bits of a unit that belong to no code yet."""

    def __init__(self, wanted: tuple[int, ...], words: int) -> None:
        self.wanted, self.words = wanted, words
        self.free = {(word, bit) for word in range(words) for bit in range(HALF)}
        self.turned: set[tuple[int, int]] = set()

    def take(self, code: tuple[Seen, ...]) -> None:
        for word, by, mask in code:
            self.turned.add((word, by))
            self.free -= self._bits(word, by, mask)

    def _bits(self, word: int, by: int, mask: int) -> set[tuple[int, int]]:
        return {(word, (bit - by) % HALF) for i, bit in enumerate(self.wanted) if mask >> i & 1}

    def _cost(self, word: int, by: int) -> int:
        return 1 + (by != 0 and (word, by) not in self.turned)

    def next(self) -> tuple[Seen, ...]:
        """One more code: of one turn or two if that can be, else of what shows most for its price."""
        need, code = (1 << len(self.wanted)) - 1, []
        while need:
            seen = self._seen(need)
            found = self._whole(seen, need) or (
                max(seen, key=lambda each: each[2].bit_count() / self._cost(*each[:2])),
            )
            self.take(found)
            for each in found:
                code.append(each)
                need &= ~each[2]
        return tuple(code)

    def _seen(self, need: int) -> list[Seen]:
        """What each turn shows of the bits that a code needs."""
        found = []
        for word in range(self.words):
            for by in range(HALF):
                mask = sum(
                    1 << i
                    for i, bit in enumerate(self.wanted)
                    if need >> i & 1 and (word, (bit - by) % HALF) in self.free
                )
                found += [(word, by, mask)] if mask else []
        return found

    def _whole(self, seen: list[Seen], need: int) -> tuple[Seen, ...] | None:
        """The cheapest turn, or pair of them, that shows all."""
        alone = [(each,) for each in seen if each[2] == need]
        both = [self._apart(a, b) for a, b in combinations(seen, 2) if a[2] | b[2] == need]
        found = [*alone, *(pair for pair in both if pair)]
        return min(found, key=lambda turns: sum(self._cost(*each[:2]) for each in turns), default=None)

    def _apart(self, a: Seen, b: Seen) -> tuple[Seen, Seen] | None:
        """The two with every bit in one of them, if they can be told apart."""
        for x, y in ((a, b), (b, a)):
            left = (*y[:2], y[2] & ~x[2])
            if left[2] and not self._bits(*x) & self._bits(*left):
                return x, left
        return None


def _merged(wanted: tuple[int, ...]) -> Turns | None:
    """Two codes as one turn shows them, two of a merged word: nine instructions for eight of them."""
    whole = (1 << len(wanted)) - 1
    for by in range(1, HALF):
        used = _shown(wanted, 0) | _shown(wanted, by)
        if len(used) != 2 * len(wanted):
            continue
        left = sorted(set(range(HALF)) - used)
        for again in range(1, HALF):
            room = _shown(wanted, 0) | _shown(wanted, again)
            if len(room) == len(left) and (merge := _merge(left, room)):
                codes = ((0, 0, whole),), ((0, by, whole),), ((1, 0, whole),), ((1, again, whole),)
                return Turns(1, codes, (merge,))
    return None


def _merge(left: list[int], room: frozenset[int]) -> Merge | None:
    """Two turns that bring each bit of `left` to another one of `room`."""
    for first, second in combinations(range(HALF), 2):
        taken: dict[int, int] = {}
        for bit in left:
            options = [by for by in (first, second) if (bit + by) % HALF in room - taken.keys()]
            alone = [by for by in options if _only(left, bit, by, (first, second))]
            if not options:
                break
            by = (alone or options)[0]
            taken[(bit + by) % HALF] = by
        if len(taken) == len(left):
            return Merge(0, first, second, sum(1 << bit for bit, by in taken.items() if by == first))
    return None


def _only(left: list[int], bit: int, by: int, turns: tuple[int, int]) -> bool:
    """Whether no other bit could come where this one does."""
    place = (bit + by) % HALF
    return sum((place - each) % HALF in left for each in turns) == 1
