"""Warps of their own start a loop's copies: what may be around it, what may not, and who waits for what."""

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
from tests.backends.ptx.test_products import matmul
from tilec.backends.ptx.assemble import find
from tilec.backends.ptx.roles import moved_registers
from tilec.ir import dtype as dt
from tilec.ir.func import Func
from tilec.ir.inst.bulk import BulkCopy, BulkDone, BulkRoom, BulkWait
from tilec.ir.inst.control import Roles
from tilec.ir.inst.mma import GroupDot
from tilec.ir.inst.sync import Barrier
from tilec.ir.parse import parse
from tilec.ir.target import target
from tilec.ir.text import show


def pair(m: int, n: int, k: int, dtype: Any = dt.f16) -> list[Any]:
    """Operands of [m, k] @ [k, n], and room for the product."""
    a, b = values(dtype, (m, k), [m, k], small=True), values(dtype, (k, n), [k, n], small=True)
    sums = dt.i32 if dtype.is_integer else dt.f32
    return [(dtype, a), (dtype, b), (sums, out((m, n), sums))]


def lowered(func: Func) -> Func:
    return build(func, "sm_90a")[0][-1][1]


def roles_of(func: Func) -> Roles:
    return next(inst for inst in lowered(func).body.body if isinstance(inst, Roles))


# -- what it may be around ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(6, 150))
def test_products(seed: int) -> None:
    """Any number of stages, rounds and warps, ragged ends, each dtype, by wgmma and by mma.sync."""
    draw = np.random.default_rng([seed, 5])
    dtype = (dt.f16, dt.bf16, dt.i8, dt.f8e4m3, dt.tf32)[seed % 5]
    unit, warps = 16 // dtype.bytes, int(draw.choice([4, 8]))
    tile = (int(draw.choice([16, 64, 128])), int(draw.choice([32, 64])), 64)
    m, n, k = int(draw.choice([64, 140])), unit * int(draw.integers(2, 12)), unit * int(draw.integers(1, 40))
    sums = dt.i32 if dtype.is_integer else dt.f32
    kernel = check_kernel(
        matmul, *pair(m, n, k, dtype), name="sm_90a", bound=1e-3, tile=tile, sums=sums, warps=warps,
        stages=int(draw.integers(2, 5)), turned=(False, False), producer=True,
    )  # fmt: skip
    assert kernel.threads == 32 * (warps + 4)
    if find("ptxas"):
        assert "wgmma" not in kernel.assembled.log and "setmaxnreg" not in kernel.assembled.log


def test_no_rounds() -> None:
    check_kernel(matmul, *pair(8, 16, 0), name="sm_90a", tile=(64, 16, 32), stages=3, warps=4, producer=True)


