"""Loops of the running kernel: For and While.

    for s in tc.range(n): acc = acc + x      For(0, n, 1, (acc,), body), whose body leaves with acc + x
What a block assigns and what existed before it is carried: each such value, apart in tiles (trees.py),
enters the block as an argument and leaves it as a result. A loop is read once to see which Python numbers
change in it (`count = 0` before, `count = count + 1` inside); those become scalars, and it is read again.
A loop that may `break` is a While, which carries whether it goes on.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

from tilec.branches import closed, loop_body, stops
from tilec.carried import NONE, Carried, assigned
from tilec.frames import Frame, Undefined, evaluate
from tilec.ir import dtype as dt
from tilec.ir.errors import Loc, TilecError
from tilec.ir.func import Arg, Block, Inst, Item, Value
from tilec.ir.inst import control
from tilec.ir.tile import TileType
from tilec.lang import Range, counts_up
from tilec.targets import assign
from tilec.tracing import Scope
from tilec.values import Tile, full, scalar, scalar_bool

BOOL = TileType(dt.bool)


def counted_loop(frame: Frame, node: ast.For, loop: Range) -> None:
    """for target in tc.range(...)"""
    tracer = frame.tracer
    start, stop, step = _bounds(loop)

    def build(carried: Carried) -> Inst | None:
        scope, init = Scope("loop"), carried.init()
        index = Arg(start.type, frame.code.text(node.target))
        at, end = Tile(index, scope), Tile(stop, scope)
        with tracer.inside(scope):
            args = carried.enter(init, scope)
            assign(frame, node.target, at)
            stopped = stops(frame, loop_body(frame, node))
            if carried.changed():
                return None
            results = carried.results()
            if stopped is not False:
                after = at + Tile(step, scope)
                goes_on = ~_scalar(stopped) & (after > at) & (after < end)  # after < at: it wrapped
                results = (*results, after.value, goes_on.value)
        if stopped is False:
            body = Block((index, *args), tuple(scope.instructions), results)
            fields = (start, stop, step, init, body, loop.stages)
            return closed(frame, node, control.For, *fields, scopes=(scope,))
        begins = Tile(start, tracer.scope) < Tile(stop, tracer.scope)
        body = Block((*args, index, Arg(BOOL)), tuple(scope.instructions), results)
        init = (*init, start, begins.value)
        held = tuple(Arg(value.type) for value in init)
        return closed(frame, node, control.While, init, Block(held, (), held[-1:]), body, scopes=(scope,))

    _loop(frame, node, build)


def _scalar(condition: Tile | bool) -> Tile:
    return full(condition, (), dt.bool)


def _bounds(loop: Range) -> tuple[Value, Value, Value]:
    bounds = (loop.start, loop.stop, loop.step)
    dtypes = [x.dtype for x in bounds if isinstance(x, Tile)]
    dtype = dtypes[0] if dtypes else dt.i32
    if not dtype.is_integer:
        raise TilecError(f"tc.range counts integers, not {dtype.name}")
    start, stop, step = (scalar(x, dtype, "tc.range") for x in bounds)
    if isinstance(loop.step, Tile):
        counts_up(loop.step)
    return start, stop, step


def conditional_loop(frame: Frame, node: ast.While) -> None:
    """while condition, where the condition is a scalar"""
    tracer = frame.tracer

    def build(carried: Carried) -> Inst | None:
        scope, init = Scope("loop"), carried.init()
        with tracer.inside(scope):
            args = carried.enter(init, scope)
            test = scalar_bool(full(evaluate(frame, node.test), (), dt.bool), "while")
        held, inner = args, Scope("loop")
        with tracer.inside(inner):
            args = carried.enter(init, inner)
            stopped = stops(frame, loop_body(frame, node))
            if carried.changed():
                return None
            results = carried.results()
            if stopped is not False:
                results = (*results, (~_scalar(stopped)).value)
        condition = Block(held, tuple(scope.instructions), (test,))
        if stopped is not False:
            condition = _unless_left(condition, frame.loc(node))
            args, init = (*args, Arg(BOOL)), (*init, tracer.constant(True, dt.bool))
        body = Block(args, tuple(inner.instructions), results)
        return closed(frame, node, control.While, init, condition, body, scopes=(scope, inner))

    _loop(frame, node, build)


def _unless_left(condition: Block, loc: Loc) -> Block:
    """The condition of a loop, read as long as no pass has left it: the last of what it carries."""
    goes_on = Arg(BOOL)
    then, orelse = Block((), condition.body, condition.results), Block((), (), (goes_on,))
    found = Item(test := control.If(goes_on, then, orelse, loc=loc), 0, loc=loc)
    return Block((*condition.args, goes_on), (test, found), (found,))


def _loop(frame: Frame, node: ast.For | ast.While, build: Callable[[Carried], Inst | None]) -> None:
    """Reads a loop, again where numbers turned out to change, and gives the names their values after it."""
    before = dict(frame.locals)
    names = assigned(frame, node)
    carried = Carried(frame, node, [n for n in names if not isinstance(before.get(n, NONE), Undefined)])
    while (made := build(carried)) is None:
        frame.locals = dict(before)
    frame.locals = before
    tracer = frame.tracer
    results = {path: Tile(tracer.emit(Item, made, i), tracer.scope) for i, path in enumerate(carried.paths)}
    carried.bind(results)
    for name in names:
        if name not in carried.trees:
            frame.locals[name] = Undefined(
                f"{name} is first assigned inside the loop of line {node.lineno}, which may "
                "not run at all: give it a value before the loop"
            )
