"""Elementwise functions of the language: tc.where, tc.maximum, tc.exp and their like.

    y = tc.where(x > 0, x, tc.exp(x) - 1.0)
On numbers known while compiling (numpy arrays, see tilec.known) they are computed then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilec import values
from tilec.arrays import Array
from tilec.ir.errors import TilecError
from tilec.ir.func import Inst
from tilec.ir.inst import arith
from tilec.known import FUNCTIONS, is_known
from tilec.literals import NUMBERS
from tilec.tracing import current
from tilec.values import Operand, Tile, elementwise, emit


def where(condition: Operand, a: Operand, b: Operand) -> Any:
    """a where the bool tile holds, b elsewhere, element by element."""
    return np.where(condition, a, b) if is_known(condition, a, b) else values.where(condition, a, b)


def minimum(a: Operand, b: Operand) -> Any:
    """The smaller, element by element; NaN if either is. On constants a constant."""
    return min(a, b) if _constants(a, b) else _apply("minimum", arith.Minimum, a, b)


def maximum(a: Operand, b: Operand) -> Any:
    """The larger, element by element; NaN if either is. On constants a constant."""
    return max(a, b) if _constants(a, b) else _apply("maximum", arith.Maximum, a, b)


def _apply(name: str, kind: type[Inst], *operands: Operand) -> Any:
    """An instruction, or what it gives where the operands are known now."""
    return FUNCTIONS[name](*operands) if is_known(*operands) else elementwise(kind, *operands)


def _constants(*operands: Any) -> bool:
    return all(isinstance(x, NUMBERS) for x in operands)


def fma(a: Operand, b: Operand, c: Operand) -> Tile:
    """a * b + c, rounded once."""
    return elementwise(arith.Fma, a, b, c)


def sqrt(x: Operand) -> Any:
    """The square root, correctly rounded."""
    return _apply("sqrt", arith.Sqrt, x)


def rsqrt(x: Operand) -> Any:
    """1 / sqrt(x)"""
    return 1.0 / sqrt(x)


def abs(x: Operand) -> Any:  # noqa: A001
    """The magnitude; of the smallest integer itself, as integers wrap."""
    return _apply("abs", arith.Abs, x)


def floor(x: Operand) -> Any:
    """The largest whole number not above x, still a float."""
    return _apply("floor", arith.Floor, x)


def ceil(x: Operand) -> Any:
    """The smallest whole number not below x, still a float."""
    return -floor(-_tile(x, "ceil"))


def round(x: Operand) -> Any:  # noqa: A001
    """The nearest whole number, ties to even, still a float."""
    return _apply("round", arith.Round, x)


def sigmoid(x: Operand) -> Any:
    """1 / (1 + exp(-x))"""
    return 1.0 / (exp(-_tile(x, "sigmoid")) + 1.0)


def exp(x: Operand, *, approx: bool = False) -> Any:
    """e ** x, at most 1 ulp away; `approx`, here and below: the machine's own instruction and its bound."""
    return _math("exp", x, approx)


def exp2(x: Operand, *, approx: bool = False) -> Any:
    """2 ** x, at most 1 ulp away, the same bits everywhere."""
    return _math("exp2", x, approx)


def log(x: Operand, *, approx: bool = False) -> Any:
    """The natural logarithm, at most 1 ulp away."""
    return _math("log", x, approx)


def log2(x: Operand, *, approx: bool = False) -> Any:
    """The logarithm to base 2, exact for powers of two, at most 1 ulp away."""
    return _math("log2", x, approx)


def sin(x: Operand, *, approx: bool = False) -> Any:
    """The sine, at most 2 ulp away for every finite x."""
    return _math("sin", x, approx)


def cos(x: Operand, *, approx: bool = False) -> Any:
    """The cosine, at most 2 ulp away for every finite x."""
    return _math("cos", x, approx)


def tanh(x: Operand, *, approx: bool = False) -> Any:
    """The hyperbolic tangent, at most 2 ulp away."""
    return _math("tanh", x, approx)


def erf(x: Operand, *, approx: bool = False) -> Any:
    """The error function, at most 2 ulp away."""
    return _math("erf", x, approx)


def _math(name: str, x: Operand, approx: bool) -> Any:
    return FUNCTIONS[name](x) if is_known(x) else emit(arith.Math, name, _tile(x, name).value, approx)


def _tile(x: Operand, name: str) -> Any:
    current()
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, Array):
        raise TilecError(f"tc.{name} works on tiles: read one first, {x.name}.load(offsets, shape)")
    if not isinstance(x, Tile):
        raise TilecError(f"tc.{name} works on tiles, found {x!r}: on constants use Python's math.{name}")
    return x