@tc.kernel
def branched(a: tc.Array, b: tc.Array, c: tc.Array, *, stages=3, warps=4):
    """Two loops, each in a branch; every third block has none."""
    (i,) = tc.blocks(c.shape[0] // 64)
    acc = tc.zeros((64, 32), tc.f32)
    if i % 3 != 1:
        for s in tc.range(a.shape[1] // 32, stages=stages):
            acc = tc.dot(a.load((i * 64, s * 32), (64, 32)), b.load((s * 32, 0), (32, 32)), acc)
    if i % 3 != 2:
        acc = acc * 0.5
    else:
        for s in tc.range(i, a.shape[1] // 64, stages=2):
            acc = tc.dot(a.load((i * 64, s * 64), (64, 64)), b.load((s * 64, 0), (64, 32)), acc)
    c.store((i * 64, 0), acc)


def test_loops_in_branches() -> None:
    check_kernel(branched, *pair(256, 32, 256), name="sm_90a", bound=1e-3, producer=True)


@tc.kernel
def persistent(a: tc.Array, b: tc.Array, c: tc.Array, *, stages=3, blocks=2, warps=4):
    """Few blocks do all tiles: a loop over tiles around the one that is pipelined, and a second after it."""
    (first,) = tc.blocks(blocks)
    columns = c.shape[1] // 32
    for tile in tc.range(first, c.shape[0] // 64 * columns, blocks):
        i, j = tile // columns, tile % columns
        acc = tc.zeros((64, 32), tc.f32)
        rounds = tc.minimum(a.shape[1] // 32, tile)  # the first has none
        for s in tc.range(rounds, stages=stages):
            acc = tc.dot(a.load((i * 64, s * 32), (64, 32)), b.load((s * 32, j * 32), (32, 32)), acc)
        if tile % 2 == 0:
            for s in tc.range(rounds, stages=2):
                x = a.load((i * 64, s * 32), (64, 32))
                acc = tc.dot(x + x, b.load((s * 32, j * 32), (32, 32)), acc)
        c.store((i * 64, j * 32), acc)


@pytest.mark.parametrize("stages", [2, 4])
def test_loops_over_tiles(stages: int) -> None:
    """Rings go on from tile to tile."""
    kernel = check_kernel(
        persistent, *pair(192, 64, 160), name="sm_90a", bound=1e-3, stages=stages, producer=True
    )
    func, args = trace(persistent, *pair(192, 64, 160), stages=stages, producer=True), pair(192, 64, 160)
    plain = [a[1] for a in args]
    for seed in range(4):
        given = copies(plain)
        report = emulate(kernel, given, seed)
        assert report.completed and not report.findings, report.findings[:3]
        np.testing.assert_allclose(given[-1], meaning(func, plain)[-1], atol=1e-3)


@tc.kernel
def halving(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=4):
    """A loop whose end is known only as it goes, around a pipelined one; its state is scalars."""
    left, at, acc = tc.minimum(a.shape[1] // 32, 64), 0, tc.zeros((64, 32), tc.f32)
    while left > 0:
        for s in tc.range(left, stages=3):
            acc = tc.dot(a.load((0, (at + s) * 32), (64, 32)), b.load(((at + s) * 32, 0), (32, 32)), acc)
        left, at = left // 2, at + 1
    c.store((0, 0), acc)


def test_while_loops() -> None:
    check_kernel(halving, *pair(64, 32, 160), name="sm_90a", bound=1e-3, producer=True)


@tc.kernel
def attend(q: tc.Array, k: tc.Array, v: tc.Array, o: tc.Array, lengths: tc.Array, *, stages=2, warps=4):
    """Softmax over keys, as many as an array says: what is read there the producer reads too."""
    z, i = tc.blocks(o.shape[0], o.shape[1] // 64)
    x = q[z].load((i * 64, 0), (64, 64))
    top, total, acc = tc.full((64,), -1e30, tc.f32), tc.zeros((64,), tc.f32), tc.zeros((64, 64), tc.f32)
    length = lengths.at(z)
    for s in tc.range(tc.cdiv(length, 32), stages=stages):
        scores = x @ k[z].load((s * 32, 0), (32, 64)).T
        scores = tc.where(
            (s * 32 + tc.arange(32) < length)[None, :], scores, tc.full((64, 32), -1e30, tc.f32)
        )
        above = tc.maximum(top, scores.max(1))
        weights, less = tc.exp2(scores - above[:, None]), tc.exp2(top - above)
        total = total * less + weights.sum(1)
        acc = tc.dot(weights.to(tc.f16), v[z].load((s * 32, 0), (32, 64)), acc * less[:, None])
        top = above
    o[z].store((i * 64, 0), acc / total[:, None])


def test_attention() -> None:
    q, k, v = (
        np.random.default_rng(i).standard_normal((2, 128, 64)).astype(np.float16) / 4 for i in range(3)
    )
    lengths = np.array([100, 32], np.int32)
    given = [*((dt.f16, x) for x in (q, k, v)), (dt.f32, out((2, 128, 64), dt.f32)), (dt.i32, lengths)]
    check_kernel(attend, *given, name="sm_90a", bound=2e-3, producer=True)
    func = trace(attend, *given, producer=True)
    kinds = {type(inst) for inst in roles_of(func).producer.walk()}
    assert GroupDot not in kinds and BulkCopy in kinds


def test_copies_of_threads_stay_with_the_consumer() -> None:
    """b's rows start anywhere: cp.async brings them, pipelined as without a producer."""
    a, b = pair(64, 32, 96)[:2]
    odd = (dt.f16, np.ascontiguousarray(b[1][:, :30]))
    kernel = check_kernel(matmul, a, odd, (dt.f32, out((64, 30), dt.f32)), name="sm_90a", bound=1e-3,
                          tile=(64, 32, 32), stages=3, warps=4, producer=True)  # fmt: skip
    assert kernel.ptx.count("cp.async.bulk.tensor") == 1


# -- who does what -----------------------------------------------------------------------------------------


def product(**options: Any) -> Func:
    return trace(matmul, *pair(128, 64, 160), **{"tile": (64, 32, 32), "stages": 3, "warps": 4, **options})


def test_each_keeps_what_it_needs() -> None:
    roles = roles_of(product(producer=True))
    producer, consumer = list(roles.producer.walk()), list(roles.consumer.walk())
    assert [type(i) for i in producer if isinstance(i, BulkRoom | BulkCopy | BulkWait)] == [
        BulkRoom,
        BulkCopy,
        BulkCopy,
    ]
    assert not any(isinstance(i, BulkRoom | BulkCopy | Barrier) for i in consumer)
    assert sum(isinstance(i, BulkWait) for i in consumer) == 1
    assert (
        sum(isinstance(i, BulkDone) for i in consumer) == 1
    )  # of the round before; nobody waits for the last's


def test_no_barrier_stands_in_the_loop() -> None:
    """Only the gates' own before the roles; stores of sums come from registers."""
    ptx = build(product(producer=True), "sm_90a")[1].ptx
    assert re.findall(r"bar\.sync\s+(.*);", ptx) == ["0"]


def test_barriers_of_consumers_leave_the_producer_out() -> None:
    given = [*[(dt.f16, np.zeros((2, 128, 64), np.float16))] * 3, (dt.f32, out((2, 128, 64), dt.f32))]
    func = trace(attend, *given, (dt.i32, np.zeros(2, np.int32)), producer=True, warps=8)
    found = re.findall(r"bar\.sync\s+(.*);", build(func, "sm_90a")[1].ptx)
    assert found[0] == "0" and set(found[1:]) == {"1, 256"}


@pytest.mark.parametrize(("schedule", "wanted"), [
    ({"warps": 8}, (40, 232)),  # 168 for each of 384 threads
    ({"warps": 12}, (40, 152)),
    ({"warps": 4}, None),  # 240 and more for all
    ({"warps": 4, "blocks_per_sm": 2}, (40, 216)),
    ({"warps": 8, "max_registers": 128}, (40, 168)),
    ({"warps": 8, "max_registers": 40}, None),
    ({"warps": 6}, None),  # only whole groups of four warps move them
])  # fmt: skip
def test_registers_move(schedule: dict[str, int], wanted: tuple[int, int] | None) -> None:
    func = replace(product(), schedule={**schedule, "producer": True})
    assert moved_registers(func, target("sm_90a")) == wanted
    assert moved_registers(func, target("sm_90")) is None


def test_moved_registers_are_in_the_code() -> None:
    kernel = build(product(tile=(128, 64, 32), warps=8, producer=True), "sm_90a")[1]
    assert re.findall(r"setmaxnreg\.(\w+)\S* (\d+);", kernel.ptx) == [("dec", "40"), ("inc", "232")]
    if find("ptxas"):
        assert kernel.assembled.registers == 168


def test_no_wait_or_arrival_can_go() -> None:
    """In the PTX, up to the last wait for products; but for the barrier of a warp before it tells: the
    emulator's warps go in step there."""
    func, args = product(producer=True), [a[1] for a in pair(128, 64, 160)]
    kernel, wanted = build(func, "sm_90a")[1], meaning(func, args)[-1]
    mutants = [m for m in deletions(kernel.ptx) if not m.what.startswith("bar.warp")]
    spare = [
        m.what
        for m in mutants
        if not tells(replace(kernel, ptx=m.text), args, wanted, (None, 1, 2, 3), atol=1e-2)
    ]
    assert not spare, f"nobody misses {spare}"


# -- what it may not ---------------------------------------------------------------------------------------


@tc.kernel
def without_loops(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=4):
    c.store((0, 0), a.load((0, 0), (64, 32)) @ b.load((0, 0), (32, 32)))


@tc.kernel
def computed_end(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=4):
    """As many rounds as the block's data says."""
    acc = tc.zeros((64, 32), tc.f32)
    for s in tc.range(a.load((0, 0), (64, 32), other=-9.0).max((0, 1)).to(tc.i32), stages=2):
        acc = tc.dot(a.load((0, s * 32), (64, 32)), b.load((s * 32, 0), (32, 32)), acc)
    c.store((0, 0), acc)


@tc.kernel
def written_end(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=4):
    """As many rounds as an array says that the kernel writes."""
    acc = tc.zeros((64, 32), tc.f32)
    for s in tc.range(c.at(0, 0).to(tc.i32), stages=2):
        acc = tc.dot(a.load((0, s * 32), (64, 32)), b.load((s * 32, 0), (32, 32)), acc)
    c.store((0, 0), acc)


@tc.kernel
def walking(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=4):
    """Where a round reads hangs on what the one before has read."""
    acc, at = tc.zeros((64, 32), tc.f32), 0
    for s in tc.range(3, stages=2):
        acc = tc.dot(a.load((0, at), (64, 32)), b.load((at, 0), (32, 32)), acc)
        at = a.at(s, 0).to(tc.i32)
    c.store((0, 0), acc)


@tc.kernel
def elementwise(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=4):
    acc = tc.zeros((64, 32), tc.f16)
    for s in tc.range(a.shape[1] // 32, stages=2):
        acc = acc + a.load((0, s * 32), (64, 32))
    c.store((0, 0), acc.to(tc.f32))


@pytest.mark.parametrize(("kernel", "text"), [
    (without_loops, "there is none: write tc.range"),
    (computed_end, "would hang on what the other warps compute here"),
    (written_end, "would hang on what the other warps compute here"),
    (walking, "TMA could bring for this loop: its address depends on what the loop loads or carries"),
    (elementwise, "no product reads what it loads through shared memory"),
])  # fmt: skip
def test_what_cannot_be_split_is_told_of(kernel: tc.Kernel, text: str) -> None:
    with pytest.raises(tc.TilecError, match=text) as caught:
        build(trace(kernel, *pair(64, 32, 96), producer=True), "sm_90a")
    assert "test_producer.py:" in str(caught.value)
    build(trace(kernel, *pair(64, 32, 96)), "sm_90a")


def test_rows_that_tma_cannot_bring_are_told_of() -> None:
    func = trace(matmul, *pair(64, 30, 90), tile=(64, 32, 32), stages=3, warps=4, producer=True)
    with pytest.raises(tc.TilecError, match="rows that are multiples of 16 bytes"):
        build(func, "sm_90a")


def test_targets_without_tma_are_told_of() -> None:
    with pytest.raises(tc.TilecError, match="sm_80 has no TMA, so nothing for a producer"):
        build(product(producer=True), "sm_80")
    check_kernel(
        matmul, *pair(64, 32, 96), name="sm_90", tile=(64, 32, 32), stages=3, bound=1e-3, producer=True
    )


def test_it_is_true_or_false() -> None:
    with pytest.raises(tc.TilecError, match="producer is True or False, found 4"):
        product(producer=4)


def test_the_cpu_has_no_use_for_it() -> None:
    (_, a), (_, b), (_, c) = pair(64, 32, 96)
    matmul.on("cpu")(a, b, c, tile=(64, 32, 32), stages=3, producer=True)
    np.testing.assert_allclose(c, a.astype(np.float32) @ b.astype(np.float32), atol=1e-3)


def test_it_prints_and_is_read_again() -> None:
    text = show(lowered(product(producer=True)))
    assert show(parse(text)) == text


@pytest.mark.skipif(not find("ptxas"), reason="there is no ptxas")
def test_the_loop_of_a_large_product_is_short() -> None:
    """Four wgmma, and what is around them; without a producer 96 instructions."""
    a, b = tc.Spec("f16", ("m", tc.dim("k", multiple=8))), tc.Spec("f16", ("k", tc.dim("n", multiple=8)))
    done = matmul.compile(a, b, tc.Spec("f32", ("m", "n")), target="sm_90a", tile=(128, 256, 64), stages=3,
                          warps=8, producer=True)  # fmt: skip
    assert done.hot_loop is not None and done.hot_loop.products == 4 and done.hot_loop.instructions <= 52
    assert done.resources.registers == 168 and not done.resources.spill_bytes


def test_it_can_be_tuned() -> None:
    a, b, c = (x[1] for x in pair(128, 64, 64))
    tuned = matmul.tune(
        a, b, c, target="sm_90a", tile=[(128, 32, 64)], stages=[2], warps=[8], producer=[False, True]
    )
    assert sorted(str(candidate.constants["producer"]) for candidate in tuned.candidates) == ["False", "True"]
