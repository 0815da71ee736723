"""Facts: what must be proven is, and nothing that is claimed is ever false."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ir.kernels import KERNELS, Body, array, heads, matmul, vector_add
from tilec.ir import dtype as dt
from tilec.ir.facts import Facts, analyse, is_integer
from tilec.ir.func import Arg, Block, Func, Inst, Item, Value
from tilec.ir.inst.arith import (
    Abs,
    Add,
    And,
    Cast,
    Compare,
    FloorDiv,
    Maximum,
    Minimum,
    Mod,
    Mul,
    Neg,
    Shl,
    Shr,
    Sub,
    Where,
)
from tilec.ir.inst.control import For
from tilec.ir.inst.memory import Alloc, ArraySlice, Copy, Load, Size, Store
from tilec.ir.inst.sync import BlockIndex, Require
from tilec.ir.run import Memory, State, step
from tilec.ir.tile import Dim, Extent, TileType


def scalar(name: str, dtype: Any = None) -> Arg:
    return Arg(TileType(dtype or dt.i32), name)


def build(body: Body, *params: Arg) -> Facts:
    return analyse(Func("test", params, Block((), tuple(body))))


def proven(func: Func) -> list[tuple[bool, ...]]:
    """Per access of a kernel, the axes that are proven to stay inside."""
    facts, found = analyse(func), []
    for inst in func.walk():
        if isinstance(inst, Load | Store | Copy):
            shape = inst.tile_.tile.shape if isinstance(inst, Store) else inst.shape
            axes = range(len(shape))
            found.append(tuple(facts.inside(inst.array, a, inst.at[a], shape[a]) for a in axes))
    return found


# What must be proven.


def test_whole_tiles_stay_inside() -> None:
    assert proven(vector_add().func) == [(True,)] * 3
    assert proven(matmul().func) == [(True, True)] * 3
    assert proven(KERNELS["staged"]().func) == [(True, True)] * 3


def test_static_shapes_stay_inside_and_ragged_ones_do_not() -> None:
    assert proven(vector_add(2048, 2048).func) == [(True,)] * 3
    assert proven(vector_add(2000, 2000).func) == [(False,)] * 3
    assert proven(matmul(dims=(64, 32, 48)).func) == [(True, True)] * 3
    assert proven(KERNELS["ragged_matmul"]().func) == [(False, False)] * 3
    assert proven(matmul(dims=(Dim("m", 32), 32, Dim("k"))).func) == [
        (True, False),
        (False, True),
        (True, True),
    ]


def test_views_whose_dropped_axes_come_from_one_block_number() -> None:
    assert proven(heads().func) == [(True, True)] * 2


def test_a_step_of_the_tile_itself() -> None:
    """for at in range(0, k, 16): x[at : at + 16]"""
    x, b = array("x", dt.f32, Dim("k", 16)), Body()
    loop = b.loop(b(Size(x, 0)), (), lambda inner, at: (inner.load(x, (at,), (16,)), ())[1], step=b.i32(16))
    facts = build(b, x)
    assert facts.inside(x, 0, loop.body.args[0], 16) and not facts.inside(x, 0, loop.body.args[0], 17)
    assert facts.multiple(loop.body.args[0]) == 16


def test_a_requirement_makes_extents_equal() -> None:
    x, y, b = array("x", dt.f32, Dim("n", 8)), array("y", dt.f32, Dim("k", 12)), Body()
    n, k = b(Size(x, 0)), b(Size(y, 0))
    assert not build(b, x, y).proves_le(n, k)
    b(Require(b(Compare("eq", n, k)), "n == k"))
    facts = build(b, x, y)
    assert facts.proves_le(n, k) and facts.proves_le(k, n) and facts.multiple(n) == facts.multiple(k) == 24


def test_a_requirement_of_divisibility() -> None:
    x, b = array("x", dt.f32, Dim("n", 4)), Body()
    n = b(Size(x, 0))
    b(Require(b(Compare("eq", b(Mod(n, b.i32(96))), b.i32(0))), "n % 96 == 0"))
    (i,) = b.blocks(b.cdiv(n, 96))
    at = b.times(i, 96)
    facts = build(b, x)
    assert facts.extent_multiple(x, 0) == 96 and facts.inside(x, 0, at, 96) and not facts.inside(x, 0, at, 97)


@pytest.mark.parametrize("op", ["le", "lt", "ge", "gt"])
def test_a_requirement_of_order(op: str) -> None:
    x, y, b = array("x", dt.f32, Dim("n")), array("y", dt.f32, Dim("m")), Body()
    n, m = b(Size(x, 0)), b(Size(y, 0))
    small, large = (n, m) if op[0] == "l" else (m, n)
    b(Require(b(Compare(op, n, m)), "order"))
    facts = build(b, x, y)
    assert facts.proves_le(small, large) and not facts.proves_le(large, small)
    assert facts.proves_le(b(Add(small, b.i32(1))), large) == (op in ("lt", "gt"))


def test_a_requirement_with_an_offset() -> None:
    """out has n - 2 elements: x[i : i + 3] stays inside for i < out's extent."""
    x, out, b = array("x", dt.f32, Dim("n")), array("out", dt.f32, Dim("m")), Body()
    n, m = b(Size(x, 0)), b(Size(out, 0))
    b(Require(b(Compare("eq", m, b(Sub(n, b.i32(2))))), "valid"))
    (i,) = b.blocks(m)
    facts = build(b, x, out)
    assert facts.inside(out, 0, i, 1) and facts.inside(x, 0, i, 3) and not facts.inside(x, 0, i, 4)


