"""Small float formats: decode codes to values, round values to codes.

A Format is (exponent bits, mantissa bits, bias, what the top codes mean); rounding is done in float64,
whose 53 bits hold every operand exactly.
    encode(np.array([448.0, 1e9]), E4M3, "rn", saturate=True) -> [0x7E, 0x7E]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilec.backends.emulator.ptx_types import Array


@dataclass(frozen=True)
class Format:
    """A float of 1 + exponent + mantissa bits. nan: "ieee" (with infinities), "top" (one code) or "none"."""

    name: str
    exponent: int
    mantissa: int
    nan: str

    @property
    def bias(self) -> int:
        return (1 << (self.exponent - 1)) - 1

    @property
    def least(self) -> int:
        """The exponent of the smallest normal."""
        return 1 - self.bias

    @property
    def largest(self) -> float:
        top = (1 << self.exponent) - (2 if self.nan == "ieee" else 1)
        fraction = (1 << self.mantissa) - (2 if self.nan == "top" else 1)
        return float((1 + fraction / (1 << self.mantissa)) * 2.0 ** (top - self.bias))

    @property
    def nan_code(self) -> int:
        return (1 << (self.exponent + self.mantissa)) - 1


E4M3 = Format("e4m3", 4, 3, "top")
E5M2 = Format("e5m2", 5, 2, "ieee")
E2M3 = Format("e2m3", 2, 3, "none")
E3M2 = Format("e3m2", 3, 2, "none")
E2M1 = Format("e2m1", 2, 1, "none")
F16 = Format("f16", 5, 10, "ieee")
BF16 = Format("bf16", 8, 7, "ieee")
TF32 = Format("tf32", 8, 10, "ieee")
FORMATS = {f.name: f for f in (E4M3, E5M2, E2M3, E3M2, E2M1, F16, BF16, TF32)}


def quantised(x: Array, form: Format, mode: str) -> Array:
    """|x| rounded to the format's grid, not yet limited to its range; mode rn rz rna, or rm/rp by the sign
    of x."""
    _, exponent = np.frexp(np.abs(x))
    quantum = np.ldexp(1.0, np.maximum(exponent - 1, form.least) - form.mantissa)
    scaled = np.abs(x) / quantum
    if mode == "rn":
        steps = np.rint(scaled)
    elif mode == "rna":
        steps = np.floor(scaled + 0.5)
    elif mode == "rz":
        steps = np.floor(scaled)
    else:
        up = (x > 0) == (mode == "rp")
        steps = np.where(up, np.ceil(scaled), np.floor(scaled))
    return steps * quantum


def overflowed(x: Array, size: Array, form: Format, mode: str) -> Array:
    """What |x| rounded beyond the largest becomes without saturation: infinity (NaN where there is none),
    or the largest when the rounding goes towards zero."""
    towards_zero = (mode == "rz") | ((mode == "rm") & (x > 0)) | ((mode == "rp") & (x < 0))
    beyond = np.where(towards_zero & np.isfinite(x), form.largest, np.inf)
    return np.where(size > form.largest, beyond, size)


def encode(x: Any, form: Format, mode: str = "rn", saturate: bool = False) -> Array:
    """Values to codes (uint32). NaN without a code of its own, and everything too large when saturating,
    gives the largest code."""
    x = np.asarray(x, np.float64)
    nan = np.isnan(x)
    safe = np.where(np.isfinite(x), x, 0.0)
    size = np.where(np.isinf(x), np.inf, quantised(safe, form, mode))
    size = (
        np.minimum(size, form.largest) if saturate or form.nan == "none" else overflowed(x, size, form, mode)
    )
    code = pattern(size, form)
    code = np.where(nan, form.nan_code, code).astype(np.uint32)
    sign = (np.signbit(x) & ~nan).astype(np.uint32)
    return code | (sign << np.uint32(form.exponent + form.mantissa))


def pattern(size: Array, form: Format) -> Array:
    """The code of a non-negative value on the grid; infinity has the code above the largest (NaN in e4m3)."""
    finite = np.where(np.isfinite(size), size, 0.0)
    _, exponent = np.frexp(finite)
    exponent = np.where(finite == 0, form.least, np.maximum(exponent - 1, form.least))
    steps = np.rint(finite / np.ldexp(1.0, exponent - form.mantissa)).astype(np.int64)
    code = steps + (
        (exponent - form.least) << form.mantissa
    )  # a normal's leading one adds itself to the exponent
    above = ((1 << form.exponent) - 1) << form.mantissa if form.nan == "ieee" else form.nan_code
    return np.where(np.isfinite(size), code, above).astype(np.uint32)


def decode(code: Any, form: Format) -> Array:
    """Codes to float64 values."""
    code = np.asarray(code).astype(np.int64)
    fraction = code & ((1 << form.mantissa) - 1)
    exponent = (code >> form.mantissa) & ((1 << form.exponent) - 1)
    normal = exponent != 0
    significand = fraction + (normal << form.mantissa)
    value = np.ldexp(significand.astype(np.float64), np.maximum(exponent, 1) - form.bias - form.mantissa)
    if form.nan == "ieee":
        top = exponent == (1 << form.exponent) - 1
        value = np.where(top, np.where(fraction == 0, np.inf, np.nan), value)
    elif form.nan == "top":
        value = np.where((code & form.nan_code) == form.nan_code, np.nan, value)
    return np.where(code >> (form.exponent + form.mantissa) & 1, -value, value)


def from_bf16(raw: Any) -> Any:
    return (np.asarray(raw).astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(x: Any, mode: str = "rn") -> Array:
    """float32 or float64 to bf16 bits; the common rounding by the bit trick."""
    x = np.asarray(x)
    if mode != "rn" or x.dtype != np.float32:
        code = encode(x, BF16, mode)
    else:
        u = x.view(np.uint32)
        code = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), code).astype(np.uint16)
