"""Products with two of each four elements kept by warpgroups: every pair of dtypes, either side, and every
synchronisation needed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.emulator.mutate import deletions
from tests.backends.ptx.runner import build, check_kernel, meaning, out, seeds, tells, trace
from tests.backends.ptx.test_sparse import problem, product
from tilec.ir import dtype as dt
from tilec.ir.atoms import sparse_atom
from tilec.ir.dtype import DType
from tilec.ir.inst.mma import GroupWait
from tilec.ir.inst.sparse import HeldSparseDot, Sparse
from tilec.ir.inst.sync import Barrier, ProxyFence
from tilec.ir.layouts import wgmma_a, wgmma_places

PAIRS = (
    (dt.f16, dt.f32), (dt.bf16, dt.f32), (dt.f16, dt.f16), (dt.i8, dt.i32), (dt.u8, dt.i32),
    (dt.f8e4m3, dt.f32), (dt.f8e5m2, dt.f32),
)  # fmt: skip


def products(ptx: str) -> set[str]:
    """Shapes and types of the sparse wgmmas."""
    return set(re.findall(r"wgmma\.mma_async\.sp\.sync\.aligned\.(\S+)", ptx))


@pytest.mark.parametrize("seed", seeds(2 * len(PAIRS), 200))
def test_products(seed: int) -> None:
    """The sparse operand on the left or on the right, pipelined or not, one or two warpgroups."""
    draw = np.random.default_rng([seed, 11])
    (dtype, sums), right = PAIRS[seed % len(PAIRS)], seed >= len(PAIRS) if seed < 14 else bool(seed % 2)
    groups, deep = int(draw.integers(1, 3)), 64 // dtype.bytes
    tile = 64 * groups, int(draw.choice([8, 16, 24, 40])), deep * int(draw.integers(1, 4))
    m, n = tile[0] + int(draw.choice([0, -7, 9])), tile[1] + int(draw.choice([0, -3]))
    k = 2 * tile[2] + int(draw.choice([0, 16]))
    v, p, b, _ = problem(m, n, k, dtype, seed)
    b = np.asfortranarray(b) if (along := bool(draw.integers(2))) else b
    options: dict[str, Any] = {"tile": tile, "right": right, "sums": sums, "warps": 4 * groups}
    options |= {"stages": int(draw.integers(1, 4)), "name": "sm_90a", "bound": 0.5}
    kernel = check_kernel(product, (dtype, v), (dt.u8, p), (dtype, b), (sums, out((m, n), sums)), **options)
    if along or dtype.bits == 16:  # bytes have k innermost, or warpgroups may not be worth it
        assert len(products(kernel.ptx)) == 1 and "mma.sync" not in kernel.ptx


def made(dtype: DType, tile: tuple[int, int, int], warps: int = 4, **options: Any) -> str:
    m, n, k = tile
    v, p, b, _ = problem(m, n, k, dtype)
    c = out((m, n), dt.f32)
    given = (dtype, v), (dt.u8, p), (dtype, b), (dt.f32, c)
    return build(trace(product, *given, tile=tile, warps=warps, **options), "sm_90a")[1].ptx


@pytest.mark.parametrize(("tile", "warps", "instruction"), [
    ((64, 16, 64), 4, "m64n16k32.f32.f16.f16"), ((128, 64, 64), 8, "m64n64k32.f32.f16.f16"),
    ((64, 128, 32), 8, "m64n64k32.f32.f16.f16"), ((64, 256, 32), 4, "m64n256k32.f32.f16.f16"),
])  # fmt: skip
def test_shapes(tile: tuple[int, int, int], warps: int, instruction: str) -> None:
    assert products(made(dt.f16, tile, warps)) == {instruction}


@pytest.mark.parametrize(("tile", "warps"), [((32, 32, 32), 4), ((64, 64, 32), 2), ((64, 20, 32), 4)])
def test_what_does_not_fit_goes_to_mma_sync(tile: tuple[int, int, int], warps: int) -> None:
    ptx = made(dt.f16, tile, warps)
    assert not products(ptx) and "mma.sp" in ptx


def test_one_sparse_tile_in_two_products() -> None:
    """One that warpgroups do, and one that no instruction does: zeros are put in for that alone."""

    @tc.kernel
    def twice(v: tc.Array, p: tc.Array, b: tc.Array, c: tc.Array, d: tc.Array, *, warps=4):
        a = tc.sparse(v.load((0, 0), (64, 16)), p.load((0, 0), (64, 16)).to(tc.u2))
        y = b.load((0, 0), (32, 16))
        c.store((0, 0), tc.dot(a, y, tc.zeros((64, 16), tc.f32)))
        d.store((0, 0), tc.dot(y.T, a.T, tc.zeros((16, 64), tc.f32)))

    v, p, b, want = problem(64, 16, 32, dt.f16)
    c, d = out((64, 16), dt.f32), out((16, 64), dt.f32)
    given = (dt.f16, v), (dt.u8, p), (dt.f16, b), (dt.f32, c), (dt.f32, d)
    kernel = check_kernel(twice, *given, name="sm_90a", bound=0.1)
    assert products(kernel.ptx) == {"m64n16k32.f32.f16.f16"} and kernel.ptx.count("wgmma.mma_async.sync")
    twice.on("emulator:sm_90a")(v, p, b, c, d)
    np.testing.assert_array_equal(c, want)
    np.testing.assert_array_equal(d, want.T)


@pytest.mark.parametrize("dtype", [dt.f16, dt.i8])
def test_warps_hold_their_sixteen_rows(dtype: DType) -> None:
    """Of each warpgroup's 64: numbers as of a dense operand of half the depth, places as of mma.sp."""
    atom, shape = sparse_atom(dtype.bits), (256, 64)
    numbers, places = wgmma_a(dtype, shape, (2, 1)), wgmma_places(dtype, shape, (2, 1))
    for layout, part in ((numbers, atom.values), (places, atom.places)):
        points = layout.points().reshape(2, 4, 32, -1, 2)  # group, warp, lane, slot
        first = points[:, :, :, : part.slots] - np.arange(2)[:, None, None, None, None] * [128, 0]
        rows = first - np.arange(4)[:, None, None, None] * [16, 0]
        np.testing.assert_array_equal(rows, np.broadcast_to(part.points(), rows.shape))


