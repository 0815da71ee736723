"""From a Python function to a Func: what a kernel's parameters are, and reading its body.

definition = define(function);   func = trace(definition, (ArrayType(...), ...), {"bm": 128}, {"warps": 4})
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import FunctionType
from typing import Any, Optional

from tilec import expressions, statements
from tilec.arrays import Array
from tilec.frames import Frame, execute
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Arg, Block, Func
from tilec.ir.tile import ArrayType, Type
from tilec.outside import Cells, Outside
from tilec.source import Code, code_of
from tilec.tracing import Tracer, trace_into
from tilec.values import Tile

READERS = (expressions, statements)  # importing them fills the tables of frames.py
SCHEDULE = ("warps", "blocks_per_sm", "cluster", "max_registers", "producer")
EMPTY = inspect.Parameter.empty


@dataclass(frozen=True)
class Param:
    """A run-time parameter: an array, or a scalar of `dtype`. An optional array may be None."""

    name: str
    dtype: DType | None = None
    default: Any = EMPTY
    optional: bool = False


@dataclass(frozen=True)
class Definition:
    """A kernel as written: text, run-time parameters, constants and defaults, arrays that may overlap."""

    function: FunctionType
    code: Code
    params: tuple[Param, ...]
    constants: Mapping[str, Any]
    alias: frozenset[str]
    nothing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.function.__name__

    def without(self, absent: Sequence[str]) -> Definition:
        """The same kernel where these optional arrays are None, which is a constant."""
        params = tuple(p for p in self.params if p.name not in absent)
        return replace(self, params=params, nothing=tuple(absent))

    @property
    def usage(self) -> str:
        """How it is called: matmul(a, b, c, *, bm, bn)."""
        words = [p.name for p in self.params] + (["*", *self.constants] if self.constants else [])
        return f"{self.name}({', '.join(words)})"


def define(function: FunctionType, alias: Sequence[str] = ()) -> Definition:
    """Reads a kernel's signature; TilecError where its source or an annotation is missing."""
    code = code_of(function)
    params, constants = [], {}
    try:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind == parameter.KEYWORD_ONLY:
                constants[parameter.name] = parameter.default
            else:
                params.append(_param(function, parameter))
        _check_alias(params, alias)
    except TilecError as error:
        raise error.at(code.loc(code.node.lineno)) from None
    return Definition(function, code, tuple(params), constants, frozenset(alias))


def _param(function: FunctionType, parameter: inspect.Parameter) -> Param:
    name, kind = parameter.name, _annotation(function, parameter)
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise TilecError(f"a kernel's parameters are known by name: *{name} is not possible")
    if kind is EMPTY:
        raise TilecError(
            f"the parameter {name} needs an annotation: {name}: tc.Array, or a dtype for a scalar "
            f"({name}: tc.f32); a constant goes after the *"
        )
    optional = kind in (Array | None, Optional[Array])  # noqa: UP045 - both spellings
    if kind is Array or optional:
        _check_default(name, parameter.default, optional)
        return Param(name, None, None if optional else EMPTY, optional)
    if isinstance(kind, DType):
        return Param(name, kind, parameter.default)
    raise TilecError(
        f"the parameter {name} is annotated {kind!r}: expected tc.Array, or a dtype such as tc.f32; "
        "constants go after the *"
    )


def _check_default(name: str, default: Any, optional: bool) -> None:
    if default is not EMPTY and not (optional and default is None):
        raise TilecError(
            f"the array {name} has a default, {default!r}: there is only {name}: tc.Array | None = None"
        )


def _annotation(function: FunctionType, parameter: inspect.Parameter) -> Any:
    """An annotation as an object, also where the file postpones them (from __future__ import annotations)."""
    kind = parameter.annotation
    try:
        while isinstance(kind, str):
            kind = eval(kind, dict(function.__globals__), Cells(function))
    except Exception as error:
        raise TilecError(f"the annotation {kind!r} of {parameter.name} cannot be read: {error}") from None
    return kind


