"""Products by warpgroups: every pair of dtypes, every way operands lie, and every synchronisation needed."""

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
from tests.backends.ptx.test_products import matmul, product
from tilec.backends.ptx.kernel import compile as compile_ptx
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.func import Func, Inst
from tilec.ir.inst.mma import GroupDot, GroupWait, HeldDot
from tilec.ir.inst.sync import Barrier, ProxyFence
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.target import target

PAIRS = (
    (dt.f16, dt.f32), (dt.bf16, dt.f32), (dt.tf32, dt.f32), (dt.f8e4m3, dt.f32), (dt.f8e5m2, dt.f32),
    (dt.i8, dt.i32), (dt.u8, dt.i32), (dt.f16, dt.f16),
)  # fmt: skip
BOUND = {dt.f16: 0.5, dt.f32: 1e-3}


def products(ptx: str) -> set[str]:
    """Shapes and types of the wgmmas."""
    return set(re.findall(r"wgmma\.mma_async\.sync\.aligned\.(\S+)", ptx))


@pytest.mark.parametrize("seed", seeds(2 * len(PAIRS), 400))
def test_products(seed: int) -> None:
    """Pipelined or not, transposed or not, worked on first or not, one to three warpgroups."""
    draw = np.random.default_rng([seed, 9])
    dtype, sums = PAIRS[seed % len(PAIRS)]
    deep = 32 // dtype.bytes
    groups = int(draw.integers(1, 4))
    if draw.integers(2):
        bm, bn = int(draw.choice([64, 128])) * groups, int(draw.choice([8, 24, 64, 72]))
    else:
        bm, bn = int(draw.choice([8, 16, 40])), 64 * groups
    bk = deep * int(draw.integers(1, 4))
    m, n, k = (
        bm + int(draw.choice([0, -7, 9])),
        bn + int(draw.choice([0, -3, 8])),
        2 * bk + int(draw.choice([0, 8])),
    )
    turned, computed = tuple(bool(x) for x in draw.integers(0, 2, 2)), bool(draw.integers(2))
    a, b = (values(dtype, shape, [seed, i], small=True) for i, shape in enumerate(((m, k), (k, n))))
    a, b = (np.ascontiguousarray(x.T) if t else x for x, t in zip((a, b), turned, strict=True))
    options: dict[str, Any] = {"tile": (bm, bn, bk), "turned": turned, "computed": computed, "sums": sums}
    options |= {"stages": int(draw.integers(1, 4)), "warps": 4 * groups, "bound": BOUND.get(sums)}
    check_kernel(matmul, (dtype, a), (dtype, b), (sums, out((m, n), sums)), name="sm_90a", **options)


def compiled(dtype: DType, tile: tuple[int, int, int], warps: int = 4, **options: Any) -> str:
    """The PTX of the product of one tile."""
    m, n, k = tile
    sums = dt.i32 if dtype.is_integer else dt.f32
    turned = options.get("turned", (False, False))
    shapes = ((k, m) if turned[0] else (m, k), (n, k) if turned[1] else (k, n))
    a, b = ((dtype, values(dtype, shape, 1, small=True)) for shape in shapes)
    func = trace(matmul, a, b, (sums, out((m, n), sums)), tile=tile, sums=sums, warps=warps, **options)
    return build(func, "sm_90a")[1].ptx


@pytest.mark.parametrize(("dtype", "instruction"), [
    (dt.f16, "m64n64k16.f32.f16.f16"), (dt.bf16, "m64n64k16.f32.bf16.bf16"),
    (dt.tf32, "m64n64k8.f32.tf32.tf32"), (dt.f8e4m3, "m64n64k32.f32.e4m3.e4m3"),
    (dt.i8, "m64n64k32.s32.s8.s8"),
])  # fmt: skip
def test_instructions(dtype: DType, instruction: str) -> None:
    """What lies with k innermost goes to wgmma as it is, of each dtype."""
    ptx = compiled(dtype, (64, 64, 64), turned=(False, True))
    assert products(ptx) == {instruction} and "mma.sync" not in ptx
    before = ptx[: ptx.rindex("wgmma.wait_group")]  # sums leave through shared memory
    assert "ldmatrix" not in ptx and "st.shared" not in before and "cp.async.cg" in before


@pytest.mark.parametrize(("tile", "warps", "instruction"), [
    ((64, 256, 32), 4, "m64n256k16.f32.f16.f16"), ((128, 192, 32), 8, "m64n192k16.f32.f16.f16"),
    ((64, 256, 32), 8, "m64n128k16.f32.f16.f16"), ((16, 128, 32), 4, "m64n16k16.f32.f16.f16"),
    ((8, 128, 32), 4, "m64n8k16.f32.f16.f16"),
])  # fmt: skip
def test_shapes(tile: tuple[int, int, int], warps: int, instruction: str) -> None:
    """Warpgroups lie below each other, then beside; where a has few rows, b's columns are rows."""
    assert products(compiled(dt.f16, tile, warps)) == {instruction}


