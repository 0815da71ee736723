"""Matrix products: every pair of dtypes, any extents and operands, pipelined, chained, sharing sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import check_kernel, out, seeds, values
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType

PAIRS = (
    (dt.f16, dt.f32), (dt.bf16, dt.f32), (dt.tf32, dt.f32), (dt.f8e4m3, dt.f32), (dt.f8e5m2, dt.f32),
    (dt.i8, dt.i32), (dt.u8, dt.i32), (dt.f32, dt.f32), (dt.f64, dt.f64), (dt.i32, dt.i32), (dt.i16, dt.i32),
    (dt.f16, dt.f16), (dt.bf16, dt.bf16), (dt.f16, dt.f64), (dt.i8, dt.i64), (dt.u16, dt.u32),
)  # fmt: skip
BOUND = {dt.f16: 0.5, dt.bf16: 4.0, dt.f32: 1e-3, dt.f64: 1e-9}
Operand = tuple[DType, Any]


@tc.kernel
def matmul(a: tc.Array, b: tc.Array, c: tc.Array, *, tile=(16, 16, 16), sums=tc.f32, turned=(False, False),
           computed=False, warps=2, stages=1):  # fmt: skip
    """c = a @ b; turned: a or b is stored transposed; computed: both are worked on first."""
    (bm, bn, bk), (ta, tb) = tile, turned
    m, k = a.shape[::-1] if ta else a.shape
    n = b.shape[0] if tb else b.shape[1]
    i, j = tc.blocks(tc.cdiv(m, bm), tc.cdiv(n, bn))
    acc = tc.zeros((bm, bn), sums)
    for s in tc.range(tc.cdiv(k, bk), stages=stages):
        x = a.load((s * bk, i * bm), (bk, bm)).T if ta else a.load((i * bm, s * bk), (bm, bk))
        y = b.load((j * bn, s * bk), (bn, bk)).T if tb else b.load((s * bk, j * bn), (bk, bn))
        if computed:
            inside = (s * bk + tc.arange(bk) < k)[:, None]
            x, y = x + x, tc.where(inside, y + tc.ones(y.shape, y.dtype), tc.zeros(y.shape, y.dtype))
        acc = tc.dot(x, y, acc)
    c.store((i * bm, j * bn), acc)


@pytest.mark.parametrize("seed", seeds(len(PAIRS), 500))
def test_products(seed: int) -> None:
    draw = np.random.default_rng([seed, 13])
    dtype, sums = PAIRS[seed % len(PAIRS)]
    tile = tuple(int(x) for x in draw.choice([1, 7, 8, 16, 16, 32, 33], 3))
    m, n, k = (
        min(int(x), 3 * t) for x, t in zip(draw.choice([1, 7, 16, 17, 33, 40, 64], 3), tile, strict=True)
    )
    if dtype.bits > 16 and dtype != dt.tf32:  # a long program: each product is an instruction
        tile = (*tile[:2], min(tile[2], 8))
    turned, computed = tuple(bool(x) for x in draw.integers(0, 2, 2)), bool(draw.integers(2))
    a, b = (values(dtype, shape, [seed, i], small=True) for i, shape in enumerate(((m, k), (k, n))))
    a, b = (np.ascontiguousarray(x.T) if t else x for x, t in zip((a, b), turned, strict=True))
    options = {"tile": tile, "turned": turned, "computed": computed, "stages": int(draw.integers(1, 4))}
    options |= {"sums": sums, "warps": int(draw.choice([4, 8])), "bound": BOUND.get(sums)}
    name = ("sm_80", "sm_90a")[int(draw.integers(2))]
    check_kernel(matmul, (dtype, a), (dtype, b), (sums, out((m, n), sums)), name=name, **options)


@pytest.mark.parametrize(("dtype", "sums", "instruction"), [
    (dt.f16, dt.f32, "m16n8k16.row.col.f32.f16.f16.f32"), (dt.bf16, dt.f32, "k16.row.col.f32.bf16.bf16.f32"),
    (dt.f16, dt.f16, "m16n8k16.row.col.f16.f16.f16.f16"), (dt.tf32, dt.f32, "k8.row.col.f32.tf32.tf32.f32"),
    (dt.i8, dt.i32, "m16n8k32.row.col.s32.s8.s8.s32"), (dt.u8, dt.i32, "m16n8k32.row.col.s32.u8.u8.s32"),
    (dt.f8e4m3, dt.f32, "m16n8k16.row.col.f32.f16.f16.f32"), (dt.f32, dt.f32, "fma.rn.f32"),
    (dt.f64, dt.f64, "fma.rn.f64"), (dt.i32, dt.i32, "mad.lo.s32"),
])  # fmt: skip
def test_instructions(dtype: DType, sums: DType, instruction: str) -> None:
    """The matrix instruction of each pair of dtypes on sm_80, and fragments by ldmatrix."""
    a, b = ((dtype, values(dtype, (64, 64), i, small=True)) for i in range(2))
    kernel = check_kernel(
        matmul,
        a,
        b,
        (sums, out((64, 64), sums)),
        tile=(32, 32, 32),
        warps=4,
        bound=BOUND.get(sums),
        sums=sums,
    )
    assert instruction in kernel.ptx
    assert dtype.bits != 16 or "ldmatrix" in kernel.ptx


@tc.kernel
def product(a: tc.Array, b: tc.Array, c: tc.Array, *, shape=(16, 16, 16), sums=tc.i32, warps=2):
    m, n, k = shape
    c.store((0, 0), tc.dot(a.load((0, 0), (m, k)), b.load((0, 0), (k, n)), tc.zeros((m, n), sums)))


INTEGERS = (dt.i8, dt.u8, dt.i16, dt.u16, dt.i32, dt.u32)


@pytest.mark.parametrize("right", INTEGERS, ids=str)
@pytest.mark.parametrize("left", INTEGERS[::2], ids=str)
def test_mixed_integers(left: DType, right: DType) -> None:
    """Signed times unsigned, narrow times wide: sums wrap in the accumulator's dtype."""
    draw = np.random.default_rng([left.bits, right.bits])
    m, n, k = (int(x) for x in draw.choice([1, 7, 16, 33], 3))
    sums = (dt.i32, dt.u32, dt.i64)[int(draw.integers(3))]
    a, b = (left, values(left, (m, k), 1)), (right, values(right, (k, n), 2))
    check_kernel(product, a, b, (sums, out((m, n), sums)), shape=(m, n, k), sums=sums)


