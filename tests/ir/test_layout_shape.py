"""Layouts of a tile whose shape changes: every element stays with the thread and slot that hold it."""

from itertools import permutations
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ir.layout_cases import SAMPLE, inside, layouts, numbered, point, scatter
from tilec.ir import digits as dg
from tilec.ir.digits import Digit
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout, local, register, spatial

Shape = tuple[int, ...]


def factorings(n: int, most: int) -> list[Shape]:
    """Every shape of `n` elements with up to `most` axes."""
    if most == 0:
        return [()] if n == 1 else []
    shorter = factorings(n, most - 1)
    longer = [(d, *rest) for d in range(1, n + 1) if n % d == 0 for rest in factorings(n // d, most - 1)]
    return list(dict.fromkeys([*shorter, *longer]))


def same_holders(layout: Layout, other: Layout, tile: np.ndarray) -> bool:
    """Whether `other` holds the tile's elements, reshaped or permuted to its shape, where `layout` holds
    them.
    """
    return bool(np.array_equal(scatter(layout, numbered(layout.shape)), scatter(other, tile)))


def can_be_said(layout: Layout, shape: Shape) -> bool:
    """Whether digits can hold the reshaped tile: by brute force, for layouts without pad."""
    flat = np.ravel_multi_index(tuple(np.moveaxis(layout.points(), -1, 0)), layout.shape)
    moved = np.stack(np.unravel_index(flat, shape), axis=-1) if shape else np.zeros((*flat.shape, 0), int)
    linear = np.array_equal(moved, moved[:, :1] + moved[:1])
    return linear and None not in (dg.from_values(moved[:, 0]), dg.from_values(moved[0]))


def check_reshape(layout: Layout, shape: Shape) -> None:
    result = layout.reshape(shape)
    if result is not None:
        assert result.shape == shape
        assert (result.threads, result.slots) == (layout.threads, layout.slots)
        assert same_holders(layout, result, numbered(shape))
    elif not layout.pad_mask().any():
        assert not can_be_said(layout, shape), f"{layout} can be {shape}"


def test_small_reshapes_are_right_and_found_where_they_exist() -> None:
    for layout in SAMPLE[::3]:
        for shape in factorings(layout.size, 3):
            check_reshape(layout, shape)


@given(layouts(), st.data())
def test_large_reshapes(layout: Layout, data: st.DataObject) -> None:
    check_reshape(layout, data.draw(st.sampled_from(factorings(layout.size, 3))))


def test_reshapes_by_hand() -> None:
    c = spatial(8, 4) * local(1, 2)
    assert c.reshape((64,)) == spatial(32) * local(2)
    assert c.reshape((2, 4, 8)) == spatial(2, 4, 4) * local(1, 1, 2)
    assert c.reshape((8, 1, 8, 1)) == c.insert_axis(1).insert_axis(3)
    assert local(6).reshape((2, 3)) == local(2, 3)
    assert spatial(4, 3).permute((1, 0)).reshape((12,)) == register((12,), (Digit(4, (1,)), Digit(3, (4,))))
    assert register((6,), (), (Digit(2, (1,)), Digit(3, (2,)))).reshape((2, 3)) is None


def test_reshape_keeps_pad_only_on_axes_that_stay_or_lead() -> None:
    padded = spatial(8, 16).with_shape((7, 16))
    assert padded.reshape((7, 4, 4)) == spatial(8, 4, 4).with_shape((7, 4, 4))
    assert padded.reshape((112,)) == spatial(128).with_shape((112,))
    assert spatial(8, 16).with_shape((8, 15)).reshape((120,)) is None
    assert spatial(8, 16).with_shape((8, 15)).reshape((2, 4, 15)) == spatial(2, 4, 16).with_shape((2, 4, 15))
    with pytest.raises(TilecError, match=r"reshape keeps the number of elements: \[8, 16\] to \[8, 15\]"):
        spatial(8, 16).reshape((8, 15))


@given(layouts(), st.data())
def test_permute(layout: Layout, data: st.DataObject) -> None:
    axes = data.draw(st.sampled_from(list(permutations(range(layout.rank)))))
    result = layout.permute(axes)
    assert same_holders(layout, result, numbered(layout.shape).transpose(axes))
    back = tuple(np.argsort(axes).tolist())
    assert result.permute(back) == layout


@given(layouts(), st.data())
def test_insert_axis(layout: Layout, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, layout.rank))
    more = layout.insert_axis(axis)
    assert same_holders(layout, more, np.expand_dims(numbered(layout.shape), axis))
    assert more.reduce(axis) == layout.without_slot_replicas()
    assert layout.insert_axis(axis, 3).covers() is False


def test_an_axis_with_pad_stays() -> None:
    padded = spatial(8, 2).with_shape((8, 1))
    assert padded.broadcast(1, 4) is None


def check_reduce(layout: Layout, axis: int) -> None:
    """A thread holds a sum if it held a part of it; replicas that were slots are one slot."""
    result = layout.reduce(axis)
    assert result.shape == layout.shape[:axis] + layout.shape[axis + 1 :] and result.threads == layout.threads
    for t in range(layout.threads):
        parts = {point(layout, t, s)[:axis] + point(layout, t, s)[axis + 1 :] for s in range(layout.slots)}
        assert parts == {point(result, t, s) for s in range(result.slots)}
    assert layout.covers() <= result.covers()


def test_small_reductions() -> None:
    for layout in SAMPLE:
        for axis in range(layout.rank):
            check_reduce(layout, axis)


@given(layouts(), st.data())
def test_large_reductions(layout: Layout, data: st.DataObject) -> None:
    check_reduce(layout, data.draw(st.integers(0, layout.rank - 1)))


def test_reduced_rows_of_an_accumulator() -> None:
    c = local(2, 1) * spatial(8, 4) * local(1, 2)
    rows = c.reduce(1)
    assert rows == register((16,), (Digit(8, (1,)), Digit(4, (0,))), (Digit(2, (8,)),))
    assert rows.find_slots(np.delete(c.slot_part(), 1, axis=1)).tolist() == [0, 0, 1, 1]
    assert rows.find_slots(np.array([[8], [3]])).tolist() == [1, -1]


@given(layouts(pad=False), st.integers(1, 4), st.data())
def test_broadcast_repeats_in_slots(layout: Layout, extent: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, layout.rank))
    result = layout.insert_axis(axis).broadcast(axis, extent)
    assert result is not None
    tile = np.broadcast_to(np.expand_dims(numbered(layout.shape), axis), result.shape)
    assert np.array_equal(scatter(result, tile), np.tile(scatter(layout, numbered(layout.shape)), extent))
    with pytest.raises(TilecError, match="broadcast needs an axis of extent 1"):
        layout.insert_axis(axis, 2).broadcast(axis, 4)


