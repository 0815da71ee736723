"""Quantised weights: codes, one scale (and perhaps one zero) per group of a row, and their bytes for kernels.

    w[n, k] = (value of codes[n, k] - zero) * scales[n, k // group_size]
Without zeros of its own a weight has its type's: 0 for signed integers and floats, the middle code
2^(bits - 1) for unsigned ones (u4: 8), and 1/2 for u1, whose codes so stand for -1/2 and 1/2.
"""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilec.ir import codec
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout
from tilec.ir.packing import pack_codes, packed_bytes
from tilec.ir.placement import is_placed
from tilec.ir.placement import placed as place
from tilec.ops.arrays import NOTHING, Array, in_numpy, to_numpy
from tilec.ops.checkpoints import Checkpoints

FAR = 2.0**20  # of one scale in a row from another: sums in units of either are no infinities


def default_zero(dtype: DType) -> float:
    """The zero of a weight that has none of its own."""
    if dtype.is_signed:
        return 0.0
    return 0.5 if dtype.bits == 1 else float(1 << dtype.bits - 1)


@lru_cache
def code_values(dtype: DType) -> NDArray[np.float32]:
    """What each code stands for; codes that are no number count as 0."""
    values = codec.decode(np.arange(1 << dtype.bits), dtype)
    return np.where(np.isfinite(values), values, 0).astype(np.float32)


def finite_codes(codes: NDArray[np.uint8], dtype: DType) -> NDArray[np.uint8]:
    """The codes with 0's for those that are no number."""
    if not dtype.has_nan:
        return codes
    numbers = np.isfinite(codec.decode(np.arange(1 << dtype.bits), dtype))
    return np.where(numbers, np.arange(1 << dtype.bits), 0).astype(codes.dtype)[codes]


