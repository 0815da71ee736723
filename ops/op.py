"""An operator: a function on arrays that can also be compiled for a problem without any.

linear(x, q)                                                  runs
linear.compile(m=16, n=4096, k=4096, weight="u4")             the kernel that such a call would run
"""

from collections.abc import Callable
from functools import update_wrapper
from typing import Generic, ParamSpec, TypeVar

import tilec as tc
from tilec.ops.play import played

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")


class Op(Generic[P, Q, R]):
    """Calls `function` with arrays of any library; `.compile(**problem, target=...)` gives a tc.Compiled."""

    def __init__(self, function: Callable[P, R], compile: Callable[Q, tc.Compiled]) -> None:  # noqa: A002
        self._function = played(function)
        self.compile = compile
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **named: P.kwargs) -> R:
        return self._function(*args, **named)

    def __repr__(self) -> str:
        return f"<op {self._function.__name__}>"


def op(compile: Callable[Q, tc.Compiled]) -> Callable[[Callable[P, R]], Op[P, Q, R]]:  # noqa: A002
    """Marks a function as an operator, with what compiles its kernel."""
    return lambda function: Op(function, compile)
