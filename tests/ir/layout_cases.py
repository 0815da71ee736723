"""Layouts to hold laws against: all small ones, and a strategy for large ones.

`SMALL` has thread digits with at most one entry and slot digits with at most two, over tiles that they fill,
leave (pad) or fill only in part. `layouts(rank)` multiplies random primitives, halos and replicas among them.
"""

from collections.abc import Callable
from functools import reduce
from itertools import product
from math import prod
from operator import mul

import numpy as np
from hypothesis import strategies as st

from tilec.ir.digits import Digit, Digits, Ints
from tilec.ir.layout import (
    Layout,
    column_local,
    column_spatial,
    local,
    register,
    replicas,
    spatial,
)

STRIDES = {1: [(0,), (1,), (2,), (3,), (4,)], 2: [(0, 0), (1, 0), (2, 0), (0, 1), (0, 3), (1, 1)]}


def digit_lists(rank: int, most: int) -> list[Digits]:
    """Every list of up to `most` digits of extent 2 or 3."""
    one = [Digit(extent, stride) for extent in (2, 3) for stride in STRIDES[rank]]
    return [digits for count in range(most + 1) for digits in product(one, repeat=count)]


def _small() -> list[Layout]:
    found = []
    for rank in (1, 2):
        for thread, slot in product(digit_lists(rank, 1), digit_lists(rank, 2)):
            cover = register((1,) * rank, thread, slot).cover
            for shape in {cover, (max(1, cover[0] - 1), *cover[1:]), (*cover[:-1], cover[-1] + 1)}:
                found.append(register(shape, thread, slot))
    return found


SMALL = _small()
SAMPLE = SMALL[::7]  # where a law is slow to check


def point(layout: Layout, thread: int, slot: int) -> tuple[int, ...]:
    """The definition, digit by digit."""
    at = np.zeros(layout.rank, int)
    for name, index in (("thread", thread), ("slot", slot)):
        for digit in reversed(layout.digits(name)):
            index, value = divmod(index, digit.extent)
            at += value * np.array(digit.stride, int)
    return tuple(at.tolist())


def table(layout: Layout) -> Ints:
    """All points by the definition, [threads, slots, rank]."""
    rows = [[point(layout, t, s) for s in range(layout.slots)] for t in range(layout.threads)]
    return np.array(rows, int).reshape(layout.threads, layout.slots, layout.rank)


def inside(layout: Layout, at: tuple[int, ...]) -> bool:
    return all(c < n for c, n in zip(at, layout.shape, strict=True))


def scatter(layout: Layout, tile: Ints) -> Ints:
    """What every (thread, slot) holds of a tile; -1 at pad."""
    held = np.full((layout.threads, layout.slots), -1)
    for t, s in np.ndindex(held.shape):
        at = point(layout, t, s)
        if inside(layout, at):
            held[t, s] = tile[at]
    return held


def numbered(shape: tuple[int, ...]) -> Ints:
    """A tile whose elements tell where they are."""
    return np.arange(prod(shape)).reshape(shape)


def primitives(rank: int) -> st.SearchStrategy[Layout]:
    extents = st.tuples(*[st.integers(1, 3)] * rank)
    makers: list[Callable[..., Layout]] = [local, spatial, column_local, column_spatial]
    plain = st.builds(lambda make, shape: make(*shape), st.sampled_from(makers), extents)
    copies = st.builds(lambda t, s: replicas(rank, t, s), st.integers(1, 2), st.integers(1, 2))
    return st.one_of(plain, plain, plain, copies, st.builds(halo, st.just(rank), st.integers(0, rank - 1)))


def halo(rank: int, axis: int) -> Layout:
    """3 threads of 2 elements each and one of the next's."""
    unit = tuple(int(a == axis) for a in range(rank))
    shape = tuple(6 if a == axis else 1 for a in range(rank))
    return register(shape, (Digit(3, tuple(2 * u for u in unit)),), (Digit(3, unit),))


@st.composite
def layouts(draw: st.DrawFn, rank: int | None = None, pad: bool = True) -> Layout:
    """Products of up to four primitives with at most 96 threads and 64 slots, sometimes over a smaller
    tile.
    """
    rank = draw(st.integers(1, 3)) if rank is None else rank
    factors = draw(st.lists(primitives(rank), min_size=1, max_size=4))
    while True:
        layout = reduce(mul, factors)
        if layout.threads <= 96 and layout.slots <= 64 and layout.size <= 4096:
            break
        factors.pop()
    if pad and draw(st.booleans()):
        return layout.with_shape(tuple(draw(st.integers(1, n)) for n in layout.shape))
    return layout
