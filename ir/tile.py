"""Types of values: tiles, arrays, tokens.

A tile is a small array of one dtype; a scalar is a tile of rank 0, the same in every thread. After the layout
pass a tile also says who holds which element. An array is memory: its extents and strides (in elements) are
integers where they are known, and `Dim`s where only the launch knows them.
    TileType(f32, (16, 8))          prints as f32[16, 8]
    ArrayType(f16, (Dim("m"), 64), (64, 1))    prints as f16[m, 64]
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tilec.ir.dtype import DType
from tilec.ir.layout import Layout


@dataclass(frozen=True)
class Dim:
    """An extent or stride that the launch decides; `multiple` divides it. One name, one value."""

    name: str
    multiple: int = 1

    def __str__(self) -> str:
        return self.name if self.multiple == 1 else f"{self.name}:{self.multiple}"


Extent = int | Dim


def multiple_of(extent: Extent) -> int:
    """What is known to divide it (0 divides nothing but is divided by all: it counts as itself)."""
    return extent.multiple if isinstance(extent, Dim) else extent


@dataclass(frozen=True)
class TileType:
    """A tile in registers. `layout` is None until the layout pass, and always for scalars."""

    dtype: DType
    shape: tuple[int, ...] = ()
    layout: Layout | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    def __str__(self) -> str:
        return self.dtype.name + (f"[{', '.join(map(str, self.shape))}]" if self.shape else "")


@dataclass(frozen=True)
class ArrayType:
    """Memory seen as an n-dimensional array; strides in elements, `align` in bytes of its first element.

    `layout` places the elements of a shared array (swizzled by the places pass); `packed` arrays hold
    elements of fewer than 8 bits one after the other.
    """

    dtype: DType
    shape: tuple[Extent, ...]
    strides: tuple[Extent, ...]
    align: int = 16
    space: str = "global"
    layout: Layout | None = None
    packed: bool = False

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __str__(self) -> str:
        head = "" if self.space == "global" else f"{self.space} "
        return f"{head}{self.dtype.name}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class TokenType:
    """A copy under way; waiting on it makes the data visible."""

    def __str__(self) -> str:
        return "token"


@dataclass(frozen=True)
class TupleType:
    """What a loop or a branch gives: one type per carried value. A store gives the empty one."""

    items: tuple[Type, ...] = ()

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.items))})"


Type = TileType | ArrayType | TokenType | TupleType
UNIT = TupleType()


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a dense array, last axis fastest."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
