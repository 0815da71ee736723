"""What a call does, noted while it runs: the arrays that it makes, the constants it takes, what it launches.

    with noting() as tape: y = linear(x, weight)
    tape.launches[0][0].blocks, tape.made[0].held is y
That is all there is to an operator on the host: for arrays that look alike it is the same call, elsewhere.
Whoever touches elements in another way says so (`tears`), and the tape is of no use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tilec.compiled import Launch

LARGEST = 1 << 28  # bytes that a tape keeps: calls that make more are long


class Made(NamedTuple):
    """A new array, and what makes another one like it."""

    held: Any
    make: Callable[[], Any]


class Given(NamedTuple):
    """The result; arrays `as_came` to the caller, by the id of what the call held; whose arrays new ones
    become, None: nobody else's."""

    result: Any
    as_came: dict[int, Any]
    library: Any


@dataclass
class Tape:
    """One call. Its arrays live as long as it does, so that no two of them lie at one address."""

    made: list[Made] = field(default_factory=list)
    lent: list[Any] = field(default_factory=list)  # constants: the same in calls that look alike
    launches: list[tuple[Launch, Sequence[Any]]] = field(default_factory=list)
    given: Given | None = None
    whole: bool = True  # nothing else was done
    nbytes: int = 0

    def makes(self, make: Callable[[], Any], held: Any) -> None:
        self.nbytes += held.nbytes
        if self.nbytes > LARGEST:
            self.tears()
        elif self.whole:
            self.made.append(Made(held, make))

    def lends(self, constant: Any) -> None:
        self.lent.append(constant)

    def launched(self, launch: Launch, held: Sequence[Any]) -> None:
        if self.whole:
            self.launches.append((launch, held))

    def gives(self, given: Given) -> None:
        self.given = given

    def tears(self) -> None:
        """Something is done that is not noted."""
        self.whole = False
        self.made.clear()
        self.launches.clear()


_current: ContextVar[Tape | None] = ContextVar("tilec_tape", default=None)
current = _current.get


@contextmanager
def noting() -> Iterator[Tape]:
    """Inside, calls are noted."""
    tape = Tape()
    token = _current.set(tape)
    try:
        yield tape
    finally:
        _current.reset(token)