@given(layouts(), st.data())
def test_a_smaller_tile_is_the_same_function_with_pad(layout: Layout, data: st.DataObject) -> None:
    smaller = layout.with_shape(tuple(data.draw(st.integers(1, n)) for n in layout.shape))
    assert np.array_equal(smaller.points(), layout.points())
    for t, s in np.ndindex(layout.threads, layout.slots):
        assert smaller.pad_mask()[t, s] == (not inside(smaller, point(smaller, t, s)))


def test_slot_replicas_go() -> None:
    layout = local(2).replicated(threads=2, slots=3)
    assert (layout.threads, layout.slots) == (2, 6)
    assert layout.without_slot_replicas() == local(2).replicated(threads=2)


@pytest.mark.parametrize(("old", "new"), [((4, 6), (2, 2, 6)), ((2, 1, 3), (6,)), ((1,), ()), ((), (1, 1))])
def test_matched_axes_are_runs_of_equal_size(old: Shape, new: Shape) -> None:
    runs = dg.matched_axes(old, new)
    assert all(prod(old[a]) == prod(new[b]) for a, b in runs)
    assert [i for a, _ in runs for i in range(len(old))[a]] == list(range(len(old)))
    assert [i for _, b in runs for i in range(len(new))[b]] == list(range(len(new)))
