"""Compiled kernels on a GPU: arrays that are there already, or numpy's, which are copied there and back.

    program = OnCuda(code, cubin, written=(2,), number=0);   program.launch(held, blocks)
Not yet run on hardware: tests run it on a driver made for them, which emulates the PTX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.device import bounds_of, device, gpu_of, placed, span
from tilec.dlpack import LEGACY
from tilec.ir import codec
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.packing import PackedArray
from tilec.ir.signature import Slot
from tilec.ir.target import Target
from tilec.ir.tile import ArrayType, dense_strides

if TYPE_CHECKING:
    from tilec.backends.ptx import PtxKernel

Array = np.ndarray[Any, Any]
Span = tuple[int, int]


class OnCuda:
    """A kernel on one GPU. `written`: numbers of the parameters that it writes."""

    def __init__(self, code: PtxKernel, cubin: bytes | None, written: Sequence[int], number: int) -> None:
        from tilec.backends.ptx.arguments import Parameters
        from tilec.backends.ptx.driver import Said

        self.gpu = device(number)
        check_fits_gpu(code.target, self.gpu.target, number)
        self.threads = code.threads
        self.said = Said(self.gpu, code.reports) if code.reports else None
        self.written = frozenset(written)
        self.slots = code.slots
        self.arrays = tuple(i for i, p in enumerate(code.func.params) if isinstance(p.type, ArrayType))
        images = [cubin] if cubin is not None else []
        images.append(code.ptx.encode())
        parameters, cluster = Parameters(self.slots), code.func.cluster
        self.kernel = self.gpu.load(code.func.name, images, code.shared_bytes, parameters, cluster)

    def words(self, args: Sequence[Any]) -> list[Any]:
        """What goes into each slot."""
        return [
            self.said.address if slot.kind == "said" and self.said else word(slot, args[slot.param])
            for slot in self.slots
        ]

    def launch(self, args: Sequence[Any], blocks: int) -> None:
        """On the stream of the first array; the other arrays' streams wait for it, and it for them."""
        held = [gpu_of(args[i]) for i in self.arrays]
        streams = list({x.stream: None for x in held if x is not None}) or [LEGACY]
        if None in held:
            with self.copies(args) as there:
                self.queue(there, blocks, LEGACY)
                self.gpu.synchronise()
            return
        for other in streams[1:]:
            self.gpu.wait(streams[0], other)
        self.queue(args, blocks, streams[0])
        for other in streams[1:]:
            self.gpu.wait(other, streams[0])

    def movable(
        self, args: Sequence[Any], blocks: int, moving: Sequence[int]
    ) -> Callable[[Sequence[int]], None] | None:
        """A launch on arrays of the GPU like these, all of one stream, to be made again and again: it takes
        the addresses of the `moving` parameters."""
        held = [gpu_of(args[i]) for i in self.arrays]
        streams = {x.stream for x in held if x is not None} or {LEGACY}
        if None in held or len(streams) > 1:
            return None
        spots = [(n, moving.index(slot.param), encoded(slot, args[slot.param]))
                 for n, slot in enumerate(self.slots)
                 if slot.kind in ("pointer", "map") and slot.param in moving]  # fmt: skip
        how = blocks, self.threads, streams.pop(), self.words(args), spots
        moved: Callable[[Sequence[int]], None] = self.kernel.movable(*how)
        return moved

    def queue(self, args: Sequence[Any], blocks: int, stream: int) -> None:
        self.kernel.launch(blocks, self.threads, stream, self.words(args))

    @contextmanager
    def copies(self, args: Sequence[Any]) -> Iterator[list[Any]]:
        """The arguments with arrays on the GPU; what is written is copied back at the end.

        Arrays that overlap stay so: memory is copied as the union of what they span.
        """
        spans = united([span(bounds_of(args[i])) for i in self.arrays])
        rooms = {s: self.gpu.allocate(s[1] - s[0] + 256) for s in spans}
        try:
            for (low, high), at in rooms.items():
                self.gpu.copy_in(at + low % 256, low, high - low)  # as aligned there as here
            yield [self.there(x, rooms) if i in self.arrays else x for i, x in enumerate(args)]
            for i in sorted(self.written):
                self.copy_back(bounds_of(args[i]), rooms)
        finally:
            for at in rooms.values():
                self.gpu.free(at)

    def there(self, x: Any, rooms: dict[Span, int]) -> Any:
        """An array's counterpart on the GPU."""
        if isinstance(x, PackedArray):
            return replace(x, bytes=self.there(x.bytes, rooms))
        strides = tuple(stride // x.itemsize for stride in x.strides)
        return placed(counterpart(x, rooms), x.shape, strides, find_dtype(x.dtype), self.gpu.number)

    def copy_back(self, x: Array, rooms: dict[Span, int]) -> None:
        """The elements alone: what lies between those of a strided array is not ours."""
        low, high = span(x)
        if x.flags.c_contiguous:
            self.gpu.copy_out(low, counterpart(x, rooms), high - low)
            return
        held = np.empty(high - low, np.uint8)
        self.gpu.copy_out(held.ctypes.data, counterpart(x, rooms), high - low)
        x[...] = np.ndarray(x.shape, x.dtype, held, 0, x.strides)


def word(slot: Slot, arg: Any) -> Any:
    """What goes into one slot: an address, an extent, a stride in elements, a scalar's bytes."""
    match slot.kind:
        case "pointer":
            held: Any = arg.bytes if isinstance(arg, PackedArray) else arg
            return held.address
        case "extent":
            return arg.shape[slot.axis]
        case "stride":
            return (dense_strides(arg.shape) if isinstance(arg, PackedArray) else arg.strides)[slot.axis]
        case "map":
            return encoded(slot, arg)(arg.address)
    dtype = slot.dtype
    held = arg if dtype.storage == dtype.reference else codec.to_storage(np.asarray(arg), dtype)
    return held.tobytes()


def encoded(slot: Slot, arg: Any) -> Callable[[int], Any]:
    """What goes into the slot of an array's address, or of a map of it, were the array at an address."""
    if slot.kind == "pointer":
        return int
    from tilec.backends.ptx.driver import tensor_map

    assert slot.box is not None, "a tensor map has a box"
    size, shape, strides, box = arg.dtype.bytes, arg.shape, arg.strides, slot.box
    return lambda address: tensor_map(address, size, shape, strides, box)


def united(spans: Sequence[Span]) -> list[Span]:
    """The fewest ranges that cover these; those that only touch stay apart."""
    found: list[Span] = []
    for low, high in sorted(spans):
        if found and low < found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        elif not found or (low, high) != found[-1]:
            found.append((low, high))
    return found


def counterpart(x: Array, rooms: dict[Span, int]) -> int:
    """The address on the GPU of an array's first element."""
    low, high = span(x)
    (start, _), at = next((s, at) for s, at in rooms.items() if s[0] <= low and high <= s[1])
    return at + start % 256 + low - start


def check_fits_gpu(code: Target, gpu: Target, number: int) -> None:
    """GPUs run what was compiled for them or for an older one; names that end in a are for one kind alone."""
    exact = code.name.endswith("a")
    if code.sm != gpu.sm if exact else code.sm > gpu.sm:
        raise TilecError(
            f"this was compiled for {code.name}, and cuda:{number} runs {gpu.name}: compile it with "
            f'target="{gpu.name}", or target="sm_80" for every GPU from then on'
        )
