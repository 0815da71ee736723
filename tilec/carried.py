"""What loops and branches carry: the names that they change, and the values of those names as tiles.

count = 0                       a number that changes in the loop: an i32 scalar from the loop on
state = Softmax(m, t)           carried as state.maximum and state.total
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache
from typing import Any

from tilec.frames import Frame, Undefined
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Arg, Value
from tilec.ir.tile import TileType
from tilec.literals import NUMBERS, default_dtype, number, plain
from tilec.tracing import Scope, Tracer
from tilec.trees import leaves, rebuilt
from tilec.values import Tile

FUNCTIONS = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def assigned(frame: Frame, node: ast.stmt) -> list[str]:
    """The names that a loop or branch may change, in order: assigned, or of lists and dicts."""
    stored, touched = _names(node)
    changeable = [name for name in touched if isinstance(frame.locals.get(name), list | dict)]
    return [*stored, *(name for name in changeable if name not in stored)]


@cache
def _names(node: ast.stmt) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that are assigned, and names of what is assigned into, x[i] = y, or may be: x.append(y)."""
    stored: dict[str, None] = {}
    touched: dict[str, None] = {}
    for part in ("target", "body", "orelse"):
        inner = getattr(node, part, [])
        for each in inner if isinstance(inner, list) else [inner]:
            _collect(each, stored, touched)
    return tuple(stored), tuple(touched)


def _collect(node: ast.AST, stored: dict[str, None], touched: dict[str, None]) -> None:
    match node:
        case ast.Name(name, ast.Store()) | ast.FunctionDef(name):
            stored[name] = None
        case ast.Subscript(base, _, ast.Store()) | ast.Attribute(base, _, ast.Store()):
            touched[_owner(base)] = None
        case ast.Call(ast.Attribute(base, _)):
            touched[_owner(base)] = None
    if not isinstance(node, FUNCTIONS):
        for child in ast.iter_child_nodes(node):
            _collect(child, stored, touched)


def _owner(node: ast.AST) -> str:
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


NONE = Undefined("it has no value yet")


class Carried:
    """The values that enter a loop's blocks and leave its body, as tiles with the paths that name them."""

    def __init__(self, frame: Frame, node: ast.stmt, names: Sequence[str]) -> None:
        self.frame = frame
        self.node = node
        self.trees = {name: frame.locals[name] for name in names}
        self.before = {path: leaf for name, tree in self.trees.items() for path, leaf in leaves(name, tree)}
        known = frame.tracer.promoted.setdefault((frame.calls, node), {})
        self.promoted = known  # numbers that change in the loop, kept for when an outer loop is read again
        numbers = {path for path, leaf in self.before.items() if isinstance(leaf, NUMBERS)}
        self.scalars: dict[str, DType] = {path: known[path] for path in known if path in numbers}

    @property
    def paths(self) -> list[str]:
        return [path for path, leaf in self.before.items() if isinstance(leaf, Tile) or path in self.scalars]

    def init(self) -> tuple[Value, ...]:
        """The values before the loop."""
        tracer = self.frame.tracer
        return tuple(as_value(tracer, self.before[path], self.scalars.get(path)) for path in self.paths)

    def enter(self, init: Sequence[Value], scope: Scope) -> tuple[Arg, ...]:
        """Arguments of a block; the frame's names now mean them."""
        args = {path: Arg(value.type, path) for path, value in zip(self.paths, init, strict=True)}
        self.bind({path: Tile(arg, scope) for path, arg in args.items()})
        return tuple(args.values())

    def bind(self, tiles: dict[str, Tile]) -> None:
        """The names mean these tiles; what is not carried keeps its value."""
        for name, tree in self.trees.items():
            self.frame.locals[name] = rebuilt(name, tree, lambda path, leaf: tiles.get(path, leaf))

    def changed(self) -> bool:
        """Whether numbers turned out to change: they are scalars from now on, the body is read again."""
        after, known = self._after(), len(self.scalars)
        for path, old in self.before.items():
            if not isinstance(old, Tile) and path not in self.scalars and not same(old, after[path]):
                self.scalars[path] = self.promoted[path] = self._scalar_dtype(path, old, after[path])
        return len(self.scalars) > known

    def results(self) -> tuple[Value, ...]:
        """What the body leaves with; TilecError where a type has changed."""
        after = self._after()
        return tuple(self._result(path, after[path]) for path in self.paths)

    def _after(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in self.trees:
            tree = self.frame.locals.get(name, NONE)
            if isinstance(tree, Undefined):
                raise self._error(name, tree.why)
            found.update(leaves(name, tree))
        for odd in sorted(found.keys() ^ self.before.keys()):
            when = "after" if odd in found else "before"
            raise self._error(
                odd, f"a loop keeps the parts of what it carries: {odd} is there only {when} one pass"
            )
        return found

    def _result(self, path: str, new: Any) -> Value:
        old = self.before[path]
        want = old.type if isinstance(old, Tile) else TileType(self.scalars[path])
        if isinstance(new, NUMBERS) and not want.shape:
            return self.frame.tracer.constant(number(new, want.dtype), want.dtype)
        if isinstance(new, Tile) and new.type == want:
            return new.value
        raise self._changes(path, str(want), new, _hint(want, new))

    def _scalar_dtype(self, path: str, old: Any, new: Any) -> DType:
        """The dtype of a number that changes: that of the scalar it becomes, else i32, f32 or bool."""
        if isinstance(old, NUMBERS) and isinstance(new, Tile) and not new.shape:
            return new.dtype
        if isinstance(old, NUMBERS) and isinstance(new, NUMBERS):
            return wider(old, new)
        hint = (
            "start with tc.full(shape, value, dtype)"
            if isinstance(new, Tile)
            else "choose it before the loop"
        )
        raise self._changes(path, repr(old), new, f"; {hint}")

    def _changes(self, path: str, before: str, new: Any, hint: str) -> TilecError:
        return self._error(
            path,
            f"a loop keeps the type of what it carries: {path} is {before} before it and "
            f"{said(new)} after one pass{hint}",
        )

    def _error(self, path: str, message: str) -> TilecError:
        """At the last line of the loop that assigns the name."""
        stores = [
            n
            for n in ast.walk(self.node)
            if isinstance(n, ast.Name) and path.startswith(n.id) and isinstance(n.ctx, ast.Store)
        ]
        return self.frame.error(stores[-1] if stores else self.node, message)


def _hint(want: TileType, new: Any) -> str:
    if isinstance(new, Tile) and new.shape == want.shape:
        return f"; cast with .to({want.dtype.name}), or start with {new.dtype.name}"
    return "; give it its final shape before the loop" if isinstance(new, Tile) else ""


def same(old: Any, new: Any) -> bool:
    """Whether a constant is unchanged."""
    if old is new:
        return True
    if isinstance(old, Tile) or isinstance(new, Tile) or type(old) is not type(new):
        return False
    try:
        return bool(old == new)
    except Exception:  # objects that do not compare
        return False


def wider(a: Any, b: Any) -> DType:
    kinds = {default_dtype(plain(a)), default_dtype(plain(b))}
    return dt.f32 if dt.f32 in kinds else dt.i32 if dt.i32 in kinds else dt.bool


def as_value(tracer: Tracer, leaf: Any, dtype: DType | None) -> Value:
    if isinstance(leaf, Tile):
        return leaf.value
    assert dtype is not None, "only numbers become scalars"
    return tracer.constant(number(leaf, dtype), dtype)


def said(x: Any) -> str:
    """A value in a message."""
    return str(x.type) if isinstance(x, Tile) else repr(x)
