"""Elements at places that a tile names: gathers, scatters, atomics; and arrays of packed elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import build, check_kernel, out, seeds, trace, values
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import ALL, DType
from tilec.ir.errors import TilecError
from tilec.ir.packing import PackedArray, packed_bytes

INDICES = (dt.i32, dt.i64, dt.u8, dt.u16, dt.i8, dt.u32, dt.u64)
DTYPES = (dt.bool, dt.u8, dt.f16, dt.f32, dt.i64)
SMALL = tuple(d for d in ALL if d.bits < 8)


@tc.kernel
def gathers(
    x: tc.Array, rows: tc.Array, columns: tc.Array, y: tc.Array, z: tc.Array, *, n=64, other=None, warps=2
):
    i, j = rows.load((0,), (n,)), columns.load((0,), (n,))
    y.store((0,), x.gather(i, j, other=other))
    y.store((n,), x.gather(i, 5, other=other))
    z.scatter((tc.arange(n) * 7 % 61, j), x.gather(i, j, other=other))


@tc.kernel
def elements(x: tc.Array, y: tc.Array, i: tc.i32, j: tc.i32, *, other=None, warps=2):
    a = x.at(i, j, other=other)
    y.store((0,), tc.full((4,), a, x.dtype))
    y.store((4,), x.at(0, 0))
    if i > 3:
        y.store((5,), x.at(i, j - 1))
    y.scatter((6,), a)


def places(dtype: DType, count: int, draw: np.random.Generator, low: int = -3, high: int = 13) -> Any:
    return dtype, codec.to_storage(codec.round_to(draw.integers(low, high, count), dtype), dtype)


@pytest.mark.parametrize("seed", seeds(10, 120))
def test_gathers(seed: int) -> None:
    """Indices of every integer dtype, inside the array and outside; single elements by scalars."""
    draw = np.random.default_rng([seed, 4])
    dtype, n = DTYPES[seed % 5], int(draw.choice([1, 7, 32, 61]))
    rows, columns = (places(INDICES[int(draw.integers(7))], n, draw) for _ in range(2))
    x = (dtype, values(dtype, (9, 10), seed))
    options = {"other": None if seed % 2 else dtype.is_bool or 3, "warps": int(draw.choice([1, 2, 4]))}
    outputs = [(dtype, out(2 * n, dtype)), (dtype, out((61, 10), dtype))]
    check_kernel(gathers, x, rows, columns, *outputs, n=n, **options)
    at = [np.int32(k) for k in draw.integers(-2, 12, 2)]
    check_kernel(elements, x, (dtype, out(8, dtype)), *at, **options)


@tc.kernel
def integer_atomics(x: tc.Array, v: tc.Array, i: tc.Array, *, n=64, warps=2):
    tc.blocks(3)
    at, value = i.load((0,), (n,)), v.load((0,), (n,))
    x.atomic_add((at, 0), value)
    x.atomic_min((at, 1), value)
    x.atomic_max((at, 2), value)
    x.atomic_and((at, 3), value)
    x.atomic_or((at, 4), value)
    x.atomic_xor((at, 5), value)
    x.atomic_add((3, 6), 1)


@tc.kernel
def sums(x: tc.Array, v: tc.Array, i: tc.Array, *, n=64, warps=2):
    """Sums in global memory, and in shared memory."""
    at, value = i.load((0,), (n,)), v.load((0,), (n,))
    x.atomic_add((at, 0), value)
    s = tc.shared((16,), x.dtype)
    s.store((0,), tc.zeros((16,), x.dtype))
    s.atomic_add((at,), value)
    x.store((0, 1), s.load((0,), (16,))[:, None])


@pytest.mark.parametrize("dtype", [dt.i32, dt.u32, dt.i64, dt.u64], ids=str)
@pytest.mark.parametrize("n", [1, 33, 256])
def test_integer_atomics(dtype: DType, n: int) -> None:
    draw = np.random.default_rng([n, 5])
    arrays = (
        (dtype, values(dtype, (16, 7), n)),
        (dtype, values(dtype, n, n)),
        places(dt.i32, n, draw, -3, 20),
    )
    check_kernel(integer_atomics, *arrays, n=n)


@pytest.mark.parametrize("name", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("dtype", [dt.i32, dt.f32, dt.f64, dt.f16, dt.bf16], ids=str)
def test_sums(dtype: DType, name: str) -> None:
    """Small whole numbers, whose sums are exact in any order."""
    if (dtype, name) == (dt.bf16, "sm_80"):
        pytest.skip("sm_80 has no atomic_add on bf16: see test_errors")
    draw, n = np.random.default_rng(6), 100
    x, v = ((dtype, values(dtype, shape, 6, small=True)) for shape in ((16, 2), n))
    check_kernel(sums, x, v, places(dt.i32, n, draw, -3, 20), n=n, name=name)


# -- packed arrays --------------------------------------------------------------------------------


def packed(dtype: DType, shape: tuple[int, int], seed: int) -> PackedArray:
    room = packed_bytes(shape[0] * shape[1], dtype.bits)
    return PackedArray(np.random.default_rng(seed).integers(0, 256, room).astype(np.uint8), dtype, shape)


@tc.kernel
def unpack(
    x: tc.Array, places: tc.Array, y: tc.Array, i: tc.i32, j: tc.i32, *, tile=(8, 8), other=None, warps=2
):
    bm, bn = tile
    y.store((0, 0), x.load((i, j), tile, other=other).to(tc.f32))
    y.store((bm, 0), x[i:, j::2].load((0, 1), tile, other=other).to(tc.f32))
    at = places.load((0,), (bn,))
    y.store((2 * bm, 0), x.gather(at, at + 1, other=other).to(tc.f32)[None, :])
    y.store((2 * bm + 1, 0), x.at(1, 1).to(tc.f32))


@tc.kernel
def repack(x: tc.Array, y: tc.Array, *, tile=(8, 8), warps=2):
    X, Y = x.tiles(tile), y.tiles(tile)
    i, j = tc.blocks(*X.shape)
    Y[i, j] = X[i, j]


@pytest.mark.parametrize("seed", seeds(10, 150))
def test_packed(seed: int) -> None:
    """Packed elements of every width load from anywhere, also through views, and store in whole bytes."""
    draw = np.random.default_rng([seed, 7])
    dtype, warps = SMALL[int(draw.integers(len(SMALL)))], int(draw.choice([1, 2, 4]))
    shape, tile = tuple(draw.integers(2, 40, 2).tolist()), tuple(draw.choice([1, 2, 7, 16, 33], 2).tolist())
    other = None if seed % 2 else 1 if dtype.max >= 1 else -1
    y, at = (dt.f32, out((2 * tile[0] + 2, tile[1]), dt.f32)), [np.int32(n) for n in draw.integers(-9, 30, 2)]
    where = places(dt.i32, tile[1], draw, -3, 30)
    check_kernel(unpack, packed(dtype, shape, seed), where, y, *at, tile=tile, other=other, warps=warps)
    run = 8 // int(np.gcd(8, dtype.bits))
    whole, part = (shape[0], run * int(draw.integers(1, 6))), (tile[0], run * int(draw.choice([1, 2, 4])))
    check_kernel(repack, packed(dtype, whole, 1), packed(dtype, whole, 2), tile=part, warps=warps)


@tc.kernel
def store_part(x: tc.Array, y: tc.Array, *, first=0, warps=1):
    y[1:, first:].store((0, 0), x.load((0, 0), (2, 8)))


def test_packed_views_are_written_in_whole_bytes() -> None:
    """A view that starts inside a byte, or whose rows do, cannot be written."""
    check_kernel(store_part, packed(dt.u4, (2, 8), 1), packed(dt.u4, (4, 32), 2), first=6)
    for shape, first in (((4, 32), 7), ((4, 31), 6)):
        func = trace(store_part, packed(dt.u4, (2, 8), 1), packed(dt.u4, shape, 2), first=first)
        with pytest.raises(
            TilecError, match="a store to packed u4 needs each thread to write whole bytes: 2"
        ):
            build(func, "sm_80")


@tc.kernel
def sliding_product(x: tc.Array, w: tc.Array, y: tc.Array, *, pitch: int, warps: int = 2):
    """y = sum over r of x[r : r + 32, 8 : 40] @ w[r]; rows of x are read from run-time places."""
    xs, ws = tc.shared((40, pitch), x.dtype), tc.shared((8, 32, 24), x.dtype)
    xs.store((0, 0), x.load((0, 0), xs.shape))
    ws.store((0, 0, 0), w.load((0, 0, 0), ws.shape))
    acc = tc.zeros((32, 8), tc.f32)
    for r in tc.range(8):
        acc = tc.dot(xs.load((r, 8), (32, 32)), ws.load((r, 0, 8), (1, 32, 8)).reshape((32, 8)), acc)
    y.store((0, 0), acc)


@pytest.mark.parametrize(("pitch", "by_matrices"), [(40, True), (44, False)])
def test_rows_at_run_time_are_read_by_matrices(pitch: int, by_matrices: bool) -> None:
    """Where they are whole rows of 16 bytes; rows of 80 bytes meet no bank twice."""
    arrays = [(dt.f16, values(dt.f16, shape, i)) for i, shape in enumerate([(40, 44), (8, 32, 24)])]
    kernel = check_kernel(sliding_product, *arrays, out((32, 8), dt.f32), bound=1e-3, pitch=pitch)
    assert ("ldmatrix.sync.aligned.m8n8.x4.shared" in kernel.ptx) == by_matrices
