"""Conversions, carried out in numpy as a GPU would: moves, shuffles with their selects, shared memory."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ir.layout_cases import SAMPLE, layouts, numbered, scatter
from tilec.ir import dtype as dt
from tilec.ir.conversion import BARRIER, SELECT, SHUFFLE, WAVEFRONT, Conversion, conversion
from tilec.ir.digits import Digit, Ints
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout, column_local, local, register, replicas, spatial
from tilec.ir.layouts import blocked, mma_a, mma_b, mma_c
from tilec.ir.swaps import Swap


def shuffled(held: Ints, how: Conversion, slot: int) -> Ints:
    """One slot by the recipe of Conversion's docstring, counting its instructions."""
    assert how.lanes is not None and how.sources is not None and how.sent is not None
    threads = np.arange(len(held))
    sender = threads // 32 * 32 + how.lanes[slot]
    assert (sender < len(held)).all() and (how.lanes[slot] < 32).all()
    used = sorted(set(how.sources[slot].tolist()))
    assert how.selects[slot] == len(used) - 1
    if how.select_first[slot]:
        picked = held[threads, how.sent[slot]]
        assert set(how.sent[slot].tolist()) <= set(used)
        assert how.shuffles[slot] == int((sender != threads).any())
        return np.asarray(picked[sender])
    result = held[sender, used[0]]
    for source in used[1:]:
        result = np.where(how.sources[slot] == source, held[sender, source], result)
    assert how.shuffles[slot] == len(used)
    return np.asarray(result)


def exchanged(held: Ints, swap: Swap) -> Ints:
    """What lanes hold after they sent each other what tilec.ir.swaps says."""
    result, threads = held.copy(), np.arange(len(held))
    upper = threads // swap.lane % 2
    for s in (s for s in range(held.shape[1]) if s // swap.slot % 2 == 0):
        sent = held[threads, np.where(upper, s, s + swap.slot)]
        result[threads, np.where(upper, s, s + swap.slot)] = sent[threads ^ swap.lane]
    return result


def carried_out(a: Layout, b: Layout, how: Conversion) -> Ints:
    """What b's threads hold after the conversion of numbered elements."""
    held = scatter(a, numbered(a.shape))
    for swap in how.swaps:
        held = exchanged(held, swap)
    if how.slots is not None:
        return held[:, how.slots]
    if how.kind == "shuffle":
        return np.stack([shuffled(held, how, slot) for slot in range(b.slots)], axis=1)
    memory = np.full(a.size + 1, -1)
    memory[held] = held
    memory[-1] = -1
    return np.asarray(memory[scatter(b, numbered(b.shape))])


def cheapest(a: Layout, b: Layout) -> str:
    """The kind by brute force over tables; many shuffles are dearer than shared memory."""
    held, wanted = scatter(a, numbered(a.shape)), scatter(b, numbered(b.shape))
    same = held.shape == wanted.shape and ((held == wanted) | (wanted < 0)).all()
    if same:
        return "nothing"
    if all(any(((held[:, k] == w) | (w < 0)).all() for k in range(a.slots)) for w in wanted.T):
        return "rename"
    warps = range(0, len(held), 32)
    inside = (set(wanted[w : w + 32].ravel()) - {-1} <= set(held[w : w + 32].ravel()) for w in warps)
    return "shuffle" if all(inside) else "shared"


def check(a: Layout, b: Layout) -> str:
    how, least = conversion(a, b), cheapest(a, b)
    through_memory = BARRIER + WAVEFRONT * (a.slots + b.slots)
    assert how.cost <= through_memory
    if how.kind == "swap":
        assert least == "shuffle" and how.cost == len(how.swaps) * a.slots // 2 * (SHUFFLE + 3 * SELECT)
    else:
        assert how.kind == least or (least, how.kind, how.cost) == ("shuffle", "shared", through_memory)
    wanted = scatter(b, numbered(b.shape))
    assert np.array_equal(np.where(wanted >= 0, carried_out(a, b, how), -1), wanted)
    if how.kind == "shuffle":
        assert how.cost == SHUFFLE * sum(how.shuffles) + SELECT * sum(how.selects)
    return how.kind


def test_small_conversions() -> None:
    """Between all covering small layouts of one tile and thread count (all in one warp)."""
    by_tile: dict[object, list[Layout]] = {}
    for layout in SAMPLE:
        if layout.covers():
            by_tile.setdefault((layout.shape, layout.threads), []).append(layout)
    kinds = {check(a, b) for same in by_tile.values() for a in same for b in same[::3]}
    assert kinds == {"nothing", "rename", "swap", "shuffle"}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Layout, Layout]:
    """Two covering layouts of one tile over 128 threads, with replicas, pad and permuted slots."""
    shape = draw(st.sampled_from([(16, 16), (7, 33), (64, 8), (128,), (4, 8, 8), (16, 64)]))
    return draw(spread(shape)), draw(spread(shape))