# -- products among other instructions ----------------------------------------------------------------


def two_sums(a, b, z, m, n, k, k2):  # type: ignore[no-untyped-def]
    return tc.dot(a(m, k), b(k, n), z) + tc.dot(a(m, k2), b(k2, n), z)


def one_sum(a, b, z, m, n, k, k2):  # type: ignore[no-untyped-def]
    return tc.dot(a(m, k2), b(k2, n), tc.dot(a(m, k), b(k, n), z))


def other_units(a, b, z, m, n, k, k2):  # type: ignore[no-untyped-def]
    """Matrix units and fused multiply-adds share a sum."""
    wide = tc.dot(a(m, k2).to(tc.f32), b(k2, n).to(tc.f32), tc.dot(a(m, k), b(k, n), z))
    return wide + tc.dot(a(m, k).to(tc.f32), b(k, n).to(tc.f32), z)


def chained(a, b, z, m, n, k, k2):  # type: ignore[no-untyped-def]
    """A product's sums are the next one's operand."""
    s = tc.dot(a(m, k), b(k, n), z) * 0.0625
    return tc.dot(s.to(tc.f16), b(n, n).to(tc.f16), z)


def turned_result(a, b, z, m, n, k, k2):  # type: ignore[no-untyped-def]
    s = tc.dot(a(m, k), b(k, n), z) * 0.0625
    return tc.dot(b(m, n).to(tc.f16), s.T.to(tc.f16), tc.zeros((m, m), tc.f32)).sum(1)[:, None] + z


def itself(a, b, z, m, n, k, k2):  # type: ignore[no-untyped-def]
    x = a(m, k)
    return tc.dot(x, x.T, tc.zeros((m, m), tc.f32)).sum(0)[:, None] + z


def while_counting(a, b, z, m, n, k, k2):  # type: ignore[no-untyped-def]
    i, r, x, y = tc.full((), 0, tc.i32), z, a(m, k), b(k, n)
    while i < 3:
        r, i = tc.dot(x, y, r), i + 1
    return r


def now_and_then(a, b, z, m, n, k, k2):  # type: ignore[no-untyped-def]
    r, x, y = z, a(m, k), b(k, n)
    for i in tc.range(4):
        if i > 1:
            r = tc.dot(x, y, r)
        else:
            r = r + 1.0
            x = x + x
    return r


def with_row_sums(a, b, z, m, n, k, k2):  # type: ignore[no-untyped-def]
    r = tc.maximum(tc.dot(a(m, k), b(k, n), z), 0.0)
    r = r * tc.arange(n, dtype=tc.f32)[None, :] + r.sum(0)[None, :]
    return r - r.max(1)[:, None]


FORMS = (
    two_sums,
    one_sum,
    other_units,
    chained,
    turned_result,
    itself,
    while_counting,
    now_and_then,
    with_row_sums,
)


