"""The matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilec.ir import codec
from tilec.ir.errors import TilecError
from tilec.ir.func import Inst, Value
from tilec.ir.inst.rules import demand_kind, kind_of, wrap
from tilec.ir.run import State
from tilec.ir.tile import TileType

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Dot(Inst):
    """a @ b + c over one tile: a (m, k), b (k, n), c (m, n). Operands exact in their dtype, summed in c's,
    any order.

    The pass that chooses layouts fills in `atom`: the shape (m, n, k) of the target's matrix instruction, ()
    for FMA.
    """

    a: Value
    b: Value
    c: Value
    atom: tuple[int, ...] = ()

    def result(self) -> TileType:
        a, b, c = self.a.tile, self.b.tile, self.c.tile
        if not a.rank == b.rank == c.rank == 2:
            raise TilecError(f"dot takes tiles of rank 2: a is {a}, b is {b}, the accumulator is {c}")
        (m, k), (k2, n) = a.shape, b.shape
        if k != k2:
            raise TilecError(f"dot needs a's columns to match b's rows: a is {m}x{k}, b is {k2}x{n}")
        if c.shape != (m, n):
            raise TilecError(f"dot of {m}x{k} and {k2}x{n} needs an accumulator of {m}x{n}, not {c}")
        self._check_dtypes(a, b, c)
        return c

    def _check_dtypes(self, a: TileType, b: TileType, c: TileType) -> None:
        kinds = [kind_of(t.dtype) for t in (a, b, c)]
        demand_kind("dot", a.dtype, ("int", "float"))
        if len(set(kinds)) != 1:
            raise TilecError(
                "dot multiplies floats with floats or integers with integers: "
                f"a is {a}, b is {b}, the accumulator is {c}; cast one with .to(...)"
            )
        if kinds[0] == "float" and a.dtype != b.dtype:
            raise TilecError(f"dot takes operands of one dtype: a is {a}, b is {b}; cast one with .to(...)")
        if c.dtype.bits < max(16, a.dtype.bits, b.dtype.bits) or (kinds[0] == "int" and c.dtype.bits < 32):
            raise TilecError(f"dot accumulates in f32, i32 or wider, not in {c.dtype.name}")

    def meaning(self, state: State, a: Array, b: Array, c: Array) -> Array:
        dtype = self.c.tile.dtype
        if dtype.is_integer:
            with np.errstate(all="ignore"):
                return wrap(a.astype(np.int64) @ b.astype(np.int64) + c.astype(np.int64), dtype)
        with np.errstate(all="ignore"):
            return codec.round_to(a.astype(np.float64) @ b.astype(np.float64) + c.astype(np.float64), dtype)
