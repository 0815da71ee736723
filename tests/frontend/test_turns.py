"""tc.turn: blocks of a key one after another, in the order of their parts."""

from __future__ import annotations

import numpy as np
import pytest

import tilec as tc
from tilec.ir.errors import TilecError

TARGETS = ["cpu", "reference", "emulator:sm_80", "emulator:sm_90a"]


@tc.kernel
def split_k(
    a: tc.Array, b: tc.Array, total: tc.Array, locks: tc.Array, *, parts: int = 4, bm: int = 16
) -> None:
    """total = a @ b, each tile the sum of what `parts` blocks have."""
    bn, k = 16, a.shape[1]
    i, j, part = tc.blocks(tc.cdiv(a.shape[0], bm), tc.cdiv(b.shape[1], bn), parts)
    acc = tc.zeros((bm, bn), tc.f32)
    for s in tc.range(part, tc.cdiv(k, 16), parts, stages=2):
        acc = tc.dot(a.load((i * bm, s * 16), (bm, 16)), b.load((s * 16, j * bn), (16, bn)), acc)
    with tc.turn(locks, i * tc.cdiv(b.shape[1], bn) + j, part, parts):
        if part == 0:
            total.store((i * bm, j * bn), acc)
        else:
            total.store((i * bm, j * bn), total.load((i * bm, j * bn), (bm, bn)) + acc)


@pytest.mark.parametrize("target", TARGETS)
def test_sums_are_added_in_one_order(target: str) -> None:
    rng = np.random.default_rng(0)
    m, n, k = (40, 33, 150) if target != "cpu" else (130, 129, 700)
    a, b = rng.standard_normal((m, k)).astype(np.float16), rng.standard_normal((k, n)).astype(np.float16)
    total, locks = np.full((m, n), np.nan, np.float32), np.zeros(-(-m // 16) * -(-n // 16), np.int32)
    found = []
    for _ in range(2 if target != "reference" else 1):
        split_k.on(target)(a, b, total, locks)
        assert not locks.any(), "the last part leaves a lock as it was found"
        found.append(total.copy())
    np.testing.assert_allclose(found[0], a.astype(np.float32) @ b.astype(np.float32), atol=1e-3, rtol=1e-3)
    assert all(np.array_equal(found[0], each) for each in found)


@tc.kernel
def order(out: tc.Array, last: tc.Array, locks: tc.Array, *, warps: int = 1) -> None:
    """out[t] = the turn that the block before had: one number, handed on by all blocks."""
    tc.blocks(out.shape[0] // 4, 4)
    t = tc.block_ticket()
    with tc.turn(locks, 0, t):
        out.store(t, last.load(0, 1))
        last.store(0, tc.full((1,), t, tc.i32))


@pytest.mark.parametrize("target", TARGETS)
def test_every_block_sees_what_the_one_before_wrote(target: str) -> None:
    count = 4000 if target == "cpu" else 24
    out, last, locks = np.full(count, -7, np.int32), np.full(1, -1, np.int32), np.zeros(1, np.int32)
    order.on(target)(out, last, locks)
    np.testing.assert_array_equal(out, np.arange(-1, count - 1))
    assert locks[0] == count


@tc.kernel
def alone(out: tc.Array, locks: tc.Array, key: tc.i32, part: tc.i32, *, warps: int = 1) -> None:
    tc.blocks(1)
    with tc.turn(locks, key, part):
        out.store(0, tc.ones((1,), tc.i32))


def test_a_turn_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilec.backends.cpu import turn

    monkeypatch.setattr(turn, "PATIENCE", 1000)
    monkeypatch.setenv("TILEC_DEBUG", "1")
    out, locks = np.zeros(1, np.int32), np.zeros(2, np.int32)
    with pytest.raises(TilecError, match="the turn that this block waits for never came"):
        alone.on("cpu")(out, locks, 0, 5)
    with pytest.raises(TilecError, match="block 0 waits for turn 5 of key 0, which is at 0"):
        alone.meaning(out, locks, 0, 5)
    with pytest.raises(TilecError, match="deadlock: it sees the same for ever"):
        alone.on("emulator:sm_80")(out, locks, 0, 5)
    assert not out.any()


@pytest.mark.parametrize("key", [-1, 2])
def test_a_key_outside_of_the_locks(key: int) -> None:
    out, locks = np.zeros(1, np.int32), np.zeros(2, np.int32)
    for target in ("cpu", "reference"):
        with pytest.raises(TilecError, match="the key is no place in its locks"):
            alone.on(target)(out, locks, key, 0)


def test_locks_of_another_kind() -> None:
    with pytest.raises(TilecError, match="takes locks of one axis of i32 in global memory, found"):
        alone.on("cpu")(np.zeros(1, np.int32), np.zeros(1, np.int64), 0, 0)


@tc.kernel
def too_early(out: tc.Array) -> None:
    t = tc.block_ticket()
    out.store(tc.blocks(4), tc.full((1,), t, tc.i32))


def test_a_ticket_before_the_grid() -> None:
    with pytest.raises(TilecError, match=r"call tc\.blocks first"):
        too_early(np.zeros(4, np.int32))


@pytest.mark.parametrize("order_of", ["st.release", "ld.acquire"])
def test_what_orders_turns_is_missed_when_it_is_taken_away(order_of: str) -> None:
    arrays = [np.zeros(8, np.int32), np.zeros(1, np.int32), np.zeros(1, np.int32)]
    compiled = order.compile(*arrays, target="emulator:sm_80")
    assert compiled.ptx.count(order_of) == 1
    relaxed = compiled.with_ptx(compiled.ptx.replace(order_of, order_of[:3] + "relaxed"))
    compiled(*(x.copy() for x in arrays))
    with pytest.raises(TilecError) as caught:
        relaxed(*arrays)
    assert {finding.kind for finding in caught.value.report.findings} == {"global-race"}
