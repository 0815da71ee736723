"""Reading expressions: Python's own operators on whatever the operands are.

`x + y` on two integers folds, on two tiles emits an Add: both are operator.add(x, y).
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import numpy as np

from tilec.arrays import Array
from tilec.branches import choose
from tilec.calls import Closure, call, is_users, make_closure
from tilec.frames import Frame, evaluate, expression
from tilec.hints import no_attribute
from tilec.ir.errors import TilecError
from tilec.ir.inst import arith
from tilec.literals import NUMBERS, default_dtype, plain
from tilec.targets import assign, items, static_items
from tilec.values import Tile, elementwise, full, scalar_bool

BINARY: dict[type[ast.operator], tuple[Callable[[Any, Any], Any], str]] = {
    ast.Add: (operator.add, "__add__"),
    ast.Sub: (operator.sub, "__sub__"),
    ast.Mult: (operator.mul, "__mul__"),
    ast.Div: (operator.truediv, "__truediv__"),
    ast.FloorDiv: (operator.floordiv, "__floordiv__"),
    ast.Mod: (operator.mod, "__mod__"),
    ast.Pow: (operator.pow, "__pow__"),
    ast.MatMult: (operator.matmul, "__matmul__"),
    ast.BitAnd: (operator.and_, "__and__"),
    ast.BitOr: (operator.or_, "__or__"),
    ast.BitXor: (operator.xor, "__xor__"),
    ast.LShift: (operator.lshift, "__lshift__"),
    ast.RShift: (operator.rshift, "__rshift__"),
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
}
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


@expression(ast.Constant)
def constant(frame: Frame, node: ast.Constant) -> Any:
    return node.value


@expression(ast.Name)
def name(frame: Frame, node: ast.Name) -> Any:
    return frame.lookup(node.id, node)


@expression(ast.BinOp)
def binary(frame: Frame, node: ast.BinOp) -> Any:
    left, right = evaluate(frame, node.left), evaluate(frame, node.right)
    frame.mark(node)
    return operate(frame, node, node.op, left, right)


def operate(frame: Frame, node: ast.AST, op: ast.operator, left: Any, right: Any) -> Any:
    """left <op> right; an operator that the user's class defines is read like any of the user's functions."""
    function, dunder = BINARY[type(op)]
    method = getattr(type(left), dunder, None)
    if isinstance(method, FunctionType) and is_users(method):
        result = call(frame, node, method, [left, right], {})
        if result is not NotImplemented:
            return result
    if isinstance(left, Array) or isinstance(right, Array):
        array = left if isinstance(left, Array) else right
        raise TilecError(
            f"{array.name} is an array in memory: read a tile first, x = {array.name}.load(offsets, shape)"
        )
    return function(left, right)


@expression(ast.UnaryOp)
def unary(frame: Frame, node: ast.UnaryOp) -> Any:
    value = evaluate(frame, node.operand)
    frame.mark(node)
    if not isinstance(node.op, ast.Not):
        return UNARY[type(node.op)](value)
    if not isinstance(value, Tile):
        return not value
    return elementwise(arith.Not, Tile(scalar_bool(value, "not"), frame.tracer.scope))


@expression(ast.BoolOp)
def boolean(frame: Frame, node: ast.BoolOp) -> Any:
    """`and`, `or`: constants decide while compiling; scalars are all computed, and combined."""
    stops, kind, word = (False, arith.And, "and") if isinstance(node.op, ast.And) else (True, arith.Or, "or")
    so_far: Tile | None = None
    value: Any = None
    for item in node.values:
        value = evaluate(frame, item)
        frame.mark(item)
        if isinstance(value, Tile):
            scalar_bool(value, word)
            so_far = value if so_far is None else elementwise(kind, so_far, value)
        elif bool(value) is stops:
            return value
    return value if so_far is None else so_far


@expression(ast.Compare)
def comparison(frame: Frame, node: ast.Compare) -> Any:
    """Chains hold where every link holds."""
    left, result = evaluate(frame, node.left), None
    for op, item in zip(node.ops, node.comparators, strict=True):
        right = evaluate(frame, item)
        frame.mark(item)
        link = compare(op, left, right)
        if isinstance(link, np.ndarray) and len(node.ops) == 1:
            return link
        if not isinstance(link, Tile) and not link:
            return link
        result = link if not isinstance(result, Tile) else result & link if isinstance(link, Tile) else result
        left = right
    return result


def compare(op: ast.cmpop, left: Any, right: Any) -> Any:
    """left <op> right; tuples that hold scalars, such as shapes, are equal where all their elements are."""
    if isinstance(op, ast.Eq | ast.NotEq) and isinstance(left, tuple) and isinstance(right, tuple):
        same = _equal_tuples(left, right)
        if isinstance(op, ast.Eq):
            return same
        return ~same if isinstance(same, Tile) else not same
    return COMPARE[type(op)](left, right)


def _equal_tuples(left: tuple[Any, ...], right: tuple[Any, ...]) -> Any:
    if len(left) != len(right):
        return False
    same: Any = True
    for a, b in zip(left, right, strict=True):
        each = compare(ast.Eq(), a, b)
        if not isinstance(each, Tile):
            if not each:
                return False
            continue
        same = each if same is True else same & each
    return same


@expression(ast.IfExp)
def conditional(frame: Frame, node: ast.IfExp) -> Any:
    test = evaluate(frame, node.test)
    if isinstance(test, Tile):
        frame.mark(node)
        return choose(frame, node, scalar_bool(test, "a conditional expression"))
    return evaluate(frame, node.body if test else node.orelse)


@expression(ast.Attribute)
def attribute(frame: Frame, node: ast.Attribute) -> Any:
    value = evaluate(frame, node.value)
    frame.mark(node)
    if node.attr == "to" and isinstance(
        value, NUMBERS
    ):  # an extent that is a constant in this specialisation
        number = plain(value)
        return full(number, (), default_dtype(number)).to
    try:
        return getattr(value, node.attr)
    except AttributeError:
        raise TilecError(no_attribute(value, node.attr)) from None


@expression(ast.Subscript)
def subscript(frame: Frame, node: ast.Subscript) -> Any:
    value, index = evaluate(frame, node.value), evaluate(frame, node.slice)
    frame.mark(node)
    try:
        return value[index]
    except IndexError:
        if not isinstance(value, tuple | list):
            raise
        raise TilecError(_past_the_end(ast.unparse(node.value), len(value), index)) from None


def _past_the_end(text: str, count: int, index: Any) -> str:
    """What is wrong with x.shape[1] where x has one axis; or with an index of any other sequence."""
    owner, dot, last = text.rpartition(".")
    if dot and last == "shape":
        return f"{owner} has {count} {'axis' if count == 1 else 'axes'}, counted from 0: no {text}[{index}]"
    return f"{text} has {count} item{'s' * (count != 1)}, counted from 0: no {text}[{index}]"


@expression(ast.Slice)
def slice_(frame: Frame, node: ast.Slice) -> slice:
    return slice(
        *(None if part is None else evaluate(frame, part) for part in (node.lower, node.upper, node.step))
    )


@expression(ast.Tuple)
def tuple_(frame: Frame, node: ast.Tuple) -> tuple[Any, ...]:
    return tuple(items(frame, node.elts))


@expression(ast.List)
def list_(frame: Frame, node: ast.List) -> list[Any]:
    return list(items(frame, node.elts))


@expression(ast.Set)
def set_(frame: Frame, node: ast.Set) -> set[Any]:
    return set(items(frame, node.elts))


@expression(ast.Dict)
def dict_(frame: Frame, node: ast.Dict) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if key is None:
            made.update(evaluate(frame, value))
        else:
            made[evaluate(frame, key)] = evaluate(frame, value)
    return made


@expression(ast.JoinedStr)
def joined(frame: Frame, node: ast.JoinedStr) -> str:
    return "".join(str(evaluate(frame, part)) for part in node.values)


@expression(ast.FormattedValue)
def formatted(frame: Frame, node: ast.FormattedValue) -> str:
    value = evaluate(frame, node.value)
    conversions: dict[int, Callable[[Any], Any]] = {115: str, 114: repr, 97: ascii}
    shown = conversions[node.conversion](value) if node.conversion in conversions else value
    return format(shown, evaluate(frame, node.format_spec) if node.format_spec else "")


@expression(ast.NamedExpr)
def named(frame: Frame, node: ast.NamedExpr) -> Any:
    value = evaluate(frame, node.value)
    frame.locals[node.target.id] = value
    return value


@expression(ast.Lambda)
def lambda_(frame: Frame, node: ast.Lambda) -> Closure:
    return make_closure(frame, node)


@expression(ast.ListComp)
def list_comprehension(frame: Frame, node: ast.ListComp) -> list[Any]:
    return [evaluate(inner, node.elt) for inner in _turns(frame, node.generators)]


@expression(ast.GeneratorExp)
def generator(frame: Frame, node: ast.GeneratorExp) -> Iterator[Any]:
    return iter([evaluate(inner, node.elt) for inner in _turns(frame, node.generators)])


@expression(ast.SetComp)
def set_comprehension(frame: Frame, node: ast.SetComp) -> set[Any]:
    return {evaluate(inner, node.elt) for inner in _turns(frame, node.generators)}


@expression(ast.DictComp)
def dict_comprehension(frame: Frame, node: ast.DictComp) -> dict[Any, Any]:
    return {
        evaluate(inner, node.key): evaluate(inner, node.value) for inner in _turns(frame, node.generators)
    }


def _turns(frame: Frame, generators: list[ast.comprehension]) -> Iterator[Frame]:
    """The frame of each turn of a comprehension: constants decide how many there are."""
    inner = Frame(frame.tracer, frame.code, frame.globals, {}, frame)
    yield from _nested(inner, generators)


def _nested(inner: Frame, generators: list[ast.comprehension]) -> Iterator[Frame]:
    if not generators:
        yield inner
        return
    first, *rest = generators
    for value in static_items(inner, first.iter, evaluate(inner, first.iter)):
        assign(inner, first.target, value)
        if all(_constant_test(inner, test) for test in first.ifs):
            yield from _nested(inner, rest)


def _constant_test(frame: Frame, node: ast.expr) -> bool:
    test = evaluate(frame, node)
    if isinstance(test, Tile):
        raise frame.error(
            node, f"a comprehension is built while compiling, and {test!r} is known only at run time"
        )
    return bool(test)