def test_a_clamped_index_stays_inside() -> None:
    x, p, b = array("x", dt.f32, Dim("n", 4)), scalar("p"), Body()
    n = b(Size(x, 0))
    b.blocks(n)
    place = b(Maximum(b(Minimum(p, b(Sub(n, b.i32(4))))), b.i32(0)))
    facts = build(b, x, p)
    assert facts.inside(x, 0, place, 4) and not facts.inside(x, 0, place, 5) and not facts.inside(x, 0, p, 1)


def test_one_of_two_places() -> None:
    x, c, b = array("x", dt.f32, 64), scalar("c"), Body()
    odd = b(Compare("eq", b(And(c, b.i32(1))), b.i32(1)))
    chosen = b(Where(odd, b.i32(16), b.i32(48)))
    branch = b(Item(b.branch(odd, lambda t: (t.i32(8),), lambda e: (e(And(c, e.i32(7))),)), 0))
    facts = build(b, x, c)
    assert (
        facts.range(chosen) == (16, 48)
        and facts.inside(x, 0, chosen, 16)
        and not facts.inside(x, 0, chosen, 17)
    )
    assert facts.range(branch) == (0, 8) and facts.inside(x, 0, branch, 56)


def test_views_know_their_extents() -> None:
    x, b = array("x", dt.f32, Dim("n", 16), 32), Body()
    n = b(Size(x, 0))
    inner = b(ArraySlice(x, (b.i32(0), b.i32(8)), (n, b.i32(24)), (4, 2)))
    facts = build(b, x)
    assert facts.extent_multiple(inner, 0) == 4 and facts.extent(inner, 1).constant == 8
    assert facts.proves_le(b(Size(inner, 0)), b(FloorDiv(n, b.i32(4))))
    assert facts.inside(inner, 1, 0, 8) and not facts.inside(inner, 1, 0, 9)


def test_a_view_that_may_be_empty_contains_nothing() -> None:
    x, p, b = array("x", dt.f32, Dim("n"), 32), scalar("p"), Body()
    view = b(ArraySlice(x, (p, None), (None, None), (1, 1), (0,)))
    facts = build(b, x, p)
    assert not facts.inside(view, 0, 0, 1) and facts.inside(x, 1, 0, 32)
    beyond = b(ArraySlice(x, (None, b.i32(30)), (None, b.i32(40)), (1, 1)))
    assert not build(b, x, p).inside(beyond, 1, 0, 3)


def test_alignment_of_views() -> None:
    x, p, b = array("x", dt.f16, Dim("n"), 24), scalar("p"), Body()
    rows = b(ArraySlice(x, (b.times(p, 2), None), (None, None), (1, 1)))
    columns = b(ArraySlice(x, (None, b.i32(4)), (None, None), (1, 1)))
    odd = b(ArraySlice(columns, (p, b.i32(1)), (None, None), (3, 1)))
    facts = build(b, x, p)
    assert (facts.align(x), facts.align(rows), facts.align(columns), facts.align(odd)) == (16, 16, 8, 2)
    assert facts.stride_multiple(odd, 0) == 72 and facts.stride_multiple(odd, 1) == 1


def test_alignment_of_packed_and_shared_arrays() -> None:
    x, p, b = array("x", dt.u3, Dim("n"), 16, packed=True), scalar("p"), Body()
    even = b(ArraySlice(x, (b.times(p, 2), None), (None, None), (1, 1)))
    within = b(ArraySlice(x, (p, b.i32(1)), (None, None), (1, 1)))
    shared = b(Alloc(dt.f32, (8, 8)))
    facts = build(b, x, p)
    assert (facts.align(even), facts.align(within), facts.align(shared)) == (4, 0, 128)


