"""What assignments, loops and calls share: storing into targets, and the items of a list of expressions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from tilec.frames import Frame, evaluate
from tilec.lang import Range
from tilec.values import BlockPlace


def items(frame: Frame, nodes: list[ast.expr]) -> Iterator[Any]:
    """Values of a list of expressions, starred ones spread out."""
    for node in nodes:
        if isinstance(node, ast.Starred):
            yield from evaluate(frame, node.value)
        else:
            yield evaluate(frame, node)


def static_items(frame: Frame, node: ast.AST, iterable: Any) -> Iterator[Any]:
    """The items of a Python iterable, for an unrolled loop."""
    if isinstance(iterable, Range):
        raise frame.error(
            node,
            "tc.range is a loop of the running kernel, and this one is unrolled while compiling: use range",
        )
    frame.mark(node)
    return iter(iterable)


def assign(frame: Frame, target: ast.expr, value: Any) -> None:
    """target = value, taking tuples apart."""
    match target:
        case ast.Name(id):
            frame.locals[id] = value
        case ast.Tuple(elts) | ast.List(elts):
            _unpack(frame, target, elts, value)
        case ast.Subscript(base, index):
            container, at = evaluate(frame, base), evaluate(frame, index)
            frame.mark(target)
            container[at] = value
        case ast.Attribute(base, attr):
            setattr(evaluate(frame, base), attr, value)
        case _:
            raise AssertionError(f"Python's grammar has no assignment to {type(target).__name__}")


def _unpack(frame: Frame, target: ast.expr, elts: list[ast.expr], value: Any) -> None:
    values = list(value)
    starred = [i for i, elt in enumerate(elts) if isinstance(elt, ast.Starred)]
    short = len(values) < len(elts) - 1 if starred else len(values) != len(elts)
    if short:
        why = ": the grid has one axis, and tc.blocks(rows, columns) has two"
        why = why if isinstance(value, BlockPlace) else ""
        raise frame.error(target, f"{len(elts)} names on the left, {len(values)} values on the right{why}")
    if starred:
        at, extra = starred[0], len(values) - len(elts) + 1
        values = [*values[:at], values[at : at + extra], *values[at + extra :]]
    for elt, each in zip(elts, values, strict=True):
        assign(frame, elt.value if isinstance(elt, ast.Starred) else elt, each)
