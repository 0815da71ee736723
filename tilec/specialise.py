"""What a kernel is compiled for: the types of its arguments, from specifications or from real arrays.

    Spec("f16", ("m", dim("k", multiple=8)))     extents that the launch decides; k is a multiple of 8
A real array gives its extents as unknown too, but says which power of two divides them, and 1 is a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import lcm
from typing import Any

import numpy as np

from tilec.device import WIDEST, DeviceArray, bounds_of
from tilec.ir.addresses import address
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.packing import PackedArray
from tilec.ir.tile import ArrayType, Dim, Extent
from tilec.literals import plain

LIMIT = 128  # larger powers of two in extents and strides change no code
Extents = tuple[Extent, ...]


def dim(name: str, multiple: int = 1) -> Dim:
    """An extent known at launch only; equal wherever the name is, and divided by `multiple`."""
    if not isinstance(name, str) or not name:
        raise TilecError(f"tc.dim takes a name, found {name!r}")
    if not isinstance(multiple, int) or multiple < 1:
        raise TilecError(f"the multiple of tc.dim is a whole number of 1 or more, found {multiple!r}")
    return Dim(name, multiple)


class Spec:
    """An array that there is no data for yet: dtype, shape (integers, names, tc.dim), strides in elements,
    alignment of its first element in bytes."""

    def __init__(
        self,
        dtype: Any,
        shape: Sequence[int | str | Dim],
        strides: Sequence[int | str | Dim] | None = None,
        align: int = 16,
    ) -> None:
        self.dtype: DType = find_dtype(dtype)
        self.shape: Extents = tuple(_extent(n, "an extent") for n in _items(shape))
        given = (
            row_major(self.shape)
            if strides is None
            else tuple(_extent(n, "a stride") for n in _items(strides))
        )
        if len(given) != len(self.shape):
            raise TilecError(
                f"tc.Spec takes one stride per axis: {len(self.shape)} extents, {len(given)} strides"
            )
        if not isinstance(align, int) or align < 1 or align & (align - 1):
            raise TilecError(f"align is a power of two, in bytes, found {align!r}")
        self.strides: Extents = given
        self.align = align
        self.packed = self.dtype.bits % 8 != 0
        self._check_packed(strides)

    def _check_packed(self, strides: object) -> None:
        if self.packed and strides is not None:
            raise TilecError(f"{self.dtype.name} is packed, row after row: it takes no strides")

    def __repr__(self) -> str:
        return f"Spec({self.type})"

    @property
    def type(self) -> ArrayType:
        """The array type that stands for it."""
        return ArrayType(self.dtype, self.shape, self.strides, self.align, packed=self.packed)


def _items(x: Any) -> tuple[Any, ...]:
    return tuple(x) if isinstance(x, Sequence) and not isinstance(x, str) else (x,)


def _extent(n: Any, what: str) -> Extent:
    n = plain(n)
    if isinstance(n, str):
        return dim(n)
    if isinstance(n, Dim):
        return n
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise TilecError(f"{what} of tc.Spec is a whole number, a name or a tc.dim, found {n!r}")
    return n


def row_major(shape: Extents) -> Extents:
    """Strides of a dense array: products of the extents to the right, by name where they are not known."""
    strides: list[Extent] = [1]
    for extent in reversed(shape[1:]):
        strides.insert(0, times(extent, strides[0]))
    return tuple(strides[: len(shape)])


def times(a: Extent, b: Extent) -> Extent:
    """A product of extents."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if 1 in (a, b) or 0 in (a, b):
        return a if b == 1 else b if a == 1 else 0
    named = "*".join(str(x) if isinstance(x, int) else x.name for x in (a, b))
    return Dim(named, (a if isinstance(a, int) else a.multiple) * (b if isinstance(b, int) else b.multiple))


def agreed(types: Sequence[Any]) -> list[Any]:
    """One name, one multiple: what is said about a dim anywhere holds wherever its name stands."""
    known: dict[str, int] = {}
    for each in (n for kind in types if isinstance(kind, ArrayType) for n in kind.shape):
        if isinstance(each, Dim):
            known[each.name] = lcm(known.get(each.name, 1), each.multiple)
    return [_agreed(kind, known) if isinstance(kind, ArrayType) else kind for kind in types]


