"""Schedules of quantised linear layers: whatever blocks and warps share the work, the result is right, and
the same every time.
"""

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tilec import ops
from tilec.backends.ptx.assemble import find
from tilec.ir import dtype as dt
from tilec.ops.epilogue import finishing
from tilec.ops.linear import quantised_product
from tilec.ops.reference import linear_reference, relative_error
from tilec.ops.tiling import Weighted, direct, linear_tiling

needs_ptxas = pytest.mark.skipif(find("ptxas") is None, reason="no ptxas")
TARGETS = ("cpu", "emulator:sm_80", "emulator:sm_90a")
F16, BF16, F32 = (np.float16, 1.5e-3), (ml_dtypes.bfloat16, 1e-2), (np.float32, 1e-5)
CASES = [  # m, n, k, weight, group, zero_point, (x, tolerance)
    (5, 100, 200, "u4", 64, False, F16),
    (33, 130, 129, "i3", 32, True, F16),
    (7, 33, 129, "u1", None, False, F32),
    (20, 200, 300, "f8e4m3", 48, True, BF16),
    (6, 130, 500, "u8", None, True, F16),
]


def normal(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


def own(x: np.ndarray, q: ops.QuantizedWeight, target: str) -> Weighted:
    """The target's schedule."""
    group = 0 if q.group_size >= q.shape[1] else q.group_size
    return linear_tiling(len(x), dt.dtype(x.dtype), group, target, q.dtype.bits)


def sample(full: bool, target: str, number: int) -> None:
    """In the emulator every other case, unless all are asked for."""
    if not full and target != "cpu" and (number + target.endswith("a")) % 2:
        pytest.skip("make check-all runs it")


def run(x: np.ndarray, q: ops.QuantizedWeight, target: str, schedule: Weighted) -> tuple[np.ndarray, float]:
    """A layer with everything that may finish it; how far it is off."""
    n, bias, residual = q.shape[0], normal(q.shape[0]), normal(len(x), q.shape[0], dtype=x.dtype)
    y = np.full((len(x), n), np.nan, x.dtype)
    given, epilogue = finishing(y.shape, bias, "gelu", residual, None, None, None)
    with tc.target(target):
        quantised_product(x, q, y, given, epilogue, schedule=schedule)
    return y, relative_error(y, linear_reference(x, q, bias, activation="gelu", residual=residual))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("m", "n", "k", "weight", "group", "zero_point", "kind"), CASES)
def test_blocks_that_share_k(m, n, k, weight, group, zero_point, kind, target, full):
    sample(full, target, m)
    q = ops.quantize(normal(n, k), weight, group_size=group, zero_point=zero_point)
    x = normal(m, k, dtype=kind[0])
    found = [run(x, q, target, own(x, q, target)._replace(split=3)) for _ in range(2)]
    assert found[0][1] < kind[1]
    assert np.array_equal(found[0][0], found[1][0])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("m", "n", "k", "weight", "group", "zero_point", "kind"), CASES)
def test_as_many_blocks_as_processors(m, n, k, weight, group, zero_point, kind, target, full):
    """Runs that begin and end anywhere in tiles; more tiles than blocks, and fewer."""
    sample(full, target, m + 1)
    q = ops.quantize(normal(n, k), weight, group_size=group, zero_point=zero_point)
    x = normal(m, k, dtype=kind[0])
    assert run(x, q, target, own(x, q, target)._replace(blocks=2 if m < 20 else 7))[1] < kind[1]


