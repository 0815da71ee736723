"""What a kernel reads around it: globals, and names of the functions around it, which are constants to it.

seen = Outside();   seen.note(globals(), "EPS", 1e-5);   EPS = 1e-6;   seen.changed() is True
A kernel is compiled for these values, and compiled again where one of them has changed since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

MISSING = object()
BY_VALUE = (int, float, complex, str, bytes, tuple, type(None))  # what is equal makes the same kernel


class Cells(Mapping[str, Any]):
    """The names of the enclosing function that a function uses, as they are now."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self._cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))

    def __getitem__(self, name: str) -> Any:
        try:
            return self._cells[name].cell_contents
        except ValueError:  # not assigned yet
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)


class Outside:
    """The names that were read, where, and what they were."""

    def __init__(self) -> None:
        self._seen: tuple[tuple[Mapping[str, Any], str, Any], ...] = ()  # replaced whole: threads read it
        self._known: set[tuple[int, str]] = set()

    def note(self, space: Mapping[str, Any], name: str, value: Any) -> None:
        """A name of this namespace was read."""
        key = (id(space.function if isinstance(space, Cells) else space), name)
        if key not in self._known:
            self._known.add(key)
            self._seen = (*self._seen, (space, name, value))

    def changed(self) -> bool:
        """Whether a name means something else now."""
        for space, name, before in self._seen:
            now = space.get(name, MISSING)
            if now is not before and not _same(now, before):
                return True
        return False

    def forget(self) -> None:
        self._seen, self._known = (), set()


def _same(now: Any, before: Any) -> bool:
    return type(now) is type(before) and isinstance(now, BY_VALUE) and repr(now) == repr(before)
