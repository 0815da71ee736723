"""Run-time control flow: loops and branches on scalars become For, While and If.

    for s in tc.range(n): acc = acc + x      For(0, n, 1, (acc,), body), whose body leaves with acc + x
What a block assigns and what existed before it is carried: each such value, apart in tiles (trees.py),
enters the block as an argument and leaves it as a result. A loop is read once to see which Python numbers
change in it (`count = 0` before, `count = count + 1` inside); those become scalars, and it is read again.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tilec.carried import NONE, Carried, as_value, assigned, said, same, wider
from tilec.frames import Flow, Frame, Undefined, evaluate, execute
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Arg, Block, Inst, Item, Value
from tilec.ir.inst import control
from tilec.lang import Range, counts_up
from tilec.literals import NUMBERS
from tilec.targets import assign
from tilec.tracing import Scope
from tilec.trees import leaves, rebuilt
from tilec.values import Tile, full, scalar, scalar_bool


def counted_loop(frame: Frame, node: ast.For, loop: Range) -> None:
    """for target in tc.range(...)"""
    tracer = frame.tracer
    start, stop, step = _bounds(loop)

    def build(carried: Carried) -> Inst | None:
        scope, init = Scope("loop"), carried.init()
        index = Arg(start.type, frame.code.text(node.target))
        with tracer.inside(scope):
            args = carried.enter(init, scope)
            assign(frame, node.target, Tile(index, scope))
            _stays(frame, execute(frame, node.body))
            if carried.changed():
                return None
            results = carried.results()
        body = Block((index, *args), tuple(scope.instructions), results)
        return _closed(frame, node, control.For, start, stop, step, init, body, loop.stages, scopes=(scope,))

    _loop(frame, node, build)


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
        condition = Block(args, tuple(scope.instructions), (test,))
        inner = Scope("loop")
        with tracer.inside(inner):
            args = carried.enter(init, inner)
            _stays(frame, execute(frame, node.body))
            if carried.changed():
                return None
            results = carried.results()
        body = Block(args, tuple(inner.instructions), results)
        return _closed(frame, node, control.While, init, condition, body, scopes=(scope, inner))

    _loop(frame, node, build)


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


def _closed(frame: Frame, node: ast.AST, kind: type[Inst], *fields: Any, scopes: Sequence[Scope]) -> Inst:
    """The finished loop or branch, at the line where it begins; nothing inside may be used any more."""
    for scope in scopes:
        scope.open = False
    frame.mark(node)
    return frame.tracer.emit(kind, *fields)


LEAVES = {
    "break": "put the condition into the loop: while x < y, or compute the bound of tc.range before it",
    "continue": "put the rest of the body under an if",
    "return": "assign to a name in both branches and return it at the end",
}


def _stays(frame: Frame, left: Flow | None) -> None:
    """A block of the running kernel is left at its end only."""
    if left is not None:
        raise frame.error(
            left.node,
            f"`{left.kind}` inside a loop or branch that is decided at run time is not part of "
            f"the kernel language: {LEAVES[left.kind]}",
        )


@dataclass(frozen=True)
class Side:
    """One branch: what it emitted, and what the names mean at its end."""

    scope: Scope
    names: dict[str, Any]


def branch(frame: Frame, node: ast.If, condition: Value) -> None:
    """if condition, where the condition is a scalar"""
    names = assigned(frame, node)
    sides = [
        _side(frame, names, lambda body=body: _stays(frame, execute(frame, body)))  # type: ignore[misc]
        for body in (node.body, node.orelse)
    ]
    frame.locals.update(_joined(frame, node, condition, *sides))


def choose(frame: Frame, node: ast.IfExp, condition: Value) -> Any:
    """a if condition else b, where the condition is a scalar"""
    name = "the value of `... if ... else ...`"

    def side(chosen: ast.expr) -> Side:
        def read() -> None:
            frame.locals[name] = evaluate(frame, chosen)

        return _side(frame, (name,), read)

    value = _joined(frame, node, condition, side(node.body), side(node.orelse))[name]
    if isinstance(value, Undefined):
        raise frame.error(node, value.why)
    return value


def _side(frame: Frame, names: Sequence[str], read: Callable[[], None]) -> Side:
    """Reads one branch. Lists and dicts that it may change are its own."""
    before, scope = frame.locals, Scope("branch")
    frame.locals = dict(before)
    for name in names:
        if name in before:
            frame.locals[name] = rebuilt(name, before[name], lambda path, leaf: leaf)
    with frame.tracer.inside(scope):
        read()
    values = {name: frame.locals[name] for name in names if name in frame.locals}
    frame.locals = before
    return Side(scope, values)


def _joined(
    frame: Frame, node: ast.If | ast.IfExp, condition: Value, then: Side, orelse: Side
) -> dict[str, Any]:
    """Emits the If; what each name means after it."""
    tracer, given = frame.tracer, {}
    pairs: dict[str, tuple[Value, Value]] = {}
    for name in then.names | orelse.names:
        merged = _merge(frame, node, name, then.names.get(name, NONE), orelse.names.get(name, NONE))
        given[name] = merged if isinstance(merged, Undefined) else then.names[name]
        pairs |= {} if isinstance(merged, Undefined) else merged
    blocks = [
        Block((), tuple(side.scope.instructions), tuple(pair[i] for pair in pairs.values()))
        for i, side in enumerate((then, orelse))
    ]
    made = _closed(frame, node, control.If, condition, *blocks, scopes=(then.scope, orelse.scope))
    results = {path: Tile(tracer.emit(Item, made, i), tracer.scope) for i, path in enumerate(pairs)}
    return {
        name: rebuilt(name, value, lambda path, leaf: results.get(path, leaf))
        for name, value in given.items()
    }


def _merge(
    frame: Frame, node: ast.AST, name: str, a: Any, b: Any
) -> dict[str, tuple[Value, Value]] | Undefined:
    """The values in which the branches differ, by path; or why the name means nothing after them."""
    where = f"the if of line {frame.loc(node).line}"
    if isinstance(a, Undefined) or isinstance(b, Undefined):
        known = [x for x in (a, b) if isinstance(x, Undefined) and x is not NONE]
        return (
            known[0]
            if known
            else Undefined(f"{name} is assigned in only one branch of {where}: give it a value before")
        )
    ours, theirs = dict(leaves(name, a)), dict(leaves(name, b))
    if ours.keys() != theirs.keys():
        return Undefined(f"{name} is made of other parts in one branch of {where} than in the other")
    pairs = {}
    for path, leaf in ours.items():
        if same(leaf, theirs[path]):
            continue
        dtype = _common(leaf, theirs[path])
        if dtype is None:
            return Undefined(
                f"{path} is {said(leaf)} in one branch of {where} and {said(theirs[path])} in the other"
            )
        pairs[path] = (as_value(frame.tracer, leaf, dtype), as_value(frame.tracer, theirs[path], dtype))
    return pairs


def _common(a: Any, b: Any) -> DType | None:
    """The dtype that two branches' values share, numbers taking the scalars'; None without one."""
    if isinstance(a, Tile) and isinstance(b, Tile):
        return a.dtype if a.type == b.type else None
    if isinstance(a, Tile) or isinstance(b, Tile):
        tile, other = (a, b) if isinstance(a, Tile) else (b, a)
        return tile.dtype if isinstance(other, NUMBERS) and not tile.shape else None
    return wider(a, b) if isinstance(a, NUMBERS) and isinstance(b, NUMBERS) else None
