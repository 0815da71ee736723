"""Where small floats' bits lie: every bit has one place, packing and reading agree, what reading costs."""

import numpy as np
import pytest

from tilec.ir import float_placement, placement
from tilec.ir.dtype import ALL, DType, bf16, dtype, f16
from tilec.ir.placement import HALF, WORD

INTO = pytest.mark.parametrize("into", [f16, bf16], ids=str)
FLOATS = [d for d in ALL if d.kind == "float" and d.bits <= 8]
each = pytest.mark.parametrize("kind", FLOATS, ids=str)


@INTO
@each
def test_every_bit_has_one_place(kind: DType, into: DType) -> None:
    unit = 2 * len(placement.codes_of(kind, into))
    for slots in (unit, 3 * unit):
        found = placement.positions(kind, slots, into)
        np.testing.assert_array_equal(np.sort(found.ravel()), np.arange(slots * kind.bits))
        apart = (found[1::2] - found[::2]) % WORD
        np.testing.assert_array_equal(apart, HALF)
        np.testing.assert_array_equal(found[1::2] // WORD, found[::2] // WORD)


@INTO
@each
def test_turned_words_show_the_codes(kind: DType, into: DType) -> None:
    """As the instructions do it: turn, mask, put together."""
    if not placement.is_float(kind, into):
        return
    found, wanted = float_placement.unit(kind, into), float_placement.places(kind, into)
    slots = 2 * len(found.codes)
    codes = np.random.default_rng(kind.bits).integers(0, 1 << kind.bits, slots)
    words = [int(word) for word in placement.placed(codes, kind, into)]
    for merge in found.merged:
        both = [_turned(words[merge.word], by) for by in (merge.first, merge.second)]
        mask = merge.mask * 0x10001
        words.append(both[0] & mask | both[1] & ~mask)
    for i, code in enumerate(found.codes):
        value = 0
        for word, by, mask in code:
            shown = sum(1 << w for j, w in enumerate(wanted) if mask >> j & 1)
            value |= _turned(words[word], by) & shown * 0x10001
        for half in range(2):
            expected = sum((int(codes[2 * i + half]) >> j & 1) << w for j, w in enumerate(wanted))
            assert value >> HALF * half & 0xFFFF == expected


def _turned(word: int, by: int) -> int:
    return (word << by | word >> WORD - by) & 0xFFFFFFFF


@pytest.mark.parametrize(("into", "costs"), [
    (f16, {"f3e1m1": 1.32, "f3e2m0": 1.22, "f4e1m2": 0.88, "f4e2m1": 1.13, "f4e3m0": 1.13, "f5e2m2": 1.35,
           "f5e4m0": 1.41, "f6e2m3": 1.5, "f6e3m2": 1.32, "f7e3m3": 1.54, "f8e4m3": 1.25, "f8e5m2": 0.75}),
    (bf16, {"f4e2m1": 1.13, "f6e2m3": 1.44, "f6e3m2": 1.38, "f8e4m3": 1.25, "f8e5m2": 1.25}),
])  # fmt: skip
def test_integer_instructions_per_code(into: DType, costs: dict[str, float]) -> None:
    """Bytes of f8e5m2 are even half of an f16: 0.5 by byte permutations."""
    for name, cost in costs.items():
        found = float_placement.unit(dtype(name), into)
        assert found.instructions <= 2 * len(found.codes) * cost
