"""Run-time control flow: loops and branches on scalars become For, While and If.

What a block assigns and what existed before it is carried: each such value, taken apart into tiles (trees.py), enters
the block as an argument and leaves it as a result. A loop is read once to see which Python numbers change in it
(`count = 0` before, `count = count + 1` inside); those become scalars, and it is read again.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tilec.frames import Flow, Frame, Undefined, evaluate, execute
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Arg, Block, Inst, Item, Value
from tilec.ir.inst import control
from tilec.ir.tile import TileType
from tilec.lang import Range
from tilec.literals import NUMBERS, default_dtype, number, plain
from tilec.targets import assign
from tilec.tracing import Scope, Tracer
from tilec.trees import leaves, rebuilt
from tilec.values import Tile, full, scalar, scalar_bool

FUNCTIONS = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def assigned(frame: Frame, node: ast.stmt) -> list[str]:
    """The names that a loop or branch may change, in order: assigned, or of a list or dict that it changes."""
    stored, touched = _names(node)
    changeable = [name for name in touched if isinstance(frame.locals.get(name), list | dict)]
    return [*stored, *(name for name in changeable if name not in stored)]


@cache
def _names(node: ast.stmt) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that are assigned, and names of what is assigned into (x[i] = y) or asked to do something (x.append(y))."""
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


_NONE = Undefined("it has no value yet")


class Carried:
    """The values that enter a loop's blocks and leave its body, as tiles with the paths that name them."""

    def __init__(self, frame: Frame, node: ast.stmt, names: Sequence[str]) -> None:
        self.frame = frame
        self.node = node
        self.trees = {name: frame.locals[name] for name in names}
        self.before = {path: leaf for name, tree in self.trees.items() for path, leaf in leaves(name, tree)}
        self.scalars: dict[str, DType] = {}  # numbers that change in the loop

    @property
    def paths(self) -> list[str]:
        return [path for path, leaf in self.before.items() if isinstance(leaf, Tile) or path in self.scalars]

    def init(self) -> tuple[Value, ...]:
        """The values before the loop."""
        tracer = self.frame.tracer
        return tuple(_value(tracer, self.before[path], self.scalars.get(path)) for path in self.paths)

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
        """Whether numbers turned out to change: they are scalars from now on, and the body must be read again."""
        after, known = self._after(), len(self.scalars)
        for path, old in self.before.items():
            if not isinstance(old, Tile) and path not in self.scalars and not _same(old, after[path]):
                self.scalars[path] = self._scalar_dtype(path, old, after[path])
        return len(self.scalars) > known

    def results(self) -> tuple[Value, ...]:
        """What the body leaves with; TilecError where a type has changed."""
        after = self._after()
        return tuple(self._result(path, after[path]) for path in self.paths)

    def _after(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in self.trees:
            tree = self.frame.locals.get(name, _NONE)
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
        """The dtype of a number that changes at run time: that of the scalar it becomes, else i32, f32 or bool."""
        if isinstance(old, NUMBERS) and isinstance(new, Tile) and not new.shape:
            return new.dtype
        if isinstance(old, NUMBERS) and isinstance(new, NUMBERS):
            return _wider(old, new)
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
            f"{_said(new)} after one pass{hint}",
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


def _same(old: Any, new: Any) -> bool:
    """Whether a constant is unchanged."""
    if old is new:
        return True
    if isinstance(old, Tile) or isinstance(new, Tile) or type(old) is not type(new):
        return False
    try:
        return bool(old == new)
    except Exception:  # objects that do not compare
        return False


def _wider(a: Any, b: Any) -> DType:
    kinds = {default_dtype(plain(a)), default_dtype(plain(b))}
    return dt.f32 if dt.f32 in kinds else dt.i32 if dt.i32 in kinds else dt.bool


def _value(tracer: Tracer, leaf: Any, dtype: DType | None) -> Value:
    if isinstance(leaf, Tile):
        return leaf.value
    assert dtype is not None, "only numbers become scalars"
    return tracer.constant(number(leaf, dtype), dtype)


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
    carried = Carried(frame, node, [n for n in names if not isinstance(before.get(n, _NONE), Undefined)])
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


def _closed(frame: Frame, node: ast.stmt, kind: type[Inst], *fields: Any, scopes: Sequence[Scope]) -> Inst:
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
        merged = _merge(frame, node, name, then.names.get(name, _NONE), orelse.names.get(name, _NONE))
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
        known = [x for x in (a, b) if isinstance(x, Undefined) and x is not _NONE]
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
        if _same(leaf, theirs[path]):
            continue
        dtype = _common(leaf, theirs[path])
        if dtype is None:
            return Undefined(
                f"{path} is {_said(leaf)} in one branch of {where} and {_said(theirs[path])} in the other"
            )
        pairs[path] = (_value(frame.tracer, leaf, dtype), _value(frame.tracer, theirs[path], dtype))
    return pairs


def _common(a: Any, b: Any) -> DType | None:
    """The dtype that two branches' values share, numbers taking the scalars'; None where they differ in type."""
    if isinstance(a, Tile) and isinstance(b, Tile):
        return a.dtype if a.type == b.type else None
    if isinstance(a, Tile) or isinstance(b, Tile):
        tile, other = (a, b) if isinstance(a, Tile) else (b, a)
        return tile.dtype if isinstance(other, NUMBERS) and not tile.shape else None
    return _wider(a, b) if isinstance(a, NUMBERS) and isinstance(b, NUMBERS) else None


def _said(x: Any) -> str:
    return str(x.type) if isinstance(x, Tile) else repr(x)
