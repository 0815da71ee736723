"""Layouts as functions: definition, products, canonical form, holders, inverses."""

import numpy as np
import pytest
from hypothesis import given

from tests.ir.layout_cases import SAMPLE, SMALL, inside, layouts, numbered, point, scatter, table
from tilec.ir import digits as dg
from tilec.ir.digits import Digit
from tilec.ir.errors import TilecError
from tilec.ir.layout import (
    Layout,
    column_local,
    column_spatial,
    local,
    memory,
    register,
    replicas,
    spatial,
)


def holders(layout: Layout) -> dict[tuple[int, ...], list[int]]:
    """Every element inside the tile with its holders, thread * slots + slot, lowest first."""
    found: dict[tuple[int, ...], list[int]] = {at: [] for at in np.ndindex(layout.shape)}
    for t, s in np.ndindex(layout.threads, layout.slots):
        at = point(layout, t, s)
        if inside(layout, at):
            found[at].append(t * layout.slots + s)
    return found


def check_tables(layout: Layout) -> None:
    expected = table(layout)
    assert np.array_equal(layout.points(), expected)
    assert layout.points().dtype == np.int32
    assert np.array_equal(layout.points(), layout.thread_part()[:, None] + layout.slot_part())
    index = np.arange(layout.threads * layout.slots)
    assert np.array_equal(layout(index).reshape(expected.shape), expected)
    assert layout.at(layout.threads - 1, layout.slots - 1) == tuple(expected[-1, -1])
    assert layout.cover == tuple((expected.reshape(-1, layout.rank).max(axis=0) + 1).tolist())


def check_holders(layout: Layout) -> None:
    found = holders(layout)
    lowest = [found[at][0] if found[at] else -1 for at in np.ndindex(layout.shape)]
    assert layout.section().ravel().tolist() == lowest
    assert layout.covers() == all(found.values())
    owners = np.flatnonzero(layout.owner_mask()).tolist()
    assert owners == sorted(x for x in lowest if x >= 0), "one owner per element, and nothing at pad owns"
    held = {x for xs in found.values() for x in xs}
    assert set(np.flatnonzero(~layout.pad_mask()).tolist()) == held
    one_each = all(len(xs) == 1 for xs in found.values()) and len(held) == layout.threads * layout.slots
    assert layout.is_bijection == one_each


def check_section_layout(layout: Layout) -> None:
    section = layout.section_layout()
    if section is None:
        return
    at = np.indices(layout.shape).reshape(layout.rank, -1)
    reached = (at < np.array(layout.cover)[:, None]).all(axis=0)
    threads, slots = np.zeros((2, at.shape[1]), int)
    for axis, (_, digits) in enumerate(section.groups):
        for place, digit in dg.places(digits):
            value = at[axis] // place % digit.extent
            threads, slots = threads + value * digit.stride[0], slots + value * digit.stride[1]
    assert ((threads * layout.slots + slots)[reached] == layout.section().ravel()[reached]).all()


def test_small_layouts_are_their_definition() -> None:
    for layout in SMALL:
        check_tables(layout)


def test_small_layouts_have_one_owner_per_element() -> None:
    for layout in SMALL:
        check_holders(layout)


def test_a_section_that_is_a_layout_gives_the_owner() -> None:
    for layout in SMALL:
        check_section_layout(layout)


def test_a_dense_layout_has_its_section_as_a_layout() -> None:
    layout = replicas(2, threads=2) * spatial(4, 1) * local(2, 3) * spatial(1, 5)
    assert layout.section_layout() == local_section()
    check_section_layout(layout)


def local_section() -> Layout:
    """thread = i // 2 * 5 + j % 5, slot = i % 2 * 3 + j // 5 for element (i, j) of 8 x 15."""
    rows = (Digit(4, (5, 0)), Digit(2, (0, 3)))
    columns = (Digit(3, (0, 1)), Digit(5, (1, 0)))
    return Layout((("0", rows), ("1", columns)), (40, 6))


@given(layouts())
def test_large_layouts(layout: Layout) -> None:
    check_tables(layout)
    check_holders(layout)
    check_section_layout(layout)


def check_product(a: Layout, b: Layout) -> None:
    both = a * b
    assert both.shape == tuple(np.multiply(a.shape, b.shape).tolist())
    assert (both.threads, both.slots) == (a.threads * b.threads, a.slots * b.slots)
    outer = a.points()[:, None, :, None] * np.array(b.shape)
    expected = (outer + b.points()[None, :, None, :]).reshape(both.points().shape)
    assert np.array_equal(both.points(), expected)


def test_products_of_small_layouts() -> None:
    for a in SMALL[::61]:
        for b in SMALL[::53]:
            if a.rank == b.rank:
                check_product(a, b)


@given(layouts(2), layouts(2), layouts(2))
def test_the_product_is_associative_and_has_an_identity(a: Layout, b: Layout, c: Layout) -> None:
    assert (a * b) * c == a * (b * c)
    one = local(1, 1)
    assert one * a == a == a * one
    if (a * b).threads * (a * b).slots <= 1 << 14:
        check_product(a, b)


