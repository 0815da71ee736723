"""Loops and branches on the CPU: carried values that stay in place, change places, or are not touched at
all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.backends.cpu.build import Builder, agree, array, scalar
from tests.backends.cpu.test_memory import stored
from tests.backends.cpu.test_tiles import normal
from tilec.backends import cpu
from tilec.backends.cpu.loops import loop
from tilec.backends.writer import Writer
from tilec.ir import dtype as dt
from tilec.ir.func import Value
from tilec.ir.inst import arith, mma, reduce, shape


def outputs(count: int) -> list[Any]:
    return [array(dt.i32, 3, 20)] * count


def given(count: int) -> list[Any]:
    return [stored(dt.i32, 3, 20, seed=i) for i in range(count)]


@pytest.mark.parametrize("rounds", [0, 1, 2, 5])
def test_carried_values_change_places(rounds: int) -> None:
    b = Builder(*outputs(6))
    init = [b.load(p, (0, 0), 3, 20) for p in b.params[:3]]

    def body(index: Value, x: Value, y: Value, z: Value) -> tuple[Value, ...]:
        return y, b(arith.Add(z, x)), x

    found = b.loop(0, rounds, init, body)
    for out, tile in zip(b.params[3:], found, strict=True):
        b.store(out, (0, 0), tile)
    agree(b.func(), given(6))


def test_one_round_is_no_loop() -> None:
    w = Writer("x86")
    with loop(w, 3, 5, 2, [("i64", "7")]) as run:
        assert (run.index, run.values) == (3, ["7"])
        run.next = ["%x"]
    assert (run.values, w.lines) == (["%x"], [])


def test_one_value_carried_twice_and_one_from_outside() -> None:
    b = Builder(*outputs(4))
    x, outside = (b.load(p, (0, 0), 3, 20) for p in b.params[:2])

    def body(index: Value, p: Value, q: Value, s: Value) -> tuple[Value, ...]:
        new = b(arith.Add(p, q))
        return new, new, b(arith.Add(s, index))

    first, second, total = b.loop(1, 6, (x, outside, b.const(5, dt.i32)), body, step=2)
    wide = b(shape.Broadcast(total, (3, 20)))
    b.store(b.params[2], (0, 0), b(arith.Mul(b(arith.Sub(first, outside)), wide)))
    b.store(b.params[3], (0, 0), second)
    agree(b.func(), given(4))


def test_nested_loops_and_branches() -> None:
    b = Builder(*outputs(3), scalar(dt.i32))
    x = b.load(b.params[0], (0, 0), 3, 20)

    def inner(j: Value, acc: Value) -> Value:
        even = b(arith.Compare("eq", b(arith.And(j, b.const(1, dt.i32))), b.const(0, dt.i32)))
        added = b.branch(
            even, lambda: b(arith.Add(acc, x)), lambda: b(arith.Xor(acc, b.const(3, dt.i32, 3, 20)))
        )
        return added[0]

    def outer(i: Value, acc: Value, count: Value) -> tuple[Value, ...]:
        (acc,) = b.loop(0, b(arith.Add(i, b.const(1, dt.i32))), (acc,), inner)
        b.store(b.params[1], (i, 0), acc)
        return acc, b(arith.Add(count, i))

    acc, count = b.loop(0, b.params[3], (b.const(0, dt.i32, 3, 20), b.const(7, dt.i32)), outer)
    b.store(b.params[2], (0, 0), b(arith.Add(acc, b(shape.Broadcast(count, (3, 20))))))
    for rounds in (0, 1, 4):
        agree(b.func(), [*given(3), rounds])


def test_branches_without_values() -> None:
    b = Builder(*outputs(2), scalar(dt.bool))
    x = b.load(b.params[0], (0, 0), 3, 20)
    b.branch(b.params[2], lambda: b.store(b.params[1], (0, 0), x), lambda: b.store(b.params[1], (1, 5), x))
    for chosen in (True, False):
        agree(b.func(), [*given(2), chosen])


def test_while() -> None:
    """Collatz on a scalar, with a tile that is carried along."""
    b = Builder(array(dt.i64, 2), array(dt.i64, 12), scalar(dt.i64))
    one, two, three = (b.const(v, dt.i64) for v in (1, 2, 3))
    counts = b(arith.Iota((12,), 0, dt.i64))

    def again(n: Value, steps: Value, tile: Value) -> Value:
        return b(arith.Compare("gt", n, one))

    def body(n: Value, steps: Value, tile: Value) -> tuple[Value, ...]:
        odd = b(arith.Compare("eq", b(arith.Mod(n, two)), one))
        new = b.branch(
            odd, lambda: b(arith.Add(b(arith.Mul(n, three)), one)), lambda: b(arith.FloorDiv(n, two))
        )
        return new[0], b(arith.Add(steps, one)), b(arith.Sub(b(shape.Broadcast(n, (12,))), tile))

    n, steps, tile = b.repeat((b.params[2], b.const(0, dt.i64), counts), again, body)
    b.store(b.params[0], (0,), b(shape.Reshape(b(arith.Add(n, steps)), (1,))))
    b.store(b.params[1], (0,), tile)
    for start in (1, 7, 27):
        agree(b.func(), [np.zeros(2, np.int64), np.zeros(12, np.int64), start])


def test_loops_over_wide_indices() -> None:
    b = Builder(array(dt.i64, 4), scalar(dt.i64))

    def body(index: Value, total: Value) -> Value:
        return b(arith.Add(total, index))

    ends = [b.params[1], b(arith.Add(b.params[1], b.const(5, dt.i64)))]
    (total,) = b.loop(*ends, (b.const(0, dt.i64),), body, step=b.const(2, dt.i64))
    b.store(b.params[0], (1,), b(shape.Reshape(total, (1,))))
    agree(b.func(), [np.zeros(4, np.int64), 2**40])


def test_a_product_is_accumulated_in_place() -> None:
    """The accumulator keeps its buffer: the arena holds it once, and nothing else of its size."""
    b = Builder(array(dt.f32, 64, 128), array(dt.f32, 128, 256), array(dt.f32, 64, 256))

    def body(s: Value, acc: Value) -> Value:
        at = b(arith.Mul(s, b.const(32, dt.i32)))
        return b(mma.Dot(b.load(b.params[0], (0, at), 64, 32), b.load(b.params[1], (at, 0), 32, 256), acc))

    (acc,) = b.loop(0, 4, (b.const(0, dt.f32, 64, 256),), body)
    b.store(b.params[2], (0, 0), acc)
    agree(b.func(), [normal(dt.f32, 64, 128), normal(dt.f32, 128, 256), normal(dt.f32, 64, 256)], 2e-6)
    windows = 64 * 32 * 4 + 2 * 32 * 256 * 4  # a where it leaves its array, b too, and b packed
    assert cpu.compile(b.func()).scratch_bytes < 64 * 256 * 4 + windows + 1024


def test_a_running_softmax() -> None:
    """Values of several shapes that are carried, rescaled and reduced: attention's loop without the
    exponential.
    """
    b = Builder(array(dt.i32, 6, 80), array(dt.i32, 6), array(dt.i32, 6, 16))

    def body(s: Value, top: Value, acc: Value) -> tuple[Value, ...]:
        tile = b.load(b.params[0], (0, b(arith.Mul(s, b.const(16, dt.i32)))), 6, 16)
        new = b(arith.Maximum(top, b(reduce.Reduce("max", tile, 1))))
        moved = b(arith.Sub(new, top))
        column = b(shape.Broadcast(b(shape.Reshape(moved, (6, 1))), (6, 16)))
        return new, b(arith.Add(b(arith.Mul(acc, column)), tile))

    top, acc = b.loop(0, 5, (b.const(-99, dt.i32, 6), b.const(0, dt.i32, 6, 16)), body)
    b.store(b.params[1], (0,), top)
    b.store(b.params[2], (0, 0), acc)
    agree(b.func(), [stored(dt.i32, 6, 80), stored(dt.i32, 6), stored(dt.i32, 6, 16)])
