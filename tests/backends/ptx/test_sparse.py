"""Products with two of each four elements kept: mma.sp against the expanded tile, on every runner."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import FULL, check_kernel, out, values
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.inst.sparse import Sparse, SparseDot
from tilec.ir.target import TARGETS

Array = np.ndarray[Any, Any]
PAIRS = np.array(list(combinations(range(4), 2)), np.uint8)  # the six ways to keep two of four


@tc.kernel
def product(v: tc.Array, p: tc.Array, b: tc.Array, c: tc.Array, *, tile=(64, 16, 64), right=False,
            sums=tc.f32, stages=2, warps=4):  # fmt: skip
    """c = sparse(v, p) @ b, or that of the transposes: b^T @ sparse(v, p)^T."""
    (m, n), (bm, bn, bk) = c.shape, tile
    i, j = tc.blocks(tc.cdiv(m, bm), tc.cdiv(n, bn))
    acc = tc.zeros((bn, bm) if right else (bm, bn), sums)
    for s in tc.range(tc.cdiv(v.shape[1], bk // 2), stages=stages):
        at = (i * bm, s * bk // 2)
        x, places = v.load(at, (bm, bk // 2)), p.load(at, (bm, bk // 2), other=4)
        k = tc.arange(bk // 2)[None, :] + s * (bk // 2)
        places = tc.where(places < 4, places, (k % 2).to(tc.u8)).to(tc.u2)  # in order outside, too
        y = b.load((s * bk, j * bn), (bk, bn))
        if right:
            acc = tc.dot(y.T, tc.sparse(x.T, places.T, axis=0), acc)
        else:
            acc = tc.dot(tc.sparse(x, places), y, acc)
    c.store((i * bm, j * bn), acc.T if right else acc)


def problem(m: int, n: int, k: int, dtype: DType, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Values and places [m, k / 2], b [k, n], and the product of the expanded a."""
    v, b = (values(dtype, shape, [seed, i], small=True) for i, shape in enumerate(((m, k // 2), (k, n))))
    draw = np.random.default_rng([seed, k])
    p = PAIRS[draw.permutation(m * k // 4) % 6].reshape(m, k // 2)
    dense = np.zeros((m, k // 4, 4))
    held = codec.from_storage(v, dtype).astype(np.float64).reshape(m, -1, 2)
    np.put_along_axis(dense, p.reshape(m, -1, 2).astype(int), held, 2)
    return v, p, b, dense.reshape(m, k) @ codec.from_storage(b, dtype).astype(np.float64)


CASES = [  # dtype, sums, tile, m, n, k, the instruction
    (dt.f16, dt.f32, (64, 16, 64), 64, 16, 128, "m16n8k32.row.col.f32.f16.f16.f32"),
    (dt.f16, dt.f32, (16, 8, 32), 33, 9, 100, "m16n8k32.row.col.f32.f16.f16.f32"),
    (dt.f16, dt.f16, (32, 24, 96), 40, 30, 96, "m16n8k32.row.col.f16.f16.f16.f16"),
    (dt.bf16, dt.f32, (128, 8, 128), 100, 7, 256, "m16n8k32.row.col.f32.bf16.bf16.f32"),
    (dt.i8, dt.i32, (64, 16, 128), 64, 31, 200, "m16n8k64.row.col.s32.s8.s8.s32"),
    (dt.u8, dt.i32, (32, 8, 64), 17, 8, 64, "m16n8k64.row.col.s32.u8.u8.s32"),
    (dt.f8e4m3, dt.f32, (32, 16, 64), 32, 16, 128, "m16n8k64.row.col.f32.e4m3.e4m3.f32"),
    (dt.f32, dt.f32, (16, 16, 16), 17, 9, 20, ""),  # zeros are put in where no instruction is exact enough
    (dt.f16, dt.f32, (16, 16, 16), 16, 16, 32, ""),  # and where k is too short for one
]


SIDES = [(*case, right) for i, case in enumerate(CASES) for right in (False, True) if FULL or right == i % 2]


@pytest.mark.parametrize(("dtype", "sums", "tile", "m", "n", "k", "instruction", "right"), SIDES)
def test_products(
    dtype: DType, sums: DType, tile: Any, m: int, n: int, k: int, instruction: str, right: bool
) -> None:
    v, p, b, want = problem(m, n, k, dtype)
    c = out((m, n), sums)
    name = "sm_89" if dtype.bits == 8 and dtype.is_float else "sm_90" if right else "sm_80"
    options = {"tile": tile, "right": right, "sums": sums}
    given = (dtype, v), (dt.u8, p), (dtype, b), (sums, c)
    ptx = check_kernel(product, *given, name=name, bound=0.5, **options).ptx
    assert "mma.sp.sync.aligned." + instruction in ptx if instruction else "mma.sp" not in ptx
    if dtype.storage != v.view(f"u{v.itemsize}").dtype:
        for target in ("reference", "cpu"):
            product.on(target)(v, p, b, c, **options)
            np.testing.assert_array_equal(codec.from_storage(c, sums), want, err_msg=target)


@pytest.mark.parametrize("gpu", [t for t in TARGETS if t.startswith("sm_")])
def test_every_target_has_its_instruction(gpu: str) -> None:
    v, p, b, want = problem(64, 16, 64, dt.f16)
    c = np.zeros((64, 16), np.float32)
    kernel = check_kernel(product, (dt.f16, v), (dt.u8, p), (dt.f16, b), (dt.f32, c), name=gpu, bound=0.1)
    product.on(f"emulator:{gpu}")(v, p, b, c)
    np.testing.assert_array_equal(c, want)
    if TARGETS[gpu].wgmma_sparse:
        assert "wgmma.mma_async.sp.sync" in kernel.ptx
        return
    ordered = TARGETS[gpu].ptx_version >= 85
    assert ("mma.sp::ordered_metadata.sync" in kernel.ptx) == ordered
    assert ("mma.sp.sync" in kernel.ptx) != ordered


@pytest.mark.parametrize("seed", range(40 if FULL else 2))
def test_every_pair_of_places(seed: int) -> None:
    """Each of the six patterns at each chunk of each row: 6 tiles, every one shifted by one pattern."""
    v, _, b, _ = problem(16, 8, 64, dt.f16, seed)
    found = []
    for shift in range(6):
        at = (np.arange(16)[:, None] * 5 + np.arange(16) + shift) % 6
        places = PAIRS[at].reshape(16, 32)
        a, c = np.zeros((16, 16, 4)), np.full((16, 8), np.nan, np.float32)
        np.put_along_axis(a, places.reshape(16, -1, 2).astype(int), v.astype(float).reshape(16, -1, 2), 2)
        product.on("emulator:sm_80")(v, places, b, c, tile=(16, 8, 64), warps=1)
        np.testing.assert_array_equal(c, a.reshape(16, 64) @ b.astype(float))
        found.append(at)
    assert {len(set(each)) for each in np.stack(found).reshape(6, -1).T.tolist()} == {6}


def test_it_is_one_instruction_of_the_ir() -> None:
    v, p, b, _ = problem(64, 16, 64, dt.f16)
    given = (v, p, b, np.zeros((64, 16), np.float32))
    for target, kind in (("reference", Sparse), ("cpu", None), ("sm_80", SparseDot)):
        done = product.compile(*given, target=target)
        func = done.traced if target == "reference" else done.func
        there = {type(inst) for inst in func.walk()} & {Sparse, SparseDot}
        assert there == ({kind} if kind else set())


def test_places_are_one_register() -> None:
    """Where codes are viewed as places, nothing is put together."""
    layout = tc.layouts.mma_places(dt.f16, (64, 32), 4)

    @tc.kernel
    def viewed(v: tc.Array, p: tc.Array, b: tc.Array, c: tc.Array):
        places = tc.view(p.load(0, 512), tc.u2, layout)
        c.store((0, 0), tc.dot(tc.sparse(v.load((0, 0), (64, 32)), places), b.load((0, 0), (64, 8))))

    v, p, b, want = problem(64, 8, 64, dt.f16)
    slots = p[tuple(np.moveaxis(layout.points(), -1, 0))]  # [threads, slots]
    data = tc.pack(slots, tc.u2)
    for target in ("reference", "emulator:sm_80", "emulator:sm_120"):
        c = np.zeros((64, 8), np.float32)
        viewed.on(target)(v, data, b, c)
        np.testing.assert_array_equal(c, want)
    ptx = viewed.compile(v, data, b, c, target="sm_80").ptx
    assert ptx.count("mma.sp.sync") == 2 and "shl.b32" not in ptx.split("mma.sp")[1]
