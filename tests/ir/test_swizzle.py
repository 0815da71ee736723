"""Swizzles: their own inverse, inside their block, and free of bank conflicts where they say so."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilec.ir.digits import Ints
from tilec.ir.errors import TilecError
from tilec.ir.swizzle import Swizzle, swizzle_for, wavefronts

swizzles = st.builds(
    lambda bits, base, more: Swizzle(bits, base, bits + more),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 4),
)


@given(swizzles, st.integers(0, 1 << 20))
def test_a_swizzle_is_its_own_inverse_and_stays_in_its_block(swizzle: Swizzle, offset: int) -> None:
    moved = swizzle.apply(offset)
    assert swizzle.apply(moved) == offset
    assert moved // swizzle.block == offset // swizzle.block
    assert moved % (1 << swizzle.base) == offset % (1 << swizzle.base)
    assert swizzle.apply(offset + 3 * swizzle.period) == moved + 3 * swizzle.period
    assert swizzle.apply(np.array([offset, offset + 1])).tolist() == [moved, swizzle.apply(offset + 1)]


@pytest.mark.parametrize(("bits", "span"), [(3, 128), (2, 64), (1, 32)])
def test_the_hardware_swizzles(bits: int, span: int) -> None:
    """128 bytes: a ^= (a >> 7 & 7) << 4; 64: (a >> 7 & 3) << 4; 32: (a >> 7 & 1) << 4. TMA's and wgmma's."""
    offset = np.arange(4096)
    assert np.array_equal(Swizzle(bits, 4, 3).apply(offset), offset ^ (offset >> 7 & (1 << bits) - 1) << 4)
    assert swizzle_for((64, span), 1) == Swizzle(bits, 4, 3)


@pytest.mark.parametrize("fields", [(3, 4, 2), (-1, 4, 3), (1, -1, 3)])
def test_wrong_swizzles(fields: tuple[int, int, int]) -> None:
    with pytest.raises(TilecError, match=r"a swizzle needs bits, base >= 0 and shift >= bits"):
        Swizzle(*fields)


def apply(swizzle: Swizzle | None, offset: Ints) -> Ints:
    return swizzle.apply(offset) if swizzle else offset


@pytest.mark.parametrize("row", [16 * n for n in (*range(1, 41), 48, 64, 96, 128)])
def test_rows_of_ldmatrix_never_conflict(row: int) -> None:
    """Any 8 neighbouring rows' chunks of one column, any column, any length of row that is whole chunks."""
    swizzle = swizzle_for((32, row), 1)
    rows = np.arange(25)[:, None] + np.arange(8)
    for column in range(0, row, 16):
        chunks = apply(swizzle, rows * row + column) // 16 % 8
        assert (np.sort(chunks, axis=1) == np.arange(8)).all()


@pytest.mark.parametrize("row", [16, 32, 48, 64, 96, 128, 160, 256, 384, 512])
def test_wide_stores_never_conflict(row: int) -> None:
    """Lanes that write neighbouring chunks: every aligned 128 bytes lie in all banks."""
    chunks = apply(swizzle_for((32, row), 1), np.arange(0, 32 * row, 16)) // 16 % 8
    assert (np.sort(chunks.reshape(-1, 8), axis=1) == np.arange(8)).all()


@pytest.mark.parametrize("chunk", [4, 8, 16])
@pytest.mark.parametrize("row", [16, 32, 64, 112, 128, 144, 256, 320, 512, 1024])
def test_columns_of_any_chunk_never_conflict(chunk: int, row: int) -> None:
    """As many rows as chunks fit the 128 bytes of all banks."""
    swizzle = swizzle_for((64, row), 1, chunk)
    rows = np.arange(128 // chunk)
    for column in range(0, row, chunk):
        chunks = apply(swizzle, rows * row + column) // chunk % (128 // chunk)
        assert sorted(chunks.tolist()) == rows.tolist()


def test_swizzles_by_hand() -> None:
    found = {row: swizzle_for((64, row), 1) for row in (16, 48, 96, 256, 20, 7)}
    assert found == {16: None, 48: None, 96: Swizzle(1, 4, 3), 256: Swizzle(3, 4, 4), 20: None, 7: None}
    assert swizzle_for((), 4) is None


def trips(addresses: list[int], active: list[bool], size: int) -> int:
    """The bank model lane by lane."""
    lanes = {8: 16, 16: 8}.get(size, 32)
    total = 0
    for first in range(0, 32, lanes):
        words: set[int] = set()
        for lane in range(first, first + lanes):
            if active[lane]:
                words |= {addresses[lane] // 4 + i for i in range(max(1, size // 4))}
        banks = [word % 32 for word in words]
        total += max((banks.count(bank) for bank in banks), default=0)
    return total


@given(
    st.lists(st.integers(0, 127), min_size=32, max_size=32),
    st.lists(st.booleans(), min_size=32, max_size=32),
    st.sampled_from([1, 2, 4, 8, 16]),
)
def test_wavefronts(places: list[int], active: list[bool], size: int) -> None:
    addresses = [place * size for place in places]
    requests = np.array([addresses, addresses[::-1]])
    found = wavefronts(requests, np.array([active, [True] * 32]), size)
    assert found.tolist() == [trips(addresses, active, size), trips(addresses[::-1], [True] * 32, size)]


def test_wavefronts_by_hand() -> None:
    lanes = np.arange(32)
    everyone = np.ones((1, 32), bool)
    count = {
        "neighbours": wavefronts(lanes[None] * 4, everyone, 4),
        "one word": wavefronts(lanes[None] * 0, everyone, 4),
        "one bank": wavefronts(lanes[None] * 128, everyone, 4),
        "halves": wavefronts(lanes[None] * 2, everyone, 2),
        "pairs": wavefronts(lanes[None] * 8, everyone, 8),
        "quads": wavefronts(lanes[None] * 16, everyone, 16),
    }
    assert {name: int(n[0]) for name, n in count.items()} == {
        "neighbours": 1, "one word": 1, "one bank": 32, "halves": 1, "pairs": 2, "quads": 4,
    }  # fmt: skip