def _agreed(kind: ArrayType, known: dict[str, int]) -> ArrayType:
    shape = tuple(Dim(n.name, known[n.name]) if isinstance(n, Dim) else n for n in kind.shape)
    strides = row_major(shape) if kind.strides == row_major(kind.shape) else kind.strides
    strides = tuple(
        Dim(n.name, known.get(n.name, n.multiple)) if isinstance(n, Dim) and "*" not in n.name else n
        for n in strides
    )
    return replace(kind, shape=shape, strides=strides)


# From real arrays.

_dtypes: dict[np.dtype[Any], DType] = {}


def dtype_of(x: np.dtype[Any], name: str) -> DType:
    """Our dtype of a numpy array's."""
    if x not in _dtypes:
        if not x.isnative:
            raise TilecError(f"{name} is byte-swapped ({x}): pass x.astype(x.dtype.newbyteorder('='))")
        try:
            _dtypes[x] = find_dtype(x)
        except TilecError:
            raise TilecError(
                f"{name} holds {x}, which no tile can hold: expected integers, floats or bool"
            ) from None
    return _dtypes[x]


def array_type(
    x: np.ndarray[Any, Any] | PackedArray | DeviceArray, name: str, static: frozenset[int] = frozenset()
) -> ArrayType:
    """The type that a kernel is compiled for, given an array; `static`: axes whose extents are constants."""
    if isinstance(x, PackedArray):
        shape = _shape(x.shape, name, static)
        strides = tuple(
            Dim(f"{name}.{axis}.stride", power_of_two(n)) if isinstance(n, Dim) else n
            for axis, n in enumerate(_strides_like(x.shape, shape))
        )
        return ArrayType(x.dtype, shape, strides, alignment(bounds_of(x)), packed=x.dtype.bits % 8 != 0)
    kind = x.dtype if isinstance(x, DeviceArray) else dtype_of(x.dtype, name)
    shape, held = _shape(x.shape, name, static), bounds_of(x)
    return ArrayType(kind, shape, _strides(held, name, shape), alignment(held))


def _shape(extents: Sequence[int], name: str, static: frozenset[int]) -> Extents:
    for axis, n in enumerate(extents):
        if n >= 2**31:
            raise TilecError(
                f"axis {axis} of {name} has {n} elements: extents end at 2^31 - 1; split the array"
            )
    return tuple(
        n if n == 1 or axis in static else Dim(f"{name}.{axis}", power_of_two(n))
        for axis, n in enumerate(extents)
    )


def _strides_like(extents: Sequence[int], shape: Extents) -> list[Extent]:
    """Row-major strides: known ones as they are, others as Dims of their values."""
    found: list[Extent] = []
    value, known = 1, True
    for n, extent in zip(reversed(extents), reversed(shape), strict=True):
        found.insert(0, value if known else Dim("", value))
        value, known = value * n, known and isinstance(extent, int)
    return found


def _strides(x: np.ndarray[Any, Any], name: str, shape: Extents) -> Extents:
    size, dense = x.dtype.itemsize, _strides_like(x.shape, shape)
    found = [_stride(x, axis, size, dense[axis], name) for axis in range(x.ndim)]
    if x.ndim > 1 and found[-1] == 1 and x.strides[-2] == x.shape[-1] * size and x.shape[-2] > 1:
        found[-2] = shape[-1]  # rows follow each other: one number, and it fits 32 bits
    return tuple(found)


def _stride(x: np.ndarray[Any, Any], axis: int, size: int, dense: Extent, name: str) -> Extent:
    """0 and 1 are constants, and so is what known extents decide. An axis of one element takes no step: its
    stride may be anything."""
    in_bytes = x.strides[axis]
    if x.shape[axis] == 1:
        return 1 if axis == x.ndim - 1 else 0
    if in_bytes % size:
        raise TilecError(
            f"{name} has a stride of {in_bytes} bytes, which is no multiple of its elements' {size}: copy it"
        )
    if in_bytes < 0:
        raise TilecError(
            f"{name} runs backwards along axis {axis}: pass np.ascontiguousarray({name}), a copy, and "
            "assign it back where the kernel writes it"
        )
    stride = in_bytes // size
    if stride == 0 or dense == stride:
        return stride
    return 1 if stride == 1 else Dim(f"{name}.{axis}.stride", power_of_two(stride))


def power_of_two(n: int | Dim) -> int:
    """The largest power of two, up to a limit, that divides n."""
    value = n.multiple if isinstance(n, Dim) else n
    return min(value & -value, LIMIT) or LIMIT


def alignment(x: np.ndarray[Any, Any]) -> int:
    """The largest power of two, up to the widest access, that divides the address of the first element."""
    return min(WIDEST, power_of_two(address(x)))
