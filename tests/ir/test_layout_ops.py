"""divide, compose, complement and slices, each against what it must undo or equal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ir.layout_cases import SAMPLE, SMALL, layouts, numbered, scatter
from tilec.ir.digits import Digit
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout, column_local, local, memory, register, replicas, spatial
from tilec.ir.layout_ops import complement, compose, divide, part_slots, slice_tile
from tilec.ir.memory_layout import padded, row_major, strided
from tilec.ir.swizzle import Swizzle


@given(layouts(2), layouts(2))
def test_divide_undoes_the_product(a: Layout, b: Layout) -> None:
    assert divide(a * b, b) == a
    assert divide(a, local(1, 1)) == a
    assert divide(b, b) == local(1, 1)


def divides(a: Layout, b: Layout) -> bool:
    """Whether some c has a == c * b, by tables: a's last indices are b's, its first steps whole tiles."""
    if any(np.mod(a.shape, b.shape)) or a.threads % b.threads or a.slots % b.slots:
        return False
    outer = a.points()[:: b.threads, :: b.slots] // np.array(b.shape)
    again = (outer * np.array(b.shape))[:, None, :, None] + b.points()[None, :, None, :]
    return np.array_equal(again.reshape(a.points().shape), a.points())


def test_divide_finds_every_quotient() -> None:
    found = 0
    for a in SMALL[::11]:
        for b in SMALL[::307]:
            c = divide(a, b)
            assert (c is not None) == (a.rank == b.rank and divides(a, b)), f"{a} by {b} is {c}"
            assert c is None or c * b == a
            found += c is not None
    assert found > 20


def test_divide_by_hand() -> None:
    atom = spatial(8, 4) * local(1, 2)
    assert divide(column_local(2, 2) * atom, atom) == column_local(2, 2)
    assert divide(spatial(8, 4) * local(2, 2), atom) is None
    assert divide(spatial(4, 8) * local(1, 2), atom) is None
    assert divide(local(12), local(6)) == local(2), "the merged digit of 12 splits"
    assert divide(local(12), local(4) * local(2)) is None
    assert divide(local(2), local(2, 1)) is None


@st.composite
def memories(draw: st.DrawFn, domain: tuple[int, ...]) -> Layout:
    """A memory layout over the domain: strided, padded, or with digits of its own, swizzled or not."""
    strides = tuple(draw(st.integers(0, 40)) for _ in domain)
    blocks = [draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0])) for n in domain]
    digits = [
        (Digit(n // b, (draw(st.integers(0, 99)),)), Digit(b, (draw(st.integers(0, 99)),)))
        for n, b in zip(domain, blocks, strict=True)
    ]
    swizzle = draw(st.sampled_from([None, Swizzle(3, 4, 3)]))
    kinds = [
        strided(domain, strides, swizzle),
        padded(domain, 3),
        row_major(domain),
        memory(digits, 4096, swizzle),
    ]
    return draw(st.sampled_from(kinds))


@given(st.data())
def test_compose_is_function_composition(data: st.DataObject) -> None:
    tile = data.draw(layouts(pad=False))
    place = data.draw(memories(tile.cover))
    both = compose(place, tile)
    expected = place.offset(np.moveaxis(tile.points(), -1, 0)) + np.zeros(tile.points().shape[:2], int)
    if both is not None:
        assert np.array_equal(both.points()[..., 0], expected)
        assert (both.shape, both.swizzle) == (place.shape, place.swizzle)
        assert place.compose(tile) == both
    else:
        assert any(len(part) > 1 for part in place.parts), "strides alone compose with everything"


def test_compose_splits_digits_where_memory_does() -> None:
    blocks = memory(((Digit(4, (64,)), Digit(2, (8,))), (Digit(2, (16,)), Digit(8, (1,)))), 256)
    threads = spatial(8, 4) * local(1, 4)
    offsets = compose(blocks, threads)
    assert offsets is not None
    assert offsets.digits("thread") == (
        Digit(4, (64,)), Digit(2, (8,)), Digit(2, (16,)), Digit(2, (4,)),
    )  # fmt: skip
    assert compose(blocks, spatial(8, 1) * register((1, 16), (), (Digit(5, (0, 3)),))) is None
    with pytest.raises(TilecError, match=r"compose needs a group of .* for each axis of \[4\]"):
        compose(blocks, spatial(4))


def test_compose_of_conversions_is_a_map_of_holders() -> None:
    """inverse(a) after b: for each thread and slot of b, who has it in a."""
    a, b = spatial(8, 4) * local(2, 4), local(2, 2) * spatial(8, 4) * local(1, 2)
    gather = compose(a.inverse(), b)
    assert gather is not None
    index = gather.points() @ np.array([a.slots, 1])
    assert np.array_equal(
        index.reshape(b.threads, b.slots), a.section()[tuple(np.moveaxis(b.points(), -1, 0))]
    )


def check_complement(layout: Layout) -> None:
    """Threads and slots of the layout with the complement's slots count every point of the tile, once."""
    rest = complement(layout)
    if rest is None:
        return
    moving = layout.without_slot_replicas()
    points = moving.points()[:, :, None] + rest.slot_part()
    flat = [tuple(p) for p in points.reshape(-1, layout.rank).tolist()]
    replicated = np.prod([d.extent for d in layout.digits("thread") if not any(d.stride)], dtype=int)
    assert len(flat) == len(set(flat)) * replicated
    assert set(np.ndindex(layout.shape)) <= set(flat)


