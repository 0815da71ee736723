"""What Python would like to know now, and only the running kernel knows.

if x > 0: ...           in Python code that the front end does not read: Python asks for a bool
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from tilec.ir.errors import TilecError
from tilec.ir.tile import TileType


class RunTimeValue:
    """Every way in which Python would turn a value into a constant, and what to do instead."""

    __slots__ = ()

    @property
    def type(self) -> TileType:
        raise AssertionError("values have types")

    def __bool__(self) -> NoReturn:
        if self.type.shape:
            raise TilecError(
                f"a tile cannot be a condition: {self.type} has many elements. "
                "Choose between elements with tc.where, combine with & | ~, or reduce with .any() or .all()"
            )
        raise TilecError(
            f"the scalar {self.type} is known only when the kernel runs: a condition on it belongs in an "
            "if, while or conditional expression of the kernel itself"
        )

    def __index__(self) -> NoReturn:
        raise TilecError(
            f"the {self!r} is known only when the kernel runs, and a constant is needed here: "
            "loop with tc.range, take shapes from constants or tc.static(x.shape[axis])"
        )

    def __int__(self) -> NoReturn:
        raise TilecError(f"int() needs a constant, not the {self!r}; cast with .to(tc.i32)")

    def __float__(self) -> NoReturn:
        raise TilecError(f"float() needs a constant, not the {self!r}; cast with .to(tc.f32)")

    def __len__(self) -> int:
        if not self.type.shape:
            raise TilecError("a scalar has no length")
        return self.type.shape[0]

    def __iter__(self) -> Iterator[Any]:
        raise TilecError(
            f"a {self!r} is not taken apart element by element: use slices with constants, x[0:1], "
            "or a reduction"
        )
