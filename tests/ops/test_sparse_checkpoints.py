"""2:4 weights of checkpoints, packed here from their descriptions: read back code by code."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tilec import ops
from tilec.ir.errors import TilecError
from tilec.ops import SparseWeight
from tilec.ops.reference import linear_reference, relative_error

Array = np.ndarray[Any, Any]
N, K = 128, 192


def drawn(n: int = N, k: int = K, seed: int = 0) -> tuple[np.random.Generator, Array]:
    """Two of each four places, in order, [n, k / 2]."""
    draw = np.random.default_rng(seed)
    first = np.argsort(draw.random((n, k // 4, 4)), axis=2)[:, :, :2]
    return draw, np.sort(first, axis=2).reshape(n, k // 2)


def whole(kept: Array, places: Array) -> Array:
    out = np.zeros((*kept.shape[:1], kept.shape[1] // 2, 4), kept.dtype)
    np.put_along_axis(out, places.reshape(*out.shape[:2], 2), kept.reshape(*out.shape[:2], 2), 2)
    return out.reshape(len(kept), -1)


# -- sparse-24-bitmask ----------------------------------------------------------------------------------


def bitmask(places: Array) -> Array:
    """Bit i of byte b of a row: is column 8 b + i there?"""
    k = 2 * places.shape[1]
    found = np.zeros((len(places), -(-k // 8)), np.uint8)
    for row, at in enumerate(places):
        for i, place in enumerate(at):
            column = i // 2 * 4 + place
            found[row, column // 8] |= 1 << column % 8
    return found


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_bitmask_of_floats(dtype: Any) -> None:
    draw, places = drawn(24, 100)
    kept = draw.standard_normal((24, 50)).astype(dtype)
    kept[0, :2] = 0  # what is kept may be 0
    q = SparseWeight.from_sparse_24_bitmask(kept, bitmask(places), np.array([[24], [100]]))
    np.testing.assert_array_equal(q.dequantize(), whole(kept, places).astype(np.float32))
    assert not q.is_quantised and np.array_equal(q.places, places)


@pytest.mark.parametrize("groups", [0, 1, 25])
@pytest.mark.parametrize("kind", ["i8", "f8e4m3", "bytes"])
def test_bitmask_of_bytes(kind: str, groups: int) -> None:
    draw, places = drawn(24, 100)
    kept = (draw.integers(0, 100, (24, 50)) - 128 * draw.integers(0, 2, (24, 50))).astype(np.int8)
    values = kept if kind == "i8" else kept.view(ml_dtypes.float8_e4m3fn)
    stored = kept.view(np.uint8) if kind == "bytes" else values
    scales = draw.uniform(0.01, 0.1, (24, groups or 1)).astype(ml_dtypes.bfloat16)[: 24 if groups else 1]
    q = SparseWeight.from_sparse_24_bitmask(stored, bitmask(places), (24, 100), scales)
    wanted = whole(values, places).astype(np.float32)
    wanted *= np.repeat(scales.astype(np.float32), 100 // scales.shape[1], axis=1)
    np.testing.assert_array_equal(q.dequantize(), wanted)
    assert q.dtype.name == ("i8" if kind == "i8" else "f8e4m3")
    assert q.group_size == 100 // scales.shape[1]


def test_bitmask_with_zeros() -> None:
    draw, places = drawn(8, 64)
    kept, zeros = draw.integers(-128, 128, (8, 32)).astype(np.int8), draw.integers(-9, 9, (8, 4), np.int8)
    scales = draw.uniform(0.01, 0.1, (8, 4)).astype(np.float16)
    q = SparseWeight.from_sparse_24_bitmask(kept, bitmask(places), (8, 64), scales, zeros)
    steps = kept.astype(np.float32) - np.repeat(zeros, 8, axis=1)
    steps *= np.repeat(scales, 8, axis=1).astype(np.float32)
    np.testing.assert_array_equal(q.dequantize(), whole(steps, places))
    plain = SparseWeight.from_sparse_24_bitmask(kept, bitmask(places), (8, 64), scales, 0 * zeros)
    assert q.kept.zeros is not None and plain.kept.zeros is None


# -- marlin-24 ------------------------------------------------------------------------------------------

INTERLEAVED = {4: (0, 2, 4, 6, 1, 3, 5, 7), 8: (0, 2, 1, 3)}


def order(bits: int) -> list[int]:
    """Which element of a tile, 16 kept columns of 64 rows in four blocks of 16 rows, comes where."""
    found = []
    for lane in range(32):
        row, t = divmod(lane, 4)  # eight rows of the weight, and two columns of what is kept
        for j in range(4):
            for block in range(2):
                for column in (2 * t, 2 * t + 1, 2 * t + 8, 2 * t + 9):
                    found.append(row // 2 * 256 + column * 16 + row % 2 * 8 + block * 4 + j)
    held = INTERLEAVED[bits]
    return [found[i + j] for i in range(0, 1024, len(held)) for j in held]


def packed(codes: Array, bits: int) -> Array:
    """codes [N, K / 2] as weight_packed."""
    n, half = codes.shape
    tiles = codes.T.reshape(half // 16, 16, n // 16, 16).swapaxes(1, 2).reshape(half // 16, -1, 1024)
    words = tiles[:, :, order(bits)].reshape(half // 16, -1, 32 // bits).astype(np.uint64)
    shifts = np.arange(0, 32, bits, dtype=np.uint64)
    return np.bitwise_or.reduce(words << shifts, axis=2).astype(np.uint32).view(np.int32)


def meta(places: Array) -> Array:
    """CUTLASS's reorder_meta: rows of each 64 change places, then 2 x 2 blocks are transposed across."""
    n, words = len(places), places.shape[1] // 8
    held = (places.reshape(n, words, 8).astype(np.uint32) << np.arange(0, 16, 2, dtype=np.uint32)).sum(2)
    out = np.zeros(n * words, np.uint16)
    for row in range(n):
        for column in range(words):
            r = row // 64 * 64 + row % 2 * 2 + row % 8 // 4 + row % 4 // 2 * 32 + row % 64 // 8 * 4
            c = column
            if r % 2 != c % 2:
                r, c = (r + 1, c - 1) if c % 2 else (r - 1, c + 1)
            out[c // 2 * n * 2 + r * 2 + c % 2] = held[row, column]
    return out.view(np.int16).reshape(words // 2, 2 * n)


def scales_packed(scales: Array) -> Array:
    """[N, groups] as scale_packed."""
    turned, groups = scales.T, scales.shape[1]
    if groups <= 2:
        return turned.copy()
    at = [8 * i + j for i in range(turned.shape[1] // 8) for j in (0, 4, 1, 5, 2, 6, 3, 7)]
    return turned[:, at].copy()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_marlin_24(bits: int, groups: int) -> None:
    draw, places = drawn()
    codes = draw.integers(0, 1 << bits, (N, K // 2))
    scales = draw.uniform(0.01, 0.1, (N, groups)).astype(np.float16)
    q = SparseWeight.from_marlin_24(packed(codes, bits), scales_packed(scales), meta(places))
    np.testing.assert_array_equal(q.kept.codes, codes)
    np.testing.assert_array_equal(q.places, places)
    steps = (codes - (1 << bits - 1)).astype(np.float32)
    steps *= np.repeat(scales.astype(np.float32), K // 2 // groups, axis=1)
    np.testing.assert_array_equal(q.dequantize(), whole(steps, places))
    assert (q.dtype.name, q.group_size, q.kept.zeros) == (f"u{bits}", K // groups, None)


def test_from_a_file_into_a_layer(tmp_path: Any) -> None:
    safe = pytest.importorskip("safetensors.numpy")
    draw, places = drawn()
    stored = {"weight_packed": packed(draw.integers(0, 16, (N, K // 2)), 4), "meta": meta(places),
              "scale_packed": scales_packed(np.full((N, 3), 0.01, np.float16))}  # fmt: skip
    safe.save_file(stored, tmp_path / "w.safetensors")
    t = ops.checkpoints.read_safetensors(tmp_path / "w.safetensors")
    q = SparseWeight.from_marlin_24(t["weight_packed"], t["scale_packed"], t["meta"])
    x = draw.standard_normal((5, K)).astype(np.float16)
    assert relative_error(ops.linear(x, q), linear_reference(x, q)) < 1.5e-3


# -- what does not fit ----------------------------------------------------------------------------------

BITS, VALUES = np.full((4, 1), 0b0101_0011, np.uint8), np.ones((4, 4), np.float16)
BYTES, WORDS = np.ones((4, 4), np.int8), np.zeros((2, 128), np.int32)
SCALES, META = np.ones((1, 64), np.float16), np.full((2, 128), 0x4444, np.int16)
ERRORS = {
    r"bitmask keeps two of each four, found \[1, 1, 1, 0\] from \[2, 4\] on": lambda: (
        SparseWeight.from_sparse_24_bitmask(
            VALUES, BITS | np.array([[0], [0], [0x20], [0]], np.uint8), (4, 8)
        )
    ),
    r"sparse-24-bitmask \[4, 8\]: compressed \[4, 3\], bitmask \[4, 1\]": lambda: (
        SparseWeight.from_sparse_24_bitmask(VALUES[:, :3], BITS, (4, 8))
    ),
    r"2:4 weights have a multiple of 4 columns, found 6": lambda: SparseWeight.from_sparse_24_bitmask(
        VALUES[:, :3], BITS, (4, 6)
    ),
    r"sparse-24-bitmask \[4, 8\]: compressed \[4, 4\], weight_scale \[4, 1\]": lambda: (
        SparseWeight.from_sparse_24_bitmask(VALUES, BITS, (4, 8), np.ones(4, np.float32))
    ),
    r"weight_scale is one number, \[4\] or \[4, groups\], found \[3\]": lambda: (
        SparseWeight.from_sparse_24_bitmask(BYTES, BITS, (4, 8), np.ones(3, np.float32))
    ),
    r"2:4 weights that are not quantised are f16 or bf16, found f32": lambda: (
        SparseWeight.from_sparse_24_bitmask(VALUES.astype(np.float32), BITS, (4, 8))
    ),
    r"marlin-24: weight_packed \[2, 128\], scale_packed \[1, 64\], meta \[1, 128\]": lambda: (
        SparseWeight.from_marlin_24(WORDS, SCALES, META[:1])
    ),
    r"marlin-24: weight_packed \[2, 100\], scale_packed \[1, 64\]": lambda: SparseWeight.from_marlin_24(
        WORDS[:, :100], SCALES, META
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message: str) -> None:
    with pytest.raises(TilecError, match=message):
        ERRORS[message]()
