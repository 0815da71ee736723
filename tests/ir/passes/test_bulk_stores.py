"""Stores by TMA: which, what stands between them and threads, and that a buffer never costs a block."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.emulator.mutate import deletions
from tests.backends.ptx.runner import (
    build,
    check_kernel,
    copies,
    emulate,
    meaning,
    out,
    seeds,
    tells,
    trace,
    values,
)
from tests.ir.passes.test_producer import pair, persistent
from tilec.ir import dtype as dt
from tilec.ir.func import Func
from tilec.ir.inst.bulk import BulkStore, BulkStored
from tilec.ir.parse import parse
from tilec.ir.passes import bulk_stores as module
from tilec.ir.text import show

STORE = "cp.async.bulk.tensor.2d.global.shared::cta"


@tc.kernel
def product(a: tc.Array, b: tc.Array, c: tc.Array, *, bm=64, bn=128, stages=2, turned=False, warps=4):
    """c = max(a @ b, 0), in c's dtype; c may be turned."""
    i, j = tc.blocks(tc.cdiv(a.shape[0], bm), tc.cdiv(b.shape[1], bn))
    acc = tc.zeros((bm, bn), tc.f32)
    for s in tc.range(tc.cdiv(a.shape[1], 32), stages=stages):
        acc = tc.dot(a.load((i * bm, s * 32), (bm, 32)), b.load((s * 32, j * bn), (32, bn)), acc)
    done = tc.maximum(acc, tc.zeros((bm, bn), tc.f32)).to(c.dtype)
    if turned:
        c.store((j * bn, i * bm), done.T)
    else:
        c.store((i * bm, j * bn), done)


def operands(m: int, n: int, k: int, dtype: Any = dt.f16, turned: bool = False) -> list[Any]:
    return [*pair(m, n, k)[:2], (dtype, out((n, m) if turned else (m, n), dtype))]


def stores(func: Func) -> list[BulkStore]:
    return [i for i in build(func, "sm_90a")[0][-1][1].walk() if isinstance(i, BulkStore)]


# -- which -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(6, 100))
def test_products(seed: int) -> None:
    """Every element type, ragged ends, sums as they are held and their transposes."""
    draw = np.random.default_rng([seed, 7])
    dtype, turned = (dt.f16, dt.bf16, dt.f32, dt.f16, dt.i32, dt.f16)[seed % 6], bool(seed % 2)
    m, n = int(draw.choice([64, 72, 200])), 8 * int(draw.integers(9, 26))
    large = bool(draw.integers(2))
    kernel = check_kernel(
        product, *operands(m, n, 32, dtype, turned), name="sm_90a", bound=1e-3, bm=128 if large else 64,
        warps=8 if large else 4, turned=turned, producer=bool(draw.integers(2)), stages=6,
    )  # fmt: skip
    assert STORE in kernel.ptx and "st.global" not in kernel.ptx
    assert ("stmatrix" in kernel.ptx) == (dtype.bits == 16)


def test_rows_that_tma_cannot_write_are_written_by_threads() -> None:
    kernel = check_kernel(
        product, *pair(64, 80, 32)[:2], (dt.f16, out((64, 80), dt.f16)[:, :77]), name="sm_90a"
    )
    assert STORE in kernel.ptx  # rows of 160 bytes, of which 154 are written
    odd = np.ascontiguousarray(values(dt.f16, (32, 77), 1, small=True))
    kernel = check_kernel(
        product, pair(64, 80, 32)[0], (dt.f16, odd), (dt.f16, out((64, 77), dt.f16)), name="sm_90a"
    )
    assert STORE not in kernel.ptx


def test_small_tiles_and_other_targets() -> None:
    func = trace(product, *operands(64, 64, 32), bn=64)
    assert not stores(func)
    assert STORE not in build(trace(product, *operands(64, 128, 32)), "sm_80")[1].ptx


@tc.kernel
def twice(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=4):
    """c is read and written."""
    acc = c.load((0, 0), (64, 128))
    for s in tc.range(2, stages=2):
        acc = tc.dot(a.load((0, s * 32), (64, 32)), b.load((s * 32, 0), (32, 128)), acc)
    c.store((0, 0), acc)


