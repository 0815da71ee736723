"""Arrays of elements narrower than a byte: element i has bits [i * n, (i + 1) * n), little-endian.

    u3:   byte 0              byte 1              byte 2
          2 2 1 1 1 0 0 0     5 4 4 4 3 3 3 2     7 7 7 6 6 6 5 5      bit 7 left, bit 0 right

Eight elements of n bits are n bytes, so they are moved together, in one 64-bit word: neighbours are joined
pair by pair, then pairs of pairs, then those, three steps that numpy does over the whole array at once.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilec.ir import codec
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError

Array = np.ndarray[Any, Any]
Bytes = NDArray[np.uint8]


def pack(elements: ArrayLike, dtype: DType) -> Bytes:
    """Elements of any shape, in row-major order, as ceil(count * bits / 8) bytes; bits left over are 0.

    Integer types take values, or, for a signed type, codes in a numpy array of unsigned integers. Float types
    take codes. Raises TilecError for elements that are no integers, and for those out of range.
    """
    elements = np.asarray(elements)
    if elements.size == 0:
        return np.zeros(0, np.uint8)
    if elements.dtype.kind not in "biu":
        raise TilecError(
            f"pack takes {_what(dtype)}, found {elements.dtype} elements: round or encode them first"
        )
    _check_range(elements, dtype)
    return pack_codes(elements.astype(dtype.code), dtype.bits)


def unpack(packed: ArrayLike, dtype: DType, count: int) -> Array:
    """The first `count` elements of what `pack` made: values of integer types and bool, codes of float types.

    Raises TilecError if there are too few bytes, or if they are not uint8.
    """
    packed = np.asarray(packed)
    if packed.dtype != np.uint8:
        raise TilecError(f"unpack takes an array of uint8, found {packed.dtype}")
    if packed.size < packed_bytes(count, dtype.bits):
        need = packed_bytes(count, dtype.bits)
        raise TilecError(f"unpacking {count} elements of {dtype} takes {need} bytes, found {packed.size}")
    codes = unpack_codes(packed, dtype.bits, count)
    return codes if dtype.is_float else codec.decode(codes, dtype)


def packed_bytes(count: int, bits: int) -> int:
    """How many bytes `count` elements of `bits` bits take."""
    return -(-count * bits // 8)


def pack_codes(codes: Array, bits: int) -> Bytes:
    """The lowest `bits` bits of unsigned integers, one after the other."""
    if bits % 8 == 0:
        return np.ascontiguousarray(codes, f"<u{bits // 8}").reshape(-1).view(np.uint8)
    words = np.zeros(-(-codes.size // 8), "<u8")
    words.view(np.uint8)[: codes.size] = codes.reshape(-1)
    words &= np.uint64(_lanes(8, bits))
    for lane in (8, 16, 32):  # the low bits of each lane of an odd number move down to its neighbour's
        used, gap = _lanes(2 * lane, lane * bits // 8), lane - lane * bits // 8
        words = words & np.uint64(used) | (words & np.uint64(used << lane)) >> np.uint64(gap)
    rows = words.view(np.uint8).reshape(-1, 8)[:, :bits]
    return np.ascontiguousarray(rows).reshape(-1)[: packed_bytes(codes.size, bits)]


def unpack_codes(packed: Bytes, bits: int, count: int) -> Array:
    """What `pack_codes` did, undone: `count` unsigned integers, as narrow as they can be."""
    packed = packed.reshape(-1)[: packed_bytes(count, bits)]
    if bits % 8 == 0:
        return np.array(packed).view(f"<u{bits // 8}")
    words = np.zeros(-(-count // 8), "<u8")
    whole = len(packed) // bits
    rows = words.view(np.uint8).reshape(-1, 8)[:, :bits]
    rows[:whole] = packed[: whole * bits].reshape(-1, bits)
    rows[whole:].flat[: len(packed) - whole * bits] = packed[whole * bits :]
    for lane in (32, 16, 8):
        used, gap = _lanes(2 * lane, lane * bits // 8), lane - lane * bits // 8
        words = words & np.uint64(used) | (words & np.uint64(used << lane - gap)) << np.uint64(gap)
    return words.view(np.uint8)[:count]


def _lanes(lane: int, used: int) -> int:
    """A 64-bit mask: the lowest `used` bits of every lane."""
    return sum((1 << used) - 1 << at for at in range(0, 64, lane))


def _check_range(elements: Array, dtype: DType) -> None:
    as_codes = dtype.is_float or (dtype.is_signed and elements.dtype.kind in "bu")
    low, high = (0, dtype.code_mask) if as_codes else (dtype.min, dtype.max)
    for extreme in (int(elements.min()), int(elements.max())):
        if not low <= extreme <= high:
            raise TilecError(f"pack takes {_what(dtype)}, {low} to {high}, found {extreme}")


def _what(dtype: DType) -> str:
    return f"codes of {dtype}" if dtype.is_float else f"values of {dtype}"


@dataclass(frozen=True, eq=False)
class PackedArray:
    """An array of `shape` whose elements follow each other in `bytes` without padding, rows included."""

    bytes: Bytes
    dtype: DType
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raises TilecError unless `bytes` is one row of uint8 of just the right length."""
        found = f"{self.bytes.dtype} of shape {tuple(self.bytes.shape)}"
        if find_dtype(self.bytes.dtype) != find_dtype("uint8") or len(self.bytes.shape) != 1:
            raise TilecError(f"packed data is one-dimensional uint8, found {found}")
        if self.bytes.shape[0] != self.nbytes:
            raise TilecError(f"{self.dtype}{list(self.shape)} packs into {self.nbytes} bytes, found {found}")

    @property
    def nbytes(self) -> int:
        return packed_bytes(prod(self.shape), self.dtype.bits)

    def codes(self) -> Array:
        """Unsigned integers, in `shape`."""
        return unpack_codes(np.asarray(self.bytes), self.dtype.bits, prod(self.shape)).reshape(self.shape)

    def values(self) -> Array:
        """In `shape`, as the reference holds them."""
        return codec.decode(self.codes(), self.dtype)


def packed(data: Bytes, dtype: object, shape: int | tuple[int, ...]) -> PackedArray:
    """`data` as an array of `shape` and of any dtype, given as `tilec.ir.dtype.dtype` takes it."""
    extents = (shape,) if isinstance(shape, int) else tuple(shape)
    return PackedArray(data, find_dtype(dtype), extents)
