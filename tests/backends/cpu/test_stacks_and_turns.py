"""Stacks of tiles that are computed where they belong, and tiles that are read across."""

from __future__ import annotations

import numpy as np
import pytest

import tilec as tc


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


@tc.kernel
def stacked(x: tc.Array, y: tc.Array, *, axis: int):
    """Sum and difference of halves, then their product with x's first half, side by side."""
    (n, m), half = y.shape, tc.static(x.shape[0]) // 2
    t = x.load((0, 0), (half * 2, 24))
    a, b = t[:half], t[half:]
    both = tc.stack([a + b, a - b, (a + b) * a], axis)
    y.store((0, 0), both.reshape(tc.static(n), tc.static(m)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stacks(axis: int) -> None:
    x = normal(10, 24)
    a, b = x[:5], x[5:]
    wanted = np.stack([a + b, a - b, (a + b) * a], axis)
    y = np.full((15, 24), np.nan, np.float32)
    stacked(x, y, axis=axis)
    np.testing.assert_array_equal(y, wanted.reshape(15, 24))
    stacked.meaning(x, y, axis=axis)
    np.testing.assert_array_equal(y, wanted.reshape(15, 24))


@tc.kernel
def again_and_again(x: tc.Array, y: tc.Array, *, turns: int):
    """A carried tile, stacked anew of its own parts in every turn; one part is read outside the stack too."""
    t = x.load((0, 0), (4, 32))
    total = tc.zeros((2, 32), tc.f32)
    for _ in tc.range(turns):
        low = t[:2] + t[2:]
        total = total + low
        t = tc.stack([low, t[:2] - t[2:]], 0).reshape(4, 32)
    y.store((0, 0), t)
    y.store((4, 0), total)


def test_carried_stacks() -> None:
    x, y = normal(4, 32), np.full((6, 32), np.nan, np.float32)
    again_and_again(x, y, turns=3)
    total = np.zeros((2, 32), np.float32)
    for _ in range(3):
        low = x[:2] + x[2:]
        total, x = total + low, np.concatenate([low, x[:2] - x[2:]])
    np.testing.assert_array_equal(y, np.concatenate([x, total]))


@tc.kernel
def turned(x: tc.Array, y: tc.Array, *, axes: tuple[int, ...], cut: int):
    """x turned, read as a whole, or in pieces."""
    shape = tuple(tc.static(n) for n in x.shape)
    t = (x.load((0,) * len(shape), shape) * 2.0).permute(axes)
    if cut:
        t = tc.stack([t[:cut] + 1.0, t[cut : 2 * cut] + 1.0], 0)
        y.store(0, t.reshape(t.size))
    else:
        y.store(0, (t + 1.0).reshape(t.size))


@pytest.mark.parametrize("shape", [(32, 48), (9, 17), (8, 8), (3, 40), (33, 7)])
@pytest.mark.parametrize("cut", [0, 2])
def test_turned_matrices(shape: tuple[int, int], cut: int) -> None:
    x = normal(*shape)
    wanted = (x * 2).T + 1
    wanted = (wanted[: 2 * cut] if cut else wanted).reshape(-1)
    turned(x, y := np.full(wanted.size, np.nan, np.float32), axes=(1, 0), cut=cut)
    np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("axes", [(0, 2, 1), (2, 0, 1), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
@pytest.mark.parametrize("cut", [0, 3])
def test_turned_boxes(axes: tuple[int, ...], cut: int) -> None:
    x = normal(12, 18, 21)
    wanted = (x * 2).transpose(axes) + 1
    wanted = (wanted[: 2 * cut] if cut else wanted).reshape(-1)
    turned(x, y := np.full(wanted.size, np.nan, np.float32), axes=axes, cut=cut)
    np.testing.assert_array_equal(y, wanted)
