"""What is being traced: instructions pile up in scopes, one per block of the function, each at its line.

tracer.emit(Add, x, y)      appends an Add to the innermost scope and returns it
current()                   the tracer of the kernel that is being traced in this thread, or an error
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, TypeVar

from tilec.ir.dtype import DType
from tilec.ir.errors import Loc, TilecError
from tilec.ir.func import Inst, Value
from tilec.ir.inst.arith import Full
from tilec.outside import Outside

I = TypeVar("I", bound=Inst)  # noqa: E741


class Scope:
    """The instructions of one block. What they compute may be used while the block is open."""

    __slots__ = ("instructions", "open", "what")

    def __init__(self, what: str) -> None:
        self.what = what
        self.instructions: list[Inst] = []
        self.open = True


class Respecialise(Exception):
    """tc.static met an extent that is not a constant yet: trace again with that extent known."""

    def __init__(self, param: int, axis: int) -> None:
        super().__init__(param, axis)
        self.param, self.axis = param, axis


class Tracer:
    """One trace: the open scopes, innermost last, and the line that instructions come from."""

    def __init__(self, outside: Outside | None = None) -> None:
        self.outside = Outside() if outside is None else outside
        self.scopes = [Scope("kernel")]
        self.loc: Loc | None = None
        self.sizes: dict[str, Value] = {}
        self.params: dict[Value, int] = {}
        self.grid: tuple[Value, ...] | None = None
        self.promoted: dict[tuple[tuple[ast.AST, ...], ast.AST], dict[str, DType]] = {}
        self.constants: dict[tuple[str, DType], Value] = {}

    @property
    def root(self) -> Scope:
        return self.scopes[0]

    @property
    def scope(self) -> Scope:
        return self.scopes[-1]

    def emit(self, kind: type[I], *fields: Any, **attributes: Any) -> I:
        """Makes an instruction at the current line and appends it to the innermost scope."""
        inst = kind(*fields, loc=self.loc, **attributes)
        self.scopes[-1].instructions.append(inst)
        return inst

    def constant(self, value: int | float | bool, dtype: DType) -> Value:
        """A scalar constant: made once, at the top of the kernel."""
        key = (repr(value), dtype)
        if key not in self.constants:
            self.constants[key] = full = Full(value, dtype, loc=self.loc)
            self.root.instructions.append(full)
        return self.constants[key]

    @contextmanager
    def inside(self, scope: Scope) -> Iterator[Scope]:
        """Instructions go into this scope for a while."""
        self.scopes.append(scope)
        try:
            yield scope
        finally:
            self.scopes.pop()


_current: ContextVar[Tracer | None] = ContextVar("tilec_tracer", default=None)


def current() -> Tracer:
    """The trace under way in this thread; TilecError where there is none."""
    tracer = _current.get()
    if tracer is None:
        name = _language_function(sys._getframe(1))
        raise TilecError(
            f"tc.{name} is part of the kernel language: call it inside a function marked @tc.kernel"
        )
    return tracer


def tracing() -> Tracer | None:
    """The trace under way in this thread, if any."""
    return _current.get()


def _language_function(frame: FrameType | None) -> str:
    """Name of the outermost of our functions on the stack: the one that the user called."""
    name = "?"
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("tilec."):
        name, frame = frame.f_code.co_name, frame.f_back
    return name


@contextmanager
def trace_into(tracer: Tracer) -> Iterator[None]:
    """Language functions called in this thread now belong to this trace."""
    token = _current.set(tracer)
    try:
        yield
    finally:
        _current.reset(token)
