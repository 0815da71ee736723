"""The arguments of a launch, packed as cuLaunchKernel takes them.

packed = Packed(Parameters(signature(func)), values);   packed.address
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

from tilec.ir.signature import Slot

MAP_BYTES, MAP_ALIGN = 128, 64  # of an encoded tensor map
Spot = tuple[int, int, Callable[[int], Any]]  # a slot, which of the addresses, and what it is there


class Parameters:
    """How a kernel's arguments lie in the buffer of a launch: in order, each at a multiple of its size.

    pointer, i32, i64  ->  "<Qi4xq", 24 bytes. Scalars are given as their bytes.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = tuple(slots)
        layout, at = "<", 0
        for slot in self.slots:
            code, size = _code(slot)
            pad = -at % min(size, MAP_ALIGN)
            layout += f"{pad}x{code}" if pad else code
            at += pad + size
        self.layout = layout
        self.packer = struct.Struct(layout)
        self.size = at


def _code(slot: Slot) -> tuple[str, int]:
    if slot.kind == "scalar":
        size = slot.dtype.storage.itemsize
        return f"{size}s", size
    if slot.kind == "map":
        return f"{MAP_BYTES}s", MAP_BYTES
    return {"pointer": ("Q", 8), "said": ("Q", 8), "extent": ("i", 4), "stride": ("q", 8)}[slot.kind]


class Packed:
    """A buffer of packed arguments, and how cuLaunchKernel is told of it."""

    def __init__(self, parameters: Parameters, values: Sequence[Any]) -> None:
        self.pack_into, self.values = parameters.packer.pack_into, list(values)
        self.data = ctypes.create_string_buffer(max(parameters.size, 1))
        self.size = ctypes.c_size_t(parameters.size)
        pointer, length, end = 1, 2, 0  # CU_LAUNCH_PARAM_BUFFER_POINTER, _BUFFER_SIZE, _END
        self.words = (ctypes.c_void_p * 5)(
            pointer, ctypes.addressof(self.data), length, ctypes.addressof(self.size), end
        )
        self.address = ctypes.addressof(self.words)
        self.put((), ())

    def put(self, addresses: Sequence[int], spots: Sequence[Spot]) -> None:
        for n, i, encoded in spots:
            self.values[n] = encoded(addresses[i])
        self.pack_into(self.data, 0, *self.values)
