"""Tensor maps: how TMA sees an array in global memory.

    TensorMap(a, box=(64, 64), swizzle="128B")       a numpy array [rows, columns]; box in the array's axis
    order
The driver's 128 encoded bytes are opaque on hardware; here they hold a number that finds the map again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilec.backends.emulator.ptx_types import Array
from tilec.ir.errors import TilecError

SWIZZLES = {"none": 0, "32B": 32, "64B": 64, "128B": 128}  # bytes of the inner box dimension
MAGIC = 0x54454E534F524D41


class TensorMap:
    """An array, the box that one copy moves, and the swizzle of the box in shared memory.

    box: extents in the array's axis order. swizzle: "none", "32B", "64B" or "128B". dtype: the element type
    where it is not the array's (bf16 as uint16 needs none: bytes are moved; reductions and NaN fill need it).
    element_strides: every how many-th element of the box is moved, 1 to 8 along each axis but the last, which
    moves all; ceil(box / stride) elements of an axis lie side by side in shared memory.
    oob_fill: what a load puts where the box leaves the array, "zero" or "nan".
    Raises TilecError for what the driver would refuse.
    """

    def __init__(
        self, array: Array, box: Sequence[int], swizzle: str = "none", dtype: Any = None,
        element_strides: Sequence[int] | None = None, oob_fill: str = "zero",
    ) -> None:  # fmt: skip
        self.array, self.box, self.swizzle = array, tuple(int(b) for b in box), swizzle
        self.dtype = np.dtype(dtype or array.dtype)
        if swizzle not in SWIZZLES:
            raise TilecError(f"swizzle is one of {', '.join(SWIZZLES)}, not {swizzle!r}")
        self.span = SWIZZLES[swizzle]
        self.check_shape(array)
        self.check_box(array.itemsize)
        self.element_strides = tuple(element_strides or (1,) * array.ndim)
        self.check_strides()
        self.fill = self.filling(oob_fill)
        self.address = 0  # set by the launch
        # innermost first, as TMA counts
        self.extent = array.shape[::-1]
        self.strides = array.strides[::-1]
        self.steps = self.element_strides[::-1]
        self.counts = tuple(-(-b // e) for b, e in zip(self.box[::-1], self.steps, strict=True))

    def check_shape(self, array: Array) -> None:
        if not 1 <= array.ndim <= 5:
            raise TilecError(f"a tensor map has 1 to 5 dimensions, the array has {array.ndim}")
        if len(self.box) != array.ndim:
            raise TilecError(f"the box has {len(self.box)} extents, the array {array.ndim} dimensions")
        if array.strides[-1] != array.itemsize:
            raise TilecError("the last axis of a tensor map's array must be contiguous")
        for axis, stride in enumerate(array.strides[:-1]):
            if stride % 16 or not 0 <= stride < 1 << 40:
                raise TilecError(f"stride {stride} of axis {axis} is not a multiple of 16 bytes")

    def check_box(self, item: int) -> None:
        for extent in self.box:
            if not 1 <= extent <= 256:
                raise TilecError(f"box extents are 1 to 256, not {extent}")
        inner = self.box[-1] * item
        if inner % 16:
            raise TilecError(f"the box's last axis has {inner} bytes, which is not a multiple of 16")
        if self.span and inner > self.span:
            raise TilecError(
                f"the box's last axis has {inner} bytes, more than the {self.swizzle} of its swizzle"
            )

    def check_strides(self) -> None:
        strides = self.element_strides
        if len(strides) != self.array.ndim or any(not 1 <= e <= 8 for e in strides):
            raise TilecError(f"element strides are {self.array.ndim} numbers from 1 to 8, not {strides}")
        if strides[-1] != 1:
            raise TilecError(f"TMA ignores the last axis's element stride: it must be 1, not {strides[-1]}")

    def filling(self, name: str) -> bytes:
        """The bytes of an element outside of the array; the driver speaks of a special NaN: all ones here."""
        if name not in ("zero", "nan"):
            raise TilecError(f'oob_fill is "zero" or "nan", not {name!r}')
        floats = self.dtype.kind == "f" or "float" in self.dtype.name
        if name == "nan" and not floats:
            raise TilecError(f"NaN fill needs a float element type, not {self.dtype}: say which by dtype=")
        item = self.array.itemsize
        return ((1 << 8 * item - 1) - 1 if name == "nan" else 0).to_bytes(item, "little")

    @property
    def size(self) -> int:
        """Bytes in shared memory."""
        return int(np.prod(self.counts) * self.array.itemsize)

    def handle(self, number: int) -> bytes:
        """What stands for the 128 encoded bytes."""
        return MAGIC.to_bytes(8, "little") + number.to_bytes(8, "little") + bytes(112)


def xor(address: Array, span: int) -> Array:
    """Byte addresses in shared memory after the swizzle of a span of 32, 64 or 128 bytes."""
    if span == 0:
        return address
    return address ^ (((address >> 7) & (span // 16 - 1)) << 4)