@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize(
    ("weight", "group", "zero_point"),
    [
        ("u4", 64, False),
        ("i3", 32, True),
        ("f6e3m2", None, False),
        ("u1", 32, False),
        ("u8", 128, True),
        ("f8e5m2", 96, True),
    ],
)
@pytest.mark.parametrize("m", [1, 3])
def test_rows_past_shared_memory(m, weight, group, zero_point, target, full):
    """Few rows, of the bytes that serve many."""
    sample(full, target, m // 2 + len(weight) // 3 + (group == 96))
    q, x = (
        ops.quantize(normal(130, 200), weight, group_size=group, zero_point=zero_point),
        normal(m, 200, dtype=np.float16),
    )
    schedule = direct(own(x, q, target))
    assert run(x, q, target, schedule._replace(split=2))[1] < 1.5e-3


@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
def test_few_rows_need_no_shared_memory_and_no_other_weights(target: str):
    few, many = (linear_tiling(m, dt.f16, 128, target, 4, 8192, 8192) for m in (1, 100))
    assert few.fragment == many.fragment and not many.direct and few.direct is (target == "sm_90a")
    made = ops.linear.compile(m=1, n=8192, k=8192, target=target, schedule=direct(few._replace(blocks=0)))
    assert not re.search(r"cp\.async|st\.shared|ld\.shared", made.ptx)
    loop = made.ptx[: made.ptx.rindex("mma.sync")]
    assert "ld.global.nc.L1::no_allocate.L2::cache_hint.v4.b32" in loop and "bar.sync" not in loop


@pytest.mark.parametrize("how", [{"split": 2}, {"blocks": 3}], ids=str)
@pytest.mark.parametrize("aligned", [True, False])
def test_a_producer_for_blocks_that_share(how: dict[str, int], aligned: bool):
    """Rows that TMA cannot bring are copied by the threads that multiply."""
    q, x = ops.quantize(normal(200, 512), "u4", group_size=128), normal(40, 520, dtype=np.float16)
    x = x[:, 8:] if aligned else x[:, 3:515]
    schedule = own(x, q, "sm_90a")._replace(producer=True, **how)
    assert run(x, q, "emulator:sm_90a", schedule)[1] < 1.5e-3


RESCALED = [
    ("u4", 64, False, {}),
    ("i3", 32, True, {"split": 2}),
    ("u8", 128, False, {"blocks": 3}),
    ("f6e3m2", 64, False, {"producer": True}),
]


@pytest.mark.parametrize(("weight", "group", "zero_point", "how"), RESCALED)
@pytest.mark.parametrize("target", ["emulator:sm_80", "emulator:sm_90a"])
def test_sums_in_units_of_scales(weight, group, zero_point, how, target, full):
    """Of scales that differ much, negative ones among them; groups of several steps, and of one."""
    if "producer" in how and target == "emulator:sm_80":
        return
    q, x = ops.quantize(normal(200, 300), weight, group_size=group, zero_point=zero_point), normal(20, 300)
    scales = q.scales * (2.0 ** np.random.default_rng(1).integers(-6, 1, q.scales.shape)).astype(
        q.scales.dtype
    )
    scales[::3] *= -1
    q = replace(q, scales=scales)
    x = x.astype(np.float16)
    assert q.steady
    assert run(x, q, target, own(x, q, target)._replace(rescaled=True, **how))[1] < 1.5e-3


def test_who_rescales():
    """Tiles that are too large for a group's sums besides, where scales can be divided by each other."""
    problem = 8192, dt.f16, 128, "sm_90a", 4, 8192, 8192
    found = [linear_tiling(*problem, steady=steady) for steady in (True, False)]
    assert not linear_tiling(*problem).rescaled, "unknown scales may be zero"
    assert [(t.rescaled, t.bm) for t in found] == [(True, 128), (False, 64)]
    assert found[0].fragment == found[1].fragment
    for kind, group, target in ((dt.i8, 128, "sm_90a"), (dt.f16, 0, "sm_90a"), (dt.f16, 128, "sm_80")):
        assert not linear_tiling(8192, kind, group, target, 4, 8192, 8192, steady=True).rescaled
    for scale, steady in ((0, False), (1e-3, True), (3e-7, False), (np.inf, False), (np.nan, False)):
        q = ops.quantize(normal(40, 300), "u4", group_size=64)
        scales = q.scales.copy()
        scales[3, 1] = scale
        assert replace(q, scales=scales).steady is steady


def test_parts_without_work():
    """More parts than steps of K: sums of nothing."""
    q, x = ops.quantize(normal(40, 64), "u4", group_size=32), normal(3, 64, dtype=np.float16)
    for target in TARGETS[:2]:
        assert run(x, q, target, own(x, q, target)._replace(split=5))[1] < 1.5e-3


@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
def test_who_shares(target: str):
    """Few tiles and a long K: blocks for most processors. Many tiles, a short K, or extents that the launch
    knows: one block a tile. Never an empty part.
    """

    def parts(*extents):
        m, n, k = extents
        found = linear_tiling(m, dt.f16, 128, target, 4, n, k)
        assert found.split == 1 or not found.blocks
        return found.split + found.blocks

    assert 2 <= parts(16, 4096, 4096) <= 8
    assert parts(16, 1 << 17, 4096) == parts(16, 4096, 512) == 1
    assert parts(16, "n", 4096) == parts("m", 4096, 4096) == parts(0, 4096, 4096) == 1
    for k in range(128, 1 << 14, 384):
        steps, split = -(-k // 128), parts(16, 1024, k)
        assert (split - 1) * -(-steps // split) < steps


def test_on_the_cpu_nobody_shares():
    assert linear_tiling(1, dt.f32, 128, "cpu", 4, 4096, 4096).split == 1


@needs_ptxas
@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
def test_sharing_leaves_the_loop_as_it_is(target: str):
    own = linear_tiling(16, dt.f16, 128, target, 4)._replace(split=4)
    alone, shared = (
        ops.linear.compile(m=16, n=4096, k=4096, target=target, schedule=schedule)
        for schedule in (own._replace(split=1), own)
    )
    assert shared.hot_loop.instructions <= alone.hot_loop.instructions + 10
    assert shared.resources.spill_bytes == 0 and shared.ptx.count("st.release.gpu") == 2
    assert "st.release" not in alone.ptx


@needs_ptxas
@pytest.mark.parametrize(
    ("target", "copy"), [("sm_80", "cp.async.cg.shared.global"), ("sm_90a", "complete_tx::bytes")]
)
def test_weights_for_one_row_of_tiles_leave_the_cache_first(target: str, copy: str):
    once, again = (ops.linear.compile(m=m, n=4096, k=4096, target=target) for m in (16, 1000))
    hinted = [line for line in once.ptx.splitlines() if copy in line and "cache_hint" in line]
    plain = [line for line in once.ptx.splitlines() if copy in line and "cache_hint" not in line]
    assert hinted and plain, "weights are read once, x by each block"
    assert "createpolicy.fractional.L2::evict_first" in once.ptx and "cache_hint" not in again.ptx
    assert once.resources.spill_bytes == 0


SHARED = [{"split": 3}, {"blocks": 5}]


@pytest.mark.parametrize("how", SHARED, ids=str)
def test_what_finishes_sums_comes_after_all_parts(how: dict[str, int]):
    """A low-rank product, scales of rows, a bias and an activation, once; x of bytes, sums of integers."""
    q, x = ops.quantize(normal(130, 300), "i4", group_size=32), normal(20, 300, dtype=np.float16)
    u, v, bias = normal(20, 18, dtype=np.float16), normal(18, 130, dtype=np.float16), normal(130)
    scale, y = np.abs(normal(20)), np.full((20, 130), np.nan, np.float16)
    given, epilogue = finishing(y.shape, bias, "silu", None, scale, u, v)
    with tc.target("emulator:sm_80"):
        quantised_product(x, q, y, given, epilogue, schedule=own(x, q, "sm_80")._replace(**how))
    exact = x.astype(np.float64) @ q.dequantize().T * scale[:, None] + u.astype(np.float64) @ v + bias
    assert relative_error(y, exact / (1 + np.exp(-exact))) < 1.5e-3
    held = np.clip(np.rint(normal(20, 300) * 30), -127, 127).astype(np.int8)
    with tc.target("emulator:sm_80"):
        quantised_product(held, q, y, *finishing(y.shape, None, None, None, scale, None, None),
                          schedule=linear_tiling(20, dt.i8, 32, "sm_80", 4)._replace(**how))  # fmt: skip
    assert relative_error(y, held.astype(np.float64) @ q.dequantize().T * scale[:, None]) < 1.5e-3


@pytest.mark.parametrize("how", SHARED, ids=str)
def test_no_rows_to_share(how: dict[str, int]):
    q, x = ops.quantize(normal(130, 300), "i4", group_size=32), np.zeros((0, 300), np.float16)
    y = np.zeros((0, 130), np.float16)
    with tc.target("emulator:sm_90a"):
        quantised_product(x, q, y, *finishing(y.shape, None, None, None, None, None, None),
                          schedule=own(x, q, "sm_90a")._replace(**how))  # fmt: skip


@pytest.mark.parametrize("how", SHARED, ids=str)
def test_sharing_where_the_launch_knows_the_extents(how: dict[str, int]):
    q, x = ops.quantize(normal(136, 400), "u4", group_size=64), normal(9, 400, dtype=np.float16)
    schedule = linear_tiling("m", dt.f16, 64, "sm_80", 4)._replace(**how)
    n, k = tc.dim("n", multiple=8), tc.dim("k", multiple=8)
    made = ops.linear.compile(m="m", n=n, k=k, group_size=64, schedule=schedule, target="emulator:sm_80")
    bm, (_, bn), y = schedule.bm, schedule.fragment.shape, np.full((9, 136), np.nan, np.float16)
    blocks = schedule.blocks or -(-9 // bm) * -(-136 // bn) * schedule.split
    nothing = [np.zeros(1, np.float32)] * 5
    codes = q.packed(schedule.fragment, schedule.placed)
    partial, locks = np.full((blocks * bm, bn), np.nan, np.float32), np.zeros(blocks, np.int32)
    made(x, codes, q.kernel_scales, q.kernel_zeros, y, *nothing, partial, locks)
    assert relative_error(y, linear_reference(x, q)) < 1.5e-3 and not locks.any()
