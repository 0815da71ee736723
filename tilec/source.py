"""The text of a Python function: its syntax tree, and which line each node stands on.

    code = code_of(function)        code.node is its ast.FunctionDef
    code.loc(12)                    Loc("kernel.py", 12, "    x = a + b")
Whole files are parsed once, when one of their functions is looked into first, so that no text has to be cut
out; the source is whatever Python's own tracebacks
show: a file, a notebook cell, or text given to exec that linecache knows.
"""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from types import CodeType, FunctionType

from tilec.ir.errors import Loc, TilecError

FunctionNode = ast.FunctionDef | ast.Lambda
MOST_DECORATORS = 40  # lines of them above a def
DEFINED = re.compile(r"^\s*def\s+(\w+)", re.MULTILINE)


class Code:
    """One function's syntax tree in its file; that of compiled code is looked up when it is needed."""

    def __init__(self, given: FunctionNode | CodeType, file: str, lines: Sequence[str]) -> None:
        self._given = given
        self.file = file
        self.lines = lines
        self._locs: dict[int, Loc] = {}

    @cached_property
    def node(self) -> FunctionNode:
        if not isinstance(self._given, CodeType):
            return self._given
        node = _node(self._given, self.lines)
        if node is None:
            raise _unreadable(self._given)
        return node

    @property
    def name(self) -> str:
        return "<lambda>" if isinstance(self.node, ast.Lambda) else self.node.name

    @cached_property
    def body(self) -> list[ast.stmt]:
        """Statements; a lambda is one return."""
        if isinstance(self.node, ast.FunctionDef):
            return self.node.body
        return [ast.copy_location(ast.Return(self.node.body), self.node.body)]

    def loc(self, line: int) -> Loc:
        if line not in self._locs:
            text = self.lines[line - 1].rstrip("\n") if 0 < line <= len(self.lines) else ""
            self._locs[line] = Loc(self.file, line, text)
        return self._locs[line]

    def inner(self, node: FunctionNode) -> Code:
        """A function defined inside this one."""
        return Code(node, self.file, self.lines)

    def text(self, node: ast.AST) -> str:
        """What the user wrote for a node, on one line."""
        return ast.unparse(node)


def code_of(function: FunctionType) -> Code:
    """The syntax tree of a kernel, as its file is now; TilecError where its source cannot be had."""
    code = function.__code__
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename)
    near = "".join(lines[code.co_firstlineno - 1 :][:MOST_DECORATORS])
    if code.co_name in DEFINED.findall(near):
        return Code(code, code.co_filename, lines)
    found = find_code(code)
    if found is None:
        raise _unreadable(code)
    return found


def _unreadable(code: CodeType) -> TilecError:
    return TilecError(
        f"the source of {code.co_qualname} cannot be read "
        f"({code.co_filename}, line {code.co_firstlineno}): a kernel is compiled from its text, so "
        "write it in a file or a notebook cell, not at a prompt or in exec; and if the file was edited "
        "after it was imported, import it again"
    )


_known: dict[int, tuple[CodeType, Code | None]] = {}  # by identity: equal code may stand on other lines


def find_code(code: CodeType) -> Code | None:
    """The syntax tree of compiled code, None where there is no source or it is another function's."""
    if id(code) not in _known:
        _known[id(code)] = code, _find(code)
    return _known[id(code)][1]


def _find(code: CodeType) -> Code | None:
    lines = linecache.getlines(code.co_filename)
    node = _node(code, lines)
    return Code(node, code.co_filename, lines) if node else None


def _node(code: CodeType, lines: Sequence[str]) -> FunctionNode | None:
    functions = _functions(code.co_filename, tuple(lines))
    nodes = [node for node in functions.get(code.co_firstlineno, ()) if _is(node, code)]
    return nodes[0] if len(nodes) == 1 else None


@lru_cache(256)
def _functions(file: str, lines: tuple[str, ...]) -> dict[int, list[FunctionNode]]:
    """The functions of a file by the line that Python says they start on."""
    try:
        tree = ast.parse("".join(lines), file)
    except SyntaxError:
        return {}
    found: dict[int, list[FunctionNode]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            found.setdefault(_first_line(node), []).append(node)
    return found


def _first_line(node: FunctionNode) -> int:
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    return min([node.lineno, *(d.lineno for d in decorators)])


def _is(node: FunctionNode, code: CodeType) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name == code.co_name
    return (
        code.co_name == "<lambda>"
        and _arguments(node.args) == code.co_varnames[: len(_arguments(node.args))]
        and (_within(node.body, code))
    )


def _arguments(args: ast.arguments) -> tuple[str, ...]:
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    return tuple(arg.arg for arg in named)


def _within(body: ast.expr, code: CodeType) -> bool:
    """Whether the code's instructions stand where the body of this lambda stands."""
    places = list(_positions(code))
    low, high = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
    return bool(places) and all(low <= place <= high for place in places)


def _positions(code: CodeType) -> Iterator[tuple[int, int]]:
    for first, _, column, end_column in code.co_positions():
        if first is not None and column is not None and end_column:
            yield first, column
