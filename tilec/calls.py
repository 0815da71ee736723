"""Reading calls: the user's Python functions are inlined, everything else is called.

The user's functions are read statement by statement, like the kernel, so that `if` on a scalar works in them:
    def clipped(x, limit): return tc.minimum(x, limit) if limit > 0 else x
Functions of the language, numpy, math and the standard library, classes, and functions whose source cannot be
had (or that use syntax we do not read) are called as they are.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial, reduce
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

from tilec import functions, lang
from tilec.frames import INSTEAD, Frame, evaluate, execute, expression
from tilec.hints import called
from tilec.ir.errors import TilecError
from tilec.outside import Cells
from tilec.source import Code, FunctionNode, find_code
from tilec.targets import items
from tilec.tracing import current
from tilec.values import Tile

LIBRARIES = frozenset({*sys.stdlib_module_names, "numpy", "ml_dtypes", "scipy", "sympy"}) - {"__main__"}
Parameter = inspect.Parameter
_signatures: WeakKeyDictionary[FunctionType, inspect.Signature] = WeakKeyDictionary()


def _extreme(pick: Callable[..., Any], combine: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """min and max that also take scalars."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        return reduce(combine, args) if any(isinstance(x, Tile) for x in args) else pick(*args, **kwargs)

    return apply


BUILTINS: dict[Any, Callable[..., Any]] = {
    builtins.min: _extreme(min, functions.minimum),
    builtins.max: _extreme(max, functions.maximum),
}


class Closure:
    """A function or lambda that the kernel itself defines."""

    def __init__(self, frame: Frame, code: Code, signature: inspect.Signature) -> None:
        self.frame, self.code, self.signature = frame, code, signature
        self.__name__ = code.name

    def entered(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Frame:
        inner = Frame(self.frame.tracer, self.code, self.frame.globals, {}, self.frame)
        inner.locals.update(_bind(self.code.name, self.signature, args, kwargs))
        return inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Called from Python code that the kernel calls, such as sorted(..., key=...)."""
        assert current() is self.frame.tracer, "a kernel's own functions live as long as its trace"
        flow = execute(self.entered(args, kwargs), self.code.body)
        return None if flow is None else flow.value


def make_closure(frame: Frame, node: FunctionNode) -> Closure:
    """The function that a def or lambda makes here."""
    code = frame.code.inner(node)
    return Closure(frame, code, _signature_of(frame, node.args))


def _signature_of(frame: Frame, args: ast.arguments) -> inspect.Signature:
    """The signature that the syntax tree states, its defaults evaluated now, as Python does."""
    plain: list[tuple[ast.arg, Any]] = [(arg, Parameter.POSITIONAL_ONLY) for arg in args.posonlyargs]
    plain += [(arg, Parameter.POSITIONAL_OR_KEYWORD) for arg in args.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(args.defaults))
    named = list(zip(plain, [*missing, *args.defaults], strict=True))
    found = [_parameter(frame, arg, kind, default) for (arg, kind), default in named]
    found += [_parameter(frame, args.vararg, Parameter.VAR_POSITIONAL)] if args.vararg else []
    found += [
        _parameter(frame, arg, Parameter.KEYWORD_ONLY, default)
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    ]
    found += [_parameter(frame, args.kwarg, Parameter.VAR_KEYWORD)] if args.kwarg else []
    return inspect.Signature(found)


def _parameter(frame: Frame, arg: ast.arg, kind: Any, default: ast.expr | None = None) -> inspect.Parameter:
    value = Parameter.empty if default is None else evaluate(frame, default)
    return Parameter(arg.arg, kind, default=value)


def _bind(
    name: str, signature: inspect.Signature, args: Sequence[Any], kwargs: dict[str, Any]
) -> dict[str, Any]:
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TilecError(f"{name}(): {error}; it takes {signature}") from None
    bound.apply_defaults()
    return bound.arguments


@expression(ast.Call)
def call_expression(frame: Frame, node: ast.Call) -> Any:
    callee = evaluate(frame, node.func)
    args = list(items(frame, node.args))
    kwargs: dict[str, Any] = {}
    for word in node.keywords:
        value = evaluate(frame, word.value)
        kwargs.update(value if word.arg is None else {word.arg: value})
    frame.mark(node)
    result = call(frame, node, callee, args, kwargs)
    frame.mark(node)
    return result


def call(frame: Frame, node: ast.AST, callee: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """callee(*args, **kwargs), inlined where it is the user's."""
    if isinstance(callee, partial):
        return call(frame, node, callee.func, [*callee.args, *args], {**callee.keywords, **kwargs})
    if isinstance(callee, MethodType) and isinstance(callee.__func__, FunctionType):
        callee, args = callee.__func__, [callee.__self__, *args]
    elif not isinstance(callee, FunctionType | Closure | type):
        method = getattr(type(callee), "__call__", None)  # noqa: B004  (the user's function, not callability)
        if isinstance(method, FunctionType) and is_users(method):
            callee, args = method, [callee, *args]
    if isinstance(callee, Closure):
        return _inline(frame, node, callee.entered(args, kwargs))
    if isinstance(callee, FunctionType) and is_users(callee) and (code := readable(callee)) is not None:
        return _inline(frame, node, enter(frame, callee, code, args, kwargs))
    return _call_as_is(frame, node, callee, args, kwargs)


def _call_as_is(frame: Frame, node: ast.AST, callee: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if getattr(callee, "reads_source", False):
        texts = [frame.code.text(arg) for arg in node.args] if isinstance(node, ast.Call) else []
        kwargs["site"] = lang.Site(tuple(texts), tuple(frame.locals.items()))
    if isinstance(callee, type(min)):
        callee = BUILTINS.get(callee, callee)
    return called(callee, args, kwargs)


def enter(frame: Frame, function: FunctionType, code: Code, args: list[Any], kwargs: dict[str, Any]) -> Frame:
    """The frame of a call to a function of the user's."""
    signature = _signatures.get(function)
    if signature is None:
        signature = _signatures[function] = inspect.signature(function, follow_wrapped=False)
    inner = Frame(frame.tracer, code, function.__globals__, Cells(function))
    inner.locals.update(_bind(code.name, signature, args, kwargs))
    return inner


def _inline(frame: Frame, node: ast.AST, inner: Frame) -> Any:
    inner.calls = (*frame.calls, node)
    try:
        flow = execute(inner, inner.code.body)
    except TilecError as error:
        error.add_note(f"{inner.code.name} was called at {frame.loc(node)}")
        raise
    return None if flow is None else flow.value


def is_users(function: FunctionType) -> bool:
    """Whether a function is kernel text: the user's own, or that of the kernels that ship with us."""
    module = function.__module__ or ""
    root = module.partition(".")[0]
    return module.startswith("tilec.ops") if root == "tilec" else root not in LIBRARIES


@cache
def _readable(code: Code) -> bool:
    return not any(type(node) in INSTEAD for statement in code.body for node in ast.walk(statement))


def readable(function: FunctionType) -> Code | None:
    """The function's syntax tree, where we can read all of it."""
    code = find_code(function.__code__)
    return code if code is not None and _readable(code) else None