@st.composite
def spread(draw: st.DrawFn, shape: tuple[int, ...]) -> Layout:
    layout = blocked(shape, 128, draw(st.sampled_from([1, 2, 4])))
    if len(set(shape)) < len(shape) and draw(st.booleans()):
        layout = blocked(shape[::-1], 128).permute(tuple(range(len(shape)))[::-1])
    order = draw(st.permutations(layout.digits("slot")))
    lanes = draw(st.permutations(layout.digits("thread"))) if draw(st.booleans()) else layout.digits("thread")
    return register(shape, tuple(lanes), tuple(order))


@given(pairs())
def test_large_conversions(pair: tuple[Layout, Layout]) -> None:
    check(*pair)


@given(layouts(2), st.integers(1, 3))
def test_a_layout_to_itself_and_to_its_replicas(layout: Layout, copies: int) -> None:
    if layout.covers():
        assert check(layout, layout) == "nothing"
        assert check(layout.replicated(slots=copies), layout) in ("nothing", "rename")
        assert check(layout, layout.replicated(slots=copies)) in ("nothing", "rename")


def test_a_product_is_the_next_ones_operand() -> None:
    """Attention's second product reads the first's accumulators as they are, also in a transposed chain."""
    for m, n in [(16, 16), (64, 64), (32, 128)]:
        c = mma_c(dt.f32, (m, n))
        assert check(c, mma_a(dt.f16, (m, n))) in ("nothing", "rename")
        assert check(c.permute((1, 0)), mma_b(dt.f16, (n, m))) in ("nothing", "rename")


def test_many_shuffles_are_dearer_than_memory() -> None:
    """Within a warp too: a square whose columns the threads hold, then its rows."""
    columns, rows = spatial(1, 32) * local(32, 1), spatial(32, 1) * local(1, 32)
    assert check(columns, rows) == "shared"
    assert conversion(columns, rows).cost == BARRIER + WAVEFRONT * (32 + 32)


def test_renames_and_shuffles_by_hand() -> None:
    assert conversion(local(2, 3), column_local(2, 3)).slots == (0, 3, 1, 4, 2, 5)
    turned = conversion(spatial(32) * local(2), local(2) * spatial(32))
    assert turned.kind == "shuffle" and turned.shuffles == (2, 2) and turned.selects == (1, 1)
    traded = conversion(spatial(32) * local(2), spatial(16) * local(2) * spatial(2))
    assert traded.kind == "swap" and traded.swaps == (Swap(slot=1, lane=1),) and traded.slots == (0, 1)
    mirrored = conversion(spatial(4, 8), spatial(8, 4).permute((1, 0)))
    assert mirrored.kind == "shuffle" and mirrored.shuffles == (1,) and mirrored.selects == (0,)
    assert conversion(spatial(64) * local(2), local(2) * spatial(64)).kind == "shared"
    assert conversion(spatial(64) * local(2), local(2) * spatial(64)).cost == BARRIER + 4


def test_lanes_choose_before_they_send() -> None:
    """Lane (i, j) holds row i's elements and needs only element j: it reads itself, no shuffle at all."""
    a = register((16, 2), (Digit(16, (1, 0)), Digit(2, (0, 0))), (Digit(2, (0, 1)),))
    b = register((16, 2), (Digit(16, (1, 0)), Digit(2, (0, 1))))
    how = conversion(a, b)
    assert (how.kind, how.shuffles, how.selects, how.select_first) == ("shuffle", (0,), (1,), (True,))
    check(a, b)


def test_replicas_share_the_reading() -> None:
    """Row sums held by all 4 lanes of a group, spread out as one row a lane: each replica sends one slot."""
    a = register((32,), (Digit(8, (4,)), Digit(4, (0,))), (Digit(4, (1,)),))
    how = conversion(a, spatial(32))
    assert (how.shuffles, how.selects) == ((0,), (3,))
    check(a, spatial(32))


def test_wrong_conversions() -> None:
    with pytest.raises(
        TilecError, match=r"a conversion keeps the tile and its threads: .* 4 threads, .* 8 threads"
    ):
        conversion(spatial(4) * local(2), spatial(8))
    with pytest.raises(TilecError, match="does not hold every element that"):
        conversion(spatial(4).with_shape((8,)), spatial(4) * local(2))


def test_conversions_are_quick() -> None:
    """A guard against a slow rewrite, far above the 2 ms that they take: 32768 elements on 256 threads."""
    a, b = blocked((128, 256), 256, 8), mma_c(dt.f32, (128, 256), (2, 4))
    conversion(replicas(1, threads=32), replicas(1, threads=32))
    start = time.perf_counter()
    conversion(a, b)
    assert time.perf_counter() - start < 0.2
