"""Tiles that kernels can take: fragments that are views, steps that groups are made of, rows for every m."""

import numpy as np
import pytest

import tilec as tc
from tilec import ops
from tilec.ir import dtype as dt
from tilec.ops.tiling import dense_tiling, has_threads, linear_tiling

TARGETS = ("cpu", "reference", "sm_80", "emulator:sm_90a", "cuda:0")
ROWS = (1, 2, 16, 17, 33, 64, 1000, "m")


def test_who_has_threads():
    assert [has_threads(t) for t in TARGETS] == [False, False, True, True, True]


@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("group", [0, 16, 32, 48, 64, 100, 128, 256])
def test_fragments(m, dtype: str, target: str, group: int):
    tiling = linear_tiling(m, dt.dtype(dtype), group, target)
    bk, bn = tiling.fragment.shape
    assert group % bk == 0 or group % 16
    assert tiling.fragment.is_bijection
    if has_threads(target):
        assert tiling.fragment.slots % 8 == 0 and tiling.fragment.threads == 32 * tiling.warps
    assert tiling.bm & (tiling.bm - 1) == 0 and tiling.bm * bn >= 32


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("group", [0, 16, 24, 32, 64, 128])
def test_fragments_of_vectors_are_whole_bytes_at_any_width(bits: int, group: int):
    """A column's run of weights: whole 32-bit words, an odd number of them, where a step has so many."""
    fragment = linear_tiling(1, dt.dtype("f32"), group, "cpu", bits).fragment
    taken = fragment.slots * bits
    assert taken % 8 == 0 and (taken % 64 == 32 or fragment.threads == 1)


def test_wide_tiles_leave_every_core_two_blocks() -> None:
    """Of many rows; the layout of few is another one anyway."""
    columns = [
        linear_tiling(m, dt.f32, 128, "cpu", 4, n, 4096).fragment.shape[1]
        for m, n in ((128, 1 << 24), (128, 512), (128, "n"), (16, 1 << 24))
    ]
    assert columns == [512, 256, 256, 128]
    assert linear_tiling(128, dt.dtype("i8"), 128, "cpu", 4, 1 << 24).fragment.shape[1] == 512


def test_columns_along_memory_are_few() -> None:
    """Vectors lie along them then, and each is a stream of its own."""
    assert [dense_tiling(1, 4096, dt.f32, "cpu", along=along).bn for along in (False, True)] == [128, 32]


@pytest.mark.parametrize("target", TARGETS)
def test_rows_fit_m(target: str):
    for tiling in (dense_tiling, lambda m, *rest: linear_tiling(m, rest[1], 128, target)):
        rows = [tiling(m, 4096, dt.dtype("f16"), target).bm for m in ROWS]
        assert rows == sorted(rows) and rows[-1] == rows[-2] >= 32
        assert rows[0] in ((8, 16) if has_threads(target) else (1,))


def test_a_producer_where_tma_can_bring_both_operands() -> None:
    """Large products on sm_90a; rows of other than whole 16 bytes are copied by threads."""
    large = dense_tiling("m", "n", dt.f16, "sm_90a")
    k, n = tc.dim("k", multiple=8), tc.dim("n", multiple=8)
    a, b = tc.Spec("f16", (1, "m", k)).type, tc.Spec("f16", (1, k, n)).type
    assert large.reading(a, b).producer and not large.reading(a, tc.Spec("f16", (1, k, "n")).type).producer
    assert not large.reading(tc.Spec("f16", (1, "m", k), align=8).type, b).producer
    assert not any(dense_tiling("m", "n", dt.f16, t).producer for t in ("sm_80", "sm_90", "cpu"))


def test_products_with_and_without_a_producer_agree() -> None:
    draw = np.random.default_rng(3)
    for depth in (72, 70):
        x = draw.standard_normal((130, depth)).astype(np.float16)
        w = draw.standard_normal((depth, 1032)).astype(np.float16)
        with tc.target("emulator:sm_90a"):
            y = ops.matmul(x, w)
        np.testing.assert_allclose(y, x.astype(np.float32) @ w.astype(np.float32), atol=0.04, rtol=2e-3)
