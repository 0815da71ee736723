"""Windows as kernels compute them, on Python integers: the float64 definition's, for every small axis."""

from itertools import product

import pytest

from tests.ops.attention_cases import hash_of, mask_of, recorded_masks
from tilec.ops.attention_tiling import group_lengths, tiled, visited
from tilec.ops.attention_windows import Axis, queries_of, unravel, window_of
from tilec.ops.neighborhood_reference import Window


def axes(longest: int):
    for length, shifts in product(range(1, longest), (True, False)):
        for size in range(1, length + 1 if shifts else length + 4):
            for stride, causal in product(range(1, size + 1), (False, True)):
                yield (
                    length,
                    Axis(size, stride, 1, causal, shifts),
                    Window(size, stride, 1, causal, "shift" if shifts else "zero"),
                )


def test_windows_are_those_of_the_definition():
    for length, axis, window in axes(16):
        for p in range(length):
            found = window_of(p, length, axis)
            assert range(found.first, found.end) == window.positions(p, length), (length, axis, p)


def test_masks_are_nattens():
    """Bit by bit those of NATTEN 0.21.7, of which natten_masks.txt keeps hashes."""
    masks = recorded_masks()
    assert len(masks) == 600
    for extents, axes, wanted in masks:
        assert hash_of(mask_of(extents, axes)) == wanted, (extents, axes)


def test_inverse_windows():
    for length, axis, window in axes(16):
        seen_by = [[p for p in range(length) if j in window.positions(p, length)] for j in range(length)]
        for j, queries in enumerate(seen_by):
            found = queries_of(j, length, axis)
            assert not queries or (found.first, found.end) == (queries[0], queries[-1] + 1), (length, axis, j)


def test_ends_grow():
    """So that the first and the last of a box tell what all of it sees, also beyond the end."""
    for length, axis, _ in axes(12):
        for f in (window_of, queries_of):
            ends = [f(p, length, axis) for p in range(length + 5)]
            assert ends == sorted(ends) and [w.end for w in ends] == sorted(w.end for w in ends)


def test_every_key():
    assert window_of(3, 9, Axis(0)) == (0, 9) and window_of(3, 9, Axis(0, causal=True)) == (0, 4)
    assert window_of(12, 9, Axis(0, causal=True)) == (0, 9)
    assert queries_of(3, 9, Axis(0)) == (0, 9) and queries_of(3, 9, Axis(0, causal=True)) == (3, 9)


def test_places_of_a_box():
    assert [unravel(t, (2, 3)) for t in range(6)] == [[i, j] for i in range(2) for j in range(3)]


@pytest.mark.parametrize("target", ["cpu", "sm_80", "sm_90a"])
@pytest.mark.parametrize("axes", [(Axis(7),), (Axis(7), Axis(9)), (Axis(3), Axis(5), Axis(24))])
def test_tilings_visit_few_keys(target: str, axes: tuple[Axis, ...]):
    lengths = group_lengths((30, 40, 50)[: len(axes)], axes)
    assert lengths == (32, 64, 64)[: len(axes)]
    tiling = tiled(axes, lengths, 64, 2, target)
    for axis, cut, length in zip(axes, tiling.axes, lengths, strict=True):
        assert cut._replace(box=1, span=1) == axis
        assert axis.window <= visited(cut, length) < axis.window + cut.box + cut.span