def test_small_complements() -> None:
    for layout in SAMPLE:
        check_complement(layout)


@given(layouts())
def test_large_complements(layout: Layout) -> None:
    check_complement(layout)


@given(layouts(pad=False))
def test_slots_complement_threads(layout: Layout) -> None:
    if layout.is_bijection:
        threads = register(layout.shape, layout.digits("thread"))
        rest = complement(threads)
        assert rest is not None
        assert sorted(map(tuple, rest.slot_part().tolist())) == sorted(
            map(tuple, layout.slot_part().tolist())
        )
        assert register(layout.shape, layout.digits("thread"), rest.digits("slot")).is_bijection


def test_complement_by_hand() -> None:
    assert complement(spatial(4, 1) * local(1, 2), (8, 6)) == local(2, 3) * register((4, 2), (), ())
    assert complement(register((24,), (Digit(4, (2,)),))) == register(
        (24,), (), (Digit(3, (8,)), Digit(2, (1,)))
    )
    assert complement(register((6,), (Digit(3, (2,)),), (Digit(3, (1,)),))) is None
    assert complement(spatial(8), (4,)) == local(1).with_shape((4,))


def check_slice(layout: Layout, start: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    part = slice_tile(layout, start, shape)
    if part is None:
        return False
    cut = numbered(layout.shape)[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]
    held = scatter(layout, numbered(layout.shape))[:, part_slots(layout, start, part)]
    wanted = scatter(part, cut)
    assert part.covers() and part.slots <= layout.slots
    assert np.array_equal(np.where(wanted >= 0, held, -1), wanted)
    return True


def test_small_slices() -> None:
    found = 0
    for layout in SAMPLE:
        for start in np.ndindex(layout.shape):
            for shape in {(1,) * layout.rank, tuple(np.subtract(layout.shape, start).tolist())}:
                found += check_slice(layout, start, shape)
    assert found > 500


@given(layouts(), st.data())
def test_large_slices(layout: Layout, data: st.DataObject) -> None:
    start = tuple(data.draw(st.integers(0, n - 1)) for n in layout.shape)
    shape = tuple(data.draw(st.integers(1, n - a)) for n, a in zip(layout.shape, start, strict=True))
    check_slice(layout, start, shape)
    if layout.covers():
        assert check_slice(layout, (0,) * layout.rank, layout.shape)


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_slices_of_slots_are_always_found(threads: int, run: int, data: st.DataObject) -> None:
    """A slice along an axis that only slots count is those slots."""
    layout = local(1, 6) * spatial(threads, 1) * local(1, run)
    start = data.draw(st.integers(0, 6 * run - 1))
    stop = data.draw(st.integers(start + 1, 6 * run))
    assert check_slice(layout, (0, start), (threads, stop - start))


def test_slices_of_a_halo_are_all_alike() -> None:
    """Thread t holds 4t .. 4t + 9, to convolve rows: every shifted window of 16 has the same plain layout."""
    halo = register((22,), (Digit(4, (4,)),), (Digit(10, (1,)),))
    for shift in range(7):
        part = halo.slice((shift,), (16,))
        assert part == spatial(4) * local(4)
        assert part_slots(halo, (shift,), part) == tuple(range(shift, shift + 4))


def test_slices_by_hand() -> None:
    c = local(2, 4) * spatial(8, 4) * local(1, 2)
    assert c.slice((8, 8), (8, 16)) == local(1, 2) * spatial(8, 4) * local(1, 2)
    assert c.slice((0, 0), (16, 4)) == (local(2, 1) * spatial(8, 4) * local(1, 2)).with_shape((16, 4))
    assert c.slice((0, 2), (16, 8)) is None, "other threads would hold it"
    assert replicas(1, threads=4).slice((0,), (1,)) == replicas(1, threads=4)
    with pytest.raises(TilecError, match=r"a slice must lie inside its tile: \[9, 32\] at \[8, 0\]"):
        c.slice((8, 0), (9, 32))