def test_constants_and_divisors() -> None:
    p, b = scalar("p"), Body()
    six, zero = b(Mul(b.i32(2), b.i32(3))), b(Sub(p, p))
    twelve = b.times(p, 12)
    facts = build(b, p)
    assert facts.constant(six) == 6 and facts.constant(zero) == 0 and facts.constant(p) is None
    assert facts.multiple(zero) == 0 and facts.multiple(p) == 1
    assert facts.multiple(twelve) == 4, "12 * p may wrap, and then only the 4 is left"
    assert facts.multiple(b(Add(b(Shl(p, b.i32(5))), b.i32(16)))) == 16
    assert facts.constant(b(Compare("eq", p, p))) is None
    with pytest.raises(AssertionError, match="facts are about integer scalars"):
        facts.multiple(b.full(1.0, dt.f32))


# What must not be proven.


def test_sums_that_wrap_prove_nothing() -> None:
    x, p, b = array("x", dt.f32, Dim("n")), scalar("p"), Body()
    one_more = b(Add(p, b.i32(1)))
    facts = build(b, x, p)
    assert not facts.proves_le(p, one_more) and facts.proves_le(one_more, b(Add(p, b.i32(1)))) is False
    n = b(Size(x, 0))
    assert not build(b, x, p).proves_le(n, b(Add(n, b.i32(1)))), "n may be 2^31 - 1"
    assert facts.proves_le(b(Sub(n, b.i32(1))), n)


def test_an_extent_may_be_zero_where_no_block_depends_on_it() -> None:
    x, y, b = array("x", dt.f32, Dim("n")), array("y", dt.f32, Dim("m")), Body()
    b.blocks(b.cdiv(b(Size(x, 0)), 4))
    facts = build(b, x, y)
    assert facts.inside(x, 0, 0, 1) and not facts.inside(y, 0, 0, 1)


def test_text_names_what_it_is_about() -> None:
    func = matmul().func
    facts = analyse(func)
    at = next(i for i in func.walk() if isinstance(i, Load)).at
    assert facts.show(facts.linear(at[0])) == "32*block0" and facts.show(facts.linear(at[1])) == "16*round"


# The law: claims hold in every launch.

EXTREMES = [0, 1, 2, 3, 7, 8, 16, 31, 32, 33, 96, 127, 128, 1000, 2**20, 2**31 - 129, 2**31 - 1]
OPERATIONS: list[Any] = [Add, Sub, Mul, FloorDiv, Mod, Minimum, Maximum, And, Add, Sub, Mul, FloorDiv, Mod]


def random_scalar(b: Body, pool: list[Value], draw: random.Random) -> Value:
    """One more scalar from those that are there."""
    kind = draw.randrange(8)
    x = draw.choice(pool)
    if kind == 0:
        return b(draw.choice([Neg, Abs])(x))
    if kind == 1:
        return b(draw.choice([Shl, Shr])(x, b.i32(draw.choice([0, 1, 3, 5, 31, 32, -1]))))
    if kind == 2:
        return b(Where(b(Compare("lt", x, draw.choice(pool))), draw.choice(pool), draw.choice(pool)))
    if kind == 3:
        narrow = b(Cast(x, draw.choice([dt.i8, dt.u16, dt.i64, dt.u32])))
        return b(Cast(b(Add(narrow, narrow)), dt.i32))
    y = b.i32(draw.choice([-3, *EXTREMES])) if kind < 6 else draw.choice(pool)
    return b(draw.choice(OPERATIONS)(x, y))


def random_kernel(draw: random.Random) -> tuple[Func, list[Value], list[Value]]:
    """A kernel of scalars: its values, and views of its arrays."""
    dims: list[Extent] = [
        Dim("n", draw.choice([1, 8, 32])),
        Dim("m", draw.choice([1, 3, 16])),
        draw.choice([1, 5, 64]),
    ]
    x, y, p, b = array("x", dt.i8, *dims), array("y", dt.i8, Dim("k")), scalar("p"), Body()
    n, m, k = b(Size(x, 0)), b(Size(x, 1)), b(Size(y, 0))
    if draw.random() < 0.6:
        b(Require(b(And(b(Compare("eq", k, draw.choice([n, m]))), b(Compare("le", n, n)))), "k"))
    if draw.random() < 0.4:
        b(Require(b(Compare("eq", b(Mod(k, b.i32(6))), b.i32(0))), "k % 6"))
    if draw.random() < 0.4:
        b(Require(b(Compare(draw.choice(["le", "lt", "gt", "ge"]), n, draw.choice([m, p, k]))), "order"))
    grid = draw.choice([(n,), (b.cdiv(n, 32), b.cdiv(m, 16)), (b(Mul(n, m)), k), (b.i32(4), n)])
    pool: list[Value] = [n, m, k, p, *b.blocks(*grid)]
    pool += [random_scalar(b, pool, draw) for _ in range(draw.randrange(8))]
    start, stop, by = (
        draw.choice([b.i32(0), draw.choice(pool)]),
        draw.choice(pool),
        b.i32(draw.choice([1, 3, 16])),
    )
    inside: list[Value] = []
    views: list[Value] = [x, y]

    def body(inner: Body, index: Value) -> tuple[Value, ...]:
        inside.append(index)
        inside.extend(random_scalar(inner, pool + inside, draw) for _ in range(draw.randrange(8)))
        bounds = [draw.choice([None, draw.choice(pool + inside)]) for _ in range(6)]
        dropped = draw.choice([(), (1,), (0, 2)])
        views.append(
            inner(ArraySlice(x, tuple(bounds[:3]), tuple(bounds[3:]), (1, draw.choice([1, 3]), 1), dropped))
        )
        inside.extend(inner(Size(views[-1], axis)) for axis in range(3 - len(dropped)))
        return ()

    b.loop(stop, (), body, start=start, step=by)
    return Func("scalars", (x, y, p), Block((), tuple(b))), pool + inside, views


