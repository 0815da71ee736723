"""Products along k: of few rows with columns that lie along memory, and of a matrix with a vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.cpu.test_codes import MACHINES, on_machine
from tilec.backends.cpu import dot_along

Array = np.ndarray[Any, Any]
SHAPES = [(1, 8, 64), (1, 13, 100), (3, 5, 130), (5, 16, 256), (16, 9, 128), (40, 1, 200), (7, 1, 65)]
TYPES = {"float32": 1e-6, "float64": 1e-14, "float16": 1e-6}
PROBLEMS = [("float32", *shape) for shape in SHAPES] + [("float64", 3, 5, 130), ("float16", 3, 5, 130)]


@tc.kernel
def twice(a: tc.Array, b: tc.Array, c: tc.Array, *, m: int, n: int, k: int) -> None:
    """c = 1 + 2 * (a @ b), in c's dtype: sums begin with a number, then with those before."""
    x, y = a.load((0, 0), (m, k)), b.load((0, 0), (k, n))
    acc = tc.dot(x, y, tc.full((m, n), 1.0, c.dtype))
    c.store((0, 0), tc.dot(x, y, acc))


def normal(kind: str, *shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(kind)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Which products went along k."""
    found: list[bool] = []
    fits = dot_along._fits

    def watched(*args: Any) -> bool:
        found.append(fits(*args))
        return found[-1]

    monkeypatch.setattr(dot_along, "_fits", watched)
    return found


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("kind", "m", "n", "k"), PROBLEMS)
def test_along(kind: str, m: int, n: int, k: int, machine: str, taken: list[bool]) -> None:
    a, b = normal(kind, m, k), np.asfortranarray(normal(kind, k, n, seed=1))
    found = np.full((m, n), np.nan, "float64" if kind == "float64" else "float32")
    on_machine(machine, twice, a, b, found, m=m, n=n, k=k)
    wanted = 1 + 2 * (a.astype("float64") @ b.astype("float64"))
    assert np.abs(found - wanted).max() < TYPES[kind] * np.abs(wanted).max() * k
    assert taken and all(taken)


def test_a_transposed_vector_and_rows_apart(taken: list[bool]) -> None:
    """Rows of a may lie anywhere: where they are no vectors they are copied first."""
    a, b = np.asfortranarray(normal("float32", 4, 96)), normal("float32", 12, 96, seed=1).T
    found = np.full((4, 12), np.nan, "float32")
    on_machine("native", twice, a, b, found, m=4, n=12, k=96)
    np.testing.assert_allclose(found, 1 + 2 * (a @ b), rtol=1e-4, atol=1e-4)
    assert all(taken)


def test_what_is_turned_instead(taken: list[bool]) -> None:
    """Many rows, columns that lie apart, and integers."""
    for a, b in (
        (normal("float32", 17, 128), normal("float32", 128, 8).T.copy().T),
        (normal("float32", 2, 128), normal("float32", 128, 8)),
    ):
        found = np.full((len(a), 8), np.nan, "float32")
        on_machine("native", twice, a, b, found, m=len(a), n=8, k=128)
        np.testing.assert_allclose(found, 1 + 2 * (a @ b), rtol=1e-4, atol=1e-4)
    assert len(taken) == 4 and not any(taken)


def test_tiles_that_leave_their_arrays() -> None:
    """What is read outside counts as 0, in masked copies of the same order."""
    a, b = normal("float32", 3, 70), normal("float32", 11, 70, seed=1).T
    found = np.full((4, 16), np.nan, "float32")
    on_machine("native", twice, a, b, found, m=4, n=16, k=128)
    np.testing.assert_allclose(found[:3, :11], 1 + 2 * (a @ b), rtol=1e-4, atol=1e-4)
    assert (found[3] == 1).all() and (found[:, 11:] == 1).all()
