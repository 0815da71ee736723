"""Products that stay under way between rounds: where that may be, and that each wait still counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import build, check_kernel, out, trace, values
from tests.backends.ptx.test_products import matmul
from tilec.backends.ptx.assemble import find
from tilec.ir import dtype as dt
from tilec.ir.func import Func, Inst
from tilec.ir.inst.bulk import BulkCopy
from tilec.ir.inst.control import For
from tilec.ir.inst.mma import GroupDot, GroupWait


@tc.kernel
def two(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=4):
    """Two sums in one loop."""
    p, q = tc.zeros((64, 32), tc.f32), tc.zeros((64, 32), tc.f32)
    for s in tc.range(a.shape[1] // 32, stages=3):
        x = a.load((0, s * 32), (64, 32))
        p = tc.dot(x, b.load((s * 32, 0), (32, 32)), p)
        q = tc.dot(x, b.load((s * 32, 32), (32, 32)), q)
    c.store((0, 0), p)
    c.store((0, 32), q)


@tc.kernel
def looked_at(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=4):
    """Sums that the loop works on in every round."""
    acc = tc.zeros((64, 64), tc.f32)
    for s in tc.range(a.shape[1] // 32, stages=3):
        acc = tc.dot(a.load((0, s * 32), (64, 32)), b.load((s * 32, 0), (32, 64)), acc) * 0.5
    c.store((0, 0), acc)


def operands(depth: int) -> list[Any]:
    a, b = values(dt.f16, (64, depth), 1, small=True), values(dt.f16, (depth, 64), 2, small=True)
    return [(dt.f16, a), (dt.f16, b), (dt.f32, out((64, 64), dt.f32))]


def loop_of(func: Func) -> list[Inst]:
    """The instructions of the pipelined loop, as they are written."""
    done = build(func, "sm_90a")[0][-1][1]
    return list(next(inst for inst in done.body.body if isinstance(inst, For)).body.walk())


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("depth", [0, 32, 96, 160])
def test_one_wait_for_the_round_before(stages: int, depth: int) -> None:
    options: dict[str, Any] = {"tile": (64, 64, 32), "stages": stages, "warps": 4}
    given = operands(depth)
    if depth:
        body = loop_of(trace(matmul, *given, **options))
        found = [inst for inst in body if isinstance(inst, GroupDot | GroupWait | BulkCopy)]
        assert [type(inst) for inst in found] == [GroupDot, GroupWait, BulkCopy, BulkCopy]
        assert [inst.pending for inst in found if isinstance(inst, GroupWait)] == [1]
    kernel = check_kernel(matmul, *given, name="sm_90a", bound=1e-3, **options)
    if find("ptxas"):
        assert "C7510" not in kernel.assembled.log, "the assembler serialises products"


def test_several_sums_are_waited_for_together() -> None:
    body = loop_of(trace(two, *operands(96)))
    found = [inst for inst in body if isinstance(inst, GroupDot | GroupWait)]
    assert [type(inst) for inst in found] == [GroupDot, GroupDot, GroupWait]
    assert isinstance(found[2], GroupWait) and found[2].pending == 2
    check_kernel(two, *operands(160), name="sm_90a", bound=1e-3)


def test_sums_that_are_looked_at_are_waited_for() -> None:
    body = loop_of(trace(looked_at, *operands(96)))
    assert [inst.pending for inst in body if isinstance(inst, GroupWait)] == [0]
    check_kernel(looked_at, *operands(96), name="sm_90a", bound=1e-3)


def test_without_tma_each_round_waits() -> None:
    """The barrier that a copy of threads needs would be a second one."""
    a, b, c = operands(96)
    shifted = np.ndarray((64, 90), np.float16, a[1], 0, a[1].strides)
    odd = np.ascontiguousarray(np.zeros((64, 90), np.float16) + shifted)
    body = loop_of(trace(matmul, (dt.f16, odd), (dt.f16, b[1][:90]), c, tile=(64, 64, 32), stages=3, warps=4))
    assert [inst.pending for inst in body if isinstance(inst, GroupWait)] == [0]


def test_what_threads_store_for_products_is_read_before_the_next_round() -> None:
    """b is [k, n] of bytes, which wgmma does not take: it goes through registers into a buffer of k."""
    a, b = values(dt.i8, (128, 192), 1, small=True), values(dt.i8, (192, 64), 2, small=True)
    given = [(dt.i8, a), (dt.i8, b), (dt.i32, out((128, 64), dt.i32))]
    options: dict[str, Any] = {"tile": (128, 32, 64), "stages": 3, "warps": 8, "sums": dt.i32}
    body = loop_of(trace(matmul, *given, **options))
    assert [inst.pending for inst in body if isinstance(inst, GroupWait)] == [0]
    check_kernel(matmul, *given, name="sm_90a", **options)


def test_sums_of_16_bits_are_waited_for_in_each_round() -> None:
    """Two of them share a register, and loops carry each by itself."""
    a, b, _ = operands(96)
    c = (dt.f16, out((64, 64), dt.f16))
    options: dict[str, Any] = {"tile": (64, 64, 32), "stages": 3, "warps": 4, "sums": dt.f16}
    body = loop_of(trace(matmul, a, b, c, **options))
    assert [inst.pending for inst in body if isinstance(inst, GroupWait)] == [0]
    check_kernel(matmul, a, b, c, name="sm_90a", bound=0.5, **options)