def launch(func: Func, draw: random.Random) -> dict[Value, Any] | None:
    """The values of one round of one block of a launch; None where nothing runs."""
    x, y, p = func.params
    shape = [
        n if isinstance(n, int) else draw.choice(EXTREMES) // n.multiple * n.multiple
        for n in x.array_type.shape
    ]
    other = draw.choice([shape[0], shape[1], draw.choice(EXTREMES)])
    env: dict[Value, Any] = {
        x: Memory(np.broadcast_to(np.zeros(1, np.int8), shape), dt.i8)
        if np.prod(shape, dtype=object) < 2**60
        else None,
        y: Memory(np.broadcast_to(np.zeros(1, np.int8), (other,)), dt.i8),
        p: np.int32(draw.choice([*EXTREMES, -1, -5, -(2**31)])),
    }
    if env[x] is None:
        return None
    body = list(func.body.body)
    loop = body.pop()
    assert isinstance(loop, For)
    with np.errstate(all="ignore"):
        if not run_scalars(body, env, draw):
            return None
        rounds = range(int(env[loop.start]), int(env[loop.stop]), int(env[loop.step]))
        if not rounds:
            return None
        env[loop.body.args[0]] = np.int32(rounds[draw.choice([0, -1, draw.randrange(len(rounds))])])
        return env if run_scalars(list(loop.body.body), env, draw) else None


def run_scalars(body: list[Inst], env: dict[Value, Any], draw: random.Random) -> bool:
    state = State()
    for inst in body:
        if isinstance(inst, Require):
            if not env[inst.condition]:
                return False
            continue
        if isinstance(inst, BlockIndex) and inst.axis == 0:
            blocks = int(np.prod([max(0, int(env[n])) for n in inst.grid], dtype=object))
            if blocks == 0 or blocks >= 2**62:
                return False
            state.block = draw.choice([0, blocks - 1, draw.randrange(blocks)])
        env[inst] = step(inst, env, state)
    return True


def check(
    facts: Facts, scalars: list[Value], views: list[Value], env: dict[Value, Any], draw: random.Random
) -> int:
    claims = 0
    for v in scalars:
        value, (low, high), by = int(env[v]), facts.range(v), facts.multiple(v)
        assert low <= value <= high
        assert value % by == 0 if by else value == 0
    for _ in range(12):
        a, b = draw.choice(scalars), draw.choice(scalars)
        if facts.proves_le(a, b):
            claims += 1
            assert int(env[a]) <= int(env[b])
    for view in views:
        for axis in range(view.array_type.rank):
            extent, at = int(env[view].data.shape[axis]), draw.choice(scalars)
            width = draw.choice([1, 3, 16, 32])
            assert extent % (facts.extent_multiple(view, axis) or 1) == 0
            if facts.inside(view, axis, at, width):
                claims += 1
                assert int(env[at]) >= 0 and int(env[at]) + width <= extent
    return claims


@given(st.integers(0, 2**64))
def test_no_claim_is_false(seed: int) -> None:
    draw = random.Random(seed)
    func, scalars, views = random_kernel(draw)
    facts = analyse(func)
    assert all(is_integer(v) for v in scalars)
    launches = [env for _ in range(60) if (env := launch(func, draw)) is not None]
    for env in launches[:12]:
        check(facts, scalars, views, env, draw)


def test_the_law_is_not_empty() -> None:
    """The kernels that it draws do lead to claims."""
    draw, claims = random.Random(1), 0
    for _ in range(150):
        func, scalars, views = random_kernel(draw)
        env = launch(func, draw)
        claims += check(analyse(func), scalars, views, env, draw) if env is not None else 0
    assert claims > 40
