"""Memory layouts, wide accesses, bank conflicts, and where tiles change hands."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ir.layout_cases import layouts, numbered, scatter
from tilec.ir import dtype as dt
from tilec.ir.digits import Digit
from tilec.ir.errors import TilecError
from tilec.ir.exchange import exchange_layout
from tilec.ir.inst.memory import Alloc
from tilec.ir.layout import Layout, column_local, local, register, replicas, spatial
from tilec.ir.layouts import blocked, mma_a, mma_b, mma_c
from tilec.ir.memory_layout import (
    bank_conflicts,
    column_major,
    padded,
    row_major,
    strided,
    vectors,
)
from tilec.ir.swizzle import Swizzle, swizzle_for


@given(st.lists(st.integers(1, 6), min_size=0, max_size=4), st.integers(0, 3))
def test_memory_layouts_are_numpy_strides(extents: list[int], pad: int) -> None:
    shape = tuple(extents)
    at = tuple(np.indices(shape))
    assert np.array_equal(row_major(shape).offset(at), numbered(shape))
    assert np.array_equal(column_major(shape).offset(at), numbered(shape[::-1]).T)
    assert row_major(shape).size == column_major(shape).size == numbered(shape).size
    if shape:
        rows = np.ndindex(shape)
        wide = numbered((*shape[:-1], shape[-1] + pad))
        assert [padded(shape, pad).offset(c) for c in rows] == wide[..., : shape[-1]].ravel().tolist()


def test_offsets_by_hand() -> None:
    assert strided((4, 5), (10, 2)).offset((3, 4)) == 38 and strided((4, 5), (10, 2)).size == 39
    assert row_major((8, 64), Swizzle(3, 4, 3)).byte_offset((1, 0), 16) == 128 ^ 16
    assert row_major((8, 64)).byte_offset((1, 3), 4) == 33
    assert row_major((4, 4)).offset((1, 20)) == 24, "past the tile the leading digit goes on"
    swizzled = row_major((3, 48), Swizzle(1, 4, 3))
    assert Alloc(dt.f16, (3, 48), swizzled).nbytes == 288
    every = {int(swizzled.byte_offset(c, 16)) for c in np.ndindex(3, 48)}
    assert len(every) == 144 and max(every) < 288


def check_vectors(place: Layout, tile: Layout, bits: int, most: int) -> None:
    groups = vectors(place, tile, bits, most)
    assert sorted(slot for group in groups for slot in group) == list(range(tile.slots))
    width = len(groups[0])
    byte = place.byte_offset(np.moveaxis(tile.points(), -1, 0), bits) + np.zeros(tile.points().shape[:2], int)
    for group in groups if width > 1 else ():
        assert width * bits <= 8 * most and len(group) == width
        run = byte[:, group]
        assert (run[:, 0] % (width * bits // 8) == 0).all()
        assert np.array_equal(run - run[:, :1], np.broadcast_to(np.arange(width) * bits // 8, run.shape))
        pads = tile.pad_mask()[:, group]
        assert (pads == pads[:, :1]).all()


@given(layouts(), st.sampled_from([4, 8, 16, 32]), st.sampled_from([4, 8, 16]), st.booleans())
def test_vectors_are_aligned_neighbours(tile: Layout, bits: int, most: int, columns: bool) -> None:
    shape = tile.cover
    place = column_major(shape) if columns else row_major(shape, swizzle_for(shape, max(1, bits // 8)))
    check_vectors(place, tile, bits, most)


def test_vectors_are_as_wide_as_can_be() -> None:
    tile = blocked((64, 64), 128, 8)
    assert vectors(row_major((64, 64)), tile, 16)[1] == (8, 9, 10, 11, 12, 13, 14, 15)
    assert len(vectors(row_major((64, 64)), tile, 32)[0]) == 4, "16 bytes are the most"
    assert len(vectors(row_major((64, 64)), tile, 16, 4)[0]) == 2
    assert len(vectors(row_major((64, 64), Swizzle(5, 2, 5)), tile, 16)[0]) == 2, "the swizzle moves words"
    assert len(vectors(strided((64, 64), (66, 1)), tile, 16)[0]) == 2, "rows are aligned to 4 bytes"
    assert len(vectors(row_major((64, 64)), tile, 4)[0]) == 8
    assert len(vectors(row_major((64, 64)), local(1, 3) * spatial(64, 2), 16)[0]) == 1


def test_vectors_find_neighbours_wherever_they_are() -> None:
    """An accumulator's pairs, and slots that count the other way round."""
    assert vectors(row_major((16, 16)), mma_c(dt.f32, (16, 16)), 32) == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert vectors(column_major((2, 4)), local(2, 4), 16) == ((0, 4, 1, 5, 2, 6, 3, 7),)
    edge = blocked((4, 6), 4, 2).with_shape((4, 5))
    assert {len(g) for g in vectors(row_major((4, 6)), edge, 16)} == {1}, "half of a pair is pad"


