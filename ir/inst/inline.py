"""PTX that the user wrote: elementwise, and meaning what a function of the language gives.

    inline_ptx("lg2.approx.f32 $0, $1;", (x,), log2(x))       $0 is the result, $1 and on the operands
Targets with PTX write the text for each element. All others compute the meaning, and so does the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Inst, Value
from tilec.ir.run import State
from tilec.ir.tile import TileType

Array = np.ndarray[Any, Any]
WIDTHS = (16, 32, 64)  # bits of what PTX has registers for


@dataclass(frozen=True, eq=False)
class InlinePtx(Inst):
    """`template` for each element of `given`; `meant` is what it gives."""

    template: str
    given: tuple[Value, ...]
    meant: Value

    def result(self) -> TileType:
        tile = self.meant.tile
        for value in (*self.given, self.meant):
            assert value.tile.shape == tile.shape, "operands are broadcast to the meaning's shape"
            if not fits(value.tile.dtype):
                raise TilecError(
                    f"inline_ptx works on numbers of 16, 32 or 64 bits, not on {value.tile.dtype}: "
                    "cast with .to(...) first"
                )
        return tile

    def meaning(self, state: State, *values: Array) -> Array:
        return values[-1]


def fits(dtype: DType) -> bool:
    """Whether a register holds just this type."""
    return not dtype.is_bool and dtype.bits in WIDTHS
