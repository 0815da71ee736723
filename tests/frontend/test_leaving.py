"""Loops and functions that are left where run time says so: break, continue and return under an `if`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tilec import branches
from tilec.ir.inst.control import For, If, While

Array = np.ndarray[Any, Any]
TARGETS = ("reference", "cpu", "emulator:sm_80")


@tc.kernel
def sums(x: tc.Array, out: tc.Array, *, limit=20, warps=1):
    """The sum of a row's positive numbers until it is above the limit; nothing where a row begins with 0."""
    row = tc.blocks(x.shape[0])
    if x.at(row, 0) == 0:
        return
    total = 0
    for j in tc.range(x.shape[1], stages=2):
        tile = x.load((row, j), (1, 4))
        if tile[0, 0] < 0:
            continue
        total += tile.reshape(4)[0]
        if total > limit:
            break
    out.store(row, total)


def expected(x: Array, limit: int = 20) -> list[int]:
    found = []
    for row in x:
        partial = np.cumsum(np.maximum(row, 0))
        past = partial[partial > limit]
        found.append(-1 if row[0] == 0 else int(past[0] if len(past) else partial[-1]))
    return found


@tc.kernel
def collatz(x: tc.Array, out: tc.Array, *, warps=1):
    """How many steps it takes to 1, and how many of the first three are odd numbers."""
    i = tc.blocks(x.shape[0])
    n, steps = x.at(i), 0
    while True:
        if n == 1:
            break
        n = halved(n)
        steps += 1
    odd, n = 0, x.at(i)
    for _ in tc.static_range(3):
        if n == 1:
            break
        if n % 2 == 0:
            n = n // 2
            continue
        odd, n = odd + 1, 3 * n + 1
    out.store((i, 0), steps)
    out.store((i, 1), odd)


def halved(n: tc.Tile) -> Any:
    if n % 2 == 0:
        return n // 2
    return 3 * n + 1


def odd_steps(n: int) -> list[int]:
    path = [n]
    while path[-1] != 1:
        path.append(path[-1] // 2 if path[-1] % 2 == 0 else 3 * path[-1] + 1)
    return [len(path) - 1, sum(step % 2 for step in path[:-1][:3])]


@pytest.mark.parametrize("target", TARGETS)
def test_runners_agree(target: str) -> None:
    x = np.random.default_rng(0).integers(-9, 10, (12, 9)).astype(np.int32)
    x[3, 0], x[4] = 0, 1
    out = np.full(12, -1, np.int32)
    sums.on(target)(x, out)
    np.testing.assert_array_equal(out, expected(x))
    numbers = np.arange(1, 28, dtype=np.int32)
    found = np.zeros((27, 2), np.int32)
    collatz.on(target)(numbers, found)
    np.testing.assert_array_equal(found, [odd_steps(int(n)) for n in numbers])


def test_what_it_becomes() -> None:
    """A loop that may break is a While; one that only goes on stays a For; a return is a branch."""
    x, out = np.zeros((2, 9), np.int32), np.zeros(2, np.int32)
    kinds = [type(inst) for inst in sums.compile(x, out, target="reference").traced.walk()]
    assert kinds.count(While) == 1 and kinds.count(If) == 3 and For not in kinds


@tc.kernel
def odd_numbers(out: tc.Array, n: tc.i32):
    total = 0
    for i in tc.range(n):
        if i % 2 == 0:
            continue
        total += i
    out.store(0, total)


def test_continue_alone_leaves_a_loop_counted() -> None:
    out = np.zeros(1, np.int32)
    odd_numbers.meaning(out, 9)
    assert out[0] == 1 + 3 + 5 + 7
    kinds = [type(inst) for inst in odd_numbers.compile(out, 0, target="reference").traced.walk()]
    assert For in kinds and While not in kinds


RANGES = [(0, 10, 3), (2**31 - 9, 2**31 - 1, 4), (2**31 - 9, 2**31 - 1, 7), (5, 5, 1), (7, 5, 2)]


@pytest.mark.parametrize(("start", "stop", "step"), RANGES)
def test_counts_like_range(start: int, stop: int, step: int) -> None:
    """Up to the largest i32, past which the counter would wrap."""
    out = np.zeros((2, 1), np.int32)
    counted.meaning(out, start, stop, step, 100)
    assert out[0, 0] == len(range(start, stop, step))
    counted.meaning(out, start, stop, step, 2)
    assert out[0, 0] == min(2, len(range(start, stop, step)))


@tc.kernel
def counted(out: tc.Array, start: tc.i32, stop: tc.i32, step: tc.i32, most: tc.i32):
    count = 0
    for _ in tc.range(start, stop, step):
        if count == most:
            break
        count += 1
    out.store((0, 0), count)


@tc.kernel
def many_ways(x: tc.Array, out: tc.Array) -> None:
    for i in range(300):  # each pass by itself
        if x.at(i % 3) > i:
            continue
        out.store(i % 3, i)
    if x.at(0) > 0:
        out.store(1, 0)
        if x.at(1) > 0:
            return
    if x.at(1) > 0:
        out.store(1, 0)
        if x.at(2) > 0:
            return
    if x.at(2) > 0:  # read in four ways
        out.store(1, 0)
        if x.at(0) > 0:
            return
    out.store(0, 1)


def test_ways_that_double_at_each_if_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branches, "MOST_WAYS", 4)
    many_ways.meaning(np.zeros(3, np.int32), out := np.zeros(3, np.int32))
    assert list(out) == [1, 298, 299]
    monkeypatch.setattr(branches, "MOST_WAYS", 3)
    with pytest.raises(tc.TilecError, match=r"is read for each way that goes on(.|\n)*if x.at\(2\) > 0"):
        many_ways.meaning(np.zeros(4, np.int32), out)


@tc.kernel
def guarded(x: tc.Array, out: tc.Array, stop: tc.i32):
    """The condition is not read after a break; what a list holds is each side's own."""
    i, seen = 0, [0, 0]
    while checked(x, i, stop):
        if i == stop - 1:
            seen[0] = i
            break
        seen[1] = i
        i += 2
        if i > stop - 1:
            i = stop - 1
    out.store(0, tc.stack([tc.full((), s, tc.i32) for s in seen]))


def checked(x: tc.Array, i: tc.Tile, stop: tc.Tile) -> tc.Tile:
    tc.assert_(x.at(0) + i < stop, "read past the last")
    x.atomic_add(0, i // (stop - 1) * stop)  # from the last on the assertion fails
    return i < 100


@pytest.mark.parametrize("target", TARGETS)
def test_the_condition_after_a_break(target: str) -> None:
    out = np.zeros(2, np.int32)
    guarded.on(target)(np.zeros(1, np.int32), out, 6)
    assert list(out) == [5, 4]
