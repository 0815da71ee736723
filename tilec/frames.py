"""Where the front end stands: the names of the function that it is reading, and the line.

The front end reads a kernel's syntax tree as Python would run it, with ordinary objects for what is known
while compiling and `Tile` and `Array` for what is not; operators on those emit instructions.
    evaluate(frame, ast.parse("x + y", mode="eval").body)       emits an Add where x and y are tiles
`evaluate` reads an expression, `execute` statements; their handlers are in expressions.py, statements.py and
calls.py, looked up by the node's type.
"""

from __future__ import annotations

import ast
import builtins
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from tilec.ir.errors import Loc, TilecError
from tilec.outside import MISSING
from tilec.source import Code
from tilec.tracing import Respecialise, Tracer
from tilec.trees import rebuilt

H = TypeVar("H", bound=Callable[..., Any])


@dataclass(frozen=True)
class Undefined:
    """A name that has no value here, and why."""

    why: str


@dataclass(frozen=True)
class Flow:
    """How a statement left its block: `kind` is break, continue or return.

    `value` is what is returned; of a break True, or the scalar that decides between break and continue.
    """

    kind: str
    node: ast.stmt
    value: Any = None


class Frame:
    """One function (or comprehension) being read. `parent` is the function around it, for nested ones."""

    def __init__(
        self,
        tracer: Tracer,
        code: Code,
        globals_: Mapping[str, Any],
        cells: Mapping[str, Any],
        parent: Frame | None = None,
    ) -> None:
        self.tracer = tracer
        self.code = code
        self.globals = globals_
        self.cells = cells
        self.parent = parent
        self.locals: dict[str, Any] = {}
        self.calls: tuple[ast.AST, ...] = parent.calls if parent else ()  # by which we came here
        self.loops = 0  # how many loops of this function we are in
        self.ways: Counter[ast.stmt] = Counter()  # how often what follows an `if` was read, in this pass
        self.rest: Sequence[ast.stmt] | None = ()  # what follows the statement that is being read

    def mark(self, node: ast.AST) -> None:
        """What is emitted from here on comes from this node's line."""
        self.tracer.loc = self.code.loc(node.lineno)  # type: ignore[attr-defined]

    def loc(self, node: ast.AST) -> Loc:
        return self.code.loc(node.lineno)  # type: ignore[attr-defined]

    @contextmanager
    def apart(self, names: Sequence[str]) -> Iterator[None]:
        """What names come to mean inside is forgotten. Lists and dicts that may change are copies there."""
        before = self.locals
        copies = {x: rebuilt(x, before[x], lambda path, leaf: leaf) for x in names if x in before}
        self.locals = before | copies
        try:
            yield
        finally:
            self.locals = before

    def error(self, node: ast.AST, message: str) -> TilecError:
        return TilecError(message, self.loc(node))

    def lookup(self, name: str, node: ast.AST) -> Any:
        """The value of a name, as Python finds it: locals, enclosing functions, globals, builtins."""
        frame: Frame | None = self
        while frame is not None:
            value = frame.locals.get(name, MISSING)
            if value is MISSING:
                value = self._noted(frame.cells, name)
            if isinstance(value, Undefined):
                raise self.error(node, value.why)
            if value is not MISSING:
                return value
            frame = frame.parent
        return self._global(name, node)

    def _global(self, name: str, node: ast.AST) -> Any:
        value = self._noted(self.globals, name)
        if value is MISSING:
            value = getattr(builtins, name, MISSING)
        if value is MISSING:
            raise self.error(node, f"the name {name} is not defined{self._near(name)}")
        return value

    def _noted(self, space: Mapping[str, Any], name: str) -> Any:
        value = space.get(name, MISSING)
        if value is not MISSING:
            self.tracer.outside.note(space, name, value)
        return value

    def _near(self, name: str) -> str:
        known = [*self.locals, *self.cells, *self.globals, *vars(builtins)]
        close = get_close_matches(name, [k for k in known if not k.startswith("_")], 1)
        return f"; did you mean {close[0]}?" if close else ""


EXPRESSIONS: dict[type[ast.AST], Callable[[Frame, Any], Any]] = {}
STATEMENTS: dict[type[ast.AST], Callable[[Frame, Any], Flow | None]] = {}


def expression(kind: type[ast.expr]) -> Callable[[H], H]:
    """Marks the function that reads this kind of expression."""
    return _table(EXPRESSIONS, kind)


def statement(kind: type[ast.stmt]) -> Callable[[H], H]:
    """Marks the function that reads this kind of statement."""
    return _table(STATEMENTS, kind)


def _table(table: dict[type[ast.AST], Callable[[Frame, Any], Any]], kind: type[ast.AST]) -> Callable[[H], H]:
    def add(handler: H) -> H:
        assert kind not in table, f"{kind.__name__} is read by {table[kind].__name__} already"
        table[kind] = handler
        return handler

    return add


INSTEAD: dict[type[ast.AST], str] = {
    ast.Try: "check shapes with tc.require and values with tc.assert_",
    ast.ClassDef: "define the class outside the kernel",
    ast.Global: "pass values in, and return them from helper functions",
    ast.Nonlocal: "return the value from the inner function instead",
    ast.Import: "import at the top of the file",
    ast.ImportFrom: "import at the top of the file",
    ast.Match: "write if and elif",
    ast.AsyncFor: "loops overlap loads by themselves: write for s in tc.range(n, stages=3)",
    ast.AsyncFunctionDef: "write def",
    ast.Yield: "build a list of constants, or carry tiles in variables",
    ast.YieldFrom: "build a list of constants, or carry tiles in variables",
    ast.Await: "loads overlap by themselves in tc.range(n, stages=3)",
}


def evaluate(frame: Frame, node: ast.expr) -> Any:
    """The value of an expression."""
    handler = EXPRESSIONS.get(type(node))
    if handler is None:
        raise unknown(frame, node)
    return handler(frame, node)


def unknown(frame: Frame, node: ast.AST) -> TilecError:
    """Syntax that the language does not have."""
    text = frame.code.text(node).splitlines()[0]
    instead = INSTEAD.get(type(node))
    return frame.error(
        node, f"`{text}` is not part of the kernel language" + (f": {instead}" if instead else "")
    )


def _told(error: Exception) -> str:
    if "truth value of an array" in str(error):
        return "an array of numbers cannot be a condition: choose between elements with tc.where"
    return f"{type(error).__name__}: {error}"


def execute(frame: Frame, body: Sequence[ast.stmt], rest: Sequence[ast.stmt] | None = ()) -> Flow | None:
    """Runs statements; gives how the block was left early, if it was.

    `rest` follows them in the same block, for an `if` that leaves it to read (branches.py); None where no
    statement follows, but the end of a `with`.
    """
    for i, node in enumerate(body, 1):
        handler = STATEMENTS.get(type(node))
        if handler is None:
            raise unknown(frame, node)
        frame.mark(node)
        frame.rest = None if rest is None else (*body[i:], *rest)
        try:
            flow = handler(frame, node)
        except TilecError as error:
            raise error.at(frame.tracer.loc) from error.__cause__
        except (Respecialise, AssertionError, RecursionError):
            raise
        except Exception as error:
            raise TilecError(_told(error), frame.tracer.loc) from error
        if flow is not None:
            return flow
    return None
