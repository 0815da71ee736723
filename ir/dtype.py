"""Types of elements, each described by numbers.

    f6e3m2 = DType("f6e3m2", "float", bits=6, exponent=3, mantissa=2)
has values  (-1)^s * 2^(e - bias) * (1 + m/4)  and, where e = 0,  (-1)^s * 2^(1 - bias) * m/4;  bias = 3.

A code is the unsigned integer of `bits` bits that stands for a value. From its highest bit down: sign,
exponent, mantissa, unused bits (only tf32 has any: its code is the float32's). Every type is an attribute of
this module (`dtype.u4`); `ALL` lists them; `dtype(x)` finds one by our name, a framework's, or numpy dtype.
"""

import difflib
import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np

from tilec.ir.errors import TilecError

# A scale is a float of exponent alone: no sign, no zero, every code but NaN's a power of two.
Kind = Literal["int", "uint", "float", "scale", "bool"]

IN_NUMPY = {(5, 10): "float16", (8, 23): "float32", (11, 52): "float64"}  # by (exponent, mantissa)


@dataclass(frozen=True, repr=False)
class DType:
    """An element type. Integers are two's complement; bool takes a byte, 0 or 1. Floats have subnormals, and
    every code is a number but for infinity (top exponent, mantissa 0) and NaN (all codes above infinity's;
    in a type without infinities the top code).
    """

    name: str
    kind: Kind
    bits: int
    exponent: int = 0
    mantissa: int = 0
    has_nan: bool = False
    has_infinity: bool = False
    aliases: tuple[str, ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        return self.name

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def is_float(self) -> bool:
        return self.kind in ("float", "scale")

    @property
    def is_bool(self) -> bool:
        return self.kind == "bool"

    @property
    def is_signed(self) -> bool:
        return self.kind in ("int", "float")

    @property
    def bytes(self) -> int:
        """Bytes of one element in memory; for whole bytes only."""
        assert self.bits % 8 == 0, f"{self} has no size in bytes: it is packed, count its bits"
        return self.bits // 8

    # What a float is made of.

    @property
    def all_numbers(self) -> "DType":
        """How codes none of which is special are read: f8e4m3all for f8e4m3; most types are that already."""
        return _NAMES.get(f"{self.name}all", self)

    @property
    def has_subnormals(self) -> bool:
        """Is exponent field 0 read without the leading one? That is also where zero comes from."""
        return self.kind == "float"

    @property
    def bias(self) -> int:
        return (1 << self.exponent - 1) - 1 if self.is_float else 0

    @property
    def unused(self) -> int:
        """Low bits of a code that mean nothing: 13 for tf32, which lives in a float32's place."""
        return self.bits - self.is_signed - self.exponent - self.mantissa if self.is_float else 0

    @property
    def saturates(self) -> bool:
        """Do casts from a float end at max, infinities included? Else they overflow to infinity."""
        return not self.is_float or self.bits <= 8

    # Codes that mean something special; those of floats are without sign.

    @property
    def code_mask(self) -> int:
        return (1 << self.bits) - 1

    @property
    def sign_code(self) -> int:
        """The sign bit alone; 0 for types without."""
        return 1 << self.bits - 1 if self.is_signed else 0

    @property
    def infinity_code(self) -> int:
        assert self.has_infinity, f"{self} has no infinity"
        return ((1 << self.exponent) - 1) << self.mantissa + self.unused

    @property
    def nan_code(self) -> int:
        """The quiet NaN; where there is no infinity, the only one."""
        assert self.has_nan, f"{self} has no NaN"
        if self.has_infinity:
            return self.infinity_code | 1 << self.mantissa + self.unused - 1
        return ((1 << self.exponent + self.mantissa) - 1) << self.unused

    @property
    def max_code(self) -> int:
        """The code of `max`."""
        if self.is_bool:
            return 1
        if not self.is_float:
            return self.code_mask >> self.is_signed
        if self.has_infinity:
            return self.infinity_code - (1 << self.unused)
        return ((1 << self.exponent + self.mantissa) - 1 - self.has_nan) << self.unused

    # Values.

    @property
    def max(self) -> int | float:
        """The largest finite value."""
        if not self.is_float:
            return self.max_code
        magnitude = self.max_code >> self.unused
        fraction = magnitude & (1 << self.mantissa) - 1
        return math.ldexp(1 + fraction / 2**self.mantissa, (magnitude >> self.mantissa) - self.bias)

    @property
    def min(self) -> int | float:
        """The least finite value: of a scale, the smallest power of two."""
        if self.is_float:
            return -self.max if self.is_signed else self.smallest_normal
        return -(1 << self.bits - 1) if self.is_signed else 0

    @property
    def smallest_normal(self) -> float:
        assert self.is_float, f"{self} is not a float"
        return math.ldexp(1.0, self.has_subnormals - self.bias)

    @property
    def smallest_subnormal(self) -> float:
        """The smallest positive value; without mantissa bits that is the smallest normal one."""
        return math.ldexp(self.smallest_normal, -self.mantissa)

    # In numpy.

    @property
    def code(self) -> "np.dtype[Any]":
        """The unsigned integer that holds one code."""
        return np.dtype(f"uint{_container(self.bits)}")

    @property
    def reference(self) -> "np.dtype[Any]":
        """What the reference runner holds values in: exact for every value of the type."""
        if self.is_bool:
            return np.dtype(np.bool_)
        if self.is_integer:
            return np.dtype(f"{self.kind}{_container(self.bits)}")
        return np.dtype(IN_NUMPY.get((self.exponent, self.mantissa), "float32"))

    @property
    def storage(self) -> "np.dtype[Any]":
        """What an unpacked array of the type is in numpy: values if numpy has the type, else codes."""
        fits = self.reference.itemsize * 8 == self.bits
        return self.reference if fits or not self.is_float else self.code


def _container(bits: int) -> int:
    """The least width of a numpy integer that has room for `bits`."""
    return next(width for width in (8, 16, 32, 64) if width >= bits)


def _integer(kind: Literal["int", "uint"], bits: int) -> DType:
    return DType(f"{kind[0]}{bits}", kind, bits, aliases=(f"{kind}{bits}",))


def _small_float(bits: int, exponent: int) -> DType:
    """Every code a number, save in the two 8-bit types that hardware has."""
    mantissa = bits - 1 - exponent
    size = (bits, exponent)
    return DType(
        f"f{bits}e{exponent}m{mantissa}", "float", bits, exponent, mantissa,
        has_nan=size in ((8, 4), (8, 5)), has_infinity=size == (8, 5), aliases=_FRAMEWORK_NAMES.get(size, ()),
    )  # fmt: skip


def _all_numbers(bits: int, exponent: int) -> DType:
    """Codes of a type with special values, where none is: all of them are numbers then."""
    plain = _small_float(bits, exponent)
    return DType(f"{plain.name}all", "float", bits, exponent, plain.mantissa)


def _wide_float(name: str, bits: int, exponent: int, mantissa: int, *aliases: str) -> DType:
    return DType(name, "float", bits, exponent, mantissa, has_nan=True, has_infinity=True, aliases=aliases)


_FRAMEWORK_NAMES = {
    (4, 2): ("float4_e2m1fn",), (6, 2): ("float6_e2m3fn",), (6, 3): ("float6_e3m2fn",),
    (8, 4): ("float8_e4m3fn",), (8, 5): ("float8_e5m2",),
}  # fmt: skip

ALL: tuple[DType, ...] = (
    DType("bool", "bool", 8, aliases=("bool_",)),
    *(_integer("int", bits) for bits in (*range(1, 9), 16, 32, 64)),
    *(_integer("uint", bits) for bits in (*range(1, 9), 16, 32, 64)),
    *(_small_float(bits, exponent) for bits in range(3, 9) for exponent in range(1, bits)),
    _all_numbers(8, 4),
    _all_numbers(8, 5),
    DType("e8m0", "scale", 8, 8, 0, has_nan=True, aliases=("f8e8m0", "float8_e8m0fnu")),
    _wide_float("f16", 16, 5, 10, "float16", "half"),
    _wide_float("bf16", 16, 8, 7, "bfloat16"),
    _wide_float("tf32", 32, 8, 10, "tensorfloat32"),
    _wide_float("f32", 32, 8, 23, "float32"),
    _wide_float("f64", 64, 11, 52, "float64", "double"),
)
_NAMES = {name: dtype for dtype in ALL for name in (dtype.name, *dtype.aliases)}


def __getattr__(name: str) -> DType:
    """Each type as an attribute. Not an assignment: `bool` would hide Python's own in this file."""
    if name in _OWN_NAMES:
        return _NAMES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_OWN_NAMES = frozenset(dtype.name for dtype in ALL)


def dtype(x: object) -> DType:
    """The type that `x` is or names.

    `x` is a DType, our name or a framework's ("u4", "float8_e4m3fn"), or a numpy, ml_dtypes or torch dtype.
    Raises TilecError, with the nearest names, for anything else.
    """
    if isinstance(x, DType):
        return x
    name = _name_of(x)
    if name in _NAMES:
        return _NAMES[name]
    near = difflib.get_close_matches(name, list(_NAMES), n=4, cutoff=0.6)
    near = {float: ["f32", "f64"], int: ["i32", "i64"]}.get(x, near) if isinstance(x, type) else near
    hint = f"did you mean {' or '.join(near)}?" if near else "there are " + _overview()
    raise TilecError(f"expected a dtype, found {x!r}: {hint}")


def _name_of(x: object) -> str:
    """`x` as a name; "" if it is nothing that names a width (Python's int and float do not)."""
    if isinstance(x, str):
        return x
    if isinstance(x, type) and x is not bool and x.__module__ not in ("numpy", "ml_dtypes"):
        return ""
    if isinstance(x, type | np.dtype):
        return _numpy_name(x)
    return str(x).removeprefix("torch.") if type(x).__module__ == "torch" else ""


@cache
def _numpy_name(x: Any) -> str:
    try:
        return str(np.dtype(x).name)
    except TypeError:  # numpy.ndarray, numpy.generic: classes of numpy that are no element type
        return ""


def _overview() -> str:
    return "bool, i1 to i64, u1 to u64, f{bits}e{E}m{M} of 3 to 8 bits, e8m0, f16, bf16, tf32, f32, f64"
