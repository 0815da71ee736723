"""A launch's arguments as the 8-byte words of the kernel's slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilec.ir import codec
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Arg, Func, Value
from tilec.ir.packing import PackedArray
from tilec.ir.run import Memory, grid_size
from tilec.ir.signature import Slot, signature
from tilec.ir.tile import ArrayType, row_major

Array = np.ndarray[Any, Any]


def slot_words(func: Func, args: Sequence[Any]) -> Array:
    """One word per slot: an address, an extent, a stride in elements, or a scalar's code."""
    for param, arg in zip(func.params, args, strict=True):
        if isinstance(param.type, ArrayType):
            _check(param, arg)
    words = [_word(slot, args[slot.param]) for slot in signature(func)]
    return np.array(words or [0], np.uint64)


def _word(slot: Slot, arg: Any) -> int:
    if slot.kind == "scalar":
        return scalar_code(arg, slot.dtype)
    shape, strides, pointer = layout_of(arg)
    value = {
        "pointer": lambda: pointer,
        "extent": lambda: shape[slot.axis],
        "stride": lambda: strides[slot.axis],
    }
    return value[slot.kind]() & (1 << 64) - 1


def scalar_code(value: Any, dtype: DType) -> int:
    """A scalar as the code of its dtype."""
    return int(codec.encode(codec.round_to(value, dtype), dtype))


def layout_of(arg: Array | PackedArray) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Extents, strides in elements, and the address of the first element."""
    if isinstance(arg, PackedArray):
        return arg.shape, row_major(arg.shape), np.asarray(arg.bytes).ctypes.data
    strides = tuple(stride // arg.itemsize for stride in arg.strides)
    return arg.shape, strides, arg.ctypes.data


def _check(param: Arg, arg: Any) -> None:
    """The array is what the kernel was compiled for: the dtype and every extent and stride that it counts
    on.
    """
    kind = param.array_type
    if isinstance(arg, PackedArray) != kind.packed or not isinstance(arg, PackedArray | np.ndarray):
        raise TilecError(f"{param.name}: expected {'a packed' if kind.packed else 'an'} array {kind}, "
                         f"found {type(arg).__name__}")  # fmt: skip
    if isinstance(arg, PackedArray) and not np.asarray(arg.bytes).flags.c_contiguous:
        raise TilecError(f"{param.name}: packed bytes follow each other, found strides {arg.bytes.strides}")
    if isinstance(arg, np.ndarray):
        codec.from_storage(
            arg.reshape(-1)[:0] if arg.flags.c_contiguous else np.empty(0, arg.dtype), kind.dtype
        )
        if any(stride % arg.itemsize for stride in arg.strides):
            raise TilecError(
                f"{param.name}: strides {arg.strides} are not whole elements of {arg.itemsize} bytes"
            )
    shape, strides, _ = layout_of(arg)
    if len(shape) != kind.rank:
        raise TilecError(f"{param.name}: expected an array of rank {kind.rank}, found shape {list(shape)}")
    fixed = [(n, m) for n, m in zip(kind.shape, shape, strict=True) if isinstance(n, int)]
    moved = [
        (n, m) for n, m, e in zip(kind.strides, strides, shape, strict=True) if isinstance(n, int) and e > 1
    ]
    if any(n != m for n, m in (fixed + moved if all(shape) else fixed)):
        raise TilecError(f"{param.name}: compiled for {kind} with strides {list(map(str, kind.strides))}, "
                         f"found shape {list(shape)} with strides {list(strides)}")  # fmt: skip


def grid(func: Func, args: Sequence[Any]) -> int:
    """How many blocks a launch has; TilecError where a requirement of the kernel does not hold."""
    known: dict[Value, Any] = {}
    for param, arg in zip(func.params, args, strict=True):
        if isinstance(param.type, ArrayType):
            known[param] = Memory(np.broadcast_to(np.uint8(0), layout_of(arg)[0]), param.type.dtype)
        else:
            known[param] = codec.round_to(arg, param.tile.dtype)[()]
    return grid_size(func, known)
