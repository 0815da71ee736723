"""Tiles of which two of each four elements are kept: tc.sparse.

    tc.dot(tc.sparse(values, places), b, acc)       values and places (m, k / 2), b (k, n)
"""

from __future__ import annotations

from tilec.ir.errors import TilecError
from tilec.ir.inst.sparse import Sparse
from tilec.values import Tile, emit


def sparse(values: Tile, places: Tile, axis: int = -1) -> Tile:
    """The tile of which `values` keeps two of each four elements along an axis; the others are 0.

        tc.dot(tc.sparse(values, places), b, acc)       # values and places (m, k / 2), b (k, n)

    `places` (u2, 0 to 3, in the shape of values) says where each value belongs among its four, the first of a
    pair before the second. An operand of dot, of 16 or 8 bits, is multiplied as it is on GPUs (mma.sp,
    on sm_90a wgmma.sp): the left one where the axis is its last, the right one where it is its first.
    """
    for x in (values, places):
        if not isinstance(x, Tile):
            raise TilecError(f"tc.sparse takes tiles, found {type(x).__name__}: read one from an array first")
    if axis not in (-2, -1, 0, 1):
        raise TilecError(f"tc.sparse takes tiles of rank 2, which have no axis {axis}")
    return emit(Sparse, values.value, places.value, axis % 2)
