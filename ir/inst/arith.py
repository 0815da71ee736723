"""Elementwise instructions: one result element from the same element of each operand.

Operands have one shape, one layout, one dtype (the exceptions say so); broadcasting and promotion are
instructions of their own. Integers wrap, floats are rounded once.
    Add(x, y): i4 7 + 1 == -8
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Inst, Value, mnemonic
from tilec.ir.inst.rules import Array, demand_kind, extreme, same_type, shift_amount, wrap
from tilec.ir.layout import Layout
from tilec.ir.run import State
from tilec.ir.tile import TileType


@dataclass(frozen=True, eq=False)
class _Unary(Inst):
    x: Value
    kinds: ClassVar[tuple[str, ...]] = ("int", "float")

    def result(self) -> TileType:
        demand_kind(mnemonic(type(self)), self.x.tile.dtype, self.kinds)
        return self.x.tile


@dataclass(frozen=True, eq=False)
class _Binary(Inst):
    a: Value
    b: Value
    kinds: ClassVar[tuple[str, ...]] = ("int", "float")

    def result(self) -> TileType:
        demand_kind(mnemonic(type(self)), self.a.tile.dtype, self.kinds)
        return same_type(mnemonic(type(self)), self.a, self.b)


def _numeric(name: str, exact: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    """The meaning of + - *: modulo 2**bits on integers, rounded once on floats."""

    def meaning(self: Inst, state: State, a: Array, b: Array) -> Array:
        dtype = self.operands[0].tile.dtype
        if not dtype.is_integer:
            return codec.binary(name, a, b, dtype)
        with np.errstate(all="ignore"):
            wide = np.uint64 if dtype.bits == 64 and not dtype.is_signed else np.int64
            return wrap(exact(a.astype(wide), b.astype(wide)), dtype)

    return meaning


class Add(_Binary):
    """a + b"""

    meaning = _numeric("add", np.add)


class Sub(_Binary):
    """a - b"""

    meaning = _numeric("sub", np.subtract)


class Mul(_Binary):
    """a * b"""

    meaning = _numeric("mul", np.multiply)


class Div(_Binary):
    """a / b, correctly rounded; floats only."""

    kinds = ("float",)

    def meaning(self, state: State, a: Array, b: Array) -> Array:
        return codec.binary("div", a, b, self.a.tile.dtype)


class FloorDiv(_Binary):
    """a // b towards minus infinity; integers only; x // 0 is 0."""

    kinds = ("int",)

    def meaning(self, state: State, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return wrap(np.floor_divide(a, b), self.a.tile.dtype)


class Mod(_Binary):
    """a % b with the sign of b; integers only; x % 0 is 0."""

    kinds = ("int",)

    def meaning(self, state: State, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return wrap(np.remainder(a, b), self.a.tile.dtype)


class Minimum(_Binary):
    """The smaller; NaN if either is NaN; -0 < +0."""

    def meaning(self, state: State, a: Array, b: Array) -> Array:
        return extreme(a, b, np.minimum, np.logical_or)


class Maximum(_Binary):
    """The larger; NaN if either is NaN; -0 < +0."""

    def meaning(self, state: State, a: Array, b: Array) -> Array:
        return extreme(a, b, np.maximum, np.logical_and)


class And(_Binary):
    """a & b, bit by bit; logical on bool."""

    kinds = ("int", "bool")

    def meaning(self, state: State, a: Array, b: Array) -> Array:
        return a & b


class Or(_Binary):
    """a | b, bit by bit; logical on bool."""

    kinds = ("int", "bool")

    def meaning(self, state: State, a: Array, b: Array) -> Array:
        return a | b


class Xor(_Binary):
    """a ^ b, bit by bit; logical on bool."""

    kinds = ("int", "bool")

    def meaning(self, state: State, a: Array, b: Array) -> Array:
        return a ^ b


class Shl(_Binary):
    """a << b; 0 where b is the width or more."""

    kinds = ("int",)

    def meaning(self, state: State, a: Array, b: Array) -> Array:
        far, by = shift_amount(b, self.a.tile.dtype)
        moved = a.astype(np.uint64) << by.astype(np.uint64)
        return np.where(far, 0, wrap(moved, self.a.tile.dtype)).astype(a.dtype)


class Shr(_Binary):
    """a >> b, arithmetic on signed; 0 or the sign where b is the width or more."""

    kinds = ("int",)

    def meaning(self, state: State, a: Array, b: Array) -> Array:
        far, by = shift_amount(b, self.a.tile.dtype)
        moved = (a >> by.astype(a.dtype)).astype(a.dtype)
        return np.asarray(np.where(far, np.negative((a < 0).astype(a.dtype)), moved))


class Neg(_Unary):
    """-x; integers wrap, floats flip the sign bit; a scale has none and becomes its least value."""

    def meaning(self, state: State, x: Array) -> Array:
        dtype = self.x.tile.dtype
        if dtype.is_integer:
            return wrap(0 - x.astype(np.int64), dtype)
        return np.negative(x) if dtype.is_signed else codec.round_to(-x, dtype)


class Abs(_Unary):
    """|x|; the smallest integer stays itself, floats clear the sign bit."""

    def meaning(self, state: State, x: Array) -> Array:
        dtype = self.x.tile.dtype
        if not dtype.is_integer:
            return np.abs(x)
        return wrap(np.where(x < 0, 0 - x.astype(np.int64), x), dtype) if dtype.is_signed else x


class Not(_Unary):
    """~x, bit by bit; logical on bool."""

    kinds = ("int", "bool")

    def meaning(self, state: State, x: Array) -> Array:
        return ~x if x.dtype == np.bool_ else wrap(~x.astype(np.int64), self.x.tile.dtype)


class Sqrt(_Unary):
    """The square root, correctly rounded; NaN below zero."""

    kinds = ("float",)

    def meaning(self, state: State, x: Array) -> Array:
        return codec.sqrt(x, self.x.tile.dtype)


class Floor(_Unary):
    """The largest integer not above x."""

    kinds = ("float",)

    def meaning(self, state: State, x: Array) -> Array:
        with np.errstate(all="ignore"):
            return codec.round_to(np.floor(x), self.x.tile.dtype)


class Round(_Unary):
    """The nearest integer, ties to even."""

    kinds = ("float",)

    def meaning(self, state: State, x: Array) -> Array:
        with np.errstate(all="ignore"):
            return codec.round_to(np.rint(x), self.x.tile.dtype)


@dataclass(frozen=True, eq=False)
class Fma(Inst):
    """a * b + c rounded once; floats only."""

    a: Value
    b: Value
    c: Value

    def result(self) -> TileType:
        demand_kind("fma", self.a.tile.dtype, ("float",))
        return same_type("fma", self.a, self.b, self.c)

    def meaning(self, state: State, a: Array, b: Array, c: Array) -> Array:
        return codec.fma(a, b, c, self.a.tile.dtype)


COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less,
    "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Compare(Inst):
    """a <op> b as bool; every comparison with NaN is false, but for ne."""

    op: str
    a: Value
    b: Value

    def result(self) -> TileType:
        assert self.op in COMPARISONS, f"no comparison {self.op}"
        operand = same_type(self.op, self.a, self.b)
        return TileType(dt.bool, operand.shape, operand.layout)

    def meaning(self, state: State, a: Array, b: Array) -> Array:
        return np.asarray(COMPARISONS[self.op](a, b))


@dataclass(frozen=True, eq=False)
class Where(Inst):
    """a where the condition holds, else b."""

    condition: Value
    a: Value
    b: Value

    def result(self) -> TileType:
        chosen = same_type("where", self.a, self.b)
        condition = self.condition.tile
        if not condition.dtype.is_bool:
            raise TilecError(f"where takes a bool condition, not {condition}; compare with something")
        if (condition.shape, condition.layout) != (chosen.shape, chosen.layout):
            raise TilecError(f"where takes one shape: the condition is {condition}, the choices are {chosen}")
        return chosen

    def meaning(self, state: State, condition: Array, a: Array, b: Array) -> Array:
        return np.where(condition, a, b)


@dataclass(frozen=True, eq=False)
class Cast(Inst):
    """x in another dtype: DESIGN's rules of rounding and saturation."""

    x: Value
    dtype: DType

    def result(self) -> TileType:
        return TileType(self.dtype, self.x.tile.shape, self.x.tile.layout)

    def meaning(self, state: State, x: Array) -> Array:
        return codec.cast(x, self.x.tile.dtype, self.dtype)


@dataclass(frozen=True, eq=False)
class Bitcast(Inst):
    """The same bits read as another dtype of the same width."""

    x: Value
    dtype: DType

    def result(self) -> TileType:
        x = self.x.tile
        if x.dtype.bits != self.dtype.bits:
            raise TilecError(f"bitcast keeps the width: {x.dtype.name} has {x.dtype.bits} bits, "
                             f"{self.dtype.name} has {self.dtype.bits}")  # fmt: skip
        return TileType(self.dtype, x.shape, x.layout)

    def meaning(self, state: State, x: Array) -> Array:
        return codec.decode(codec.encode(x, self.x.tile.dtype), self.dtype)


@dataclass(frozen=True, eq=False)
class Full(Inst):
    """A tile of one constant."""

    value: int | float | bool
    dtype: DType
    shape: tuple[int, ...] = ()
    layout: Layout | None = None

    def result(self) -> TileType:
        return TileType(self.dtype, self.shape, self.layout)

    def meaning(self, state: State) -> Array:
        return np.full(self.shape, codec.round_to(self.value, self.dtype), self.dtype.reference)


@dataclass(frozen=True, eq=False)
class Iota(Inst):
    """0, 1, 2, ... along one axis, as casts from i32 give them, the same along the others."""

    shape: tuple[int, ...]
    axis: int
    dtype: DType
    layout: Layout | None = None

    def result(self) -> TileType:
        return TileType(self.dtype, self.shape, self.layout)

    def meaning(self, state: State) -> Array:
        counts = codec.cast(np.arange(self.shape[self.axis], dtype=np.int32), dt.i32, self.dtype)
        along = [-1 if axis == self.axis else 1 for axis in range(len(self.shape))]
        return np.broadcast_to(counts.reshape(along), self.shape).copy()


@dataclass(frozen=True, eq=False)
class Table(Inst):
    """A tile of given elements: their codes in row-major order, little-endian, as hexadecimal text."""

    codes: str
    dtype: DType
    shape: tuple[int, ...]
    layout: Layout | None = None

    def result(self) -> TileType:
        return TileType(self.dtype, self.shape, self.layout)

    def meaning(self, state: State) -> Array:
        return codec.decode(self.elements(), self.dtype)

    def elements(self) -> Array:
        """The codes, as `dtype.code`."""
        kind = self.dtype.code.newbyteorder("<")
        return np.frombuffer(bytes.fromhex(self.codes), kind).reshape(self.shape).astype(self.dtype.code)

    @classmethod
    def of(cls, values: Array, dtype: DType) -> Table:
        """The tile of these values, as `dtype.reference`."""
        codes = codec.encode(values, dtype).astype(dtype.code.newbyteorder("<"))
        return cls(codes.tobytes().hex(), dtype, values.shape)


@dataclass(frozen=True, eq=False)
class Math(Inst):
    """exp, sin, erf ...: a program of the instructions above (tilec.ir.elementary), the same bits everywhere;
    `approx` takes the target's own instruction where it has one, within the function's stated bound.
    """

    function: str
    x: Value
    approx: bool = False

    def result(self) -> TileType:
        demand_kind(self.function, self.x.tile.dtype, ("float",))
        return self.x.tile

    def meaning(self, state: State, x: Array) -> Array:
        from tilec.ir.elementary import evaluate

        return evaluate(self.function, x, self.x.tile.dtype)
