"""Branches of the running kernel: `if` on a scalar becomes If, and gives the values that its sides assign.

    if n > 0: x = x + 1                 x is If(n > 0, (x + 1,), (x,)) after it
Where a side may leave the block, by return, break or continue, each reads what follows the `if` as its own
end, and the branch is the last of its block:
    if n > 0: continue                  If(n > 0, (), rest)
    rest
A function's block gives what both sides return, a loop's whether to break.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tilec.carried import NONE, as_value, assigned, said, same, wider
from tilec.frames import Flow, Frame, Undefined, evaluate, execute
from tilec.ir.dtype import DType
from tilec.ir.func import Block, Inst, Item, Value
from tilec.ir.inst import control
from tilec.literals import NUMBERS
from tilec.tracing import Scope
from tilec.trees import leaves, rebuilt
from tilec.values import Tile


def closed(frame: Frame, node: ast.AST, kind: type[Inst], *fields: Any, scopes: Sequence[Scope]) -> Inst:
    """The finished loop or branch, at the line where it begins; nothing inside may be used any more."""
    for scope in scopes:
        scope.open = False
    frame.mark(node)
    return frame.tracer.emit(kind, *fields)


@dataclass(frozen=True)
class Side:
    """One branch: what it emitted, and what the names mean at its end."""

    scope: Scope
    names: dict[str, Any]


def branch(frame: Frame, node: ast.If, condition: Value) -> None:
    """if condition, where the condition is a scalar and no side leaves the block"""
    names = assigned(frame, node)
    then, orelse = (
        _side(frame, names, lambda body=body: execute(frame, body))  # type: ignore[misc]
        for body in (node.body, node.orelse)
    )
    frame.locals.update(_joined(frame, node, condition, then, orelse))


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


def _side(frame: Frame, names: Sequence[str], read: Callable[[], object]) -> Side:
    """Reads one branch."""
    scope = Scope("branch")
    with frame.apart(names), frame.tracer.inside(scope):
        read()
        return Side(scope, {name: frame.locals[name] for name in names if name in frame.locals})


def _joined(
    frame: Frame, node: ast.stmt | ast.IfExp, condition: Value, then: Side, orelse: Side
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
    made = closed(frame, node, control.If, condition, *blocks, scopes=(then.scope, orelse.scope))
    results = {path: Tile(tracer.emit(Item, made, i), tracer.scope) for i, path in enumerate(pairs)}
    return {
        name: rebuilt(name, value, lambda path, leaf: results.get(path, leaf))
        for name, value in given.items()
    }


def _merge(
    frame: Frame, node: ast.AST, name: str, a: Any, b: Any
) -> dict[str, tuple[Value, Value]] | Undefined:
    """The values in which the branches differ, by path; or why the name means nothing after them."""
    where = f"the {'loop' if isinstance(node, ast.For) else 'if'} of line {frame.loc(node).line}"
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


# Sides that leave the block.

GIVEN = "the value returned"  # the name under which a side says how it leaves its block
MOST_WAYS = 256  # one `if` may be read, where those before it do not agree on whether to go on
WAYS = (
    "what follows an `if` that may leave is read for each way that goes on, and here are more than "
    f"{MOST_WAYS}: make `if a: if b: return` one, `if a and b: return`, or set a flag and ask for it once"
)
RETURNS = "`return` in a loop, where run time decides whether it happens: break, and return after the loop"


@cache
def kinds(node: ast.stmt) -> frozenset[str]:
    """How an `if` or a loop may be left by statements inside: break, continue (of this loop, or of one around
    the `if`) and return."""
    return frozenset().union(*(_kinds(x, False) for x in ast.iter_child_nodes(node)))


def _kinds(node: ast.AST, inner: bool) -> frozenset[str]:
    match node:
        case ast.Return():
            return frozenset({"return"})
        case ast.Break() | ast.Continue():
            return frozenset() if inner else frozenset({type(node).__name__.lower()})
        case ast.FunctionDef() | ast.expr():
            return frozenset()
    inner = inner or isinstance(node, ast.For | ast.While)
    return frozenset().union(*(_kinds(x, inner) for x in ast.iter_child_nodes(node)))


def leave(frame: Frame, node: ast.If, condition: Value, rest: Sequence[ast.stmt] | None) -> Flow:
    """if condition, where a side may leave the block: both read it to its end, and the block is left."""
    if rest is None:
        raise frame.error(node, LEAVES_WITH)
    frame.ways[node] += 1
    if frame.ways[node] > MOST_WAYS:
        raise frame.error(node, WAYS)
    found: list[Flow] = []
    whole = _with_rest(node, tuple(rest))

    def read(body: Sequence[ast.stmt]) -> None:
        left = execute(frame, body) or Flow("continue" if frame.loops else "return", node)
        found.append(left)
        frame.locals[GIVEN] = left.value if left.kind == "return" else left.kind == "break" and left.value

    names = (*assigned(frame, whole), GIVEN)
    sides = [_side(frame, names, lambda body=body: read(body)) for body in (whole.body, whole.orelse)]  # type: ignore[misc]
    returns = [left for left in found if left.kind == "return"]
    if len(returns) == 1:
        raise frame.error(returns[0].node, RETURNS)
    if returns:
        sides = [Side(side.scope, {GIVEN: side.names[GIVEN]}) for side in sides]
    frame.locals.update(_joined(frame, node, condition, *sides))
    return _left(frame, node, bool(returns), frame.locals.pop(GIVEN))


LEAVES_WITH = "a branch that run time decides on leaves the `with` around it: leave after the `with`"


def _left(frame: Frame, node: ast.If, returns: bool, given: Any) -> Flow:
    if isinstance(given, Undefined):
        raise frame.error(node, given.why)
    return Flow("return" if returns else "break" if given is not False else "continue", node, given)


@cache
def _with_rest(node: ast.If, rest: tuple[ast.stmt, ...]) -> ast.If:
    """The `if` with what follows it in both sides."""
    whole = ast.If(node.test, [*node.body, *rest], [*node.orelse, *rest])
    return ast.copy_location(whole, node)


def loop_body(frame: Frame, node: ast.For | ast.While) -> Flow | None:
    """Reads one pass of a loop."""
    around, frame.ways = frame.ways, Counter()
    frame.loops += 1
    left = execute(frame, node.body)
    frame.loops -= 1
    frame.ways = around
    return left


def stops(frame: Frame, left: Flow | None) -> Any:
    """Whether a pass of a loop of the running kernel is its last: known, or a scalar."""
    if left is not None and left.kind == "return":
        raise frame.error(left.node, RETURNS)
    return left is not None and left.kind == "break" and left.value


def unless(frame: Frame, node: ast.For, stopped: Tile, go_on: Callable[[], Flow | None]) -> None:
    """What remains of an unrolled loop that a pass before may have left."""
    names = assigned(frame, node)
    sides = _side(frame, names, lambda: None), _side(frame, names, lambda: stops(frame, go_on()))
    frame.locals.update(_joined(frame, node, stopped.value, *sides))
