"""Sparse tiles: what they mean, which are refused, and who holds places."""

import re
from itertools import combinations

import numpy as np
import pytest

import tilec as tc
from tilec.ir import dtype as dt
from tilec.ir.atoms import sparse_atom
from tilec.ir.errors import TilecError
from tilec.ir.func import Arg
from tilec.ir.inst.sparse import Sparse, SparseDot, expanded
from tilec.ir.layout import local, replicas, spatial
from tilec.ir.layouts import mma_a, mma_places
from tilec.ir.run import State
from tilec.ir.tile import TileType


def arg(dtype, *shape):
    return Arg(TileType(dtype, shape), "x")


def test_what_it_means():
    values, places = np.array([[3, 5, 7, 1]]), np.array([[0, 3, 1, 2]])
    np.testing.assert_array_equal(expanded(values, places, 1), [[3, 0, 0, 5, 0, 7, 1, 0]])
    np.testing.assert_array_equal(expanded(values.T, places.T, 0), [[3], [0], [0], [5], [0], [7], [1], [0]])


@pytest.mark.parametrize("pair", list(combinations(range(4), 2)))
def test_a_product_is_that_of_the_expanded_tile(pair):
    rng = np.random.default_rng(pair)
    values, b = rng.integers(-4, 5, (3, 8)), rng.integers(-4, 5, (16, 5))
    places = np.tile(np.array(pair, np.uint8), (3, 4))
    dot = SparseDot(arg(dt.i8, 3, 8), arg(dt.u2, 3, 8), arg(dt.i8, 16, 5), arg(dt.i32, 3, 5), (16, 8, 64))
    found = dot.meaning(State({}), values, places, b, np.ones((3, 5), np.int32))
    np.testing.assert_array_equal(found, expanded(values, places, 1) @ b + 1)
    assert (expanded(values, places, 1).reshape(3, 4, 4)[..., pair] == values.reshape(3, 4, 2)).all()


@pytest.mark.parametrize(("places", "found"), [((2, 1), "2 and 1"), ((3, 3), "3 and 3")])
def test_places_out_of_order(places, found):
    with pytest.raises(TilecError, match=f"in order, the first of a pair before the second: found {found}"):
        expanded(np.ones((1, 4)), np.array([[0, 1, *places]]), 1)


@pytest.mark.parametrize(
    ("values", "places", "axis", "message"),
    [
        (arg(dt.f16, 4, 8), arg(dt.u8, 4, 8), 1, "their places of u2: found f16[4, 8] and u8[4, 8]"),
        (arg(dt.f16, 4, 8), arg(dt.u2, 8, 4), 1, "two tiles of one shape of rank 2"),
        (arg(dt.f16, 8), arg(dt.u2, 8), 0, "two tiles of one shape of rank 2"),
        (arg(dt.f16, 5, 8), arg(dt.u2, 5, 8), 0, "f16[5, 8] has an odd extent along axis 0"),
    ],
)
def test_what_is_no_sparse_tile(values, places, axis, message):
    with pytest.raises(TilecError, match=re.escape(message)):
        Sparse(values, places, axis)


def test_errors_of_the_language():
    @tc.kernel
    def first(x: tc.Array, *, axis=1):
        tile = x.load((0, 0), (4, 4))
        tc.sparse(tile, tile.to(tc.u2), axis)

    @tc.kernel
    def second(x: tc.Array):
        tc.sparse(x, x)

    x = np.ones((4, 4), np.float32)
    with pytest.raises(TilecError, match="rank 2, which have no axis 2"):
        first.meaning(x, axis=2)
    with pytest.raises(TilecError, match="sparse takes tiles, found Array: read one from an array"):
        second.meaning(x)
    with pytest.raises(TilecError, match="the first of a pair before the second: found 1 and 1") as caught:
        first.meaning(x)
    assert caught.value.loc is not None and "tc.sparse(tile" in caught.value.loc.text


def test_who_holds_the_places():
    """mma.sp's metadata as the ISA has it. 16 bits: two rows, four groups of each; 8 bits: one of eight."""
    halves, bytes_ = (sparse_atom(bits).places for bits in (16, 8))
    for lane in range(32):
        g, t = lane >> 2, lane & 3
        wide = [(g + 8 * (i >> 3), 8 * t + i % 8) for i in range(16)]
        narrow = [(g + 8 * (t & 1), 16 * (t >> 1) + i) for i in range(16)]
        assert [halves.at(lane, i) for i in range(16)] == wide
        assert [bytes_.at(lane, i) for i in range(16)] == narrow
    assert halves.is_bijection and bytes_.is_bijection
    with pytest.raises(TilecError, match="operands of 16 or 8 bits, not of 32"):
        sparse_atom(32)


def test_the_right_operand():
    """Register r, element h: row t * p + h + 4 p r, column g."""
    for bits in (16, 8):
        b, p = sparse_atom(bits).b, 32 // bits
        assert b.is_bijection and b.shape == (16 * p, 8)
        for lane in range(32):
            g, t = lane >> 2, lane & 3
            assert [b.at(lane, i) for i in range(4 * p)] == [
                (t * p + i % p + 4 * p * (i // p), g) for i in range(4 * p)
            ]


@pytest.mark.parametrize("dtype", [dt.f16, dt.i8])
def test_warps_hold_the_places_of_their_values(dtype):
    for warps in (1, 4, (2, 2)):
        values, places = (of(dtype, (64, 64), warps) for of in (mma_a, mma_places))
        assert values.threads == places.threads
        for warp in range(values.threads // 32):
            rows = [set(x.points()[32 * warp : 32 * warp + 32, :, 0].flat) for x in (values, places)]
            assert rows[0] == rows[1]
    assert mma_places(dt.f16, (64, 64), (2, 2)) == (
        spatial(2, 1) * replicas(2, 2) * local(2, 2) * sparse_atom(16).places
    )