@pytest.mark.parametrize(
    ("tile", "warps"), [((32, 32, 32), 4), ((64, 64, 32), 2), ((64, 20, 32), 4), ((64, 64, 8), 4)]
)
def test_what_does_not_fit_goes_to_mma_sync(tile: tuple[int, int, int], warps: int) -> None:
    ptx = compiled(dt.f16, tile, warps)
    assert not products(ptx) and "mma.sync" in ptx


def test_sums_that_start_at_zero_are_not_made() -> None:
    """The first product writes its sums instead of adding to them."""
    a, b = ((dt.f16, values(dt.f16, (64, 64), i)) for i in range(2))
    options: dict[str, Any] = {"shape": (64,) * 3, "sums": dt.f32, "warps": 4, "bound": 1e-3}
    kernel = check_kernel(product, a, b, (dt.f32, out((64, 64), dt.f32)), name="sm_90a", **options)
    assert kernel.ptx.count("setp.ne.b32 p, 0, 0;") == 1 and kernel.ptx.count("setp.ne.b32 p, 1, 0;") == 3


# -- what stands between threads and warpgroups --------------------------------------------------------


@tc.kernel
def twice(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=8):
    """A product whose left operand comes from registers, and whose right one threads have written."""
    acc = tc.zeros((256, 64), tc.f32)
    for s in tc.range(2):
        x, y = a.load((0, s * 32), (256, 32)), b.load((s * 32, 0), (32, 64))
        acc = tc.dot(x * x, y + y, acc)
    c.store((0, 0), acc)


CASES = {
    "copied": (matmul, {"tile": (256, 64, 32), "warps": 8}),
    "computed": (twice, {}),
}


def made(name: str) -> tuple[Func, list[np.ndarray]]:
    kernel, constants = CASES[name]
    args = [values(dt.f16, shape, i) for i, shape in enumerate(((256, 64), (64, 64)))]
    args.append(np.zeros((256, 64), np.float32))
    return trace(kernel, *((dt.f16, a) for a in args[:2]), (dt.f32, args[2]), **constants), args


@pytest.mark.parametrize("name", CASES)
def test_no_fence_barrier_or_wait_can_go(name: str) -> None:
    """In the PTX, up to the last product's wait."""
    func, args = made(name)
    kernel, wanted = build(func, "sm_90a")[1], meaning(func, args)[-1]
    last = kernel.ptx[: kernel.ptx.rindex("wgmma.wait_group")].count("\n") + 1
    mutants = [
        m for m in deletions(kernel.ptx) if m.line <= last and not m.what.startswith("cp.async.commit")
    ]
    kinds = {re.match(r"[a-z_.]*", mutant.what)[0].removesuffix(".sync.aligned") for mutant in mutants}  # type: ignore[index]
    assert kinds >= {
        "wgmma.fence",
        "wgmma.commit_group",
        "wgmma.wait_group",
        "fence.proxy.async.shared",
        "bar.sync",
    }
    spare = [
        m.what
        for m in mutants
        if not tells(replace(kernel, ptx=m.text), args, wanted, (None, 1, 2), atol=1e-2)
    ]
    # A second step's fence lets an assembler make its fragments while the first is worked on.
    assert spare == (["wgmma.fence.sync.aligned;"] if name == "computed" else []), f"nobody misses {spare}"


@pytest.mark.parametrize("name", CASES)
def test_passes_put_what_is_needed(name: str) -> None:
    """In the IR: products are waited for, threads' writes are fenced, in every order that passes leave."""
    func, _ = made(name)
    done = build(func, "sm_90a")[0][-1][1]
    kinds = [type(inst) for inst in done.walk()]
    product = HeldDot if name == "computed" else GroupDot
    assert kinds.count(product) == kinds.count(GroupWait) == 1 and Barrier in kinds
    order = [kind for kind in kinds if kind in (ProxyFence, Barrier, product, GroupWait)]
    at = order.index(product)
    assert order[at - 2 : at] == [ProxyFence, Barrier]


def test_a_missing_wait_is_found() -> None:
    func, args = made("copied")
    done = build(func, "sm_90a")[0][-1][1]

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        return inst.x if isinstance(inst, GroupWait) else None

    report = emulate(compile_ptx(rebuild(done, visit), target("sm_90a")), copies(args))
    assert {finding.kind for finding in report.findings} >= {"async"}
