"""Matrix atoms against the fragments of the PTX ISA, each shape spelt out as its section does.

lane = 4 * g + t (groupID, threadID_in_group); i is the element of the fragment, in the order of the
registers.
"""

from collections.abc import Callable

import numpy as np
import pytest

from tests.ir.layout_cases import scatter
from tilec.ir.atoms import (
    full_mma_atom,
    ldmatrix_atom,
    mma_atom,
    sparse_atom,
    wgmma_atom,
)
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout, spatial

Place = Callable[[int, int, int], tuple[int, int]]

# (k, bits) -> where element i of a and of b lies: (row, column)
FRAGMENTS: dict[tuple[int, int], tuple[Place, Place]] = {
    (4, 32): (lambda g, t, i: (g if i == 0 else g + 8, t), lambda g, t, i: (t, g)),
    (8, 32): (
        lambda g, t, i: (g if i in (0, 2) else g + 8, t if i in (0, 1) else t + 4),
        lambda g, t, i: (t if i == 0 else t + 4, g),
    ),
    (8, 16): (
        lambda g, t, i: (g if i in (0, 1) else g + 8, t * 2 + (i & 1)),
        lambda g, t, i: (t * 2 + i, g),
    ),
    (16, 16): (
        lambda g, t, i: (g if i in (0, 1, 4, 5) else g + 8, t * 2 + (i & 1) + (8 if i >= 4 else 0)),
        lambda g, t, i: (t * 2 + (i & 1) + (8 if i >= 2 else 0), g),
    ),
    (16, 8): (
        lambda g, t, i: (g if i < 4 else g + 8, t * 4 + (i & 3)),
        lambda g, t, i: (t * 4 + i, g),
    ),
    (32, 8): (
        lambda g, t, i: (
            g if i in (0, 1, 2, 3, 8, 9, 10, 11) else g + 8, t * 4 + (i & 3) + (16 if i >= 8 else 0)
        ),
        lambda g, t, i: (t * 4 + (i & 3) + (16 if i >= 4 else 0), g),
    ),
}  # fmt: skip


def accumulator(g: int, t: int, i: int) -> tuple[int, int]:
    return (g if i in (0, 1) else g + 8, t * 2 + (i & 1))


