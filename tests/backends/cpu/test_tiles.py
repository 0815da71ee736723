"""Tiles on the CPU: elementwise clusters, moved elements, reductions, scans, products, views, of every kind
of dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.backends.cpu.build import Builder, agree, array
from tests.backends.cpu.test_memory import stored
from tests.backends.test_emit import built
from tilec.backends.cpu.table import EMITTERS
from tilec.backends.emit import EMITTERS as ELEMENTWISE
from tilec.ir import codec, layouts
from tilec.ir import dtype as dt
from tilec.ir.dtype import ALL, DType
from tilec.ir.func import Inst
from tilec.ir.inst import INSTRUCTIONS, arith, mma, reduce, shape

SOME = (
    dt.i4,
    dt.u8,
    dt.i16,
    dt.i32,
    dt.u64,
    dt.f4e2m1,
    dt.f8e5m2,
    dt.e8m0,
    dt.f16,
    dt.bf16,
    dt.tf32,
    dt.f32,
    dt.f64,
)
# Another instruction by then; only on GPUs; nothing at all on the CPU.
OF_GPUS = {"gates", "bulk_copy", "bulk_wait", "group_dot", "held_dot", "held_sparse_dot", "group_wait",
           "proxy_fence", "sparse_dot", "bulk_store", "bulk_stored", "bulk_room", "bulk_done", "roles"}
ELSEWHERE = {"math", "inline_ptx", "sparse", "partial", "convert", "annotate", *OF_GPUS}


def test_every_instruction_has_an_emitter() -> None:
    missing = [name for name, kind in INSTRUCTIONS.items() if kind not in EMITTERS and name not in ELSEWHERE]
    assert not missing, f"the CPU has no emitter for {missing}"


def one(kind: type[Inst], dtype: DType, *tiles: Any) -> Inst:
    """The instruction over given tiles."""
    return kind(*tiles)


@pytest.mark.parametrize("dtype", SOME, ids=str)
def test_every_elementwise_instruction(dtype: DType) -> None:
    """All that the dtype has, in one cluster, over rows that are no whole vectors."""
    kinds = [kind for kind in ELEMENTWISE if built_over(kind, dtype)]
    b = Builder(*[array(dtype, 3, 37)] * 3, *[array(dtype, 3, 37)] * len(kinds))
    x, y, z = (b.load(p, (0, 0), 3, 37) for p in b.params[:3])
    condition = b(arith.Compare("lt", x, y))
    for kind, out in zip(kinds, b.params[3:], strict=True):
        arity = len(built(kind, dtype).operands) - (kind is arith.Where)  # type: ignore[union-attr]
        b.store(out, (0, 0), b(kind(*([condition] if kind is arith.Where else []), *(x, y, z)[:arity])))
    agree(
        b.func(), [*(stored(dtype, 3, 37, seed=i) for i in range(3)), *(stored(dtype, 3, 37) for _ in kinds)]
    )


def built_over(kind: type[Inst], dtype: DType) -> bool:
    if kind in (arith.Cast, arith.Compare, arith.Bitcast):
        return False
    return built(kind, dtype) is not None


@pytest.mark.parametrize("dtype", SOME, ids=str)
@pytest.mark.parametrize("size", [(1,), (3,), (16, 16), (5, 1, 9), (1, 1), (130,), (2, 3, 4, 5)], ids=str)
def test_moved_elements(dtype: DType, size: tuple[int, ...]) -> None:
    b = Builder(array(dtype, *size), *[array(dtype, int(np.prod(size)) * 2)] * 6)
    x = b.load(b.params[0], [0] * len(size), *size)
    x = b(arith.Minimum(x, x))
    flipped = b(shape.Permute(x, tuple(reversed(range(len(size))))))
    wide = b(shape.Broadcast(x, tuple(4 if n == 1 else n for n in size)))
    part = b(shape.Extract(x, tuple(n // 2 for n in size), tuple(n - n // 2 for n in size)))
    sides = b(shape.Stack((x, b(arith.Maximum(x, x))), len(size) // 2))
    for out, tile in zip(b.params[1:], (x, flipped, wide, part, sides), strict=False):
        flat = b(shape.Reshape(tile, (tile.tile.size,)))
        b.store(out, (0,), b(arith.Maximum(flat, flat)))
    agree(b.func(), [stored(dtype, *size), *(stored(dtype, int(np.prod(size)) * 2) for _ in range(6))])


@pytest.mark.parametrize("dtype", [d for d in ALL if d.is_integer], ids=str)
def test_iota(dtype: DType) -> None:
    b = Builder(array(dtype, 3, 300), array(dtype, 300, 3), array(dtype, 1))
    counts = b(arith.Iota((3, 300), 1, dtype))
    b.store(b.params[0], (0, 0), b(arith.Add(counts, b(arith.Iota((3, 300), 0, dtype)))))
    b.store(b.params[1], (0, 0), b(shape.Permute(counts, (1, 0))))
    b.store(b.params[2], (0,), b(shape.Extract(b(shape.Reshape(counts, (900,))), (305,), (1,))))
    agree(b.func(), [stored(dtype, 3, 300), stored(dtype, 300, 3), stored(dtype, 1)])


@pytest.mark.parametrize("dtype", SOME, ids=str)
def test_table(dtype: DType) -> None:
    b = Builder(array(dtype, 3, 37), array(dtype, 37, 3), array(dtype, 1))
    table = b(arith.Table.of(codec.from_storage(stored(dtype, 3, 37, seed=5), dtype), dtype))
    b.store(b.params[0], (0, 0), b(arith.Maximum(table, table)))
    b.store(b.params[1], (0, 0), b(shape.Permute(table, (1, 0))))
    b.store(b.params[2], (0,), b(shape.Extract(b(shape.Reshape(table, (111,))), (77,), (1,))))
    agree(b.func(), [stored(dtype, 3, 37), stored(dtype, 37, 3), stored(dtype, 1)])


SIZES: list[tuple[tuple[int, ...], int]] = [
    ((1, 1), 0), ((7,), 0), ((300,), 0), ((5, 33), 1), ((5, 33), 0), ((64, 4), 1),
    ((3, 5, 20), 1), ((2, 3, 70), 2), ((9, 1, 3), 0), ((4, 17, 1), 1),
]  # fmt: skip


@pytest.mark.parametrize("dtype", SOME, ids=str)
@pytest.mark.parametrize("op", ["max", "min"])
def test_extremes(dtype: DType, op: str) -> None:
    for size, axis in SIZES:
        b = Builder(array(dtype, *size), array(dtype, 999), array(dt.i32, 999), array(dtype, *size))
        x = b.load(b.params[0], [0] * len(size), *size)
        flat(b, b.params[1], b(reduce.Reduce(op, x, axis)))
        flat(b, b.params[2], b(reduce.ArgReduce(op, x, axis)))
        b.store(b.params[3], [0] * len(size), b(reduce.Scan(op, x, axis)))
        for seed in (1, 2):
            given = stored(dtype, *size, seed=seed)
            given = given if seed == 1 else np.broadcast_to(given.flat[0], size).copy()
            agree(b.func(), [given, stored(dtype, 999), np.zeros(999, np.int32), stored(dtype, *size)])


def flat(b: Builder, out: Any, tile: Any) -> None:
    """Stores a tile of any rank."""
    b.store(out, (0,), b(shape.Reshape(tile, (tile.tile.size,))))


@pytest.mark.parametrize("dtype", [d for d in SOME if not d.is_float], ids=str)
def test_integer_sums(dtype: DType) -> None:
    for size, axis in SIZES:
        b = Builder(array(dtype, *size), array(dtype, 999), array(dtype, *size))
        x = b.load(b.params[0], [0] * len(size), *size)
        flat(b, b.params[1], b(reduce.Reduce("sum", x, axis)))
        b.store(b.params[2], [0] * len(size), b(reduce.Scan("sum", x, axis)))
        agree(b.func(), [stored(dtype, *size), stored(dtype, 999), stored(dtype, *size)])


def normal(dtype: DType, *size: int, seed: int = 0) -> Any:
    """Normal deviates as a user holds them."""
    values = np.random.default_rng(seed).standard_normal(size)
    return codec.to_storage(codec.round_to(values, dtype), dtype)


BOUND = {8: 0.15, 16: 1e-2, 32: 2e-6, 64: 1e-12}


@pytest.mark.parametrize("dtype", [d for d in SOME if d.is_float and d.is_signed and d.bits >= 8], ids=str)
def test_float_sums(dtype: DType) -> None:
    for size, axis in SIZES:
        b = Builder(array(dtype, *size), array(dtype, 999), array(dtype, *size))
        x = b.load(b.params[0], [0] * len(size), *size)
        flat(b, b.params[1], b(reduce.Reduce("sum", x, axis)))
        b.store(b.params[2], [0] * len(size), b(reduce.Scan("sum", x, axis)))
        bound = BOUND[dtype.bits] if dtype != dt.tf32 else 1e-3
        agree(b.func(), [normal(dtype, *size), normal(dtype, 999), normal(dtype, *size)], bound)


@pytest.mark.parametrize("op", ["any", "all"])
def test_any_and_all(op: str) -> None:
    for size, axis in SIZES:
        b = Builder(array(dt.bool, *size), array(dt.bool, 999))
        x = b.load(b.params[0], [0] * len(size), *size)
        flat(b, b.params[1], b(reduce.Reduce(op, x, axis)))
        for rate in (0.01, 0.5, 0.99):
            given = np.random.default_rng(1).random(size) < rate
            agree(b.func(), [given, np.zeros(999, bool)])


PRODUCTS = [
    (1, 1, 1),
    (1, 64, 48),
    (3, 5, 7),
    (16, 16, 16),
    (6, 100, 33),
    (40, 31, 64),
    (17, 20, 130),
    (64, 9, 2),
]


FLOATS = "f32 f32 f32", "f16 f16 f32"
OTHERS = (
    "bf16 bf16 f32", "tf32 tf32 f32", "f64 f64 f64", "f16 f16 f16", "f8e4m3 f8e4m3 f32", "f16 f16 f64",
    "i8 i8 i32", "u8 i4 i32", "i32 i32 i64", "i16 u16 i32",
)  # fmt: skip


def product_cases() -> list[tuple[str, tuple[int, int, int], str]]:
    """Every size for the common types, some for the others."""
    starts = ("zero", "constant", "tile")
    return [
        *((kinds, size, start) for kinds in FLOATS for size in PRODUCTS for start in starts),
        *((kinds, size, start) for kinds in OTHERS for size in PRODUCTS[2::3] for start in starts[1:]),
    ]


@pytest.mark.parametrize("dtypes, size, start", product_cases())
def test_products(dtypes: str, size: tuple[int, int, int], start: str) -> None:
    (m, k, n), (a, b, c) = size, map(dt.dtype, dtypes.split())
    make = Builder(array(a, m, k), array(b, k, n), array(c, m, n), array(c, m, n))
    x, y = make.load(make.params[0], (0, 0), m, k), make.load(make.params[1], (0, 0), k, n)
    acc = (
        make.load(make.params[2], (0, 0), m, n)
        if start == "tile"
        else make.const(3 * (start != "zero"), c, m, n)
    )
    make.store(make.params[3], (0, 0), make(mma.Dot(x, y, acc)))
    if not c.is_float:
        agree(make.func(), [stored(a, m, k), stored(b, k, n), stored(c, m, n), stored(c, m, n)])
    else:
        bound = {16: 2e-3, 32: 2e-6, 64: 1e-12}[c.bits]
        agree(make.func(), [normal(a, m, k), normal(b, k, n), normal(c, m, n), normal(c, m, n)], bound)


@pytest.mark.parametrize("dtype", [dt.f32, dt.f16, dt.i8, dt.f64], ids=str)
@pytest.mark.parametrize("m, k, n", [(20, 24, 40), (9, 7, 3), (64, 16, 17)])
def test_products_of_transposed_tiles(dtype: DType, m: int, k: int, n: int) -> None:
    c = {"i8": dt.i32, "f64": dt.f64}.get(dtype.name, dt.f32)
    b = Builder(array(dtype, k, m), array(dtype, n, k), array(c, m, n))
    x, y = b.load(b.params[0], (0, 0), k, m), b.load(b.params[1], (0, 0), n, k)
    x, y = (b(shape.Permute(tile, (1, 0))) for tile in (x, y))
    b.store(b.params[2], (0, 0), b(mma.Dot(x, y, b.const(0, c, m, n))))
    args = [normal(dtype, k, m), normal(dtype, n, k), normal(c, m, n)] if c.is_float else [
        stored(dtype, k, m), stored(dtype, n, k), stored(c, m, n)]  # fmt: skip
    agree(b.func(), args, 1e-5 if c.is_float else None)


@pytest.mark.parametrize("dtype", [dt.f32, dt.f16, dt.i8], ids=str)
@pytest.mark.parametrize("into", ["product", "stack"])
def test_one_element_that_is_read_on(dtype: DType, into: str) -> None:
    """Products and stacks leave their result in memory, scalars are computed in registers."""
    c = dt.i32 if dtype.is_integer else dt.f32
    b = Builder(array(dtype, 1, 64), array(dtype, 64, 1), array(c, 1, 1))
    x, y = b.load(b.params[0], (0, 0), 1, 64), b.load(b.params[1], (0, 0), 64, 1)
    one = b(mma.Dot(x, y, b.const(0, c, 1, 1)))
    if into == "stack":
        row = b(shape.Reshape(b(arith.Cast(b.load(b.params[0], (0, 0), 1, 1), c)), (1,)))
        one = b(shape.Stack((row,), 0))
    b.store(b.params[2], (0, 0), b(arith.Add(one, one)))
    args = [stored(dtype, 1, 64), stored(dtype, 64, 1), stored(c, 1, 1)] if dtype.is_integer else [
        normal(dtype, 1, 64), normal(dtype, 64, 1), normal(c, 1, 1)]  # fmt: skip
    agree(b.func(), args, 1e-5 if c.is_float else None)


def view_cases() -> list[Any]:
    found = []
    for dtype in (dt.u4, dt.u3, dt.i5, dt.f6e3m2, dt.u1, dt.f16, dt.i2, dt.u7):
        for layout in (
            layouts.spatial(8, 4) * layouts.local(2, 4),
            layouts.local(1, 2) * layouts.spatial(4, 8) * layouts.local(4, 1),
        ):
            if layout.slots * dtype.bits % 8 == 0:
                found.append(
                    pytest.param(dt.u8, layout.bytes(dtype), dtype, layout, id=f"u8-{dtype}-{len(found)}")
                )
                found.append(
                    pytest.param(dtype, layout, dt.u8, layout.bytes(dtype), id=f"{dtype}-u8-{len(found)}")
                )
    eight = layouts.spatial(32) * layouts.local(8)
    found.append(pytest.param(dt.u4, eight, dt.u32, layouts.spatial(32), id="u4-u32"))
    found.append(
        pytest.param(
            dt.f32, layouts.spatial(32) * layouts.local(2), dt.i64, layouts.spatial(32), id="f32-i64"
        )
    )
    found.append(pytest.param(dt.i3, eight, dt.f6e2m3, layouts.spatial(32) * layouts.local(4), id="i3-f6"))
    return found


@pytest.mark.parametrize("dtype, source, into, layout", view_cases())
def test_views(dtype: DType, source: Any, into: DType, layout: Any) -> None:
    b = Builder(array(dtype, *source.shape), array(into, *layout.shape))
    x = b.load(b.params[0], [0] * len(source.shape), *source.shape)
    b.store(b.params[1], [0] * len(layout.shape), b(shape.View(x, into, layout, source)))
    agree(b.func(), [stored(dtype, *source.shape), stored(into, *layout.shape)])


def test_layouts_mean_nothing_here() -> None:
    layout = layouts.spatial(4, 8) * layouts.local(2, 1)
    b = Builder(array(dt.f32, 8, 8), array(dt.f32, 8, 8))
    x = b.load(b.params[0], (0, 0), 8, 8)
    y = b(shape.Annotate(b(arith.Add(x, x)), layout))
    z = b(shape.Convert(y, layout))
    b.store(b.params[1], (0, 0), z)
    agree(b.func(), [stored(dt.f32, 8, 8), stored(dt.f32, 8, 8)])


@pytest.mark.parametrize("dtype", [dt.f32, dt.i8, dt.f64, dt.bf16], ids=str)
@pytest.mark.parametrize("columns", [1, 37, 64, 200])
def test_many_scalars_in_one_cluster(dtype: DType, columns: int) -> None:
    """A filter of a dozen taps, as in a convolution: wide vectors, so that each tap is loaded less often."""
    b = Builder(array(dtype, 3, columns + 11), array(dtype, 12), array(dtype, 3, columns))
    row = b.load(b.params[0], (0, 0), 3, columns + 11)
    acc = b.const(0, dtype, 3, columns)
    for tap in range(12):
        weight = b(shape.Broadcast(b(shape.Reshape(b.load(b.params[1], (tap,), 1), ())), (3, columns)))
        part = b(shape.Extract(row, (0, tap), (3, columns)))
        acc = b(arith.Add(acc, b(arith.Mul(part, weight))))
    b.store(b.params[2], (0, 0), acc)
    agree(b.func(), [stored(dtype, 3, columns + 11), stored(dtype, 12), stored(dtype, 3, columns)])


@pytest.mark.parametrize("name", ["u1", "i2", "u3", "f4e2m1", "i5", "f6e3m2", "u7", "f8e4m3"])
def test_views_of_placed_codes(name: str) -> None:
    kind, layout = dt.dtype(name), layouts.local(8, 4) * layouts.spatial(1, 3)
    b = Builder(array(dt.u8, layout.nbytes(kind)), array(kind, *layout.shape))
    held = layout.bytes(kind)
    data = b(shape.Reshape(b.load(b.params[0], (0,), layout.nbytes(kind)), held.shape))
    b.store(b.params[1], (0, 0), b(shape.View(data, kind, layout, held, placed=dt.f16)))
    agree(b.func(), [stored(dt.u8, layout.nbytes(kind)), stored(kind, *layout.shape)])
