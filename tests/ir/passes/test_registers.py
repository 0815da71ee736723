"""Tiles that no thread's registers hold are refused at the user's line, with numbers."""

import pytest

import tilec as tc


@tc.kernel
def double(x: tc.Array, y: tc.Array, *, bm=512, bn=512, warps=4):
    i, j = tc.blocks(*x.tiles((bm, bn)).shape)
    y.tiles((bm, bn))[i, j] = x.tiles((bm, bn))[i, j] * 2


SPEC = tc.Spec("f32", ("m", tc.dim("n", multiple=4)))


def test_a_tile_too_large_for_the_registers_says_what_would_fit() -> None:
    expected = (
        r"test_registers\.py:11: f32\[512, 512\] needs 2048 registers of each of 128 threads, sm_80 has 255: "
        r"take tiles of at most half of 32640 elements"
    )
    with pytest.raises(tc.TilecError, match=expected):
        _ = double.compile(SPEC, SPEC, target="sm_80").ptx


def test_more_warps_are_proposed_where_they_help() -> None:
    with pytest.raises(tc.TilecError, match=r"needs 512 registers .* warps=32 would give each 64, or take"):
        _ = double.compile(SPEC, SPEC, target="sm_80", bm=256, bn=256).ptx


def test_a_tile_that_fits_is_compiled() -> None:
    assert "st.global" in double.compile(SPEC, SPEC, target="sm_80", bm=64, bn=128).ptx
