"""Globals and names of enclosing functions: constants of a kernel, compiled anew where they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tilec.outside import Cells, Outside

FACTOR: Any = 2.0


def twice(t: tc.Tile) -> Any:
    return t * FACTOR


@tc.kernel
def scaled(y: tc.Array):
    tc.blocks(1)
    y.store(0, twice(tc.full(4, 1.0, tc.f32)))


def first(kernel: tc.Kernel, target: str = "reference") -> float:
    y = np.zeros(4, np.float32)
    kernel.on(target)(y)
    return float(y[0])


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_a_global_that_changes(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    assert first(scaled, target) == 2
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert first(scaled, target) == 3
    monkeypatch.setitem(globals(), "twice", lambda t: t * 7.0)
    assert first(scaled, target) == 7, "a helper that is defined again"
    assert "7.0" in scaled.compile(tc.Spec("f32", ("n",))).ir


def test_a_name_of_the_function_around() -> None:
    value = 1.0

    @tc.kernel
    def held(y: tc.Array):
        tc.blocks(1)
        y.store(0, tc.full(4, value, tc.f32))

    assert first(held) == 1
    value = 5.0
    assert first(held) == 5


def test_equal_values_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tc.Spec("f32", ("n",))
    before = scaled.compile(spec)
    monkeypatch.setitem(globals(), "FACTOR", float(str(FACTOR)))
    assert scaled.compile(spec) is before
    monkeypatch.setitem(globals(), "FACTOR", 2)
    assert scaled.compile(spec) is not before, "2 is no 2.0"


def test_names_are_compared_as_they_are_now() -> None:
    seen, space = Outside(), {"a": 1, "b": [1]}
    for name, value in space.items():
        seen.note(space, name, value)
        seen.note(space, name, "noted before: the first counts")
    assert not seen.changed()
    space["b"] = [1]
    assert seen.changed(), "lists are compared by identity, as they may hold anything"
    seen.forget()
    assert not seen.changed()


def test_a_deleted_name_is_a_change() -> None:
    space: dict[str, Any] = {"a": 1}
    seen = Outside()
    seen.note(space, "a", 1)
    del space["a"]
    assert seen.changed()


def _around() -> tuple[Callable[[], Any], Callable[[], None]]:
    later: Any = 3

    def read() -> Any:
        return later  # noqa: F821 - assigned by assign

    def assign() -> None:
        nonlocal later
        later = 4

    del later
    return read, assign


def test_cells() -> None:
    read, assign = _around()
    cells = Cells(read)  # type: ignore[arg-type]
    assert list(cells) == ["later"] and len(cells) == 1
    assert cells.get("later", "unset") == "unset" and cells.get("other") is None
    assign()
    assert cells["later"] == 4
