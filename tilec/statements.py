"""Reading statements: assignments, unrolled loops, constant branches, definitions.

for s in tc.static_range(4): ...        read four times; over tc.range it is flow.py's
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from tilec.arrays import Array
from tilec.branches import branch, kinds, leave, loop_body, unless
from tilec.calls import make_closure
from tilec.carried import assigned
from tilec.expressions import operate
from tilec.flow import conditional_loop, counted_loop
from tilec.frames import Flow, Frame, evaluate, execute, statement
from tilec.ir.errors import TilecError
from tilec.lang import Range
from tilec.targets import assign, static_items
from tilec.tracing import Scope
from tilec.values import Tile, scalar_bool


@statement(ast.Expr)
def expression_statement(frame: Frame, node: ast.Expr) -> None:
    evaluate(frame, node.value)


@statement(ast.Pass)
def pass_(frame: Frame, node: ast.Pass) -> None:
    return None


@statement(ast.Assign)
def assignment(frame: Frame, node: ast.Assign) -> None:
    value = evaluate(frame, node.value)
    for target in node.targets:
        assign(frame, target, value)


@statement(ast.AnnAssign)
def annotated(frame: Frame, node: ast.AnnAssign) -> None:
    if node.value is not None:
        assign(frame, node.target, evaluate(frame, node.value))


@statement(ast.AugAssign)
def augmented(frame: Frame, node: ast.AugAssign) -> None:
    """x op= y is x = x op y; places are evaluated once."""
    match node.target:
        case ast.Name(name):
            old = frame.lookup(name, node.target)
            frame.locals[name] = _combined(frame, node, old)
        case ast.Subscript(base, index):
            container, at = evaluate(frame, base), evaluate(frame, index)
            container[at] = _combined(frame, node, container[at])
        case ast.Attribute(base, attr):
            owner = evaluate(frame, base)
            setattr(owner, attr, _combined(frame, node, getattr(owner, attr)))


def _combined(frame: Frame, node: ast.AugAssign, old: Any) -> Any:
    value = evaluate(frame, node.value)
    frame.mark(node)
    if isinstance(old, list) and isinstance(node.op, ast.Add):
        old += value
        return old
    return operate(frame, node, node.op, old, value)


@statement(ast.Return)
def return_(frame: Frame, node: ast.Return) -> Flow:
    return Flow("return", node, None if node.value is None else evaluate(frame, node.value))


@statement(ast.Break)
def break_(frame: Frame, node: ast.Break) -> Flow:
    return Flow("break", node, True)


@statement(ast.Continue)
def continue_(frame: Frame, node: ast.Continue) -> Flow:
    return Flow("continue", node)


@statement(ast.If)
def if_(frame: Frame, node: ast.If) -> Flow | None:
    rest, test = frame.rest, evaluate(frame, node.test)
    frame.mark(node)
    if not isinstance(test, Tile):
        return execute(frame, node.body if test else node.orelse, rest)
    condition = scalar_bool(test, "if")
    if kinds(node):
        return leave(frame, node, condition, rest)
    branch(frame, node, condition)
    return None


@statement(ast.For)
def for_(frame: Frame, node: ast.For) -> Flow | None:
    iterable = evaluate(frame, node.iter)
    frame.mark(node)
    if node.orelse:
        raise frame.error(
            node.orelse[0], "`else` after a loop is not part of the kernel language: write it after the loop"
        )
    if isinstance(iterable, Range):
        counted_loop(frame, node, iterable)
        return None
    if isinstance(iterable, Tile | Array):
        raise frame.error(node, f"a loop goes over tc.range or Python constants, not over {iterable!r}")
    return _unrolled(frame, node, static_items(frame, node.iter, iterable))


def _unrolled(frame: Frame, node: ast.For, items: Iterator[Any]) -> Flow | None:
    for item in items:
        assign(frame, node.target, item)
        left = loop_body(frame, node)
        if left is not None and left.kind == "return":
            return left
        if left is not None and isinstance(left.value, Tile):
            unless(frame, node, left.value, lambda: _unrolled(frame, node, items))
            break
        if left is not None and left.kind == "break":
            break
    return None


@statement(ast.While)
def while_(frame: Frame, node: ast.While) -> Flow | None:
    """Unrolled while the condition is a constant; a loop of the running kernel from where it is a scalar, or
    where a pass may break at run time.
    """
    if node.orelse:
        raise frame.error(
            node.orelse[0], "`else` after a loop is not part of the kernel language: write it after the loop"
        )
    for _ in range(UNROLL_LIMIT):
        with frame.tracer.inside(Scope("condition")) as scope:
            test = evaluate(frame, node.test)
        if isinstance(test, Tile):  # what it emitted is dropped: the loop reads it again
            conditional_loop(frame, node)
            return None
        frame.tracer.scope.instructions += scope.instructions
        if test and "break" in kinds(node) and _breaks_at_run_time(frame, node):
            conditional_loop(frame, node)
            return None
        left = loop_body(frame, node) if test else Flow("break", node)
        if left is not None and left.kind != "continue":
            return left if left.kind == "return" else None
    raise frame.error(
        node,
        f"this loop was unrolled {UNROLL_LIMIT} times: its condition is a constant that never becomes false",
    )


def _breaks_at_run_time(frame: Frame, node: ast.While) -> bool:
    """Reads one pass, and forgets it."""
    with frame.tracer.inside(Scope("loop")), frame.apart(assigned(frame, node)):
        left = loop_body(frame, node)
    return left is not None and isinstance(left.value, Tile)


UNROLL_LIMIT = 10_000


@statement(ast.With)
def with_(frame: Frame, node: ast.With) -> Flow | None:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for item in node.items:
            entered = stack.enter_context(evaluate(frame, item.context_expr))
            if item.optional_vars is not None:
                assign(frame, item.optional_vars, entered)
        return execute(frame, node.body, None)


@statement(ast.Assert)
def assert_(frame: Frame, node: ast.Assert) -> None:
    test = evaluate(frame, node.test)
    if isinstance(test, Tile):
        raise frame.error(
            node,
            f"assert checks constants, and `{frame.code.text(node.test)}` is known only at run time: "
            "use tc.assert_, or tc.require for shapes and parameters",
        )
    if not test:
        said = f": {evaluate(frame, node.msg)}" if node.msg else ""
        raise frame.error(node, f"assertion failed: {frame.code.text(node.test)}{said}")


@statement(ast.Raise)
def raise_(frame: Frame, node: ast.Raise) -> None:
    error = evaluate(frame, node.exc) if node.exc else None
    if isinstance(error, TilecError):
        raise error
    raise frame.error(
        node, f"{type(error).__name__}: {error}" if isinstance(error, Exception) else f"raised {error}"
    )


@statement(ast.FunctionDef)
def define(frame: Frame, node: ast.FunctionDef) -> None:
    if node.decorator_list:
        raise frame.error(node, "a function inside a kernel takes no decorators: define it outside")
    frame.locals[node.name] = make_closure(frame, node)


@statement(ast.Delete)
def delete(frame: Frame, node: ast.Delete) -> None:
    for target in node.targets:
        if not isinstance(target, ast.Name):
            raise frame.error(node, f"`del {frame.code.text(target)}` is not part of the kernel language")
        frame.locals.pop(target.id, None)