# -- what stands between threads and warpgroups --------------------------------------------------------


@tc.kernel
def twice(v: tc.Array, p: tc.Array, b: tc.Array, c: tc.Array, *, warps=8):
    """Numbers and places from registers, worked on first; the right operand is copied."""
    acc = tc.zeros((256, 64), tc.f32)
    for s in tc.range(2):
        x, places = v.load((0, s * 32), (256, 32)), p.load((0, s * 32), (256, 32)).to(tc.u2)
        acc = tc.dot(tc.sparse(x * x, places), b.load((s * 64, 0), (64, 64)), acc)
    c.store((0, 0), acc)


def case() -> tuple[Any, list[np.ndarray]]:
    v, p, b, _ = problem(256, 64, 128, dt.f16)
    args = [v, p, b, np.zeros((256, 64), np.float32)]
    types = dt.f16, dt.u8, dt.f16, dt.f32
    return trace(twice, *zip(types, args, strict=True)), args


def test_no_fence_barrier_or_wait_can_go() -> None:
    """In the PTX, up to the last product's wait."""
    func, args = case()
    kernel, wanted = build(func, "sm_90a")[1], meaning(func, args)[-1]
    last = kernel.ptx[: kernel.ptx.rindex("wgmma.wait_group")].count("\n") + 1
    mutants = [m for m in deletions(kernel.ptx) if m.line <= last and "cp.async.commit" not in m.what]
    kinds = {re.match(r"[a-z_.]*", m.what)[0].removesuffix(".sync.aligned") for m in mutants}  # type: ignore[index]
    assert kinds >= {"wgmma.fence", "wgmma.commit_group", "wgmma.wait_group", "fence.proxy.async.shared"}
    spare = [m.what for m in mutants
             if not tells(replace(kernel, ptx=m.text), args, wanted, (None, 1, 2), atol=1e-2)]  # fmt: skip
    # A second step's fence lets an assembler make its fragments while the first is worked on.
    assert spare == ["wgmma.fence.sync.aligned;"], f"nobody misses {spare}"


def test_passes_put_what_is_needed() -> None:
    """In the IR: the product is waited for, and what is copied is fenced before it."""
    kinds = [type(inst) for inst in build(case()[0], "sm_90a")[0][-1][1].walk()]
    assert kinds.count(HeldSparseDot) == kinds.count(GroupWait) == 1 and Sparse not in kinds
    order = [kind for kind in kinds if kind in (ProxyFence, Barrier, HeldSparseDot)]
    at = order.index(HeldSparseDot)
    assert order[at - 2 : at] == [ProxyFence, Barrier]
