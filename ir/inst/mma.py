"""The matrix product, and the same by warpgroups, which work on it while threads go on."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from tilec.ir import codec
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Effects, Inst, Value
from tilec.ir.inst.rules import demand_kind, kind_of, wrap
from tilec.ir.run import Memory, State
from tilec.ir.tile import ArrayType, TileType

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Dot(Inst):
    """a @ b + c over one tile: a (m, k), b (k, n), c (m, n); or as many products as the axis in front of all
    three says. Operands exact in their dtype, summed in c's, any order.

    A pass fills in `atom`: the shape (m, n, k) of the target's matrix instruction, () for FMA; where m or n
    is 64, warpgroups do it, and their rows are those of a or, transposed, the columns of b.
    """

    a: Value
    b: Value
    c: Value
    atom: tuple[int, ...] = ()

    @property
    def factors(self) -> tuple[Value, ...]:
        """What is multiplied."""
        return self.a, self.b

    def result(self) -> TileType:
        a, b, c = self.a.tile, self.b.tile, self.c.tile
        if not a.rank == b.rank == c.rank or a.rank not in (2, 3):
            raise TilecError(
                "dot takes tiles of rank 2, or of 3 for several products: "
                f"a is {a}, b is {b}, the accumulator is {c}"
            )
        (*count, m, k), (*count2, k2, n) = a.shape, b.shape
        if k != k2:
            raise TilecError(f"dot needs a's columns to match b's rows: a is {m}x{k}, b is {k2}x{n}")
        if count != count2:
            raise TilecError(f"dot of several products needs as many of a as of b: a is {a}, b is {b}")
        if c.shape != (*count, m, n):
            wanted = "x".join(map(str, (*count, m, n)))
            raise TilecError(f"dot of {m}x{k} and {k2}x{n} needs an accumulator of {wanted}, not {c}")
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
        return product(a, b, c, self.c.tile.dtype)


def product(a: Array, b: Array, c: Array, dtype: DType) -> Array:
    """a @ b + c, rounded once."""
    if dtype.is_integer:
        with np.errstate(all="ignore"):
            return wrap(a.astype(np.int64) @ b.astype(np.int64) + c.astype(np.int64), dtype)
    with np.errstate(all="ignore"):
        return codec.round_to(a.astype(np.float64) @ b.astype(np.float64) + c.astype(np.float64), dtype)


# -- by warpgroups, while they do something else ------------------------------------------------------

Turned = tuple[bool, bool, bool]  # whether a, b, c are held as their transposes


def matrix(x: Array) -> Array:
    """An array's elements as a matrix: its last axis, and the others as rows."""
    return x.reshape(-1, x.shape[-1])


def matrix_shape(shape: tuple[Any, ...], turned: bool) -> tuple[int, int]:
    """The shape of an operand that is held so, or as its transpose."""
    rows, columns = prod(shape[:-1]), shape[-1]
    return (columns, rows) if turned else (rows, columns)


@dataclass(frozen=True, eq=False)
class GroupProduct(Inst):
    """Starts a @ b + c: the sums are there, and what is read may be overwritten, after GroupWait.

    a (m, k) and b (k, n): shared arrays whose last axis are the columns, or `held`, in registers; of each
    operand, and c, `turned` says whether it is held as its transpose. The sums are held as c is. Where `keep`
    (a scalar) is false, c counts as zeros.
    """

    a: Value
    b: Value
    c: Value
    turned: Turned = (False, False, False)
    keep: Value | None = None
    held: ClassVar[tuple[str, ...]] = ()  # the factors that are in registers

    @property
    def factors(self) -> tuple[Value, ...]:
        """What is multiplied from registers."""
        return tuple(getattr(self, name) for name in self.held)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(m, n, k)"""
        m, k = matrix_shape(_extents(self.a), self.turned[0])
        return m, matrix_shape(_extents(self.b), self.turned[1])[1], k

    def result(self) -> TileType:
        m, n, k = self.shape
        assert matrix_shape(_extents(self.b), self.turned[1]) == (k, n), "a's columns are b's rows"
        assert matrix_shape(self.c.tile.shape, self.turned[2]) == (m, n), "c is the product's shape"
        return self.c.tile

    def _product(self, a: Array, b: Array, c: Array, *keep: Array) -> Array:
        if keep and not bool(keep[0]):
            c = np.zeros_like(c)
        a, b, c = (x.T if t else x for x, t in zip((a, b, c), self.turned, strict=True))
        done = product(a, b, c, self.c.tile.dtype)
        return done.T if self.turned[2] else done


def _extents(v: Value) -> tuple[Any, ...]:
    return v.array_type.shape if isinstance(v.type, ArrayType) else v.tile.shape


@dataclass(frozen=True, eq=False)
class GroupDot(GroupProduct):
    """wgmma with both operands in shared memory."""

    effects: ClassVar[Effects] = Effects(reads=("a", "b"))

    def meaning(self, state: State, a: Memory, b: Memory, *rest: Array) -> Array:
        return self._product(matrix(a.read(...)), matrix(b.read(...)), *rest)


@dataclass(frozen=True, eq=False)
class HeldDot(GroupProduct):
    """wgmma with a in registers."""

    effects: ClassVar[Effects] = Effects(reads=("b",))
    held: ClassVar[tuple[str, ...]] = ("a",)

    def meaning(self, state: State, a: Array, b: Memory, *rest: Array) -> Array:
        return self._product(a, matrix(b.read(...)), *rest)


@dataclass(frozen=True, eq=False)
class GroupWait(Inst):
    """The sums of a product that was started: it is over, but for the last `pending` ones started since."""

    x: Value
    pending: int = 0
    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> TileType:
        return self.x.tile

    def meaning(self, state: State, x: Array) -> Array:
        return x
