"""Tiles in shared memory as wgmma and TMA want them: panels of rows of 16 to 128 bytes, swizzled.

    panels((64, 128), axis=1, element_bytes=2)     two panels of 64 rows of 128 bytes, one behind the other
`axis` is the one whose neighbours are neighbours in memory; the others, in order, are the rows. A row of a
panel is as long as wgmma's widest swizzle that divides the tile's (PTX ISA, "Shared memory matrix layout"):
a whole number of panels makes the tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from tilec.ir.digits import Digit
from tilec.ir.layout import Layout, memory
from tilec.ir.swizzle import Swizzle
from tilec.ir.tile import dense_strides

SPANS = (128, 64, 32, 16)  # bytes; 16 is not swizzled
GROUP = 8  # rows that a swizzle's pattern and a matrix descriptor count together


@dataclass(frozen=True)
class Panels:
    """`rows` of `span` bytes in each panel; `axis` runs along them."""

    axis: int
    rows: int
    span: int

    @property
    def nbytes(self) -> int:
        """Bytes of one panel."""
        return self.rows * self.span


@lru_cache(256)
def panels(shape: tuple[int, ...], axis: int, element_bytes: int) -> Layout | None:
    """The memory layout of a tile in panels; None where its rows are no multiples of 16 bytes, or no multiple
    of 8 of them."""
    found = _panels(shape, axis, element_bytes)
    if found is None:
        return None
    across = found.span // element_bytes
    others = [a for a in range(len(shape)) if a != axis]
    strides = dict(zip(others, dense_strides(tuple(shape[a] for a in others)), strict=True))
    axes = [
        (Digit(shape[a] // across, (found.rows * across,)), Digit(across, (1,)))
        if a == axis
        else (Digit(shape[a], (strides[a] * across,)),)
        for a in range(len(shape))
    ]
    bits = found.span.bit_length() - 5
    return memory(axes, prod(shape), Swizzle(bits, 4, 3) if bits else None)


def _panels(shape: tuple[int, ...], axis: int, element_bytes: int) -> Panels | None:
    length, rows = shape[axis] * element_bytes, prod(shape) // shape[axis]
    span = next((s for s in SPANS if length % s == 0), 0)
    return Panels(axis, rows, span) if span and rows % GROUP == 0 else None


def match_panels(layout: Layout | None, shape: tuple[int, ...], element_bytes: int) -> Panels | None:
    """How a tile lies in panels; None where its layout is another."""
    for axis in reversed(range(len(shape))):
        if layout is not None and panels(shape, axis, element_bytes) == layout:
            return _panels(shape, axis, element_bytes)
    return None
