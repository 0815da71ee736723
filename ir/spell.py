"""Elementwise instructions spelled as calls, with numbers among the operands.

A number becomes a constant of the tile that stands beside it: its dtype, shape and layout.
    fma(x, 2.0, 1.0)        Fma(x, Full(2.0, f32, (64,)), Full(1.0, f32, (64,)))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tilec.ir.dtype import DType
from tilec.ir.func import Value
from tilec.ir.inst import arith
from tilec.ir.tile import TileType

Operand = Value | int | float


def full(value: float, like: Value, dtype: DType | None = None) -> Value:
    """A constant of the shape and layout of `like`, rounded to the dtype."""
    tile = like.tile
    dtype = dtype or tile.dtype
    exact = dtype.reference.type(value).item()
    return arith.Full(exact, dtype, tile.shape, tile.layout)


def _spelled(kind: Callable[..., Value]) -> Callable[..., Value]:
    def write(*operands: Operand) -> Value:
        like = next(v for v in operands if isinstance(v, Value))
        return kind(*(v if isinstance(v, Value) else full(v, like) for v in operands))

    return write


add, sub, mul, div = map(_spelled, (arith.Add, arith.Sub, arith.Mul, arith.Div))
fma, minimum, maximum = map(_spelled, (arith.Fma, arith.Minimum, arith.Maximum))
bit_and, bit_or, bit_xor = map(_spelled, (arith.And, arith.Or, arith.Xor))
shl, shr = _spelled(arith.Shl), _spelled(arith.Shr)


def compare(op: str, a: Operand, b: Operand) -> Value:
    """a <op> b, as bool."""
    return _spelled(lambda x, y: arith.Compare(op, x, y))(a, b)


def where(condition: Value, a: Operand, b: Operand) -> Value:
    """a where the condition holds, else b; one of them is a tile."""
    return _spelled(lambda x, y: arith.Where(condition, x, y))(a, b)


def horner(x: Value, coefficients: Iterable[float]) -> Value:
    """c0 + c1*x + c2*x^2 + ..., by fma from the highest power down."""
    *low, second, highest = coefficients
    total = fma(x, highest, second)
    for c in reversed(low):
        total = fma(total, x, c)
    return total


def cast(x: Value, dtype: DType) -> Value:
    """x in another dtype; x itself if it has that dtype."""
    return x if x.tile.dtype == dtype else arith.Cast(x, dtype)


def bits_of(x: Value) -> Value:
    """A float's bits as a signed integer."""
    return arith.Bitcast(x, _integer(x.tile))


def float_of(bits: Value, dtype: DType) -> Value:
    """Bits read as a float."""
    return arith.Bitcast(bits, dtype)


def with_sign_of(x: Value, magnitude: Value) -> Value:
    """A number that is never negative, with the sign bit of x."""
    dtype = x.tile.dtype
    sign = bit_and(bits_of(x), -(1 << (dtype.bits - 1)))
    return float_of(bit_or(bits_of(magnitude), sign), dtype)


def _integer(tile: TileType) -> DType:
    from tilec.ir.dtype import dtype

    return dtype(f"i{tile.dtype.bits}")
