"""2:4 weights as checkpoints keep them: compressed-tensors' sparse-24-bitmask and marlin-24.

    q = SparseWeight.from_sparse_24_bitmask(t["compressed"], t["bitmask"], t["shape"], t.get("weight_scale"))
    q = SparseWeight.from_marlin_24(t["weight_packed"], t["scale_packed"], t["meta"])
As ops/checkpoints.py: code by code, nothing is quantised anew.
Source: compressed-tensors' compressors of these names; Frantar et al. 2024, "MARLIN", section 3.5.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.dtype import u2
from tilec.ir.errors import TilecError
from tilec.ir.inst.sparse import GROUP, KEPT
from tilec.ops.checkpoints import Array, contradict, matrix, numbers, pair, stream

S = TypeVar("S", bound="SparseCheckpoints")
TILE = 16, 64  # kept columns and rows of a weight whose codes Marlin keeps together
BYTES = {"i8": "i8", "u8": "f8e4m3", "f8e4m3": "f8e4m3"}  # what values of a byte are


class SparseCheckpoints:
    """What reads checkpoints' tensors, for SparseWeight."""

    @classmethod
    def from_sparse_24_bitmask(
        cls: type[S], compressed: Any, bitmask: Any, shape: Any, weight_scale: Any = None,
        weight_zero_point: Any = None,
    ) -> S:  # fmt: skip
        """compressed-tensors' sparse-24-bitmask: compressed [N, K / 2], what is kept of each row in order;
        bitmask uint8 [N, ceil(K / 8)], a bit for each column from the lowest up; shape (N, K).

        compressed is f16 or bf16, or int8 or f8e4m3 (bytes too) with a weight_scale: one number, or [N] or
        [N, groups]. TilecError for shapes that contradict each other, and where a bitmask keeps not two of
        each four.
        """
        from tilec.ops.sparse_weight import check_columns, unchanged

        n, k = pair(shape, "shape")
        check_columns(k)
        held, bits = matrix(compressed, "compressed", "fiu"), matrix(bitmask, "bitmask", "u")
        if held.shape != (n, k * KEPT // GROUP) or bits.shape != (n, -(-k // 8)):
            raise contradict(f"sparse-24-bitmask [{n}, {k}]", compressed=held, bitmask=bits)
        places = _places(np.unpackbits(bits, axis=1, count=k, bitorder="little"))
        if weight_scale is None:
            return cls._of(unchanged(held), places)
        scales, zeros = _per_group(weight_scale, "weight_scale", "f", n), None
        if weight_zero_point is not None:
            zeros = _per_group(weight_zero_point, "weight_zero_point", "iu", n)
        kind = BYTES.get(find_dtype(held.dtype).name)
        if kind is None or k % scales.shape[1] or (zeros is not None and zeros.shape != scales.shape):
            more = {} if zeros is None else {"weight_zero_point": zeros}
            raise contradict(f"sparse-24-bitmask [{n}, {k}]", compressed=held, weight_scale=scales, **more)
        if zeros is not None and not zeros.any():
            zeros = None
        return cls._quantised(held.view(np.uint8), scales, zeros, kind, places)

    @classmethod
    def from_marlin_24(cls: type[S], weight_packed: Any, scale_packed: Any, meta: Any) -> S:
        """Sparse-MARLIN's, of 4 or 8 bits (compressed-tensors' marlin-24): weight_packed int32
        [K / 32, N * bits / 2], codes plus 2^(bits - 1); scale_packed [groups, N]; meta int16 [K / 32, 2 N].

        Words of weight_packed are made of tiles of 16 kept columns and 64 rows, as lanes of mma.sp hold them;
        with more than two groups each eight scales lie as 0, 4, 1, 5, 2, 6, 3, 7. N is a multiple of 64, K of
        32. TilecError for shapes that contradict each other.
        """
        words, held = matrix(weight_packed, "weight_packed", "iu"), matrix(scale_packed, "scale_packed", "f")
        spots = matrix(meta, "meta", "iu")
        (steps, width), (groups, n) = words.shape, held.shape
        k, bits = steps * 2 * TILE[0], width * 2 // n
        fits = bits in (4, 8) and width * 2 == n * bits and spots.shape == (steps, 2 * n)
        if not fits or n % TILE[1] or k % groups or spots.dtype.itemsize != 2:
            raise contradict("marlin-24", weight_packed=words, scale_packed=held, meta=spots)
        if groups > 2:
            held = held.reshape(groups, -1, 4, 2).swapaxes(2, 3).reshape(groups, n)
        codes = _untiled(stream(words, bits, n * TILE[0]), bits, n)
        return cls._quantised(codes, held.T, None, f"u{bits}", _unswizzled(spots, n, k))

    @classmethod
    def _quantised(
        cls: type[S], codes: Array, scales: Array, zeros: Array | None, dtype: str, places: Array
    ) -> S:
        from tilec.ops.weight import QuantizedWeight

        size = codes.shape[1] // scales.shape[1]
        return cls._of(QuantizedWeight._made(codes, scales, zeros, dtype, size), places)

    @classmethod
    def _of(cls: type[S], kept: Any, places: Array) -> S:
        made: Any = cls
        result: S = made(kept, np.ascontiguousarray(places))
        return result


def _places(kept: Array) -> Array:
    """Where bits are set, two of each four: [N, K] -> uint8 [N, K / 2]."""
    fours = kept.reshape(len(kept), -1, GROUP)
    wrong = np.argwhere(fours.sum(2) != KEPT)
    if len(wrong):
        row, four = (int(x) for x in wrong[0])
        found = fours[row, four].tolist()
        raise TilecError(f"bitmask keeps two of each four, found {found} from [{row}, {GROUP * four}] on")
    return np.argwhere(fours)[:, 2].astype(np.uint8).reshape(len(kept), -1)


def _per_group(x: Any, name: str, kinds: str, n: int) -> Array:
    """Numbers of a row's groups [n, groups]: as they are, one for each row, or one for all."""
    found = numbers(x, name, kinds)
    rows = found if found.ndim == 2 else found.reshape(-1, 1)
    if len(rows) not in (1, n):
        raise TilecError(f"{name} is one number, [{n}] or [{n}, groups], found {list(found.shape)}")
    return np.broadcast_to(rows, (n, rows.shape[1]))


def _untiled(codes: Array, bits: int, n: int) -> Array:
    """Codes [K / 32, 16 N] as Marlin's lanes hold them -> [N, K / 2].

    Of a tile, lane 4 g + t has for each j of 4 the kept columns 8 r + 2 t + h (r, h of 2) of rows 8 g + j and
    8 g + 4 + j, in the order in which words of these bits are unpacked.
    """
    digits = {4: "gtjhbr", 8: "gtjbhr"}[bits]
    extents = {"g": 8, "t": 4, "j": 4, "h": 2, "b": 2, "r": 2}
    held = codes.reshape(len(codes), n // TILE[1], *(extents[d] for d in digits))
    order = [1, *(2 + digits.index(d) for d in "gbj"), 0, *(2 + digits.index(d) for d in "rth")]
    return held.transpose(order).reshape(n, -1)


def _unswizzled(meta: Array, n: int, k: int) -> Array:
    """Places [N, K / 2] from words of eight, in CUTLASS's order for products of 16 bits (ColumnMajor
    interleaved by 2, its reorder_meta). Digits of a word's number, the highest first: its column / 2, its row
    / 64, the row's bit 1, bits 5 to 3, bit 0, the column's parity, and the row's bit 2.
    """
    held = meta.reshape(k // 32, n // TILE[1], 2, 8, 2, 2, 2)
    words = held.transpose(1, 3, 6, 2, 4, 0, 5).reshape(n, k // 16)
    return stream(np.ascontiguousarray(words), u2.bits, k * KEPT // GROUP)
