"""Fragments of products come to global memory in whole sectors: which swaps, and what the emulator counts."""

from __future__ import annotations

from typing import Any

import pytest

import tilec as tc
from tests.backends.ptx.runner import check_kernel, emulate, out, values
from tilec.ir import dtype as dt
from tilec.ir.conversion import conversion
from tilec.ir.dtype import DType
from tilec.ir.layout import Layout
from tilec.ir.layouts import blocked, mma_c, wgmma_c
from tilec.ir.passes.anchors import access_cost, conversion_cost
from tilec.ir.passes.sectors import whole_sectors
from tilec.ir.tile import ArrayType

FRAGMENTS = (
    mma_c(dt.f32, (64, 128), (2, 2)),
    mma_c(dt.f32, (16, 96), 2),
    mma_c(dt.f32, (16, 256), 8).with_shape((4, 256)),
    wgmma_c((64, 64)),
)


@pytest.mark.parametrize("layout", FRAGMENTS, ids=str)
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("axis", [0, 1])
def test_swaps_pay(layout: Layout, axis: int, size: int) -> None:
    """By the prices that everything else goes by, and within warps."""
    kind = ArrayType((dt.u8, dt.u16, dt.f32)[size // 2], ("m", "n"), (("s", 1), (1, "s"))[1 - axis])
    found = whole_sectors(layout, axis, size, 16 // size)
    if found == layout:
        return
    way = conversion(layout, found, 8 * size)
    assert way.kind == "swap" and (found.threads, found.slots) == (layout.threads, layout.slots)
    before, after = (access_cost(each, kind, 16 // size) for each in (layout, found))
    assert after + conversion_cost(layout, found, 8 * size) < before


def test_which_swaps() -> None:
    """Sums of 16 bits swap, those of 32 bits fill sectors as they are; so do wide layouts."""
    sums = mma_c(dt.f32, (16, 64))
    found = whole_sectors(sums, 1, 2, 8)
    assert found.slot_part()[:4, 1].tolist() == [0, 1, 2, 3]
    assert whole_sectors(sums, 1, 4, 4) == sums == whole_sectors(sums, 0, 4, 4)
    wide = blocked((16, 64), 32, 8)
    assert whole_sectors(wide, 1, 2, 8) == wide
    narrow = mma_c(dt.f32, (16, 8))
    assert whole_sectors(narrow, 1, 2, 8) == narrow, "the other half is in no thread of the warp"


@tc.kernel
def product(a: tc.Array, b: tc.Array, add: tc.Array, c: tc.Array, *, bm=32, bn=64, turned=False, warps=2):
    """c = a @ b + add, all of one dtype but the sums; c and add may be turned."""
    i, j = tc.blocks(tc.cdiv(a.shape[0], bm), tc.cdiv(b.shape[1], bn))
    acc = tc.dot(a.load((i * bm, 0), (bm, 32)), b.load((0, j * bn), (32, bn)), tc.zeros((bm, bn), tc.f32))
    at, shape = ((j * bn, i * bm), (bn, bm)) if turned else ((i * bm, j * bn), (bm, bn))
    more = add.load(at, shape).to(tc.f32)
    done = (acc.T if turned else acc) + more
    c.store(at, done.to(c.dtype))


def operands(m: int, n: int, dtype: DType, turned: bool) -> list[Any]:
    whole = dtype if dtype.bits == 16 else dt.f16
    a, b = values(whole, (m, 32), 0, small=True), values(whole, (32, n), 1, small=True)
    shape = (n, m) if turned else (m, n)
    return [(whole, a), (whole, b), (dtype, values(dtype, shape, 2, small=True)), (dtype, out(shape, dtype))]


@pytest.mark.parametrize("dtype", [dt.f16, dt.bf16, dt.f8e5m2, dt.f32], ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_sectors_are_whole(dtype: DType, turned: bool) -> None:
    """Of what is stored, and of what is added to it outside of loops; all runners agree."""
    args = operands(32, 64, dtype, turned)
    kernel = check_kernel(product, *args, turned=turned)
    used = emulate(kernel, [a[1].copy() for a in args]).metrics.global_.values()
    assert used and all(each.units == each.least for each in used)
    assert "bar.sync" not in kernel.ptx.split("mma.sync")[-1], "nothing goes through shared memory"


@pytest.mark.parametrize("m, n", [(31, 100), (31, 72), (33, 33), (1, 130)])
@pytest.mark.parametrize("turned", [False, True])
def test_ragged(m: int, n: int, turned: bool) -> None:
    """What lies outside of the array stays as it was, whatever is proven of extents."""
    check_kernel(product, *operands(m, n, dt.f16, turned), name="sm_90a", turned=turned)


def test_loads_in_loops_stay_as_they_are() -> None:
    @tc.kernel
    def rows(x: tc.Array, y: tc.Array, c: tc.Array, *, warps=1):
        acc = tc.zeros((16, 64), tc.f32)
        for s in tc.range(4):
            a, b = x.load((0, s * 16), (16, 16)), y.load((s * 16, 0), (16, 64))
            acc = tc.dot(a, b, acc) + c.load((s * 16, 0), (16, 64)).to(tc.f32)
        c.store((64, 0), acc.to(c.dtype))

    shapes = (16, 64), (64, 64), (80, 64)
    args = [(dt.f16, values(dt.f16, shape, 3, small=True)) for shape in shapes]
    kernel = check_kernel(rows, *args)
    body = kernel.ptx[kernel.ptx.index("mma.sync") : kernel.ptx.index("bra")]
    assert "shfl" not in body and "shfl" in kernel.ptx
