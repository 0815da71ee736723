"""Arrays on the CPU: windows that leave them, strides of any kind, every dtype, packed elements, views,
shared memory.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tests.backends.cpu.build import Builder, agree, array, reference, scalar
from tests.backends.test_emit import samples
from tilec.backends import cpu
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import ALL, DType
from tilec.ir.errors import TilecError
from tilec.ir.inst import arith, memory, sync
from tilec.ir.packing import PackedArray, pack_codes
from tilec.ir.tile import ArrayType, Dim

STRIDED = (Dim("s"), Dim("t"))


def stored(dtype: DType, *extents: int, seed: int = 1) -> Any:
    """Random values of a dtype as a user holds them."""
    count = int(np.prod(extents))
    return codec.to_storage(samples(dtype, max(count, 1), seed)[:count], dtype).reshape(extents)


def mover(
    dtype: DType, source: ArrayType, target: ArrayType, shape: tuple[int, ...], at: Any, to: Any
) -> Any:
    """A kernel that loads a window and stores it elsewhere."""
    b = Builder(source, target)
    tile = b.load(b.params[0], at, *shape, other=1)
    b.store(b.params[1], to, tile)
    return b.func()


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_every_dtype_moves(dtype: DType) -> None:
    kind = array(dtype, Dim("m"), Dim("n"))
    func = mover(dtype, kind, kind, (5, 40), (1, -3), (-2, 2))
    agree(func, [stored(dtype, 9, 50), stored(dtype, 9, 50, seed=2)])


@pytest.mark.parametrize("rank", range(1, 5))
@pytest.mark.parametrize("extent", [0, 1, 2, 3, 7])
def test_windows_of_any_rank(rank: int, extent: int) -> None:
    dims = tuple(Dim(f"n{i}") for i in range(rank))
    kind = ArrayType(dt.f32, dims, (*(Dim(f"s{i}") for i in range(rank - 1)), 1))
    shape = (3, 2, 4, 5)[-rank:]
    for start in (-2, 0, 1, 6):
        func = mover(dt.f32, kind, kind, shape, (start,) * rank, (-start // 2,) * rank)
        agree(func, [stored(dt.f32, *(extent + i for i in range(rank))) for _ in range(2)])


@pytest.mark.parametrize("dtype", [dt.f32, dt.i8, dt.bf16, dt.f64], ids=str)
@pytest.mark.parametrize("name", ["plain", "reversed", "transposed", "steps", "repeated"])
def test_strides(dtype: DType, name: str) -> None:
    base = stored(dtype, 40, 60)
    seen = {"plain": base, "reversed": base[::-1, ::-1], "transposed": base.T, "steps": base[::3, 1::5],
            "repeated": np.broadcast_to(base[:1], (40, 60))}[name]  # fmt: skip
    kind = ArrayType(dtype, (Dim("m"), Dim("n")), STRIDED)
    for start in (0, -3, 9):
        agree(
            mover(dtype, kind, kind, (8, 20), (start, 2), (0, start)),
            [seen, stored(dtype, 40, 60)[::-1, ::2]],
        )
        agree(
            mover(dtype, kind, kind, (40, 1), (start, 2), (0, start)),
            [seen, stored(dtype, 70, 60)[::-1, ::2]],
        )


@pytest.mark.parametrize("dtype", [dt.f32, dt.i8, dt.bf16, dt.f64], ids=str)
def test_columns_that_are_known_to_be_dense(dtype: DType) -> None:
    """The transpose of a row-major array: its tiles are read along the first axis."""
    kind = ArrayType(dtype, (Dim("m"), Dim("n")), (1, Dim("t")))
    for start, shape in ((0, (8, 20)), (-3, (8, 20)), (9, (33, 5)), (2, (1, 9)), (5, (16, 1))):
        func = mover(dtype, kind, kind, shape, (start, 2), (0, start))
        agree(func, [stored(dtype, 40, 60).T, stored(dtype, 40, 60).T])
    shared = ArrayType(dtype, (Dim("a"), Dim("m"), Dim("n")), (Dim("r"), 1, Dim("t")))
    func = mover(dtype, shared, shared, (2, 8, 5), (1, -2, 3), (0, 1, 0))
    agree(func, [stored(dtype, 4, 20, 30).transpose(0, 2, 1), stored(dtype, 4, 20, 30).transpose(0, 2, 1)])


@pytest.mark.parametrize("inside", [(), (0,), (1,), (0, 1)])
def test_proven_axes_are_not_checked(inside: tuple[int, ...]) -> None:
    kind = array(dt.f32, Dim("m"), Dim("n"))
    b = Builder(kind, kind)
    other = b.const(5, dt.f32)
    x = b(memory.Load(b.params[0], b.at(1, 2), (6, 18), other, inside=inside))
    b(memory.Store(b.params[1], b.at(0, 1), b(arith.Add(x, x)), inside))
    agree(b.func(), [stored(dt.f32, 7, 20), stored(dt.f32, 7, 20)])


PACKED = [d for d in ALL if d.bits < 8]


@pytest.mark.parametrize("dtype", PACKED, ids=str)
def test_packed_arrays(dtype: DType) -> None:
    codes = np.random.default_rng(3).integers(0, 1 << dtype.bits, (7, 37)).astype(np.uint8)
    given = PackedArray(pack_codes(codes, dtype.bits), dtype, codes.shape)
    kind = array(dtype, Dim("m"), Dim("n"), packed=True)
    for at, shape in (((0, 0), (7, 37)), ((1, -2), (3, 40)), ((5, 30), (4, 16)), ((2, 3), (1, 1))):
        b = Builder(kind, array(dtype, *shape))
        b.store(b.params[1], (0, 0), b.load(b.params[0], at, *shape, other=1))
        agree(b.func(), [given, np.zeros(shape, dtype.storage)])


@pytest.mark.parametrize("dtype", [dt.u1, dt.i3, dt.u4, dt.f6e3m2, dt.u7], ids=str)
def test_packed_gathers_and_slices(dtype: DType) -> None:
    codes = np.random.default_rng(4).integers(0, 1 << dtype.bits, (9, 21)).astype(np.uint8)
    given = PackedArray(pack_codes(codes, dtype.bits), dtype, codes.shape)
    b = Builder(array(dtype, Dim("m"), Dim("n"), packed=True), array(dtype, 20), array(dtype, 11))
    rows = b(arith.Iota((20,), 0, dt.i32))
    columns = b(arith.Mul(rows, b.const(2, dt.i32, 20)))
    b.store(b.params[1], (0,), b(memory.Gather(b.params[0], (rows, columns), b.const(0, dtype))))
    view = b(
        memory.ArraySlice(b.params[0], (b.const(4, dt.i32), b.const(1, dt.i32)), (None, None), (1, 2), (0,))
    )
    b.store(b.params[2], (0,), b.load(view, (0,), 11))
    agree(b.func(), [given, np.zeros(20, dtype.storage), np.zeros(11, dtype.storage)])


@pytest.mark.parametrize("dtype", [dt.u1, dt.i3, dt.u4, dt.f6e3m2, dt.u7], ids=str)
def test_packed_stores(dtype: DType) -> None:
    """What was there beside the window stays; packed memory is compared by the codes that come out."""
    random = np.random.default_rng(5)
    before = random.integers(0, 1 << dtype.bits, (5, 24)).astype(np.uint8)
    given = PackedArray(pack_codes(before, dtype.bits), dtype, before.shape)
    b = Builder(array(dtype, 6, 16), array(dtype, Dim("m"), Dim("n"), packed=True))
    b.store(b.params[1], (2, 5), b.load(b.params[0], (0, 0), 6, 16))
    new = random.integers(0, 1 << dtype.bits, (6, 16)).astype(np.uint8)
    values = codec.to_storage(codec.decode(new, dtype), dtype)
    cpu.compile(b.func()).launch([values, given], 1)
    before[2:, 5:21] = new[:3]
    np.testing.assert_array_equal(given.codes(), before)


SLICES = list(itertools.product((None, -3, 2, 30), (None, 1, 17, 90), (1, 3)))


@pytest.mark.parametrize("start, stop, step", SLICES)
def test_slices(start: int | None, stop: int | None, step: int) -> None:
    b = Builder(array(dt.i32, Dim("m"), Dim("n")), array(dt.i32, 8, 16), array(dt.i32, 16), scalar(dt.i64))
    ends = [None if v is None else b.const(v, dt.i32) for v in (start, stop)]
    view = b(memory.ArraySlice(b.params[0], (ends[0], None), (ends[1], None), (step, 2)))
    b.store(b.params[1], (0, 0), b.load(view, (1, 0), 8, 16, other=-1))
    row = b(memory.ArraySlice(b.params[0], (b.params[3], ends[0]), (None, ends[1]), (1, step), (0,)))
    b.store(b.params[2], (0,), b.load(row, (0,), 16, other=-1))
    b.store(row, (2,), b.const(99, dt.i32, 3))
    for index in (0, 5, 20, -1):
        agree(b.func(), [stored(dt.i32, 20, 30), stored(dt.i32, 8, 16), stored(dt.i32, 16), index])


def test_sizes_of_views() -> None:
    b = Builder(array(dt.i32, Dim("m"), Dim("n")), array(dt.i32, 2))
    view = b(memory.ArraySlice(b.params[0], (b.const(3, dt.i32), None), (None, b.const(9, dt.i32)), (2, 4)))
    for axis in (0, 1):
        b.store(b.params[1], (axis,), b(shape_one(b, memory.Size(view, axis))))
    agree(b.func(), [stored(dt.i32, 20, 30), np.zeros(2, np.int32)])


def shape_one(b: Builder, inst: Any) -> Any:
    from tilec.ir.inst.shape import Reshape

    return Reshape(b(inst), (1,))


@pytest.mark.parametrize("dtype", [dt.f32, dt.f16, dt.u8, dt.f64, dt.bool], ids=str)
def test_gather_and_scatter(dtype: DType) -> None:
    b = Builder(array(dtype, Dim("m"), Dim("n")), array(dtype, Dim("m"), Dim("n")), array(dt.i64, 6, 21))
    rows = b.load(b.params[2], (0, 0), 6, 21)
    columns = b(arith.Cast(b(arith.Iota((6, 21), 1, dt.u8)), dt.i32))
    found = b(memory.Gather(b.params[0], (rows, columns), b.const(1, dtype)))
    b(memory.Scatter(b.params[1], (rows, columns), found))
    rows_ = (
        np.array([np.random.default_rng(i).permutation(21) for i in range(6)]) * 6 + np.arange(6)[:, None] - 9
    )
    agree(b.func(), [stored(dtype, 90, 19), stored(dtype, 90, 19), rows_.astype(np.int64)])


@pytest.mark.parametrize("op", list(memory.ATOMICS))
@pytest.mark.parametrize("dtype", [dt.i32, dt.u32, dt.i64, dt.u64, dt.f16, dt.bf16, dt.f32, dt.f64], ids=str)
def test_atomics(op: str, dtype: DType) -> None:
    if dtype.is_float and op != "add":
        return
    b = Builder(array(dtype, Dim("m")), array(dtype, 40))
    index = b(arith.Mod(b(arith.Iota((40,), 0, dt.i32)), b.const(7, dt.i32, 40)))
    b(memory.Atomic(op, b.params[0], (index,), b.load(b.params[1], (0,), 40)))
    target, values = (np.nan_to_num(v) if dtype.is_float and dtype.bits > 16 else v for v in
                      (stored(dtype, 5), stored(dtype, 40)))  # fmt: skip
    if dtype.is_float:  # sums that are exact, in any order
        small = np.random.default_rng(1).integers(-8, 9, 40)
        values = codec.to_storage(codec.round_to(small, dtype), dtype)
        target = codec.to_storage(codec.round_to(small[:5], dtype), dtype)
    agree(b.func(), [target, values])


def test_atomics_of_many_blocks() -> None:
    b = Builder(array(dt.i32, 3), array(dt.f32, 1), array(dt.i32, 700))
    block = b(sync.BlockIndex((b.const(700, dt.i32),), 0))
    b(memory.Atomic("add", b.params[0], (b(arith.Mod(block, b.const(3, dt.i32))),), block))
    b(memory.Atomic("add", b.params[1], (b.const(0, dt.i32),), b.const(0.5, dt.f32)))
    agree(b.func(), [np.zeros(3, np.int32), np.zeros(1, np.float32), np.zeros(700, np.int32)], threads=4)


@pytest.mark.parametrize("dtype", [dt.f32, dt.i4, dt.bool, dt.f8e4m3, dt.bf16, dt.u16], ids=str)
def test_shared_memory(dtype: DType) -> None:
    """It starts poisoned, is written and read by windows, and has other shapes."""
    b = Builder(array(dtype, Dim("m"), Dim("n")), array(dtype, 6, 20), array(dtype, 60))
    shared = b(memory.Alloc(dtype, (6, 10)))
    b.store(shared, (1, -2), b.load(b.params[0], (0, 0), 3, 10))
    b.store(b.params[1], (0, 0), b.load(shared, (0, -4), 6, 20))
    b.store(shared, (4, 0), b.load(shared, (1, 1), 2, 10))
    flat = b(memory.ArrayReshape(shared, (60,)))
    b.store(b.params[2], (0,), b.load(flat, (0,), 60))
    agree(b.func(), [stored(dtype, 2, 8), stored(dtype, 6, 20), stored(dtype, 60)])


def test_copies() -> None:
    b = Builder(array(dt.f32, Dim("m"), Dim("n")), array(dt.f32, 4, 24))
    shared = b(memory.Alloc(dt.f32, (4, 24)))
    token = b(memory.Copy(b.params[0], b.at(1, -2), shared, b.const(3, dt.f32)))
    b(memory.Wait((token,)))
    b(sync.Barrier())
    b.store(b.params[1], (0, 0), b.load(shared, (0, 0), 4, 24))
    agree(b.func(), [stored(dt.f32, 4, 20), stored(dt.f32, 4, 24)])


def test_stages() -> None:
    """A ring of buffers, filled and read by run-time numbers."""
    b = Builder(array(dt.f32, 3, 20), array(dt.f32, 5, 20), array(dt.i32, 5))
    ring = b(memory.Alloc(dt.f32, (3, 4, 20)))

    def body(index: Any) -> None:
        buffer = b(memory.Stage(ring, b(arith.Mod(index, b.const(3, dt.i32)))))
        b.store(buffer, (1, 0), b.load(b.params[0], (b(arith.Mod(index, b.const(2, dt.i32))), 0), 1, 20))
        last = b(
            memory.Stage(ring, b(arith.Mod(b(arith.Add(index, b.const(2, dt.i32))), b.const(3, dt.i32))))
        )
        b.store(b.params[1], (index, 0), b.load(last, (1, 0), 1, 20))

    b.loop(0, 5, (), body)
    agree(b.func(), [stored(dt.f32, 3, 20), stored(dt.f32, 5, 20), stored(dt.i32, 5)])


def test_reads_come_before_writes() -> None:
    """A tile keeps what was there when it was loaded, also where the array is written over meanwhile."""
    b = Builder(array(dt.i32, Dim("n")), array(dt.i32, 64))
    x = b.load(b.params[0], (0,), 64)
    y = b(arith.Add(x, b.const(1, dt.i32, 64)))
    b.store(b.params[0], (3,), y)
    b.store(b.params[0], (1,), x)
    b.store(b.params[1], (0,), b(arith.Sub(b.load(b.params[0], (0,), 64), x)))
    agree(b.func(), [stored(dt.i32, 70), stored(dt.i32, 64)])
    agree(b.func(), [stored(dt.i32, 30), stored(dt.i32, 64)])


@pytest.mark.parametrize("aliased", ["p0", "p1"])
def test_arrays_that_may_overlap(aliased: str) -> None:
    """Where arguments may share bytes, all of a tile is read before any of it is written."""
    b = Builder(array(dt.i32, 64), array(dt.i32, 64))
    x = b.load(b.params[0], (0,), 64)
    b.store(b.params[1], (0,), b(arith.Add(x, b.const(1, dt.i32, 64))))
    b.store(b.params[1], (8,), x)
    func = b.func(alias=(aliased,))
    base = stored(dt.i32, 70)
    want = base.copy()
    reference(func, [want[:64], want[6:]])
    cpu.compile(func).launch([base[:64], base[6:]], 1)
    np.testing.assert_array_equal(base, want)


@pytest.mark.parametrize("given, message", [
    (np.zeros((4, 4), np.float64), "expected f32 as numpy float32"),
    (np.zeros(4, np.float32), "expected an array of rank 2"),
    (np.zeros((4, 5), np.float32), "compiled for f32"),
    (np.zeros((8, 4), np.float32)[::2], "strides"),
    (3.0, "expected an array"),
])  # fmt: skip
def test_arguments_that_do_not_fit(given: Any, message: str) -> None:
    kind = array(dt.f32, 4, 4)
    kernel = cpu.compile(mover(dt.f32, kind, kind, (4, 4), (0, 0), (0, 0)))
    with pytest.raises(TilecError, match=message):
        kernel.launch([given, np.zeros((4, 4), np.float32)], 1)


def test_strides_of_part_elements() -> None:
    kind = ArrayType(dt.f32, (2, 2), STRIDED)
    kernel = cpu.compile(mover(dt.f32, kind, kind, (2, 2), (0, 0), (0, 0)))
    odd = np.ndarray((2, 2), np.float32, bytearray(64), 0, (6, 4))
    with pytest.raises(TilecError, match="not whole elements"):
        kernel.launch([odd, np.zeros((2, 2), np.float32)], 1)


def test_packed_bytes_with_gaps() -> None:
    kind = array(dt.u4, 4, packed=True)
    kernel = cpu.compile(mover(dt.u4, kind, array(dt.u4, 4), (4,), (0,), (0,)))
    with pytest.raises(TilecError, match="packed bytes follow each other"):
        kernel.launch([PackedArray(np.zeros(8, np.uint8)[::4], dt.u4, (4,)), np.zeros(4, np.uint8)], 1)
