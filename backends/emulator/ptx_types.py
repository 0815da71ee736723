"""PTX types as numpy types, and literals as numpy scalars.

numpy_type("s32") == np.int32        typed(Immediate(0x3F800000, "f32"), "f32") == np.float32(1.0)
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilec.backends.emulator.program import Immediate

Array = Any  # a numpy array: numpy cannot type what its functions return for computed dtypes
Sel = slice | NDArray[np.intp]

# bf16, fp8 and packed types are held as bits
TYPES: dict[str, str] = {
    "pred": "?", "b8": "u1", "u8": "u1", "s8": "i1", "b16": "u2", "u16": "u2", "s16": "i2", "f16": "f2",
    "bf16": "u2", "b32": "u4", "u32": "u4", "s32": "i4", "f32": "f4", "f16x2": "u4", "bf16x2": "u4",
    "tf32": "u4", "b64": "u8", "u64": "u8", "s64": "i8", "f64": "f8", "u16x2": "u4", "s16x2": "u4",
    "f32x2": "u8", "e4m3x2": "u2", "e5m2x2": "u2", "ue8m0x2": "u2", "e2m3x2": "u2", "e3m2x2": "u2",
    "e2m1x2": "u1", "b128": "c16", "e4m3x4": "u4", "e5m2x4": "u4",
}  # fmt: skip


@cache
def numpy_type(name: str) -> np.dtype[Any]:
    return np.dtype(TYPES[name])


def bits(name: str) -> int:
    return numpy_type(name).itemsize * 8


@cache
def unsigned(size: int) -> np.dtype[Any]:
    """The dtype that moves `size` bytes untouched (complex128 for 16)."""
    return np.dtype("c16" if size == 16 else f"u{size}")


def is_float(name: str) -> bool:
    return numpy_type(name).kind == "f"


def is_signed(name: str) -> bool:
    return numpy_type(name).kind == "i"


def typed(literal: Immediate, dtype: np.dtype[Any]) -> Any:
    """The literal as a scalar of `dtype`: floats by value in float types, by bits in the others."""
    if dtype.kind == "f":
        return dtype.type(as_float(literal))
    if dtype == np.bool_:
        return np.bool_(literal.value != 0)
    if dtype.kind == "c":
        return np.array([literal.value & 0xFFFFFFFFFFFFFFFF, literal.value >> 64], np.uint64).view("c16")[0]
    value = literal.value
    if literal.form == "f64" and dtype.itemsize == 4:
        value = struct.unpack("<I", struct.pack("<f", as_float(literal)))[0]
    raw = (value & ((1 << dtype.itemsize * 8) - 1)).to_bytes(dtype.itemsize, "little")
    return np.frombuffer(raw, dtype)[0]


def as_float(literal: Immediate) -> float:
    if literal.form == "f32":
        return float(struct.unpack("<f", struct.pack("<I", literal.value))[0])
    if literal.form == "f64":
        return float(struct.unpack("<d", struct.pack("<Q", literal.value))[0])
    return float(literal.value)
