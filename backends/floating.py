"""Float instructions: computed exactly, rounded once.

    arithmetic("fadd")(w, bf16, "%a", "%b")

f32 and f64 are the machine's own, f16 too where it has it. Everything narrower is computed in f32 and rounded
from there, which changes nothing: of p bits, +, -, *, / and sqrt may be rounded first to 2p + 2 or more
(Figueroa, 1995), and where a result is subnormal in the narrow type, f32 holds its sums and products exactly.
Two cases are taken apart. tf32 shares f32's exponents, so that a tiny product of 22 bits would lose its end:
* and / are done in f64. And a fused multiply-add adds a product that may itself be a tie: the product is
exact in the wider type, the sum is rounded to odd there (Boldo and Melquiond, 2008).
"""

from __future__ import annotations

from collections.abc import Callable

from tilec.backends.convert import encoded, narrowed, odd_float, odd_sum, widened
from tilec.backends.writer import Writer, held, is_code
from tilec.ir.dtype import DType

Binary = Callable[[Writer, DType, str, str], str]
OURS = ("fadd", "fsub", "fmul")  # what a GPU does in f16 and bf16 themselves


def native(w: Writer, dtype: DType, name: str) -> bool:
    """Does the machine do this, rounded once, in the type itself?"""
    if held(dtype) == "half":
        return w.native_half and (w.arch != "ptx" or name in OURS)
    if held(dtype) == "bfloat":
        return w.arch == "ptx" and name in OURS
    return dtype.is_float and dtype.mantissa >= 23


def arithmetic(name: str) -> Binary:
    """fadd, fsub, fmul, fdiv."""

    def emit(w: Writer, dtype: DType, a: str, b: str) -> str:
        if native(w, dtype, name):
            return w.op(name, w.held(dtype), a, b)
        if held(dtype) == "float" and name in ("fmul", "fdiv"):
            wide = [w.convert("fpext", "float", x, "double") for x in (a, b)]
            return narrowed(w, odd_float(w, w.op(name, "double", *wide)), dtype)
        (left, element), (right, _) = widened(w, a, dtype), widened(w, b, dtype)
        return narrowed(w, w.op(name, element, left, right), dtype)

    return emit


def unary(name: str) -> Callable[[Writer, DType, str], str]:
    """llvm.sqrt, llvm.floor, llvm.roundeven: correctly rounded by the machine in f32 and f64."""

    def emit(w: Writer, dtype: DType, x: str) -> str:
        if dtype.mantissa >= 23:
            return w.call(name, w.held(dtype), x)
        value, element = widened(w, x, dtype)
        return narrowed(w, w.call(name, element, value), dtype)

    return emit


def fma(w: Writer, dtype: DType, a: str, b: str, c: str) -> str:
    """a * b + c, rounded once."""
    if dtype.mantissa >= 23 or native(w, dtype, "fmul"):
        return w.call("llvm.fma", w.held(dtype), a, b, c)
    wide = [widened(w, x, dtype)[0] for x in (a, b, c)]
    if dtype.bits > 8 and dtype.exponent >= 8:  # products of bf16 and tf32 leave f32's range
        wide = [w.convert("fpext", "float", x, "double") for x in wide]
        return narrowed(w, odd_float(w, _odd_fma(w, "double", *wide)), dtype)
    return narrowed(w, _odd_fma(w, "float", *wide), dtype)


def _odd_fma(w: Writer, element: str, a: str, b: str, c: str) -> str:
    """The product, exact in this type, plus c, rounded to odd."""
    return odd_sum(w, w.op("fmul", element, a, b), c, element)


def extreme(name: str) -> Binary:
    """llvm.minimum or llvm.maximum: NaN if either is NaN, -0 < +0."""

    def emit(w: Writer, dtype: DType, a: str, b: str) -> str:
        if is_code(dtype):
            return _extreme_code(w, dtype, a, b, name)
        if w.arch == "ptx" or dtype.mantissa >= 23:
            return w.call(name, w.held(dtype), a, b)
        (left, element), (right, _) = widened(w, a, dtype), widened(w, b, dtype)
        return narrowed(w, w.call(name, element, left, right), dtype)

    return emit


def _extreme_code(w: Writer, dtype: DType, a: str, b: str, name: str) -> str:
    """Codes order as their keys: the code itself, or, with the sign set, the complement of the rest."""
    less = w.compare("slt" if dtype.is_signed else "ult", "i8", _key(w, dtype, a), _key(w, dtype, b))
    first = less if name == "llvm.minimum" else w.op("xor", "i1", less, w.integer(1, "i1"))
    if dtype.has_nan:
        first = w.op("or", "i1", first, _is_nan(w, dtype, a))
        first = w.select(_is_nan(w, dtype, b), "i1", w.splat("false", "i1"), first)
    return w.select(first, "i8", a, b)


def _key(w: Writer, dtype: DType, code: str) -> str:
    """A signed i8 that orders as the numbers do: +0 is 0, -0 is -1. Unsigned types order as they are."""
    if not dtype.is_signed:
        return code
    up = w.integer(8 - dtype.bits, "i8")
    placed = w.op("shl", "i8", code, up) if dtype.bits < 8 else code
    negative = w.compare("slt", "i8", placed, w.integer(0, "i8"))
    return w.select(negative, "i8", w.op("xor", "i8", placed, w.integer(0x7F, "i8")), placed)


def _is_nan(w: Writer, dtype: DType, code: str) -> str:
    size = w.op("and", "i8", code, w.integer(dtype.code_mask & ~dtype.sign_code, "i8"))
    return w.compare("ugt", "i8", size, w.integer(dtype.max_code + dtype.has_infinity, "i8"))


def neg(w: Writer, dtype: DType, x: str) -> str:
    """The sign bit flipped. A scale has none: its least value, or NaN."""
    if held(dtype) in ("float", "double"):
        return w.op("fneg", w.held(dtype), x)
    if not dtype.is_signed:
        return encoded(w, w.op("fneg", "float", widened(w, x, dtype)[0]), dtype)
    return _on_bits(w, dtype, x, "xor", dtype.sign_code)


def absolute(w: Writer, dtype: DType, x: str) -> str:
    """The sign bit cleared."""
    if held(dtype) in ("float", "double"):
        return w.call("llvm.fabs", w.held(dtype), x)
    return _on_bits(w, dtype, x, "and", dtype.code_mask & ~dtype.sign_code)


def _on_bits(w: Writer, dtype: DType, x: str, name: str, mask: int) -> str:
    word = f"i{max(8, dtype.bits)}"
    bits = w.convert("bitcast", w.held(dtype), x, word)
    return w.convert("bitcast", word, w.op(name, word, bits, w.integer(mask, word)), w.held(dtype))


def comparison(w: Writer, how: str, dtype: DType, a: str, b: str) -> str:
    """Ordered, so false with NaN; ne is true with NaN."""
    (left, element), (right, _) = widened(w, a, dtype), widened(w, b, dtype)
    return w.compare("une" if how == "ne" else f"o{how}", element, left, right)
