"""Integer instructions: modulo 2^bits, division towards minus infinity, shifts of any amount.

    floor_div(w, i4, "%a", "%b")      -8 // -1 == -8 (wraps), 5 // 0 == 0

Types of fewer than 8 bits are computed in an i8, and then extended again from their own width.
"""

from __future__ import annotations

from collections.abc import Callable

from tilec.backends.convert import wrapped
from tilec.backends.writer import Writer
from tilec.ir.dtype import DType


def arithmetic(name: str) -> Callable[[Writer, DType, str, str], str]:
    """add, sub, mul, and, or, xor: LLVM's own, wrapped."""

    def emit(w: Writer, dtype: DType, a: str, b: str) -> str:
        return wrapped(w, w.op(name, w.held(dtype), a, b), dtype)

    return emit


def bitwise(name: str) -> Callable[[Writer, DType, str, str], str]:
    """and, or, xor keep extended registers extended."""

    def emit(w: Writer, dtype: DType, a: str, b: str) -> str:
        return w.op(name, w.held(dtype), a, b)

    return emit


def floor_div(w: Writer, dtype: DType, a: str, b: str) -> str:
    """Rounded down; x // 0 is 0, the least integer over -1 stays itself."""
    return _divided(w, dtype, a, b)[0]


def mod(w: Writer, dtype: DType, a: str, b: str) -> str:
    """a - a // b * b, with the sign of b; x % 0 is 0."""
    return _divided(w, dtype, a, b)[1]


def _divided(w: Writer, dtype: DType, a: str, b: str) -> tuple[str, str]:
    element, zero = w.held(dtype), w.integer(0, w.held(dtype))
    by_zero = w.compare("eq", element, b, zero)
    divisor = w.select(by_zero, element, w.integer(1, element), b)
    if not dtype.is_signed:
        quotient, rest = w.op("udiv", element, a, divisor), w.op("urem", element, a, divisor)
        return w.select(by_zero, element, zero, quotient), w.select(by_zero, element, zero, rest)
    by_minus = w.compare("eq", element, divisor, w.integer(-1, element))  # might overflow: a negation instead
    divisor = w.select(by_minus, element, w.integer(1, element), divisor)
    quotient, rest = _floored(w, element, a, divisor)
    quotient = w.select(by_minus, element, wrapped(w, w.op("sub", element, zero, a), dtype), quotient)
    return w.select(by_zero, element, zero, quotient), rest  # a % 1 is 0, which is also a % -1 and a % 0


def _floored(w: Writer, element: str, a: str, divisor: str) -> tuple[str, str]:
    """Signed quotient and rest, one lower and one divisor higher where truncation went up."""
    quotient = w.op("sdiv", element, a, divisor)
    rest = w.op("sub", element, a, w.op("mul", element, quotient, divisor))
    zero = w.integer(0, element)
    opposite = w.compare("slt", element, w.op("xor", element, rest, divisor), zero)
    down = w.op("and", "i1", opposite, w.compare("ne", element, rest, zero))
    lower = w.op("add", element, quotient, w.convert("sext", "i1", down, element))
    return lower, w.op("add", element, rest, w.select(down, element, divisor, zero))


def shl(w: Writer, dtype: DType, a: str, b: str) -> str:
    """a << b; 0 for amounts of the width or more (a negative one counts as huge)."""
    element = w.held(dtype)
    last = w.integer(int(element[1:]) - 1, element)
    far = w.compare("ugt", element, b, last)
    # Not `b` itself where it is far: LLVM's NVPTX would leave the select to shl.b64, which sees 32 bits of b.
    moved = w.op("shl", element, a, w.call("llvm.umin", element, b, last))
    return wrapped(w, w.select(far, element, w.integer(0, element), moved), dtype)


def shr(w: Writer, dtype: DType, a: str, b: str) -> str:
    """a >> b; a far shift leaves the sign, or 0."""
    element = w.held(dtype)
    last = w.integer(int(element[1:]) - 1, element)
    amount = w.call("llvm.umin", element, b, last)
    if dtype.is_signed:
        return w.op("ashr", element, a, amount)
    far = w.compare("ugt", element, b, last)
    return w.select(far, element, w.integer(0, element), w.op("lshr", element, a, amount))


def extreme(name: str) -> Callable[[Writer, DType, str, str], str]:
    """min or max."""

    def emit(w: Writer, dtype: DType, a: str, b: str) -> str:
        return w.call(f"llvm.{'s' if dtype.is_signed else 'u'}{name}", w.held(dtype), a, b)

    return emit


def neg(w: Writer, dtype: DType, x: str) -> str:
    return wrapped(w, w.op("sub", w.held(dtype), w.integer(0, w.held(dtype)), x), dtype)


def absolute(w: Writer, dtype: DType, x: str) -> str:
    """The smallest integer stays itself."""
    if not dtype.is_signed:
        return x
    negative = w.compare("slt", w.held(dtype), x, w.integer(0, w.held(dtype)))
    return w.select(negative, w.held(dtype), neg(w, dtype, x), x)


def invert(w: Writer, dtype: DType, x: str) -> str:
    return wrapped(w, w.op("xor", w.held(dtype), x, w.integer(-1, w.held(dtype))), dtype)


def comparison(w: Writer, how: str, dtype: DType, a: str, b: str) -> str:
    """eq, ne, lt, ...: bool compares as unsigned too."""
    if how in ("eq", "ne"):
        return w.compare(how, w.held(dtype), a, b)
    return w.compare(("s" if dtype.is_signed else "u") + how, w.held(dtype), a, b)