def _check_alias(params: Sequence[Param], alias: Sequence[str]) -> None:
    known = [p.name for p in params if p.dtype is None]
    for name in alias:
        if name not in known:
            raise TilecError(
                f"alias= names arrays of the kernel, found {name!r}: there are {', '.join(known)}"
            )


def constants_of(definition: Definition, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The kernel's constants and its schedule, from their defaults and what a call gives."""
    for word in given:
        if word not in definition.constants and word not in SCHEDULE:
            raise TilecError(_unknown_constant(definition, word))
    constants = {**definition.constants, **{k: v for k, v in given.items() if k in definition.constants}}
    missing = [name for name, value in constants.items() if value is EMPTY]
    if missing:
        raise TilecError(f"{definition.name} needs the constant {missing[0]}=: {definition.usage}")
    schedule = {word: value for word, value in {**constants, **given}.items() if word in SCHEDULE}
    for word, value in schedule.items():
        _check_schedule(word, value)
    return constants, schedule


def _unknown_constant(definition: Definition, word: str) -> str:
    known = [*definition.constants, *SCHEDULE]
    others = {"num_warps": "warps", "num_stages": "stages", "num_ctas": "cluster", "maxnreg": "max_registers"}
    instead = others.get(word)
    same = [name for name in known if name.lower() == word.lower()]
    close = [instead] if instead else same or get_close_matches(word, known, 1)
    hint = f"; did you mean {close[0]}?" if close else "."
    if instead == "stages" and "stages" not in known:
        hint = "; the number of stages belongs to a loop: tc.range(n, stages=3)."
    return f"{definition.name} has no constant {word}{hint} It takes {', '.join(known)}"


def _check_schedule(word: str, value: Any) -> None:
    if word == "cluster" and isinstance(value, tuple):
        for extent in value:
            _check_schedule("cluster", extent)
    elif word == "producer":
        if not isinstance(value, bool):
            raise TilecError(f"producer is True or False, found {value!r}")
    elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TilecError(f"{word} is a whole number of 1 or more, found {value!r}")


def trace(
    definition: Definition,
    types: Sequence[Type],
    constants: Mapping[str, Any],
    schedule: Mapping[str, Any],
    outside: Outside | None = None,
) -> Func:
    """The kernel for parameters of these types; TilecError at the user's line. `outside` notes globals."""
    tracer = Tracer(outside)
    args = tuple(Arg(kind, param.name) for kind, param in zip(types, definition.params, strict=True))
    tracer.params.update({arg: i for i, arg in enumerate(args)})
    code = definition.code
    frame = Frame(tracer, code, definition.function.__globals__, Cells(definition.function))
    frame.locals.update({arg.name: _held(arg, tracer) for arg in args})
    frame.locals.update({**constants, **dict.fromkeys(definition.nothing)})
    tracer.loc = code.loc(code.node.lineno)
    with trace_into(tracer):
        _read(frame)
    tracer.root.open = False
    body = Block((), tuple(tracer.root.instructions))
    words = {**schedule, "alias": tuple(sorted(definition.alias))} if definition.alias else dict(schedule)
    return Func(definition.name, args, body, words, code.loc(code.node.lineno))


def _held(arg: Arg, tracer: Tracer) -> Array | Tile:
    held = Array if isinstance(arg.type, ArrayType) else None
    return Tile(arg, tracer.root) if held is None else Array(arg, tracer.root, arg.name)


def _read(frame: Frame) -> None:
    try:
        left = execute(frame, frame.code.body)
    except RecursionError:
        raise TilecError(
            "the functions that the kernel calls go too deep: recursion needs constants that end it",
            frame.tracer.loc,
        ) from None
    if left is not None and left.value is not None:
        raise frame.error(left.node, "a kernel returns nothing: store the result into an array parameter")
