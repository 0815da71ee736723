"""A launch's arguments as the 8-byte words of the kernel's slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tilec.ir import codec
from tilec.ir.addresses import address
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Arg, Func, Value
from tilec.ir.packing import PackedArray
from tilec.ir.run import Memory, grid_size
from tilec.ir.signature import Slot, signature
from tilec.ir.tile import ArrayType, TileType, dense_strides

Array = np.ndarray[Any, Any]


class Binding:
    """What a kernel expects, prepared once: `words(args)` gives one word per slot."""

    def __init__(self, func: Func) -> None:
        self.slots = signature(func)
        self.params = [Parameter(param) for param in func.params]

    def words(self, args: Sequence[Any]) -> Array:
        seen = [param.seen(arg) for param, arg in zip(self.params, args, strict=True)]
        words = [_word(slot, seen[slot.param]) for slot in self.slots]
        return np.array(words or [0], np.uint64)


class Seen(NamedTuple):
    """An argument by its numbers; strides in elements. Of a scalar there is only its code."""

    pointer: int
    extents: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


def _word(slot: Slot, seen: Seen) -> int:
    if slot.kind in ("scalar", "pointer"):
        return seen.pointer
    value = seen.extents[slot.axis] if slot.kind == "extent" else seen.strides[slot.axis]
    return value & (1 << 64) - 1


def scalar_code(value: Any, dtype: DType) -> int:
    """A scalar as the code of its dtype."""
    return int(codec.encode(codec.round_to(value, dtype), dtype))


def seen_array(arg: Array | PackedArray) -> Seen:
    """An array's numbers."""
    if isinstance(arg, PackedArray):
        return Seen(address(np.asarray(arg.bytes)), arg.shape, dense_strides(arg.shape))
    size = arg.itemsize
    return Seen(address(arg), arg.shape, tuple([stride // size for stride in arg.strides]))


class Parameter:
    """A parameter and what is known of it when the kernel is compiled."""

    def __init__(self, param: Arg) -> None:
        self.name, self.type = param.name, param.type
        if isinstance(self.type, ArrayType):
            self.extents = [(axis, n) for axis, n in enumerate(self.type.shape) if isinstance(n, int)]
            self.strides = [(axis, n) for axis, n in enumerate(self.type.strides) if isinstance(n, int)]
            self.storage = self.type.dtype.storage

    def seen(self, arg: Any) -> Seen:
        """The argument's numbers; TilecError for one that the kernel was not compiled for."""
        if not isinstance(self.type, ArrayType):
            assert isinstance(self.type, TileType), "a parameter is an array or a scalar"
            return Seen(scalar_code(arg, self.type.dtype))
        if not isinstance(arg, PackedArray if self.type.packed else PackedArray | np.ndarray):
            what = "a packed" if self.type.packed else "an"
            raise TilecError(f"{self.name}: expected {what} array {self.type}, found {type(arg).__name__}")
        self._check_elements(arg, self.type)
        found = seen_array(arg)
        self._check_shape(found, self.type)
        return found

    def _check_elements(self, arg: Array | PackedArray, kind: ArrayType) -> None:
        if isinstance(arg, PackedArray):
            if not np.asarray(arg.bytes).flags.c_contiguous:
                found = arg.bytes.strides
                raise TilecError(f"{self.name}: packed bytes follow each other, found strides {found}")
            return
        if arg.dtype != self.storage:
            codec.from_storage(np.empty(0, arg.dtype), kind.dtype)  # ml_dtypes' type, or an error
        if any([stride % arg.itemsize for stride in arg.strides]):
            raise TilecError(
                f"{self.name}: strides {arg.strides} are not whole elements of {arg.itemsize} bytes"
            )

    def _check_shape(self, found: Seen, kind: ArrayType) -> None:
        """Every extent and stride that the code counts on; strides of what is not there do not matter."""
        extents, strides = found.extents, found.strides
        if len(extents) != kind.rank:
            raise TilecError(
                f"{self.name}: expected an array of rank {kind.rank}, found shape {list(extents)}"
            )
        fits = all([extents[axis] == n for axis, n in self.extents])
        moves = all([strides[axis] == n or extents[axis] < 2 for axis, n in self.strides])
        if not fits or not (moves or 0 in extents):
            raise TilecError(
                f"{self.name}: compiled for {kind} with strides {list(map(str, kind.strides))}, "
                f"found shape {list(extents)} with strides {list(strides)}"
            )


def grid(func: Func, args: Sequence[Any]) -> int:
    """How many blocks a launch has; TilecError where a requirement of the kernel does not hold."""
    known: dict[Value, Any] = {}
    for param, arg in zip(func.params, args, strict=True):
        if isinstance(param.type, ArrayType):
            known[param] = Memory(np.broadcast_to(np.uint8(0), seen_array(arg).extents), param.type.dtype)
        else:
            known[param] = codec.round_to(arg, param.tile.dtype)[()]
    return grid_size(func, known)
