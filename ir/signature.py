"""How a kernel's arguments are passed: a flat list of slots that every backend and launcher agrees on.

Per array its pointer, then each extent and each stride that is not a constant; per scalar its value.
    a: f16[m, 64], n: i64  ->  pointer a, extent a.0 (i32), stride a.0 (i64), scalar n (i64)
A compiled kernel may take tensor maps too, after all others: they describe arrays to TMA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.func import Func
from tilec.ir.tile import ArrayType, Dim, multiple_of

MOST_AXES, UNIT = 5, 16  # of a tensor map; bytes


@dataclass(frozen=True)
class Box:
    """What one copy of TMA moves: `extents` along these `axes` of an array, innermost first, counted in
    elements of `unit` bytes, of which the array's own make up one; rows of `span` bytes are swizzled, but for
    16. An axis that comes twice at first is cut into pieces of the first extent.
    """

    axes: tuple[int, ...]
    extents: tuple[int, ...]
    span: int
    unit: int

    @property
    def nbytes(self) -> int:
        return prod(self.extents) * self.unit

    @property
    def is_cut(self) -> bool:
        return self.axes[:1] == self.axes[1:2]

    def seen(self, shape: Sequence[int], strides: Sequence[int], size: int) -> list[tuple[int, int]]:
        """How TMA sees an array of elements of `size` bytes: the extent of each axis, in units, and its
        stride, in bytes. Strides are given in elements; those of axes of extent 1 may be anything.
        """
        count, piece = shape[self.axes[0]] * size // self.unit, self.extents[0]
        inner = (
            [(piece, self.unit), (count // piece, piece * self.unit)] if self.is_cut else [(count, self.unit)]
        )
        outer = self.axes[len(inner) :]
        return inner + [(shape[a], strides[a] * size if shape[a] > 1 else 16) for a in outer]


def describable(kind: ArrayType) -> bool:
    """Whether TMA can be told what such an argument looks like: neighbours along one axis, all other strides
    multiples of 16 bytes, as its first address is; 0 is one (an expanded array)."""
    if kind.packed or kind.dtype.bits < 8 or kind.rank > MOST_AXES or kind.strides.count(1) != 1:
        return False
    steps = [multiple_of(n) * kind.dtype.bytes % UNIT for n in kind.strides if n != 1]
    return kind.align % UNIT == 0 and not any(steps)


@dataclass(frozen=True)
class Slot:
    """One machine argument. `kind` is pointer, extent, stride, scalar, map or said; `param` counts
    parameters, `axis` axes.
    """

    kind: str
    param: int
    axis: int = 0
    dtype: DType = dt.i64
    box: Box | None = None


def signature(func: Func) -> tuple[Slot, ...]:
    """The slots of a kernel, in order."""
    found: list[Slot] = []
    for i, param in enumerate(func.params):
        kind = param.type
        if not isinstance(kind, ArrayType):
            found.append(Slot("scalar", i, dtype=param.tile.dtype))
            continue
        found.append(Slot("pointer", i))
        found += [Slot("extent", i, axis, dt.i32) for axis, n in enumerate(kind.shape) if isinstance(n, Dim)]
        found += [Slot("stride", i, axis) for axis, n in enumerate(kind.strides) if isinstance(n, Dim)]
    return tuple(found)
