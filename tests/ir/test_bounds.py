"""`inside` is filled in where it is proven, and maxima over what may lie outside are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.ir.kernels import KERNELS, Body, Case, array, matmul, same, values, vector_add
from tilec.ir import dtype as dt
from tilec.ir.errors import TilecError
from tilec.ir.func import Block, Func, Item, Value
from tilec.ir.inst.arith import Abs, Compare, Maximum, Where
from tilec.ir.inst.memory import Copy, Gather, Load, Store
from tilec.ir.inst.reduce import ArgReduce, Reduce, Scan
from tilec.ir.inst.shape import Broadcast, Extract, Permute, Reshape, Stack
from tilec.ir.passes.bounds import _groups, bounds
from tilec.ir.passes.simplify import simplify
from tilec.ir.run import State
from tilec.ir.target import target
from tilec.ir.tile import Dim

CPU = target("cpu")


def accesses(func: Func) -> list[tuple[int, ...]]:
    return [i.inside for i in func.walk() if isinstance(i, Load | Store | Copy)]


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_mean_the_same(name: str) -> None:
    case = KERNELS[name]()
    after = bounds(case.func, CPU)
    before, now = (case.run(f, State(output=lambda text: None)) for f in (case.func, after))
    assert same(before, now) and bounds(after, CPU) is after


@pytest.mark.parametrize("first", [lambda f, t: f, simplify])
def test_proven_axes_are_filled_in(first: Any) -> None:
    def filled(case: Case) -> list[tuple[int, ...]]:
        return accesses(bounds(first(case.func, CPU), CPU))

    assert filled(vector_add()) == [(0,)] * 3
    assert filled(matmul()) == [(0, 1)] * 3
    assert filled(matmul(33, 16, 16, (Dim("m"), Dim("n", 16), Dim("k", 16)))) == [(1,), (0, 1), (1,)]
    assert filled(KERNELS["ragged_matmul"]()) == [()] * 3
    assert filled(KERNELS["heads"]()) == [(0, 1)] * 2


def reduced(make: Callable[[Body, Value], object], dtype: Any = dt.f32, other: float | None = None) -> Func:
    """make(b, x[i * 8 : , j * 8 :]) of a ragged array x, with a line for each instruction."""
    x, b = array("x", dtype, Dim("m"), Dim("n", 8)), Body()
    i, j = b.blocks(b.i32(3), b.cdiv(b(_size(x, 1)), 8))
    make(b, b.load(x, (b.times(i, 8), b.times(j, 8)), (8, 8), other))
    func = Func("reduced", (x,), Block((), tuple(b)))
    return bounds(func, CPU)


def _size(x: Value, axis: int) -> Any:
    from tilec.ir.inst.memory import Size

    return Size(x, axis)


def loop(b: Body, x: Value) -> Value:
    """A running maximum over a loop."""
    carried = b.loop(b.i32(3), (b.full(-1.0, dt.f32, 8, 8),), lambda i, s, acc: (i(Maximum(acc, x)),))
    return b(Reduce("max", b(Item(carried, 0)), 0))


def branch(b: Body, x: Value) -> Value:
    flag = b(Compare("lt", b.i32(1), b.i32(2)))
    sides = b.branch(flag, lambda t: (t(Abs(x)),), lambda e: (e.full(0.0, dt.f32, 8, 8),))
    return b(Reduce("max", b(Item(sides, 0)), 0))


REFUSED: dict[str, Callable[[Body, Value], object]] = {
    "max": lambda b, x: b(Reduce("max", x, 0)),
    "min": lambda b, x: b(Reduce("min", x, 0)),
    "argmax": lambda b, x: b(ArgReduce("max", x, 0)),
    "scan": lambda b, x: b(Scan("max", x, 0)),
    "of |x|": lambda b, x: b(Reduce("max", b(Abs(x)), 0)),
    "of max(c, x)": lambda b, x: b(Reduce("max", b(Maximum(b.full(0.0, dt.f32, 8, 8), x)), 0)),
    "of x.T": lambda b, x: b(Reduce("max", b(Permute(x, (1, 0))), 1)),
    "of a row of it": lambda b, x: b(Reduce("max", b(Reshape(x, (64,))), 0)),
    "of halves": lambda b, x: b(Reduce("max", b(Reshape(x, (2, 4, 8))), 1)),
    "of a part": lambda b, x: b(Reduce("max", b(Extract(x, (0, 0), (4, 8))), 0)),
    "of a stack": lambda b, x: b(Reduce("max", b(Stack((x, x), 0)), 1)),
    "of more columns": lambda b, x: b(Reduce("max", b(Broadcast(b(Extract(x, (0, 0), (8, 1))), (8, 4))), 0)),
    "of a sum in a loop": loop,
    "of a branch": branch,
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_extreme_over_what_may_lie_outside_is_refused(name: str) -> None:
    with pytest.raises(TilecError, match=r"takes in elements outside x: the load at kernel\.py:") as caught:
        reduced(REFUSED[name])
    assert caught.value.loc is not None and caught.value.loc.file == "kernel.py"


def test_the_message_says_what_to_write() -> None:
    said = (r"kernel.py:\d+: max along axis 0 takes in elements outside x: the load at kernel.py:\d+ is "
            r"not proven to stay inside and gives 0 there; write other=-inf in it, choose with tc.where "
            r"before max, or say by tc.require what makes it fit")  # fmt: skip
    with pytest.raises(TilecError, match=said):
        reduced(REFUSED["max"])
    with pytest.raises(TilecError, match=r"argmin along axis 0 .* write other=127 in it"):
        reduced(lambda b, x: b(ArgReduce("min", x, 0)), dt.i8)


ALLOWED: dict[str, Callable[[Body, Value], object]] = {
    "along the axis that stays inside": lambda b, x: b(Reduce("max", x, 1)),
    "a sum": lambda b, x: b(Reduce("sum", x, 0)),
    "chosen before": lambda b, x: b(Reduce("max", b(Where(b.full(True, dt.bool, 8, 8), x, x)), 0)),
    "of a sum": lambda b, x: b(Reduce("max", b(Reduce("sum", x, 1)), 0)),
    "of one row": lambda b, x: b(Reduce("max", b(Reshape(b(Extract(x, (0, 0), (1, 8))), (8,))), 0)),
    "of rows apart": lambda b, x: b(Reduce("max", b(Reshape(x, (8, 2, 4))), 2)),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_other_reductions_are_fine(name: str) -> None:
    assert reduced(ALLOWED[name])


@pytest.mark.parametrize("name", REFUSED)
def test_a_written_other_is_fine(name: str) -> None:
    assert reduced(REFUSED[name], other=-math.inf)


def test_a_gather_may_lie_outside() -> None:
    x, b = array("x", dt.f32, 64), Body()
    place = b.full(3, dt.i32, 8)
    b(Reduce("max", b(Gather(x, (place,), b.full(0.0, dt.f32))), 0))
    with pytest.raises(TilecError, match=r"the gather at kernel\.py:3 is not proven"):
        bounds(Func("gathered", (x,), Block((), tuple(b))), CPU)


def test_groups_of_axes_in_a_reshape() -> None:
    assert _groups((4, 6), (2, 2, 6)) == [([0], [0, 1]), ([1], [2])]
    assert _groups((2, 3, 4), (6, 2, 2)) == [([0, 1], [0]), ([2], [1, 2])]
    assert _groups((1, 8), (8,)) == [([0], []), ([1], [0])]
    assert _groups((8,), (1, 8, 1)) == [([0], [0, 1])]
    assert _groups((4, 6), (6, 4)) == [([0, 1], [0, 1])]


def test_bounds_that_are_there_stay() -> None:
    x, b = array("x", dt.f32, Dim("n")), Body()
    zero = b.i32(0)
    tile = b(Load(x, (zero,), (8,), b.full(0.0, dt.f32), inside=(0,)))
    b(Store(x, (zero,), tile))
    case = Case(Func("stay", (x,), Block((), tuple(b))), (values(dt.f32, 16),))
    assert accesses(bounds(case.func, CPU)) == [(0,), ()]
    np.testing.assert_array_equal(case.run(bounds(case.func, CPU))[0], case.run()[0])
