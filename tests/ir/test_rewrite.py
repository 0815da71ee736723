"""Rewriting keeps the meaning, and touches nothing that a pass leaves alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.ir.kernels import KERNELS, Body, Case, array, control, same, values, vector_add
from tilec.ir import dtype as dt
from tilec.ir.dead import dce
from tilec.ir.func import Block, Func, Inst, Item, Value
from tilec.ir.inst.arith import Add, Cast, Full, Mul
from tilec.ir.inst.control import For, If, While
from tilec.ir.inst.memory import Alloc, Load, Store
from tilec.ir.inst.sync import BlockIndex, Print
from tilec.ir.rewrite import Emit, Rewritten, inline, rebuild, uses
from tilec.ir.run import State
from tilec.ir.tile import TileType


def quiet() -> State:
    return State(output=lambda text: None)


def fresh(inst: Inst, emit: Emit) -> Rewritten:
    """Every instruction anew, so that all of its users must follow."""
    return replace(inst)


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_changes_where_a_pass_changes_nothing(name: str) -> None:
    func = KERNELS[name]().func
    assert rebuild(func, lambda inst, emit: None) is func


@pytest.mark.parametrize("name", KERNELS)
def test_a_copy_means_the_same(name: str) -> None:
    case = KERNELS[name]()
    copied = rebuild(case.func, fresh)
    assert not set(copied.walk()) & set(case.func.walk())
    assert [type(i) for i in copied.walk()] == [type(i) for i in case.func.walk()]
    assert [i.loc for i in copied.walk()] == [i.loc for i in case.func.walk()]
    assert same(case.run(state=quiet()), case.run(copied, quiet()))


@pytest.mark.parametrize("name", KERNELS)
def test_dead_code_goes_and_the_meaning_stays(name: str) -> None:
    case = KERNELS[name]()
    pruned = dce(case.func)
    assert dce(pruned) is pruned
    assert same(case.run(state=quiet()), case.run(pruned, quiet()))


def test_an_expression_is_placed_before_its_use_with_the_line_of_what_it_replaces() -> None:
    def doubled(inst: Inst, emit: Emit) -> Rewritten:
        if not isinstance(inst, Add) or inst.a is inst.b:
            return None
        two = Full(2.0, dt.f32, inst.tile.shape)
        return Mul(Mul(two, inst.a), Mul(two, inst.b)) if inst.tile.dtype == dt.f32 else None

    case = vector_add()
    after = rebuild(case.func, doubled)
    made = [i for i in after.walk() if isinstance(i, Mul) and i.tile.shape]
    assert len(made) == 3 and len({i.loc for i in made}) == 1 and made[0].loc is not None
    x, y = case.arguments[:2]
    np.testing.assert_array_equal(case.run(after)[2], 4 * x * y)


def test_a_tuple_takes_the_place_of_a_branch_and_an_empty_one_removes_a_store() -> None:
    def then(inst: Inst, emit: Emit) -> Rewritten:
        if isinstance(inst, If):
            return inline(inst.then, (), emit)
        return () if isinstance(inst, Store) and inst.tile_.tile.dtype == dt.f32 else None

    case = control()
    after = rebuild(case.func, then)
    assert not any(isinstance(i, If) for i in after.walk())
    loop = case.run()[0].reshape(4, 16)[1::2]  # odd blocks took `then` before, too
    np.testing.assert_array_equal(case.run(after)[0].reshape(4, 16)[1::2], loop)
    removed = rebuild(vector_add().func, then)
    assert not any(isinstance(i, Store) for i in removed.walk()) and not vector_add().run(removed)[2].any()


def test_the_types_that_a_loop_carries_follow_its_entry() -> None:
    """Sums in i64 what was summed in i32: widened at entry, in the body and at the end of the body."""
    wide = TileType(dt.i64, (16,))

    def enter(old: Inst, operands: tuple[Value, ...], emit: Emit) -> tuple[Value, ...]:
        if not isinstance(old, For):
            return operands
        return tuple(Cast(v, dt.i64) if v.type == TileType(dt.i32, (16,)) else v for v in operands)

    def leave(old: Inst, results: tuple[Value, ...], emit: Emit) -> tuple[Value, ...]:
        wider = isinstance(old, For)
        return tuple(Cast(v, dt.i64) if wider and v.tile.shape == (16,) else v for v in results)

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if isinstance(inst, Item) and inst.type == wide:
            return Cast(emit(Item(inst.source, inst.index)), dt.i32)
        return None

    case = control()
    with_wide = rebuild(_narrowed(case.func), visit, enter, leave)
    loop = next(i for i in with_wide.walk() if isinstance(i, For))
    assert loop.body.args[1].type == wide and loop.init[0].type == wide
    assert same(case.run(), case.run(with_wide))


def _narrowed(func: Func) -> Func:
    """The accumulator passes through a cast in the body, so that it fits whatever the loop carries."""

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if isinstance(inst, Add) and inst.tile.shape == (16,) and not isinstance(inst.a, Inst):
            return Add(Cast(inst.a, dt.i32), inst.b)
        return None

    return rebuild(func, visit)


def test_a_value_of_the_old_function_is_refused() -> None:
    def stale(inst: Inst, emit: Emit) -> Rewritten:
        if isinstance(inst, Full):
            return replace(inst)
        return Add(*emit.old.operands) if isinstance(inst, Add) else None

    with pytest.raises(AssertionError, match="stands in the function before the rewrite"):
        rebuild(vector_add().func, stale)


def test_visible_knows_the_scopes() -> None:
    seen: dict[str, bool] = {}
    inner: list[Value] = []

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if isinstance(inst, Mul) and inst.operands[1] is not inst.operands[0]:
            inner.append(inst)
        if isinstance(inst, Item) and inner:
            seen["after"] = emit.visible(inner[-1])
        return None

    rebuild(control().func, visit)
    assert seen == {"after": False}


def test_inline_makes_a_copy_each_time() -> None:
    func = control().func
    loop = next(i for i in func.walk() if isinstance(i, For))
    first, second = Body(), Body()
    for body in (first, second):
        results = inline(loop.body, (loop.start, *loop.init), body)
        assert results[1] is loop.init[1] and results[0] in body
    assert len(first) == len(loop.body.body) and not set(first) & set(second)


def test_uses_counts_what_blocks_are_left_with() -> None:
    func = control().func
    users = uses(func)
    loop = next(i for i in func.walk() if isinstance(i, For))
    assert loop in users[loop.body.results[0]]
    assert all(user in set(func.walk()) for found in users.values() for user in found)


def test_carried_values_that_nobody_uses_or_changes_go() -> None:
    after = dce(control().func)
    loop = next(i for i in after.walk() if isinstance(i, For))
    assert len(loop.init) == 1 and len(loop.body.args) == 2
    assert len(list(after.walk())) < len(list(control().func.walk()))


def test_an_unused_while_goes_with_its_condition() -> None:
    case = control()
    kept = [i for i in case.func.body.body if not isinstance(i, If) or i.then.results]
    b = Body(kept)
    x = case.func.params[0]
    b(Store(x, (b.i32(0),), b.full(7, dt.i32, 16)))
    after = dce(replace(case.func, body=Block((), tuple(b))))
    assert not any(isinstance(i, While | For | If) for i in after.walk())


def test_reads_and_allocations_without_use_go_but_the_grid_stays() -> None:
    x = array("x", dt.f32, 64)
    b = Body()
    b.blocks(b.i32(4), b.i32(2))
    b.load(x, (b.i32(0),), (64,))
    b(Alloc(dt.f32, (4,)))
    b(Print("one", b.i32(1)))
    case = Case(Func("unused", (x,), Block((), tuple(b))), (values(dt.f32, 64),))
    after, state = dce(case.func), quiet()
    assert not any(isinstance(i, Load | Alloc) for i in after.walk())
    assert sum(isinstance(i, BlockIndex) for i in after.walk()) == 1
    case.run(after, state)
    assert state.said == ["one1"] * 8


def test_time_is_linear() -> None:
    """A chain as long as an unrolled kernel, placed at once: neither recursion nor quadratic time."""

    def chain(inst: Inst, emit: Emit) -> Rewritten:
        if not isinstance(inst, Add) or not inst.tile.shape:
            return None
        value: Value = inst.a
        for _ in range(5000):
            value = Add(value, inst.b)
        return value

    after = rebuild(vector_add().func, chain)
    assert len(list(dce(after).walk())) > 5000