def test_bank_conflicts_by_hand() -> None:
    square = spatial(1, 32) * local(32, 1)
    assert bank_conflicts(row_major((32, 32)), square, 32) == 1
    assert bank_conflicts(column_major((32, 32)), square, 32) == 32
    assert bank_conflicts(strided((32, 32), (1, 33)), square, 32) == 1
    assert bank_conflicts(column_major((32, 32), Swizzle(5, 2, 5)), square, 32) == 1
    assert bank_conflicts(row_major((32, 32)), blocked((32, 32), 32, 4), 32, 4) == 4
    assert bank_conflicts(row_major((32, 32)), replicas(2, threads=32) * local(32, 32), 32) == 1
    assert bank_conflicts(row_major((8, 8)), blocked((8, 8), 16, 1), 32) == 1, "half a warp"
    assert (
        bank_conflicts(column_major((32, 64)), (spatial(1, 32) * local(2, 2)).with_shape((1, 64)), 32) == 32
    )
    with pytest.raises(TilecError, match=r"accesses of 4 elements need 4 neighbouring, aligned elements"):
        bank_conflicts(column_major((32, 32)), blocked((32, 32), 32, 4), 32, 4)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (blocked((64, 64), 128, 4), mma_c(dt.f32, (64, 64), (2, 2))),
        (blocked((64, 64), 128, 8), mma_a(dt.f16, (64, 64), (2, 2))),
        (blocked((64, 64), 128, 8), mma_b(dt.f16, (64, 64), (1, 4))),
        (mma_c(dt.f32, (64, 64), (2, 2)), mma_a(dt.f16, (64, 64), 4)),
        (blocked((32, 32), 32), blocked((32, 32), 32).permute((1, 0))),
        (blocked((64, 96), 128, 4), blocked((96, 64), 128, 4).permute((1, 0))),
        (blocked((7, 33), 64), blocked((33, 7), 64).permute((1, 0))),
        (blocked((512,), 128, 4), blocked((512,), 128)),
        (blocked((8, 8), 16, 4), blocked((8, 8), 16, 4).permute((1, 0))),
        (blocked((4, 8, 16), 64), blocked((16, 8, 4), 64, 4).permute((2, 1, 0))),
    ],
)
def test_tiles_change_hands_without_conflicts(a: Layout, b: Layout, bits: int) -> None:
    """The numbers arrive, and no access takes half more trips than its bytes do."""
    place = exchange_layout(a, b, bits)
    memory = np.full(Alloc(dt.dtype(f"u{bits}"), a.shape, place).nbytes * 8 // bits, -1)
    for tile, write in ((a, True), (b, False)):
        held = scatter(tile, numbered(tile.shape))
        at = place.byte_offset(np.moveaxis(tile.points(), -1, 0), bits) * 8 // bits + 0 * held
        if write:
            memory[at[held >= 0]] = held[held >= 0]
        assert np.array_equal(memory[at[held >= 0]], held[held >= 0])
    for tile in (a, b):
        width = len(vectors(place, tile, bits)[0])
        assert bank_conflicts(place, tile, bits, width) <= max(1, width * bits / 32) * 1.5


def test_small_elements_take_a_byte() -> None:
    a, b = blocked((64, 64), 128), mma_b(dt.f16, (64, 64), 4)
    assert exchange_layout(a, b, 4) == exchange_layout(a, b, 8)


def test_a_turned_tile_takes_a_swizzle() -> None:
    place = exchange_layout(blocked((32, 32), 32), blocked((32, 32), 32).permute((1, 0)), 32)
    assert place.swizzle is not None and place.size == 1024
    odd = exchange_layout(
        register((33, 1), (Digit(32, (1, 0)),), (Digit(2, (32, 0)),)), blocked((33, 1), 32), 32
    )
    assert odd.swizzle is None
    assert exchange_layout(local(4), column_local(4), 8) == row_major((4,))