@tc.kernel
def moved(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=4):
    """What is stored has nothing to do with products."""
    acc = a.load((0, 0), (64, 64)) @ b.load((0, 0), (64, 128))
    c.store((0, 0), (b.load((0, 0), (64, 128)) + acc.sum().to(tc.f16)).to(tc.f32))


@pytest.mark.parametrize("kernel", [twice, moved])
def test_what_stays_with_threads(kernel: tc.Kernel) -> None:
    assert not stores(trace(kernel, *pair(64, 128, 64)))


def test_a_buffer_does_not_cost_a_block() -> None:
    """Outside loops a buffer takes the ring's place. A loop's own comes on top: three blocks would be two."""
    func = trace(product, *operands(64, 128, 64), stages=3)
    kernel = build(func, "sm_90a")[1]
    assert len(stores(func)) == 1 and kernel.shared_bytes < 3 * (64 + 128) * 32 * 2 + 1024
    assert len(stores(trace(tiles, *operands(128, 128, 64), stages=12))) == 1
    assert not stores(trace(tiles, *operands(128, 128, 64), stages=6))
    assert not stores(trace(tiles, *operands(128, 128, 64), stages=18))


# -- in loops and branches ---------------------------------------------------------------------------------


@tc.kernel
def tiles(a: tc.Array, b: tc.Array, c: tc.Array, *, stages=12, warps=4):
    """One block does all tiles, those at odd places."""
    for tile in tc.range(tc.cdiv(a.shape[0], 64)):
        acc = tc.zeros((64, 128), tc.f32)
        for s in tc.range(a.shape[1] // 32, stages=stages):
            acc = tc.dot(a.load((tile * 64, s * 32), (64, 32)), b.load((s * 32, 0), (32, 128)), acc)
        if tile % 2 == 0:
            c.store((tile * 64, 0), acc.to(c.dtype))


@tc.kernel
def over_and_over(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=4):
    """Every round writes the same place: the last one counts."""
    for s in tc.range(a.shape[1] // 32):
        c.store((0, 0), a.load((0, s * 32), (64, 32)) @ b.load((s * 32, 0), (32, 128)))


@pytest.mark.parametrize("producer", [False, True])
def test_loops(producer: bool) -> None:
    kernel = check_kernel(tiles, *operands(320, 128, 96), name="sm_90a", bound=1e-3, producer=producer)
    assert STORE in kernel.ptx
    done = [i.written for i in kernel.func.walk() if isinstance(i, BulkStored)]
    assert done == [True, False]


def test_the_same_place_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_blocks", lambda func, target: 1)
    func, given = trace(over_and_over, *pair(64, 128, 160)), [a[1] for a in pair(64, 128, 160)]
    kernel, wanted = build(func, "sm_90a")[1], meaning(func, given)[-1]
    assert STORE in kernel.ptx and "wait_group 0" in kernel.ptx
    for seed in range(3):
        found = copies(given)
        report = emulate(kernel, found, seed)
        assert report.completed and not report.findings, report.findings[:3]
        np.testing.assert_allclose(found[-1], wanted, atol=1e-3)


def test_tiles_that_go_on_while_the_last_one_is_stored() -> None:
    """The producer runs ahead over tiles, TMA behind."""
    given = pair(192, 64, 160)
    check_kernel(persistent, *given, name="sm_90a", bound=1e-3, producer=True)


def test_it_prints_and_is_read_again() -> None:
    text = show(build(trace(tiles, *operands(128, 128, 64)), "sm_90a")[0][-1][1])
    assert "bulk_store " in text and show(parse(text)) == text


def test_no_fence_barrier_or_wait_can_go() -> None:
    func, given = trace(tiles, *operands(256, 128, 64)), [a[1] for a in operands(256, 128, 64)]
    kernel, wanted = build(func, "sm_90a")[1], meaning(func, given)[-1]
    first = kernel.ptx[: kernel.ptx.index("stmatrix")].count("\n")
    mutants = [m for m in deletions(kernel.ptx) if m.line > first or re.search("bulk.(wait|commit)", m.what)]
    assert len(mutants) >= 4
    spare = [
        m.what for m in mutants if not tells(replace(kernel, ptx=m.text), given, wanted, (None, 1), atol=None)
    ]
    assert not spare, f"nobody misses {spare}"