def read_only(x: Any) -> Any:
    """A view of an array of the host's that cannot be written; anything else as it is."""
    if not isinstance(x, np.ndarray) or not x.flags.writeable:
        return x
    view = x.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class QuantizedWeight(Checkpoints):
    """A weight [N, K]: `codes` uint8 [N, K] (canonical: see ir/dtype.py), `scales` [N, groups] as numpy holds
    values of `scale_dtype`, `zeros` integers or floats [N, groups] or None. `ops.quantize` makes them, and
    `from_gptq` and its like from checkpoints. Column j belongs to column `order[j]` of x where there is one.
    What kernels take of it is made once: its arrays are read-only.
    """

    codes: NDArray[np.uint8]
    scales: Array
    zeros: Array | None
    dtype: DType
    scale_dtype: DType
    group_size: int
    order: Array | None = None
    _bytes: dict[tuple[Layout, DType | None], NDArray[np.uint8]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        for name in ("codes", "scales", "zeros", "order"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        for name in ("dtype", "scale_dtype"):
            object.__setattr__(self, name, find_dtype(getattr(self, name)))
        self._check()

    def _check(self) -> None:
        """Raises TilecError for arrays that are not those of one weight."""
        (n, k), size = self.shape, self.group_size
        if self.codes.dtype.kind != "u" or size < 1:
            raise TilecError(
                f"weights have codes uint8 [N, K], group_size from 1 on, found {self.codes.dtype} and {size}"
            )
        groups = (n, -(-k // size))
        for name, sizes in (("scales", groups), ("zeros", groups), ("order", (k,))):
            x = getattr(self, name)
            if x is not None and tuple(x.shape) != sizes:
                wanted = f"{self.dtype} [{n}, {k}] in groups of {size}"
                raise TilecError(f"{name} of a weight {wanted} are {list(sizes)}, found {list(x.shape)}")

    def __repr__(self) -> str:
        n, k = self.shape
        scales = f"{self.scale_dtype} scales" + ("" if self.zeros is None else ", with zeros")
        return f"QuantizedWeight({self.dtype} [{n}, {k}], groups of {self.group_size}, {scales})"

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K]."""
        n, k = self.codes.shape
        return n, k

    @property
    def zero(self) -> float:
        """What is subtracted from every value where `zeros` is None."""
        return default_zero(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, packed without gaps, with the scales and zeros."""
        zeros = 0 if self.zeros is None else self.zeros.nbytes
        return (
            packed_bytes(self.codes.size, self.dtype.bits) + self.scales.size * self.scale_dtype.bytes + zeros
        )

    def dequantize(self) -> NDArray[np.float32]:
        """The weight that the codes stand for, f32 [N, K], columns in x's order."""
        weight = code_values(self.dtype)[self.codes]
        weight -= self.zero if self.zeros is None else self._spread(self.zeros)
        weight *= self._spread(self.scales)
        if self.order is None:
            return weight
        placed = np.empty_like(weight)
        placed[:, self.order] = weight
        return placed

    def _spread(self, per_group: Array) -> NDArray[np.float32]:
        """One number per group as one per element, [N, K]."""
        return np.repeat(per_group.astype(np.float32), self.group_size, axis=1)[:, : self.shape[1]]

    @cached_property
    def kernel_scales(self) -> Array:
        """The scales as kernels take them: [groups, N], in f32 where numpy lacks their dtype."""
        held = np.ascontiguousarray(self.scales.T)
        return to_numpy(held, self.scale_dtype) if in_numpy(self.scale_dtype) else held

    @cached_property
    def kernel_zeros(self) -> Array:
        """The zeros likewise."""
        return NOTHING if self.zeros is None else np.ascontiguousarray(self.zeros.T)

    @cached_property
    def zeros_in_reach(self) -> bool:
        """Do all zeros lie within 16 of every code, as codes of up to 4 bits do? A GPU's are not asked."""
        if not isinstance(self.zeros, np.ndarray) or not self.zeros.size:
            return True
        low, high = int(self.dtype.max) - 16, int(self.dtype.min) + 16
        return bool(low <= self.zeros.min() and self.zeros.max() <= high)

    @cached_property
    def steady(self) -> bool:
        """Are scales such that sums may be held in units of any of a row's: none zero, none far larger than
        another? A GPU's are not asked, and are taken not to be."""
        if not isinstance(self.scales, np.ndarray) or not self.scales.size:
            return False
        sizes = np.abs(self.scales.astype(np.float32))
        least = sizes.min(axis=1)
        near = (least > 0) & np.isfinite(least) & (sizes.max(axis=1) / FAR <= least)
        return bool(near.all())

    def packed(self, layout: Layout, placed: DType | None = None) -> NDArray[np.uint8]:
        """The bytes uint8 [ceil(N / bn), ceil(K / bk), layout.nbytes(dtype)] of the weight's transpose in
        tiles (bk, bn) = layout.shape, cached. `tc.view(bytes of a tile, dtype, layout, placed=placed)` is
        the tile.

        Edges are filled with the code nearest the type's zero: finite numbers, which do no harm where the
        kernel reads zeros for what x and the scales lack. Raises TilecError for a layout that is no view's.
        """
        if (layout, placed) not in self._bytes:
            self._bytes[layout, placed] = self._pack(layout, placed)
        return self._bytes[layout, placed]

    def _pack(self, layout: Layout, placed: DType | None) -> NDArray[np.uint8]:
        if len(layout.shape) != 2:
            raise TilecError(
                f"weights are packed for a layout of tiles (bk, bn), not of shape {layout.shape}"
            )
        largest = int(self.codes.max(initial=0))
        if largest > self.dtype.code_mask:
            raise TilecError(f"codes of {self.dtype} end at {self.dtype.code_mask}, found {largest}")
        filler = int(np.argmin(np.abs(code_values(self.dtype) - self.zero)))
        return packed_tiles(finite_codes(self.codes, self.dtype), self.dtype, layout, placed, (filler,))


def packed_tiles(
    codes: Array, dtype: DType, layout: Layout, placed: DType | None, filler: tuple[int, ...]
) -> NDArray[np.uint8]:
    """The bytes of codes [N, K] as QuantizedWeight.packed gives them; edges are filled with `filler`, again
    and again along K.
    """
    bk, bn = layout.shape
    tiles, source = _tiles(codes, bk, bn, filler), layout.bytes(dtype)
    k, n = np.moveaxis(layout.points().reshape(-1, 2), -1, 0)
    held = tiles.reshape(-1, bk * bn).take(n * bk + k, axis=1)
    if placed is not None and is_placed(dtype, layout.slots, placed):
        words = place(held.reshape(len(held), -1, layout.slots), dtype, placed)
        by_thread = words.astype("<u4").view(np.uint8).reshape(len(held), -1)
    else:
        by_thread = pack_codes(held, dtype.bits).reshape(len(held), -1)
    return by_thread.take(np.argsort(source.points().reshape(-1)), axis=1).reshape(*tiles.shape[:2], -1)


def _tiles(codes: Array, bk: int, bn: int, filler: tuple[int, ...]) -> Array:
    """Codes [ceil(N / bn), ceil(K / bk), bn, bk], filled up at the edges."""
    n, k = codes.shape
    rows, columns = -(-n // bn), -(-k // bk)
    filled = np.empty((rows * bn, columns * bk), codes.dtype)
    filled[...] = np.resize(np.array(filler, codes.dtype), columns * bk)
    filled[:n, :k] = codes
    return np.ascontiguousarray(filled.reshape(rows, bn, columns, bk).swapaxes(1, 2))
