"""Matrix atoms against the fragments of the PTX ISA, each shape spelt out as its section does.

lane = 4 * g + t (groupID, threadID_in_group); i is the element of the fragment, in the order of the
registers.
"""

from collections.abc import Callable

import numpy as np
import pytest

from tests.ir.layout_cases import numbered, scatter
from tilec.ir.atoms import (
    LdMatrix,
    full_mma_atom,
    ldmatrix_atom,
    match_ldmatrix,
    mma_atom,
    sparse_atom,
    wgmma_atom,
)
from tilec.ir.digits import Ints
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout, column_local, local, replicas, spatial
from tilec.ir.memory_layout import bank_conflicts, column_major, padded, row_major, strided
from tilec.ir.swizzle import swizzle_for

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


def ldmatrix(memory: Ints, place: Layout, found: LdMatrix, bits: int) -> Ints:
    """The registers after the instructions, element by element: [threads, slots], by the ISA's words.

    Lanes 8 i .. 8 i + 7 give the row addresses of matrix i; lane 4 g + t gets bytes 4 t .. 4 t + 3 of row g,
    or with .trans the 16-bit elements 2 t and 2 t + 1 of column g.
    """
    width, row = 32 // bits, 128 // bits
    points = found.rows.points()
    registers = np.zeros((len(points), found.count * found.matrices * width), int)
    for thread in range(len(points)):
        warp, g, t = thread // 32 * 32, thread % 32 // 4, thread % 4
        for n in range(found.count * found.matrices):
            instruction, matrix = divmod(n, found.matrices)
            rows = []
            for r in range(8):
                at = points[warp + matrix * 8 + r, instruction * row]
                byte = int(place.byte_offset(tuple(at.tolist()), bits))
                assert byte % 16 == 0, "ldmatrix reads aligned rows"
                rows.append(memory[byte * 8 // bits :][:row])
            block = np.array(rows)
            got = block[[2 * t, 2 * t + 1], g] if found.trans else block[g, t * width : (t + 1) * width]
            registers[thread, n * width : (n + 1) * width] = got
    return registers


def check_ldmatrix(place: Layout, target: Layout, bits: int) -> LdMatrix:
    found = match_ldmatrix(place, target, bits)
    assert found is not None
    tile = numbered(target.shape)
    memory = np.full(place.size + 1024, -1)
    for at in np.ndindex(target.shape):
        memory[place.byte_offset(at, bits) * 8 // bits] = tile[at]
    assert np.array_equal(ldmatrix(memory, place, found, bits), scatter(target, tile))
    return found


def warps_a(shape: tuple[int, int], bits: int) -> Layout:
    """Two warps of rows and two that repeat them."""
    atom = full_mma_atom(bits).a
    repeats = local(shape[0] // 32, shape[1] // atom.shape[1])
    return spatial(2, 1) * replicas(2, 2) * repeats * atom


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_ldmatrix_fills_a_from_rows(bits: int) -> None:
    shape = (32, 512 // bits)
    found = check_ldmatrix(row_major(shape, swizzle_for(shape, bits // 8)), warps_a(shape, bits), bits)
    assert (found.matrices, found.count, found.trans) == (4, 2, False)


def test_ldmatrix_fills_a_from_columns() -> None:
    target = warps_a((32, 32), 16)
    found = check_ldmatrix(column_major((32, 32), swizzle_for((32, 32), 2)), target, 16)
    assert (found.matrices, found.trans) == (4, True)
    assert match_ldmatrix(column_major((32, 64)), warps_a((32, 64), 8), 8) is None, "only 16 bits transpose"


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize(("steps", "subtiles", "matrices"), [(1, 1, 2), (1, 3, 2), (2, 2, 4), (3, 4, 4)])
def test_ldmatrix_fills_b(columns: bool, steps: int, subtiles: int, matrices: int) -> None:
    target = spatial(1, 2) * local(steps, subtiles) * full_mma_atom(16).b
    k, n = target.shape
    place = (
        column_major((k, n), swizzle_for((n, k), 2)) if columns else row_major((k, n), swizzle_for((k, n), 2))
    )
    found = check_ldmatrix(place, target, 16)
    assert (found.matrices, found.trans) == (matrices, not columns)
    assert found.matrices * found.count == target.slots // 2


def test_ldmatrix_of_one_and_of_odd_numbers_of_matrices() -> None:
    assert check_ldmatrix(row_major((8, 8)), ldmatrix_atom(), 16).matrices == 1
    assert check_ldmatrix(row_major((24, 8)), local(3, 1) * ldmatrix_atom(), 16).matrices == 1
    assert check_ldmatrix(row_major((8, 8)), ldmatrix_atom(trans=True), 16).trans
    assert check_ldmatrix(row_major((16, 16)), column_local(2, 2) * ldmatrix_atom(), 16).matrices == 4


def test_swizzled_ldmatrix_has_no_conflicts() -> None:
    for k in (16, 32, 64, 128):
        target = warps_a((64, k), 16)
        place = row_major((64, k), swizzle_for((64, k), 2))
        rows = match_ldmatrix(place, target, 16)
        assert rows is not None and bank_conflicts(place, rows.rows, 16, 8) == 4


def test_where_ldmatrix_does_not_fit() -> None:
    target = warps_a((32, 32), 16)
    assert match_ldmatrix(padded((32, 32), 4), target, 16) is None, "rows are not aligned"
    assert match_ldmatrix(strided((32, 32), (64, 2)), target, 16) is None, "rows have gaps"
    assert match_ldmatrix(row_major((32, 32)), target.with_shape((32, 31)), 16) is None, "pad"
    assert (
        match_ldmatrix(row_major((16, 8)), full_mma_atom(16).c.permute((1, 0)).permute((1, 0)), 16)
        is not None
    )
    assert match_ldmatrix(row_major((32, 8)), spatial(8, 4) * local(4, 2), 16) is None, "other registers"
    assert match_ldmatrix(row_major((8, 2)), spatial(8, 2), 16) is None, "half a warp"
    assert match_ldmatrix(row_major((64,)), spatial(32) * local(2), 16) is None
    with pytest.raises(TilecError, match=r"ldmatrix.trans moves 16-bit elements, not 8-bit ones"):
        ldmatrix_atom(8, trans=True)
