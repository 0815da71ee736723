"""The blocks of GGUF's types: codes, scales and minima of llama.cpp's quantised tensors.

    read(bytes [N, row], "Q4_0")      Blocks(codes [N, K], scales [N, K / 32], None, "u4", 32)
A type with minima is w = code * scale - minimum, so its zero is minimum / scale. Layouts after the structures
of ggml's ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilec.ir import codec
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Blocks:
    """A weight [N, K]: codes uint8, scales f32 [N, groups], zeros f32 [N, groups] or None."""

    codes: Array
    scales: Array
    zeros: Array | None
    dtype: str
    group: int


@dataclass(frozen=True)
class Kind:
    """Elements and bytes of a block, and what reads blocks uint8 [..., bytes]: codes, scales, minima."""

    elements: int
    size: int
    dtype: str
    group: int
    read: Callable[[Array], tuple[Array, Array, Array | None]]


def read(data: Array, kind: str) -> Blocks:
    """The weight whose rows are blocks; TilecError for other types, and rows that are no whole blocks."""
    found = KINDS.get(str(kind).upper())
    if found is None:
        raise TilecError(f"GGUF's type {kind} is not read: there is {', '.join(KINDS)}")
    n, row = data.shape
    if data.dtype != np.uint8 or row % found.size:
        raise TilecError(
            f"rows of {kind} are blocks of {found.size} bytes (uint8), found {row} of {data.dtype}"
        )
    codes, scales, minima = found.read(data.reshape(n, -1, found.size))
    codes, scales = codes.reshape(n, -1), scales.astype(np.float32).reshape(n, -1)
    if minima is None:
        return Blocks(codes, scales, None, found.dtype, found.group)
    return _with_minima(codes, scales, minima.astype(np.float32).reshape(n, -1), found)


def _with_minima(codes: Array, scales: Array, minima: Array, kind: Kind) -> Blocks:
    """Zeros for minima. A group without a scale is its minimum alone: codes of 0, a zero of 1 such steps."""
    flat = scales == 0
    codes = np.where(np.repeat(flat, kind.group, axis=1), np.uint8(0), codes)
    steps = np.where(flat, np.where(minima == 0, np.float32(1), minima), scales)
    return Blocks(codes, steps, minima / steps, kind.dtype, kind.group)


def _f16(blocks: Array, at: int) -> Array:
    """The f16 numbers at a byte of each block, [..., 1] in f32."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Array) -> Array:
    """Low nibbles, then high ones, of the last axis."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _bits(packed: Array, bits: int) -> Array:
    """[..., 8 / bits, n]: field i of each byte."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return (packed[..., None, :] >> shifts) & np.uint8((1 << bits) - 1)


def _q4(b: Array, head: int) -> tuple[Array, Array, Array | None]:
    return _nibbles(b[..., head:]), _f16(b, 0), -_f16(b, 2) if head == 4 else None


def _q5(b: Array, head: int) -> tuple[Array, Array, Array | None]:
    high = np.unpackbits(np.ascontiguousarray(b[..., head : head + 4]), axis=-1, bitorder="little")
    return _nibbles(b[..., head + 4 :]) | high << 4, _f16(b, 0), -_f16(b, 2) if head == 4 else None


def _q8(b: Array) -> tuple[Array, Array, Array | None]:
    return b[..., 2:], _f16(b, 0), None


def _mxfp4(b: Array) -> tuple[Array, Array, Array | None]:
    return _nibbles(b[..., 1:]), codec.decode(b[..., :1], find_dtype("e8m0")), None


def _q2_k(b: Array) -> tuple[Array, Array, Array | None]:
    """scales[16] (4 bits each of scale and minimum), qs[64], d, dmin."""
    quads = _bits(b[..., 16:80].reshape(*b.shape[:-1], 2, 32), 2)
    scales, minima = b[..., :16] & 15, b[..., :16] >> 4
    return quads.reshape(*b.shape[:-1], 256), _f16(b, 80) * scales, _f16(b, 82) * minima


def _q3_k(b: Array) -> tuple[Array, Array, Array | None]:
    """hmask[32], qs[64], scales[12] (16 of 6 bits), d."""
    low = _bits(b[..., 32:96].reshape(*b.shape[:-1], 2, 32), 2).reshape(*b.shape[:-1], 256)
    high = _bits(b[..., :32], 1).reshape(*b.shape[:-1], 256)
    first, top = b[..., 96:104], b[..., 104:108]
    upper = np.concatenate([(top >> shift) & 3 for shift in (0, 2, 4, 6)], axis=-1)
    scales = (np.concatenate([first & 15, first >> 4], axis=-1) | upper << 4).astype(np.int8) - 32
    return low | high << 2, _f16(b, 108) * scales, None


def _scales_k(packed: Array) -> tuple[Array, Array]:
    """Eight scales and minima of 6 bits each from 12 bytes."""
    low, mid, high = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6) << 4], axis=-1)
    minima = np.concatenate([mid & 63, high >> 4 | (mid >> 6) << 4], axis=-1)
    return scales, minima


def _q4_k(b: Array) -> tuple[Array, Array, Array | None]:
    """d, dmin, scales[12], qs[128]: 64 elements in the nibbles of 32 bytes."""
    scales, minima = _scales_k(b[..., 4:16])
    codes = _nibbles(b[..., 16:].reshape(*b.shape[:-1], 4, 32)).reshape(*b.shape[:-1], 256)
    return codes, _f16(b, 0) * scales, _f16(b, 2) * minima


def _q5_k(b: Array) -> tuple[Array, Array, Array | None]:
    """The same with a fifth bit: qh[32] before qs, bit i for the i-th 32 elements."""
    scales, minima = _scales_k(b[..., 4:16])
    high = _bits(b[..., 16:48], 1).reshape(*b.shape[:-1], 256)
    codes = _nibbles(b[..., 48:].reshape(*b.shape[:-1], 4, 32)).reshape(*b.shape[:-1], 256)
    return codes | high << 4, _f16(b, 0) * scales, _f16(b, 2) * minima


def _q6_k(b: Array) -> tuple[Array, Array, Array | None]:
    """ql[128], qh[64], scales int8[16], d; each half of 128 elements from 64 and 32 bytes."""
    low = _nibbles(b[..., :128].reshape(*b.shape[:-1], 2, 64)).reshape(*b.shape[:-1], 256)
    high = _bits(b[..., 128:192].reshape(*b.shape[:-1], 2, 32), 2).reshape(*b.shape[:-1], 256)
    return low | high << 4, _f16(b, 208) * b[..., 192:208].view(np.int8), None


KINDS = {
    "Q4_0": Kind(32, 18, "u4", 32, lambda b: _q4(b, 2)), "Q4_1": Kind(32, 20, "u4", 32, lambda b: _q4(b, 4)),
    "Q5_0": Kind(32, 22, "u5", 32, lambda b: _q5(b, 2)), "Q5_1": Kind(32, 24, "u5", 32, lambda b: _q5(b, 4)),
    "Q8_0": Kind(32, 34, "i8", 32, _q8), "Q2_K": Kind(256, 84, "u2", 16, _q2_k),
    "Q3_K": Kind(256, 110, "u3", 16, _q3_k), "Q4_K": Kind(256, 144, "u4", 32, _q4_k),
    "Q5_K": Kind(256, 176, "u5", 32, _q5_k), "Q6_K": Kind(256, 210, "u6", 16, _q6_k),
    "MXFP4": Kind(32, 17, "f4e2m1", 32, _mxfp4),
}  # fmt: skip