@tc.kernel
def formed(a: tc.Array, b: tc.Array, c: tc.Array, *, form=two_sums, shape=(16, 16, 16, 16), warps=2):
    def left(*extents):  # type: ignore[no-untyped-def]
        return a.load((0, 0), extents)

    def right(*extents):  # type: ignore[no-untyped-def]
        return b.load((0, 0), extents)

    m, n, k, k2 = shape
    c.store((0, 0), form(left, right, tc.zeros((m, n), tc.f32), m, n, k, k2))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", seeds(1, 20))
def test_forms(form: Any, seed: int) -> None:
    draw = np.random.default_rng([seed, 14, FORMS.index(form)])
    dtype = (dt.f16, dt.bf16, dt.f8e4m3)[int(draw.integers(3))]
    shape = tuple(int(x) for x in draw.choice([1, 7, 16, 17, 32, 33, 48], 4))
    a, b = ((dtype, values(dtype, (50, 50), [seed, i], small=True)) for i in range(2))
    options = {"form": form, "shape": shape, "warps": int(draw.choice([1, 2, 4, 8])), "bound": 0.5}
    check_kernel(formed, a, b, (dt.f32, out(shape[:2], dt.f32)), **options)


@tc.kernel
def heads(q: tc.Array, k: tc.Array, o: tc.Array, *, tile=(16, 16), width=16, step=1, stages=1, warps=2):
    """Scores and their running maximum, over views of a batch with heads: the shape of attention."""
    bm, bn = tile
    batch, head, i = tc.blocks(q.shape[0], q.shape[2], tc.cdiv(q.shape[1], bm))
    queries, keys = q[batch, :, head], k[batch, ::step, head]
    x = queries.load((i * bm, 0), (bm, width))
    best, acc = tc.full((bm,), -1e30, tc.f32), tc.zeros((bm, bn), tc.f32)
    for j in tc.range(tc.cdiv(keys.shape[0], bn), stages=stages):
        s = tc.dot(x, keys.load((j * bn, 0), (bn, width)).T)
        inside = (j * bn + tc.arange(bn) < keys.shape[0])[None, :]
        best = tc.maximum(best, tc.where(inside, s, -1e30).max(1))
        acc = acc + tc.where(inside, s, 0.0)
    result = acc.sum(1)[:, None] + best[:, None] + tc.zeros((bm, width), tc.f32)
    o[batch, :, head].store((i * bm, 0), result)


@pytest.mark.parametrize("seed", seeds(8, 100))
def test_heads(seed: int) -> None:
    draw = np.random.default_rng([seed, 15])
    batch, length, count, width = (
        int(draw.choice(x)) for x in ((1, 2), (1, 7, 16, 33, 40), (1, 3), (8, 16, 24))
    )
    shape = (batch, length, count, width)
    q, k = ((dt.f16, values(dt.f16, shape, [seed, i], small=True)) for i in range(2))
    options = {"tile": tuple(int(x) for x in draw.choice([7, 16, 32], 2)), "width": width, "bound": 0.01}
    options |= {"step": 1 + seed % 3, "stages": 1 + seed % 4, "warps": int(draw.choice([1, 2, 4]))}
    check_kernel(heads, q, k, (dt.f32, out(shape, dt.f32)), **options)


@tc.kernel
def sums_as_floats(a: tc.Array, b: tc.Array, y: tc.Array, *, m=16, n=16, k=64, warps=1):
    """Products of bytes, summed exactly, and only then floats."""
    sums = tc.dot(a.load((0, 0), (m, k)), b.load((0, 0), (k, n)), tc.zeros((m, n), tc.i32))
    y.store((0, 0), sums.to(tc.f32) * 0.5)


@pytest.mark.parametrize(("kind", "k"), [(dt.i8, 256), (dt.u8, 64), (dt.i8, 288), (dt.u8, 96)])
def test_sums_of_few_bytes_need_no_conversion(kind: DType, k: int) -> None:
    """At their largest and smallest too; of more they are converted."""
    both = np.tile((kind.min, kind.max), (16, k // 2))
    ends = np.full((16, k), kind.min), np.full((16, k), kind.max), both
    for a in (*ends, values(kind, (16, k), 1)):
        b = np.concatenate([np.full((k, 8), kind.min), np.full((k, 8), kind.max)], axis=1)
        held = (kind, a.astype(kind.storage)), (kind, b.astype(kind.storage)), (dt.f32, out((16, 16), dt.f32))
        done = check_kernel(sums_as_floats, *held, k=k)
        assert ("cvt.rn.f32.s32" in done.ptx) == (k * kind.max**2 > 1 << 22)