def fragment(layout: Layout, place: Place) -> list[list[tuple[int, int]]]:
    return [[place(lane // 4, lane % 4, i) for i in range(layout.slots)] for lane in range(32)]


def check(layout: Layout, place: Place, shape: tuple[int, int]) -> None:
    assert layout.shape == shape and layout.threads == 32 and layout.is_bijection
    assert layout.points().tolist() == np.array(fragment(layout, place)).tolist()


@pytest.mark.parametrize(("k", "bits"), FRAGMENTS)
def test_mma_fragments(k: int, bits: int) -> None:
    atom = mma_atom(16, 8, k, bits)
    a, b = FRAGMENTS[k, bits]
    check(atom.a, a, (16, k))
    check(atom.b, b, (k, 8))
    check(atom.c, accumulator, (16, 8))


def test_the_f64_mma() -> None:
    """m8n8k4: a is (g, t), b is (t, g), c is (g, 2 t + i)."""
    atom = full_mma_atom(64)
    check(atom.a, lambda g, t, i: (g, t), (8, 4))
    check(atom.b, lambda g, t, i: (t, g), (4, 8))
    check(atom.c, lambda g, t, i: (g, 2 * t + i), (8, 8))


@pytest.mark.parametrize(("bits", "k"), [(32, 8), (16, 16), (8, 32), (4, 64)])
def test_the_largest_mma(bits: int, k: int) -> None:
    assert full_mma_atom(bits) == mma_atom(16, 8, k, bits)
    assert full_mma_atom(bits).a.slots * bits == 128


def test_a_product_by_fragments() -> None:
    """Multiplying what a and b say each lane holds, and putting it where c says: a matrix product."""
    random = np.random.default_rng(0)
    a, b = random.integers(-9, 9, (16, 16)), random.integers(-9, 9, (16, 8))
    atom = mma_atom(16, 8, 16, 16)
    rebuilt_a, rebuilt_b = (np.zeros_like(x) for x in (a, b))
    for rebuilt, x, layout in ((rebuilt_a, a, atom.a), (rebuilt_b, b, atom.b)):
        rebuilt[tuple(np.moveaxis(layout.points(), -1, 0))] = scatter(layout, x)
    assert np.array_equal(scatter(atom.c, rebuilt_a @ rebuilt_b), scatter(atom.c, a @ b))


@pytest.mark.parametrize(
    "shape", [(16, 8, 12, 16), (16, 16, 16, 16), (8, 8, 4, 32), (16, 8, 32, 16), (16, 8, 8, 64)]
)
def test_no_such_mma(shape: tuple[int, int, int, int]) -> None:
    with pytest.raises(TilecError, match=r"no mma of m\d+n\d+k\d+ on \d+-bit operands: m is 16, n is 8"):
        mma_atom(*shape)


@pytest.mark.parametrize("n", [8, 64, 136, 256])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_wgmma_fragments(n: int, bits: int) -> None:
    """d[4j], d[4j + 1] are row 16 w + g, columns 8 j + 2 t and the next; d[4j + 2], d[4j + 3] eight rows
    below.
    """
    atom = wgmma_atom(n, bits)
    one = full_mma_atom(bits)
    for warp in range(4):
        lanes = slice(32 * warp, 32 * warp + 32)
        below = np.array([16 * warp, 0])
        assert np.array_equal(atom.a.points()[lanes], one.a.points() + below)
        wanted = [
            [
                (16 * warp + lane // 4 + 8 * (i // 2 % 2), 8 * (i // 4) + lane % 4 * 2 + i % 2)
                for i in range(n // 2)
            ]
            for lane in range(32)
        ]
        assert atom.c.points()[lanes].tolist() == np.array(wanted).tolist()
    assert atom.c.shape == (64, n) and atom.c.is_bijection and atom.a.is_bijection


Numbers = list[tuple[int, int]]  # digits: extent, stride
# What CUTLASS holds of wgmma (mma_traits_sm90_gmma.hpp, _sparse.hpp): for the digits of the thread and of the
# value, lowest first, the number of an element, row + 64 * column.
HELD: dict[int, tuple[Numbers, Numbers]] = {
    32: ([(4, 64), (8, 1), (4, 16)], [(2, 8), (2, 256)]),
    16: ([(4, 128), (8, 1), (4, 16)], [(2, 64), (2, 8), (2, 512)]),
    8: ([(4, 256), (8, 1), (4, 16)], [(4, 64), (2, 8), (2, 1024)]),
}
TOLD: dict[int, tuple[Numbers, Numbers]] = {  # metadata: a bit for each column, of which two of four are kept
    16: ([(2, 1024), (2, 0), (8, 1), (4, 16)], [(16, 64), (2, 8)]),
    8: ([(2, 8), (2, 2048), (8, 1), (4, 16)], [(32, 64)]),
}


def counted(digits: Numbers) -> np.ndarray:
    total = np.zeros(1, np.int64)
    for extent, stride in digits:
        total = (total + stride * np.arange(extent)[:, None]).ravel()
    return total


@pytest.mark.parametrize("bits", HELD)
def test_wgmma_as_cutlass_has_it(bits: int) -> None:
    threads, values = HELD[bits]
    row, column = np.moveaxis(wgmma_atom(64, bits).a.points(), -1, 0)
    assert np.array_equal(row + 64 * column, counted(threads)[:, None] + counted(values))
    threads, values = [(4, 128), (8, 1), (4, 16)], [(2, 64), (2, 8), (8, 512)]
    row, column = np.moveaxis(wgmma_atom(64, bits).c.points(), -1, 0)
    assert np.array_equal(row + 64 * column, counted(threads)[:, None] + counted(values))


@pytest.mark.parametrize("bits", TOLD)
def test_places_as_cutlass_has_them(bits: int) -> None:
    """A register of ours has places for k of 64: those of two products on 16 bits, whose selector says which
    lanes of a quad have a product's; CUTLASS gives both pairs the same."""
    threads, values = TOLD[bits]
    number = counted(threads)[:, None] + counted(values)[::2]
    row, column = number % 64, number // 64 // 4 * 2 + np.arange(16) % 2  # of what is kept
    selected = np.arange(128) // 2 % 2 if bits == 16 else np.zeros(128, np.int64)
    mine = (spatial(4, 1) * sparse_atom(bits).places).points()
    assert np.array_equal(mine[..., 0], row)
    assert np.array_equal(mine[..., 1], column + 16 * selected[:, None])


@pytest.mark.parametrize("n", [0, 12, 264])
def test_no_such_wgmma(n: int) -> None:
    with pytest.raises(TilecError, match=f"wgmma's n is a multiple of 8 from 8 to 256, not {n}"):
        wgmma_atom(n, 16)


def test_transposed_matrices_are_of_16_bits() -> None:
    with pytest.raises(TilecError, match=r"ldmatrix.trans moves 16-bit elements, not 8-bit ones"):
        ldmatrix_atom(8, trans=True)
