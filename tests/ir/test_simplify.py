"""Simplifying keeps every bit, and does what each equation says."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ir.kernels import KERNELS, Body, Case, array, same, values
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.func import Arg, Block, Func, Item, Value
from tilec.ir.inst import arith
from tilec.ir.inst.arith import Add, Cast, Compare, Full, Iota, Mul, Where
from tilec.ir.inst.control import For, If, While
from tilec.ir.inst.memory import ArraySlice, Atomic, Load, Size, Store
from tilec.ir.inst.mma import Dot
from tilec.ir.inst.reduce import Reduce
from tilec.ir.inst.shape import Broadcast, Convert, Extract, Permute, Reshape, Stack
from tilec.ir.inst.sync import BlockIndex, Require
from tilec.ir.layout import local, spatial
from tilec.ir.passes.identities import RULES, _table
from tilec.ir.passes.simplify import simplify
from tilec.ir.run import State
from tilec.ir.target import target

CPU = target("cpu")


def quiet() -> State:
    return State(output=lambda text: None)


def check(case: Case) -> Func:
    """The simplified kernel, which must mean the same and be left alone when simplified again."""
    after = simplify(case.func, CPU)
    assert same(case.run(state=quiet()), case.run(after, quiet()))
    assert simplify(after, CPU) is after
    return after


def counts(func: Func) -> dict[str, int]:
    names = [type(i).__name__ for i in func.walk()]
    return {name: names.count(name) for name in names}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_mean_the_same(name: str) -> None:
    case = KERNELS[name]()
    assert len(list(check(case).walk())) <= len(list(case.func.walk()))


def kernel(make: Callable[[Body, Value], Value], dtype: DType = dt.i32, out: DType | None = None) -> Func:
    """y = make(x) on 16 elements, simplified; it must mean the same."""
    x, y, b = array("x", dtype, 16), array("y", out or dtype, 16), Body()
    at = (b.i32(0),)
    b(Store(y, at, make(b, b.load(x, at, (16,)))))
    func = Func("equation", (x, y), Block((), tuple(b)))
    return check(Case(func, (specials(dtype), np.zeros(16, (out or dtype).storage))))


def specials(dtype: DType) -> Any:
    x = codec.from_storage(values(dtype, 16, seed=3), dtype)
    if dtype.is_float:
        x[:5] = codec.decode(codec.encode([0.0, -0.0, math.inf, -math.inf, math.nan], dtype), dtype)
    return codec.to_storage(x, dtype)


def stored(func: Func) -> Value:
    return next(i.tile_ for i in func.walk() if isinstance(i, Store))


def c(b: Body, value: float, dtype: DType = dt.i32) -> Value:
    return b.full(value, dtype, 16)


A = arith
UNCHANGED: dict[str, tuple[DType, Callable[[Body, Value], Value]]] = {
    "x + 0": (dt.i32, lambda b, x: b(A.Add(x, c(b, 0)))),
    "0 + x": (dt.i32, lambda b, x: b(A.Add(c(b, 0), x))),
    "x - 0": (dt.f32, lambda b, x: b(A.Sub(x, c(b, 0.0, dt.f32)))),
    "x + -0": (dt.f32, lambda b, x: b(A.Add(x, c(b, -0.0, dt.f32)))),
    "x * 1": (dt.f32, lambda b, x: b(A.Mul(x, c(b, 1.0, dt.f32)))),
    "1 * x": (dt.f32, lambda b, x: b(A.Mul(c(b, 1.0, dt.f32), x))),
    "x / 1": (dt.f32, lambda b, x: b(A.Div(x, c(b, 1.0, dt.f32)))),
    "x // 1": (dt.i32, lambda b, x: b(A.FloorDiv(x, c(b, 1)))),
    "x | 0": (dt.i32, lambda b, x: b(A.Or(x, c(b, 0)))),
    "x & -1": (dt.i32, lambda b, x: b(A.And(x, c(b, -1)))),
    "x & 255": (dt.u8, lambda b, x: b(A.And(x, c(b, 255, dt.u8)))),
    "x << 0": (dt.i32, lambda b, x: b(A.Shl(x, c(b, 0)))),
    "x & x": (dt.i32, lambda b, x: b(A.And(x, x))),
    "max(x, x)": (dt.f32, lambda b, x: b(A.Maximum(x, x))),
    "-(-x)": (dt.f32, lambda b, x: b(A.Neg(b(A.Neg(x))))),
    "~~x": (dt.i32, lambda b, x: b(A.Not(b(A.Not(x))))),
    "where(true, x, 7)": (dt.i32, lambda b, x: b(Where(b.full(True, dt.bool, 16), x, c(b, 7)))),
    "where(x < x, 7, x)": (dt.i32, lambda b, x: b(Where(b(Compare("lt", x, x)), c(b, 7), x))),
    "where(x < 3, x, x)": (dt.i32, lambda b, x: b(Where(b(Compare("lt", x, c(b, 3))), x, x))),
    "x.to(f32)": (dt.f32, lambda b, x: b(Cast(x, dt.f32))),
    "x.to(i64).to(i32)": (dt.i32, lambda b, x: b(Cast(b(Cast(x, dt.i64)), dt.i32))),
    "x.to(u32).to(i32)": (dt.i32, lambda b, x: b(Cast(b(Cast(x, dt.u32)), dt.i32))),
    "x.to(f32).to(f16)": (dt.f16, lambda b, x: b(Cast(b(Cast(x, dt.f32)), dt.f16))),
    "reshape twice": (dt.i32, lambda b, x: b(Reshape(b(Reshape(x, (4, 4))), (16,)))),
    "permute twice": (
        dt.i32,
        lambda b, x: b(Reshape(b(Permute(b(Permute(b(Reshape(x, (2, 8))), (1, 0))), (1, 0))), (16,))),
    ),
    "broadcast": (dt.i32, lambda b, x: b(Broadcast(x, (16,)))),
    "the whole": (dt.i32, lambda b, x: b(Extract(x, (0,), (16,)))),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_changes_nothing_goes(name: str) -> None:
    dtype, make = UNCHANGED[name]
    assert isinstance(stored(kernel(make, dtype)), Load)


CONSTANT: dict[str, tuple[float, Callable[[Body, Value], Value]]] = {
    "x * 0": (0, lambda b, x: b(A.Mul(x, c(b, 0)))),
    "x & 0": (0, lambda b, x: b(A.And(c(b, 0), x))),
    "x % 1": (0, lambda b, x: b(A.Mod(x, c(b, 1)))),
    "x - x": (0, lambda b, x: b(A.Sub(x, x))),
    "x ^ x": (0, lambda b, x: b(A.Xor(x, x))),
    "x | -1": (-1, lambda b, x: b(A.Or(x, c(b, -1)))),
    "2 + 3 * 4": (14, lambda b, x: b(A.Add(c(b, 2), b(A.Mul(c(b, 3), c(b, 4)))))),
    "a stack of constants": (5, lambda b, x: b(Reshape(b(Stack((t := b.full(5, dt.i32, 8), t), 0)), (16,)))),
    "a broadcast constant": (9, lambda b, x: b(Broadcast(b(Reshape(b.i32(9), (1,))), (16,)))),
    "a slice of one": (3, lambda b, x: b(Extract(b(Permute(b.full(3, dt.i32, 20), (0,))), (2,), (16,)))),
    "wrapped": (-(2**31), lambda b, x: b(A.Add(c(b, 2**31 - 1), c(b, 1)))),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_what_is_constant_becomes_one(name: str) -> None:
    expected, make = CONSTANT[name]
    found = stored(kernel(make))
    assert isinstance(found, Full) and found.value == expected and found.shape == (16,)


def test_what_would_lose_a_bit_stays() -> None:
    """-0 + 0 is +0; inf * 0 and inf - inf are NaN; NaN != NaN; casts to smaller types round."""
    zero = lambda b: c(b, 0.0, dt.f32)  # noqa: E731
    assert isinstance(stored(kernel(lambda b, x: b(Add(x, zero(b))), dt.f32)), Add)
    assert isinstance(stored(kernel(lambda b, x: b(Mul(x, zero(b))), dt.f32)), Mul)
    assert isinstance(stored(kernel(lambda b, x: b(A.Sub(x, x)), dt.f32)), A.Sub)
    assert isinstance(stored(kernel(lambda b, x: b(Compare("eq", x, x)), dt.f32, dt.bool)), Compare)
    assert isinstance(stored(kernel(lambda b, x: b(Cast(b(Cast(x, dt.f16)), dt.f32)), dt.f32)), Cast)
    assert isinstance(stored(kernel(lambda b, x: b(Cast(b(Cast(x, dt.i8)), dt.i32)))), Cast)
    assert isinstance(stored(kernel(lambda b, x: b(Cast(b(Cast(x, dt.f32)), dt.f8e5m2)), dt.f8e5m2)), Cast)
    nan = lambda b, x: b(Add(x, b(A.Sub(c(b, math.inf, dt.f32), c(b, math.inf, dt.f32)))))  # noqa: E731
    assert counts(kernel(nan, dt.f32))["Sub"] == 1


def test_equal_values_are_computed_once_unless_a_zero_has_another_sign() -> None:
    def twice(b: Body, x: Value) -> Value:
        return b(Mul(b(Add(x, c(b, 5))), b(Add(c(b, 5), x))))

    def zeros(b: Body, x: Value) -> Value:
        return b(A.Div(b(Mul(x, c(b, 0.0, dt.f32))), b(Mul(x, c(b, -0.0, dt.f32)))))

    assert counts(kernel(twice))["Add"] == 1 and counts(kernel(zeros, dt.f32))["Mul"] == 2


def test_sums_and_products_of_constants_gather() -> None:
    after = kernel(lambda b, x: b(Add(b(Add(c(b, 2**31 - 1), x)), c(b, 2))))
    found = stored(after)
    assert isinstance(found, Add) and isinstance(found.b, Full) and found.b.value == -(2**31) + 1
    fma = kernel(lambda b, x: b(A.Fma(x, c(b, 1.0, dt.f32), x)), dt.f32)
    assert isinstance(stored(fma), Add)
    product = kernel(lambda b, x: b(A.Fma(x, x, c(b, -0.0, dt.f32))), dt.f32)
    assert isinstance(stored(product), Mul)
    assert isinstance(stored(kernel(lambda b, x: b(A.Abs(b(A.Neg(x)))), dt.f32)).x, Load)  # type: ignore[attr-defined]


def test_shapes_compose() -> None:
    def slices(b: Body, x: Value) -> Value:
        part = b(Extract(b(Extract(x, (2,), (10,))), (3,), (4,)))
        column = b(Broadcast(b(Reshape(part, (4, 1))), (4, 2)))
        return b(Reshape(b(Broadcast(b(Reshape(column, (1, 4, 2))), (2, 4, 2))), (16,)))

    after = kernel(slices)
    assert counts(after)["Extract"] == 1
    assert next(i for i in after.walk() if isinstance(i, Extract)).start == (5,)

    def scalar(b: Body, x: Value) -> Value:
        one = b(Reshape(b(Extract(x, (7,), (1,))), ()))
        return b(Broadcast(b(Broadcast(b(Reshape(one, (1,))), (16,))), (16,)))

    assert counts(kernel(scalar))["Broadcast"] == 1


def test_a_sum_of_one_element_is_a_reshape() -> None:
    def sums(b: Body, x: Value) -> Value:
        twice = b(Reduce("sum", b(Reduce("sum", b(Reshape(x, (1, 16, 1))), 2)), 0))
        return b(Add(twice, b(Broadcast(b(Reduce("max", b(Extract(x, (3,), (1,))), 0)), (16,)))))

    after = counts(kernel(sums))
    assert after["Reduce"] == 1 and "Reshape" not in after  # of max: its bounds have not been checked yet


def test_conversions_of_layouts() -> None:
    x, y, b = array("x", dt.f32, 32), array("y", dt.f32, 32), Body()
    at = (b.i32(0),)
    tile = b(Convert(b(Convert(b.load(x, at, (32,)), spatial(32))), spatial(16) * local(2)))
    b(Store(y, at, b(Convert(tile, spatial(16) * local(2)))))
    after = check(
        Case(Func("convert", (x, y), Block((), tuple(b))), (values(dt.f32, 32), np.zeros(32, np.float32)))
    )
    assert counts(after)["Convert"] == 1


def test_dot_takes_the_sum() -> None:
    def product(shared: bool) -> Func:
        x, y, b = array("x", dt.i8, 8, 8), array("y", dt.i32, 8, 8), Body()
        at = (b.i32(0), b.i32(0))
        tile = b.load(x, at, (8, 8))
        dot = b(Dot(tile, tile, b.full(0, dt.i32, 8, 8)))
        total = b(Add(b.load(y, at, (8, 8)), dot))
        b(Store(y, at, b(Mul(total, dot)) if shared else total))
        func = Func("product", (x, y), Block((), tuple(b)))
        return check(Case(func, (values(dt.i8, 8, 8), values(dt.i32, 8, 8))))

    assert counts(product(False)).get("Add") is None and counts(product(True))["Add"] == 1


def test_extents_that_the_type_knows() -> None:
    x, y, b = array("x", dt.i32, 24), array("y", dt.i32, 1), Body()
    whole = b(ArraySlice(x, (None,), (None,), (1,)))
    part = b(ArraySlice(x, (b.i32(3),), (None,), (2,)))
    sizes = b(Add(b(Size(whole, 0)), b(Size(part, 0))))
    b(Store(y, (b.i32(0),), b(Broadcast(sizes, (1,)))))
    after = check(
        Case(Func("sizes", (x, y), Block((), tuple(b))), (values(dt.i32, 24), np.zeros(1, np.int32)))
    )
    assert counts(after)["Size"] == 1


# Control.


@pytest.mark.parametrize("condition", [True, False])
def test_a_branch_on_a_constant(condition: bool) -> None:
    def make(b: Body, x: Value) -> Value:
        flag = b.full(condition, dt.bool)
        branch = b.branch(flag, lambda t: (t(Add(x, c(t, 1))),), lambda e: (e(Mul(x, c(e, 3))),))
        return b(Item(branch, 0))

    after = kernel(make)
    assert not any(isinstance(i, If) for i in after.walk())
    assert isinstance(stored(after), Add if condition else Mul)


def test_what_both_branches_give_from_outside() -> None:
    def make(b: Body, x: Value) -> Value:
        some = b(Compare("lt", b(Reshape(b(Extract(x, (0,), (1,))), ())), b.i32(0)))
        return b(Item(b.branch(some, lambda t: (x,), lambda e: (x,)), 0))

    assert isinstance(stored(kernel(make)), Load)


@pytest.mark.parametrize("trips", [0, 1, 2])
def test_loops_of_no_or_one_round(trips: int) -> None:
    def make(b: Body, x: Value) -> Value:
        loop = b.loop(
            b.i32(3 * trips), (x,), lambda i, s, v: (i(Add(v, i(Broadcast(s, (16,))))),), step=b.i32(3)
        )
        return b(Item(loop, 0))

    assert any(isinstance(i, For) for i in kernel(make).walk()) == (trips > 1)


def test_a_while_that_never_runs() -> None:
    def make(b: Body, x: Value) -> Value:
        first, second, test, body = Arg(x.type), Arg(x.type), Body(), Body()
        never = test(Compare("lt", one := test.i32(1), one))
        loop = b(
            While((x,), Block((first,), tuple(test), (never,)), Block((second,), tuple(body), (second,)))
        )
        return b(Item(loop, 0))

    assert not any(isinstance(i, While) for i in kernel(make).walk())


def test_what_a_loop_never_changes_comes_from_before() -> None:
    def make(b: Body, x: Value) -> Value:
        more = b(Add(x, x))

        def body(i: Body, s: Value, v: Value, fixed: Value) -> tuple[Value, ...]:
            return i(Mul(v, fixed)), i(Add(fixed, c(i, 0)))

        loop = b.loop(b.i32(3), (x, more), body)
        return b(Add(b(Item(loop, 0)), b(Item(loop, 1))))

    after = kernel(make)
    assert len(next(i for i in after.walk() if isinstance(i, For)).init) == 1


@pytest.mark.parametrize(("after", "left"), [(7, 1), (8, 2)])
def test_a_constant_is_not_carried(after: int, left: int) -> None:
    """One that a loop begins and ends every round with; another than before is."""

    def make(b: Body, x: Value) -> Value:
        def body(i: Body, s: Value, v: Value, part: Value) -> tuple[Value, ...]:
            return i(Mul(v, i(Add(part, x)))), i(Full(after, dt.i32, x.tile.shape))

        return b(Item(b.loop(b.i32(3), (x, b(Full(7, dt.i32, x.tile.shape))), body), 0))

    found = kernel(make)
    assert len(next(i for i in found.walk() if isinstance(i, For)).init) == left


def test_values_of_one_branch_are_not_used_in_the_other() -> None:
    def make(b: Body, x: Value) -> Value:
        some = b(Compare("lt", b(Reshape(b(Extract(x, (0,), (1,))), ())), b.i32(0)))
        side: Callable[[Body], tuple[Value, ...]] = lambda t: (t(Mul(x, x)),)  # noqa: E731
        return b(Add(b(Item(b.branch(some, side, side), 0)), b(Mul(x, x))))

    assert counts(kernel(make))["Mul"] == 3


@pytest.mark.parametrize(("grid", "left"), [((1,), 0), ((3, 1), 1), ((1, 1), 0)])
def test_the_only_block_along_an_axis(grid: tuple[int, ...], left: int) -> None:
    """Its number is 0, but a grid of several blocks is never forgotten."""
    x, b = array("x", dt.i32, 4), Body()
    places = b.blocks(*map(b.i32, grid))
    one = b(Broadcast(b(Add(places[-1], b.i32(1))), (4,)))
    b(Atomic("add", x, (b(Iota((4,), 0, dt.i32)),), one))
    after = check(Case(Func("blocks", (x,), Block((), tuple(b))), (values(dt.i32, 4),)))
    assert counts(after).get("BlockIndex", 0) == left


def test_an_index_that_alone_tells_of_the_grid_stays() -> None:
    x, b = array("x", dt.i32, 4), Body()
    place = b(BlockIndex((b.i32(3), b.i32(1)), 1))
    one = b(Broadcast(b(Add(place, b.i32(1))), (4,)))
    b(Atomic("add", x, (b(Iota((4,), 0, dt.i32)),), one))
    after = check(Case(Func("blocks", (x,), Block((), tuple(b))), (values(dt.i32, 4),)))
    assert counts(after)["BlockIndex"] == 1


def test_requirements_stay() -> None:
    x, b = array("x", dt.i32, 16), Body()
    b(Require(b(Compare("eq", b(Size(x, 0)), b.i32(16))), "16 elements"))
    func = simplify(Func("required", (x,), Block((), tuple(b))), CPU)
    assert counts(func)["Require"] == 1


def test_every_rule_says_its_equation_and_is_tried() -> None:
    assert all(rule.__doc__ for rule in RULES)
    assert {rule for rules in _table().values() for rule in rules} == set(RULES)


# The law, on random expressions.

INTEGER: list[Any] = [
    A.Add,
    A.Sub,
    A.Mul,
    A.FloorDiv,
    A.Mod,
    A.Minimum,
    A.Maximum,
    A.And,
    A.Or,
    A.Xor,
    A.Shl,
    A.Shr,
]
FLOAT: list[Any] = [A.Add, A.Sub, A.Mul, A.Div, A.Minimum, A.Maximum]


def grow(b: Body, pool: list[Value], dtype: DType, draw: random.Random) -> Value:
    """One more value: mostly of operands that make equations fire."""
    x, y = draw.choice(pool), draw.choice(pool)
    pick = draw.randrange(10)
    if pick < 4:
        constants = [0.0, -0.0, 1.0, -1.0, 2.5, math.inf] if dtype.is_float else [0, 1, 3, int(dtype.max)]
        k = c(b, draw.choice(constants), dtype)
        x, y = draw.choice([(x, k), (k, x), (k, c(b, 1, dtype))])
    if pick == 8:
        other = draw.choice([dt.f64, dt.f16, dt.bf16] if dtype.is_float else [dt.i64, dt.i8, dt.u16])
        return b(Cast(b(Cast(x, other)), dtype))
    if pick == 9:
        return b(Where(b(Compare(draw.choice(["eq", "lt", "ge", "ne"]), x, y)), y, x))
    if pick == 7:
        unary = [A.Neg, A.Abs] + ([] if dtype.is_float else [A.Not])
        return b(draw.choice(unary)(x))
    if dtype.is_float and pick == 6:
        return b(A.Fma(x, draw.choice([c(b, 1.0, dtype), y]), draw.choice([c(b, -0.0, dtype), y])))
    return b(draw.choice(FLOAT if dtype.is_float else INTEGER)(x, y))


@pytest.mark.parametrize("dtype", [dt.f32, dt.bf16, dt.i32, dt.u8, dt.i4], ids=str)
@given(st.integers(0, 2**64))
def test_random_expressions_keep_every_bit(dtype: DType, seed: int) -> None:
    draw = random.Random(seed)

    def make(b: Body, x: Value) -> Value:
        pool = [x]
        for _ in range(draw.randrange(1, 12)):
            pool.append(grow(b, pool, dtype, draw))
        last: Value = pool[-1]
        return last

    x, y, b = array("x", dtype, 16), array("y", dtype, 16), Body()
    at = (b.i32(0),)
    tile = make(b, b.load(x, at, (16,)))
    b(Store(y, at, tile))
    func = Func("random", (x, y), Block((), tuple(b)))
    start = values(dtype, 16, seed=seed % 1000)
    case = Case(func, (start, np.zeros(16, dtype.storage)))
    after = simplify(func, CPU)
    before, now = case.run()[1], case.run(after)[1]
    a, z = codec.from_storage(before, dtype), codec.from_storage(now, dtype)
    np.testing.assert_array_equal(a, z)
    if dtype.is_float:
        np.testing.assert_array_equal(np.signbit(a) & ~np.isnan(a), np.signbit(z) & ~np.isnan(z))
