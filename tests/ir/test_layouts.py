"""Layouts by name: fragments over warps, coalesced layouts of any shape, the bytes that hold them."""

from math import gcd, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ir.layout_cases import layouts as any_layout
from tests.ir.layout_cases import numbered, scatter
from tilec.ir import dtype as dt
from tilec.ir import layouts
from tilec.ir.atoms import full_mma_atom
from tilec.ir.digits import Digit
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout, local, register, spatial
from tilec.ir.layout_ops import divide
from tilec.ir.layouts import blocked, mma_a, mma_b, mma_c
from tilec.ir.memory_layout import row_major, vectors

OPERANDS = [dt.tf32, dt.f16, dt.bf16, dt.i8, dt.f8e4m3]


@pytest.mark.parametrize("dtype", OPERANDS)
@pytest.mark.parametrize("warps", [(1, 1), (4, 1), (1, 4), (2, 2)])
def test_fragments_tile_their_atoms(dtype: DType, warps: tuple[int, int]) -> None:
    """Each warp's part of the product is its rows by its columns; operands repeat where warps share them."""
    wm, wn = warps
    m, n, k = 64, 64, 1024 // dtype.bits
    a, b, c = mma_a(dtype, (m, k), warps), mma_b(dtype, (k, n), warps), mma_c(dt.f32, (m, n), warps)
    atom = full_mma_atom(dtype.bits)
    assert all(divide(whole, part) for whole, part in ((a, atom.a), (b, atom.b), (c, atom.c)))
    assert {x.threads for x in (a, b, c)} == {32 * wm * wn}
    assert c.is_bijection and a.is_bijection == (wn == 1) and b.is_bijection == (wm == 1)
    for warp in range(wm * wn):
        lanes = slice(32 * warp, 32 * warp + 32)
        rows = {r for r, _ in a.points()[lanes].reshape(-1, 2).tolist()}
        columns = {n for _, n in b.points()[lanes].reshape(-1, 2).tolist()}
        assert {tuple(p) for p in c.points()[lanes].reshape(-1, 2).tolist()} == {
            (r, n) for r in rows for n in columns
        }
        assert rows == set(range(warp // wn * m // wm, (warp // wn + 1) * m // wm))
        assert columns == set(range(warp % wn * n // wn, (warp % wn + 1) * n // wn))


def test_fragments_by_hand() -> None:
    b = mma_b(dt.f16, (32, 64), warps=4)
    assert b == spatial(1, 4) * local(2, 2) * full_mma_atom(16).b
    assert b.digits("slot") == (Digit(2, (16, 0)), Digit(2, (0, 8)), Digit(2, (8, 0)), Digit(2, (1, 0)))
    assert mma_a(dt.f16, (64, 32), warps=4) == mma_a(dt.f16, (64, 32), warps=(4, 1))
    assert mma_b(dt.f16, (32, 64), warps=4) == mma_b(dt.f16, (32, 64), warps=(1, 4))
    assert mma_c(dt.f32, (64, 64), warps=4) == mma_c(dt.f16, (64, 64), warps=(1, 4))
    ragged = mma_b(dt.f16, (20, 24), warps=2)
    assert ragged.shape == (20, 24) and ragged.cover == (32, 32) and ragged.covers()
    assert mma_c(dt.f64, (16, 16)) == local(2, 2) * full_mma_atom(64).c


def test_fragments_of_several_products() -> None:
    """Warps go over products first; as one longer operand, each has its part of k."""
    several = mma_b(dt.f16, (4, 32, 64), (2, 1, 2))
    assert several == spatial(2, 1, 1) * local(2, 1, 1) * mma_b(dt.f16, (32, 64), 2).insert_axis(0)
    assert several.threads == 128 and several.is_bijection
    whole = several.reshape((128, 64))
    assert whole is not None and whole.at(64, 0) == (64, 0) and whole.reshape((4, 32, 64)) == several


def test_wrong_fragments() -> None:
    with pytest.raises(TilecError, match="mma accumulates in f64, f32, i32 or f16, not i8"):
        mma_c(dt.i8, (16, 16))
    with pytest.raises(TilecError, match=r"product has two axes, of several products three, not \[64\]"):
        mma_a(dt.f16, (64,))
    with pytest.raises(TilecError, match=r"product has three axes, as its warps have, not \[64, 64\]"):
        mma_a(dt.f16, (64, 64), (2, 1, 1))
    with pytest.raises(TilecError, match=r"needs at least one warp on each axis, not \(1, 0\)"):
        mma_b(dt.f16, (64, 64), warps=0)
    with pytest.raises(TilecError, match="no mma of m16n8k85 on 3-bit operands"):
        mma_b(dt.u3, (64, 64))


def test_all_names_are_there() -> None:
    assert all(hasattr(layouts, name) for name in layouts.__all__)


@pytest.mark.parametrize("dtype", [dt.u1, dt.i2, dt.u3, dt.f6e3m2, dt.u4, dt.i5, dt.f16])
def test_bytes_of_a_fragment(dtype: DType) -> None:
    """Thread t's chunk i of c bytes lies at (i * threads + t) * c."""
    fragment = mma_b(dt.f16, (64, 64), warps=4)
    stored = fragment.bytes(dtype)
    count = fragment.slots * dtype.bits // 8
    chunk = gcd(count, 16)
    assert stored.shape == (fragment.nbytes(dtype),) == (64 * 64 * dtype.bits // 8,)
    assert stored.is_bijection and (stored.threads, stored.slots) == (128, count)
    wanted = [[(j // chunk * 128 + t) * chunk + j % chunk for j in range(count)] for t in range(128)]
    assert stored.points()[..., 0].tolist() == wanted
    assert len(vectors(row_major(stored.shape), stored, 8)[0]) == min(chunk, count & -count)


@given(any_layout(pad=False), st.sampled_from([dt.u1, dt.u3, dt.i4, dt.f6e2m3, dt.i8, dt.f32]))
def test_bytes_are_a_bijection_or_an_error(layout: Layout, dtype: DType) -> None:
    if not layout.is_bijection:
        with pytest.raises(TilecError, match=r"bytes\(\) needs one holder for every element"):
            layout.bytes(dtype)
    elif layout.slots * dtype.bits % 8:
        with pytest.raises(TilecError, match=r"slots of .* are \d+ bits, not whole bytes"):
            layout.bytes(dtype)
    else:
        stored = layout.bytes(dtype)
        assert stored.is_bijection and stored.threads == layout.threads
        assert stored.slots * 8 == layout.slots * dtype.bits


shapes = st.lists(st.one_of(st.integers(1, 9), st.sampled_from([16, 31, 32, 33, 64])), max_size=5).filter(
    lambda shape: prod(shape) <= 8192
)


@given(shapes.map(tuple), st.sampled_from([1, 32, 96, 128, 256]), st.sampled_from([1, 2, 4, 8]))
def test_blocked_holds_any_tile(shape: tuple[int, ...], threads: int, vector: int) -> None:
    layout = blocked(shape, threads, vector)
    assert layout.shape == shape and layout.threads == threads and layout.covers()
    assert layout.section_layout() is not None, "replicas and pad, but no overlap"
    if not shape:
        return
    width = min(vector, shape[-1])
    runs = layout.points().reshape(threads, -1, width, len(shape))
    last = np.arange(len(shape)) == len(shape) - 1
    assert np.array_equal(
        runs - runs[:, :, :1], np.broadcast_to(np.arange(width)[:, None] * last, runs.shape)
    )
    assert (runs[:, :, 0, -1] % width == 0).all()


@given(st.integers(0, 4), st.integers(0, 7), st.integers(0, 7), st.integers(0, 3))
def test_blocked_wastes_nothing_on_powers_of_two(rows: int, columns: int, threads: int, vector: int) -> None:
    """No pad, and no thread or slot more than there are elements for."""
    shape = (1 << rows, 1 << columns)
    layout = blocked(shape, 1 << threads, 1 << vector)
    assert layout.cover == shape
    assert layout.slots == max(1 << min(vector, columns), prod(shape) >> threads)
    if layout.threads * layout.slots == layout.size:
        assert layout.is_bijection


def test_blocked_by_hand() -> None:
    assert blocked((16, 64), 128, 8) == spatial(16, 8) * local(1, 8)
    assert blocked((128, 128), 256, 8) == local(8, 1) * spatial(16, 16) * local(1, 8)
    assert blocked((4096,), 128, 4) == local(8) * spatial(128) * local(4)
    ragged = blocked((7, 33), 128)
    assert ragged == (local(1, 3) * spatial(8, 16)).with_shape((7, 33))
    assert blocked((4,), 128) == spatial(4).replicated(threads=32)
    assert blocked((), 128) == register((), (Digit(128, ()),))
    assert blocked((3, 5), 1) == local(3, 5)


def test_blocked_accesses_are_coalesced() -> None:
    """Neighbouring threads' vectors are neighbours in memory, as far as the row goes."""
    for shape, vector in [((64, 64), 8), ((128, 32), 4), ((8, 1024), 4), ((16, 24), 4)]:
        layout = blocked(shape, 128, vector)
        starts = scatter(layout, numbered(shape))[:, 0]
        across = min(128, shape[1] // vector)
        assert (np.diff(starts[:across]) == vector).all()


@pytest.mark.parametrize(("threads", "vector"), [(0, 1), (128, 0)])
def test_wrong_blocks(threads: int, vector: int) -> None:
    with pytest.raises(TilecError, match="a layout needs at least 1 thread and 1 element a vector"):
        blocked((4, 4), threads, vector)