def test_equal_functions_are_equal_layouts() -> None:
    """Among all small layouts, structural equality is equality of the tables (and so of hashes)."""
    by_table: dict[object, set[Layout]] = {}
    for layout in SMALL:
        key = (layout.shape, layout.points().shape, layout.points().tobytes())
        by_table.setdefault(key, set()).add(layout)
    assert all(len(same) == 1 for same in by_table.values())
    assert len(by_table) == len(set(SMALL))


@given(layouts())
def test_digits_come_back_from_their_table(layout: Layout) -> None:
    assert dg.from_values(layout.thread_part().astype(np.int64)) == layout.digits("thread")
    assert dg.from_values(layout.slot_part().astype(np.int64)) == layout.digits("slot")


@pytest.mark.parametrize("values", [[1, 2], [0, 1, 3], [0, 1, 2, 4], [0, 2, 1, 3, 4, 5], [0, 5, 1, 6, 3, 8]])
def test_other_tables_are_no_digits(values: list[int]) -> None:
    assert dg.from_values(np.array(values)[:, None]) is None


def test_neighbours_merge_and_ones_vanish() -> None:
    digits = (Digit(2, (6,)), Digit(1, (9,)), Digit(3, (2,)), Digit(2, (1,)), Digit(2, (0,)), Digit(3, (0,)))
    layout = register((12,), (), digits)
    assert layout.digits("slot") == (Digit(12, (1,)), Digit(6, (0,)))
    assert layout == local(12) * replicas(1, slots=6)
    assert local(2, 2) != column_local(2, 2)


def test_constructors() -> None:
    assert scatter(local(2, 3), numbered((2, 3))).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert scatter(column_local(2, 3), numbered((2, 3))).tolist() == [[0, 3, 1, 4, 2, 5]]
    assert scatter(spatial(2, 3), numbered((2, 3))).T.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert scatter(column_spatial(2, 3), numbered((2, 3))).T.tolist() == [[0, 3, 1, 4, 2, 5]]
    assert scatter(spatial(2).replicated(threads=2, slots=3), numbered((2,))).tolist() == [
        [0, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1],
    ]  # fmt: skip
    assert (local().threads, local().slots, local().size, local().at(0, 0)) == (1, 1, 1, ())


def test_a_halo_is_owned_by_its_first_thread() -> None:
    """Thread t holds 4t .. 4t + 9: DESIGN's example of overlapping digits."""
    halo = register((22,), (Digit(4, (4,)),), (Digit(10, (1,)),))
    assert halo.covers() and not halo.is_bijection and halo.section_layout() is None
    assert halo.owner_mask().sum(axis=1).tolist() == [10, 4, 4, 4]


def test_tables_are_shared_and_read_only() -> None:
    layout = spatial(4) * local(2)
    assert layout.points() is (spatial(4) * local(2)).points()
    for array in (layout.points(), layout.section(), layout.owner_mask(), layout.pad_mask()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def check_inverse(layout: Layout) -> None:
    inverse = layout.inverse()
    assert inverse.shape == (layout.threads, layout.slots) and inverse.domain == layout.shape
    index = inverse(np.arange(layout.size)) @ np.array([layout.slots, 1])
    assert np.array_equal(index.reshape(layout.shape), layout.section())
    assert inverse.inverse(("thread", "slot")) == layout


def test_small_inverses() -> None:
    bijections = [layout for layout in SMALL if layout.is_bijection]
    assert len(bijections) > 20
    for layout in bijections:
        check_inverse(layout)
    for layout in SAMPLE:
        if not layout.is_bijection:
            with pytest.raises(
                TilecError, match=r"only a bijection has an inverse: .* holders for \d+ elements"
            ):
                layout.inverse()


@given(layouts(pad=False))
def test_large_inverses(layout: Layout) -> None:
    if layout.is_bijection:
        check_inverse(layout)


@pytest.mark.parametrize(
    ("thread", "shape"), [((Digit(0, (1,)),), (4,)), ((Digit(2, (1, 0)),), (4,)), ((Digit(2, (-1,)),), (4,))]
)
def test_wrong_digits(thread: dg.Digits, shape: tuple[int, ...]) -> None:
    with pytest.raises(TilecError, match=r"a digit needs an extent of 1 or more and 1 strides of 0 or more"):
        register(shape, thread)


def test_wrong_shapes() -> None:
    with pytest.raises(TilecError, match=r"covers a tile of extents of 1 or more, not \[4, 0\]"):
        register((4, 0))
    with pytest.raises(TilecError, match="a product needs layouts of one rank"):
        local(2) * local(2, 2)


def test_memory_layouts_are_layouts_too() -> None:
    """One group per axis; the index runs over all of them."""
    tiled = memory(((Digit(2, (8,)), Digit(2, (2,))), (Digit(2, (4,)), Digit(2, (1,)))), 16)
    assert tiled.domain == (4, 4)
    offsets = [tiled.offset((i, j)) for i in range(4) for j in range(4)]
    assert offsets == tiled(np.arange(16))[:, 0].tolist()
    assert sorted(offsets) == list(range(16)) and offsets[:4] == [0, 1, 4, 5]
