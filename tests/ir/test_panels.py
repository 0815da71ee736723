"""Tiles in panels, against the PTX ISA's formulas of wgmma's operands; what threads hold of its products."""

import numpy as np
import pytest

from tilec.backends.emulator.tensormap import xor
from tilec.backends.emulator.wgmma_memory import Tile, pattern
from tilec.ir import dtype as dt
from tilec.ir.layouts import wgmma_a, wgmma_c
from tilec.ir.panels import SPANS, Panels, match_panels, panels


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("count", [1, 3])
def test_k_innermost(size: int, span: int, count: int) -> None:
    """Element (r, k) of the first panel, as a descriptor with 8 rows of `span` bytes as its stride says."""
    rows, columns = 24, count * span // size
    layout = panels((rows, columns), 1, size)
    if span == 16 or span * count % (2 * span) == 0:
        return
    assert layout is not None and match_panels(layout, (rows, columns), size) == Panels(1, rows, span)
    leading, stride, fixed = pattern(Tile(rows, span // size, size, False), span)
    assert not leading.any()
    wanted = xor(stride * 8 * span + fixed, span)
    per = 16 // size
    found = layout.byte_offset(np.indices((rows, span // size))[:, :, ::per], 8 * size)
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("n", [8, 16, 24, 32, 64, 96, 128, 192])
def test_k_outermost(n: int) -> None:
    """Element (k, n) of 16 bits: to the next panel by the leading offset, 8 rows on by the stride."""
    depth = 32
    layout = panels((depth, n), 1, 2)
    found = match_panels(layout, (depth, n), 2)
    assert layout is not None and found is not None
    span = found.span if found.span > 16 else 0
    leading, stride, fixed = pattern(Tile(n, depth, 2, True), span)
    far = (found.nbytes, 8 * found.span) if span else (8 * found.span, found.nbytes)
    wanted = xor(leading * far[0] + stride * far[1] + fixed, span)
    assert np.array_equal(layout.byte_offset(np.indices((depth, n))[:, :, ::8], 16), wanted)


@pytest.mark.parametrize("shape", [(16, 64), (2, 8, 32), (1, 4, 6, 40), (64, 16)])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_element_has_its_place(shape: tuple[int, ...], size: int) -> None:
    for axis in range(len(shape)):
        layout = panels(shape, axis, size)
        if layout is None:
            assert shape[axis] * size % 16 or np.prod(shape) // shape[axis] % 8
            continue
        places = layout.byte_offset(np.indices(shape), 8 * size)
        assert sorted(places.ravel()) == list(range(0, int(np.prod(shape)) * size, size))
        assert match_panels(layout, shape, size) is not None


def test_other_layouts_are_no_panels() -> None:
    assert panels((64, 12), 1, 1) is None and panels((12, 64), 1, 2) is None
    assert match_panels(None, (64, 64), 2) is None
    assert match_panels(panels((64, 64), 1, 2), (64, 64), 1) is None


@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_products_of_several_warpgroups(groups: tuple[int, int]) -> None:
    """Warpgroup (i, j) has the rows and columns of its part of the sums, and the rows of the left operand."""
    shape = (64 * 2 * groups[0], 24 * groups[1])
    sums, left = wgmma_c(shape, groups), wgmma_a(dt.f16, (shape[0], 32), groups)
    assert sums.is_bijection and sums.threads == left.threads == 128 * groups[0] * groups[1]
    for number in range(groups[0] * groups[1]):
        i, j = divmod(number, groups[1])
        mine = slice(128 * number, 128 * number + 128)
        rows, columns = (sums.points()[mine, :, axis] for axis in (0, 1))
        assert set(rows.ravel()) == set(range(128 * i, 128 * i + 128))
        assert set(columns.ravel()) == set(range(24 * j, 24 * j + 24))
        assert set(left.points()[mine, :, 0].ravel()) == set(rows.ravel())
