"""Loads and stores of tiles: shapes, strides, alignment, windows that leave the array, views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import check_kernel, emulate, out, seeds, values
from tilec.backends.ptx.memory import _along
from tilec.ir import dtype as dt
from tilec.ir.tile import ArrayType

Array = np.ndarray[Any, Any]
WIDTHS = (dt.bool, dt.u8, dt.f8e5m2, dt.f16, dt.bf16, dt.i32, dt.f32, dt.tf32, dt.f64, dt.u64)


@tc.kernel
def copy1(x: tc.Array, y: tc.Array, *, tile=(128,), warps=4):
    X, Y = x.tiles(tile), y.tiles(tile)
    i = tc.blocks(*X.shape)
    Y[i] = X[i]


@tc.kernel
def copy2(x: tc.Array, y: tc.Array, *, tile=(16, 16), warps=4):
    X, Y = x.tiles(tile), y.tiles(tile)
    i, j = tc.blocks(*X.shape)
    Y[i, j] = X[i, j]


@tc.kernel
def copy3(x: tc.Array, y: tc.Array, *, tile=(4, 16, 16), warps=4):
    X, Y = x.tiles(tile), y.tiles(tile)
    i, j, k = tc.blocks(*X.shape)
    Y[i, j, k] = X[i, j, k]


@tc.kernel
def copy4(x: tc.Array, y: tc.Array, *, tile=(4, 2, 16, 16), warps=4):
    X, Y = x.tiles(tile), y.tiles(tile)
    i, j, k, n = tc.blocks(*X.shape)
    Y[i, j, k, n] = X[i, j, k, n]


COPIES = {1: copy1, 2: copy2, 3: copy3, 4: copy4}
MOST = {1: 2000, 2: 80, 3: 20, 4: 9}  # extents of arrays, by rank
TILE = {1: 512, 2: 64, 3: 16, 4: 8}


def placed(a: Array, how: str, draw: np.random.Generator) -> Array:
    """The same elements with other strides, or from an odd address."""
    match how:
        case "column-major":
            return np.asfortranarray(a)
        case "odd address":
            view = np.zeros(a.size + 8, a.dtype)[1 : 1 + a.size].reshape(a.shape)
        case "every other":
            view = np.zeros([2 * n for n in a.shape], a.dtype)[(slice(None, None, 2),) * a.ndim]
        case "long rows":
            view = np.zeros((*a.shape[:-1], a.shape[-1] + int(draw.integers(1, 9))), a.dtype)[
                ..., : a.shape[-1]
            ]
        case "turned":
            axes = draw.permutation(a.ndim)
            return np.ascontiguousarray(a.transpose(axes)).transpose(np.argsort(axes))
        case _:
            return a
    view[...] = a
    return view


PLACES = ("dense", "column-major", "odd address", "every other", "long rows", "turned")


@pytest.mark.parametrize("seed", seeds(40, 600))
def test_copies(seed: int) -> None:
    """Ragged shapes, tiles of any extent, every width of dtype, any strides, any number of warps."""
    draw = np.random.default_rng([seed, 1])
    rank = int(draw.integers(1, 5))
    shape = tuple(int(min(MOST[rank], n)) for n in draw.choice([1, 2, 7, 8, 16, 33, 60, 1999], rank))
    tile = tuple(int(min(TILE[rank], n)) for n in draw.choice([1, 2, 3, 4, 7, 8, 16, 32, 33, 64, 512], rank))
    tile = tuple(max(t, n // 6) for t, n in zip(tile, shape, strict=True))
    dtype = WIDTHS[int(draw.integers(len(WIDTHS)))]
    x, y = (
        placed(a, str(draw.choice(PLACES)), draw) for a in (values(dtype, shape, seed), out(shape, dtype))
    )
    check_kernel(COPIES[rank], (dtype, x), (dtype, y), tile=tile, warps=int(draw.choice([1, 2, 3, 4, 8])))


@pytest.mark.parametrize(
    ("tile", "accesses"), [((64, 64), "v4.b32"), ((7, 33), "b16"), ((128,), "b32"), ((16, 16), "v2.b32")]
)
def test_widths(tile: tuple[int, ...], accesses: str) -> None:
    """An access is as wide as the tile and the alignment allow."""
    shape = tuple(4 * n for n in tile)
    arrays = [(dt.f16, values(dt.f16, shape, 0)), (dt.f16, out(shape, dt.f16))]
    kernel = check_kernel(COPIES[len(tile)], *arrays, tile=tile, warps=2)
    found = kernel.ptx.replace(".u", ".b")  # as LLVM 20 writes it
    assert f"ld.global.nc.{accesses} " in found and f"st.global.{accesses} " in found


@tc.kernel
def window(x: tc.Array, y: tc.Array, i: tc.i32, j: tc.i32, *, tile=(8, 8), other=None, warps=2):
    y.store((0, 0), x.load((i, j), tile, other=other))


@tc.kernel
def constant_window(x: tc.Array, y: tc.Array, *, at=(0, 0), tile=(8, 8), other=None, warps=2):
    y.store((0, 0), x.load(at, tile, other=other))


@tc.kernel
def windowed_store(x: tc.Array, y: tc.Array, i: tc.i32, j: tc.i32, *, tile=(8, 8), warps=2):
    y.store((i, j), x.load((0, 0), tile))


@tc.kernel
def halo(x: tc.Array, y: tc.Array, *, tile=(8, 8), halo=1, other=None, warps=2):
    """Tiles with a border, by way of shared memory."""
    bm, bn = tile
    i, j = tc.blocks(tc.cdiv(y.shape[0], bm), tc.cdiv(y.shape[1], bn))
    big = (bm + 2 * halo, bn + 2 * halo)
    s = tc.shared(big, x.dtype)
    s.store((0, 0), x.load((i * bm - halo, j * bn - halo), big, other=other))
    y.store((i * bm, j * bn), s.load((2 * halo, halo), tile))


@pytest.mark.parametrize("seed", seeds(10, 120))
def test_windows(seed: int) -> None:
    """Windows partly or wholly outside: other inside, nothing outside, in registers and in shared memory."""
    draw = np.random.default_rng([seed, 2])
    dtype = (dt.u8, dt.f16, dt.f32, dt.i64, dt.bool)[int(draw.integers(5))]
    shape, tile = (
        tuple(draw.integers(1, 40, 2).tolist()),
        tuple(draw.choice([1, 2, 4, 7, 8, 16, 33], 2).tolist()),
    )
    options = {"tile": tile, "warps": int(draw.choice([1, 2, 4]))}
    other = None if draw.random() < 0.4 else dtype.is_bool or 3
    at = tuple(draw.integers(-50, 50, 2).tolist() if seed % 2 else draw.integers(-8, 30, 2).tolist())
    x, offsets = (dtype, values(dtype, shape, seed)), [np.int32(n) for n in at]
    check_kernel(window, x, (dtype, out(tile, dtype)), *offsets, other=other, **options)
    check_kernel(constant_window, x, (dtype, out(tile, dtype)), at=at, other=other, **options)
    check_kernel(windowed_store, x, (dtype, out(shape, dtype)), *offsets, **options)
    check_kernel(halo, x, (dtype, out(shape, dtype)), halo=int(draw.integers(4)), other=other, **options)


@tc.kernel
def read_view(x: tc.Array, y: tc.Array, low: tc.i32, high: tc.i32, row: tc.i32, *, step=1, tile=(8, 8),
              at=(0, 0), other=None, drop_first=False, warps=2):  # fmt: skip
    v = x[row, low:high:step, :] if drop_first else x[low:high:step, row, 1::2]
    y.store((0, 0), v.load(at, tile, other=other))


@tc.kernel
def write_view(x: tc.Array, y: tc.Array, low: tc.i32, high: tc.i32, row: tc.i32, *, step=1, tile=(8, 8),
               at=(0, 0), drop_first=False, warps=2):  # fmt: skip
    v = y[row, low:high:step, :] if drop_first else y[low:high:step, row, 1::2]
    v[1:, ::2].store(at, x.load((0, 0), tile))


@pytest.mark.parametrize("seed", seeds(10, 150))
def test_views(seed: int) -> None:
    """Slices with run-time starts and steps, axes dropped at indices inside and outside, views of views."""
    draw = np.random.default_rng([seed, 3])
    dtype = (dt.u8, dt.f16, dt.f32, dt.i64)[int(draw.integers(4))]
    shape, tile = tuple(draw.integers(1, 14, 3).tolist()), tuple(draw.choice([1, 2, 4, 7, 16], 2).tolist())
    options: dict[str, Any] = {
        "step": int(draw.integers(1, 4)),
        "tile": tile,
        "warps": int(draw.choice([1, 2, 4])),
    }
    options |= {"at": tuple(draw.integers(-5, 9, 2).tolist()), "drop_first": bool(draw.integers(2))}
    bounds = [np.int32(n) for n in draw.integers(-4, 16, 3)]
    x = (dtype, values(dtype, shape, seed))
    check_kernel(read_view, x, (dtype, out(tile, dtype)), *bounds, other=[None, 3][seed % 2], **options)
    small = (dtype, values(dtype, tile, seed))
    check_kernel(write_view, small, (dtype, out(shape, dtype)), *bounds, **options)


@tc.kernel
def as_f32(x: tc.Array, y: tc.Array, *, warps=1):
    y.store((0, 0), x.load((0, 0), (16, 16)).to(tc.f32))


@tc.kernel
def times_one(x: tc.Array, one: tc.Array, y: tc.Array, *, warps=1):
    y.store((0, 0), tc.dot(x.load((0, 0), (16, 16)), one.load((0, 0), (16, 16))))


def test_low_bits_of_tf32() -> None:
    """An array of tf32 may hold any f32: wherever it is read, the low bits mean nothing."""
    x, one = (
        np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32),
        np.eye(16, dtype=np.float32),
    )
    check_kernel(as_f32, (dt.tf32, x), (dt.f32, out((16, 16), dt.f32)))
    check_kernel(times_one, (dt.tf32, x), (dt.tf32, one), (dt.f32, out((16, 16), dt.f32)))


def test_reads_stay_inside() -> None:
    """A thread that holds an odd number of neighbours reads just these, wherever they are."""
    for dtype in (dt.u8, dt.f16, dt.f32, dt.f64):
        check_kernel(odd, (dtype, values(dtype, 7, 1)), (dtype, out(7, dtype)))


EVERYWHERE = tc.local(7).replicated(threads=64)


@tc.kernel
def odd(x: tc.Array, y: tc.Array, *, warps=2):
    tile = tc.annotate(x.load((0,), (7,)), EVERYWHERE)
    s = tc.shared((7,), x.dtype)
    s.store((0,), tile)
    y.store((0,), tc.annotate(s.load((0,), (7,)), EVERYWHERE) + tile)


@tc.kernel
def copy_once(x: tc.Array, y: tc.Array, *, tile=(1000,), warps=1):
    X, Y = x.tiles(tile), y.tiles(tile)
    i = tc.blocks(*X.shape)
    x.read_once()
    Y[i] = X[i]


def test_what_is_read_once_leaves_the_caches_first() -> None:
    """With and without a mask, past the L1 cache; the policy changes no element."""
    for n, dtype in ((4000, dt.f32), (1001, dt.f16), (999, dt.u8)):
        kernel = check_kernel(copy_once, (dtype, values(dtype, n, 0)), (dtype, out(n, dtype)))
        assert "ld.global.nc.L1::no_allocate.L2::cache_hint" in kernel.ptx


@tc.kernel
def shared_once(y: tc.Array):
    tc.blocks(1)
    s = tc.shared((32,), tc.f32)
    s.read_once()
    y.store(0, s.load(0, 32))


def test_only_global_memory_is_cached() -> None:
    with pytest.raises(tc.TilecError, match="read_once is about arrays in global memory, found"):
        shared_once.compile(tc.Spec("f32", (32,)), target="sm_80")


def test_a_line_is_copied_in_stretches() -> None:
    """What a warp copies lies together: offsets from its first address fit an instruction."""
    line = _along(ArrayType(dt.u8, (1, 8192), (8192, 1)), (1, 8192), 128, 16)
    assert line.is_bijection and line.slot_part()[::16, 1].tolist() == [0, 512, 1024, 1536]
    starts = np.repeat(np.arange(4) * 2048, 32) + np.tile(np.arange(32) * 16, 4)
    assert np.array_equal(line.thread_part()[:, 1], starts)
    rows = _along(ArrayType(dt.f16, (16, 128), (128, 1)), (16, 128), 128, 8)
    assert rows.thread_part()[16].tolist() == [1, 0]


@tc.kernel
def odd_product(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=2):
    acc = tc.zeros((32, 32), tc.f32)
    for s in tc.range(2, stages=2):
        acc = tc.dot(a.load((0, s * 16), (32, 16)), b.load((s * 16, 0), (16, 32)), acc)
    c.store((0, 0), acc)


def test_copies_of_single_elements_lie_side_by_side() -> None:
    """Rows of an odd number of elements: a warp copies neighbours, not every fourth one."""
    shapes = (32, 33), (33, 35), (32, 35)
    args = [(dt.f32, values(dt.f32, shape, i, small=True)) for i, shape in enumerate(shapes)]
    kernel = check_kernel(odd_product, *args)
    lines = kernel.ptx.splitlines()
    counts = emulate(kernel, [a.copy() for _, a in args]).metrics.global_
    used = [each for n, each in counts.items() if "cp.async.ca" in lines[n - 1]]
    assert used and sum(t.units for t in used) < 2 * sum(t.least for t in used)
