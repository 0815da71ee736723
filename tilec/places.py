"""Where kernels run: the target that is set around a call, and the programs that a Func becomes.

    with tc.target("emulator:sm_80"):
        matmul(a, b, c)
A program has `launch(args, blocks)`: numpy arrays, PackedArrays and numpy scalars, in the kernel's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tilec.device import DeviceArray
from tilec.ir import codec
from tilec.ir.errors import TilecError
from tilec.ir.func import Func
from tilec.ir.packing import PackedArray, pack
from tilec.ir.run import Memory, run
from tilec.ir.signature import Slot
from tilec.ir.target import Place, parse_target
from tilec.ir.tile import ArrayType, Type

if TYPE_CHECKING:
    from tilec.backends.emulator import Report
    from tilec.backends.ptx import PtxKernel

DEFAULT = "cpu"
_target: ContextVar[str] = ContextVar("tilec_target", default=DEFAULT)


class Program(Protocol):
    """Something that runs one kernel."""

    def launch(self, args: Sequence[Any], blocks: int) -> None: ...


@contextmanager
def target(name: str) -> Iterator[None]:
    """Where numpy arguments run inside the `with`: "cpu", "reference", "emulator:sm_80", "cuda:0"."""
    runner_of(name)
    token = _target.set(name)
    try:
        yield
    finally:
        _target.reset(token)


def current_target() -> str:
    """The name of the target that is set."""
    return _target.get()


def runner_of(name: str) -> Place:
    """The place of this name, which must be able to run something."""
    place = parse_target(name)
    if place.runner == "compile":
        raise TilecError(
            f"{name} is a target to compile for, kernel.compile(..., target={name!r}); to run there is "
            f'"cpu", "reference", "emulator:{name}" and "cuda:0"'
        )
    return place


class Reference:
    """The meaning: every instruction in numpy, one after another."""

    def __init__(self, func: Func) -> None:
        self.func = func

    def launch(self, args: Sequence[Any], blocks: int) -> None:
        held = [meant(arg, param.type) for arg, param in zip(args, self.func.params, strict=True)]
        run(self.func, held)
        for arg, memory in zip(args, held, strict=True):
            if isinstance(arg, PackedArray) and arg.bytes.flags.writeable:
                arg.bytes[:] = pack(memory.data, arg.dtype)


def meant(arg: Any, kind: Type) -> Any:
    """An argument as the reference holds it."""
    if isinstance(arg, PackedArray):
        values = arg.codes() if arg.dtype.is_float else arg.values()
        return Memory(values.astype(arg.dtype.storage), arg.dtype)
    if isinstance(kind, ArrayType):
        return Memory(arg, kind.dtype)
    return arg


class Emulated:
    """Compiled PTX, run and checked on numpy; a finding raises TilecError with its report."""

    def __init__(self, code: PtxKernel) -> None:
        from tilec.backends.emulator import load

        self.code = code
        self.func = code.func
        self.slots = code.slots
        self.module = load(code.ptx)
        self.report: Report | None = None  # of the last launch

    def launch(self, args: Sequence[Any], blocks: int) -> None:
        from tilec.backends.ptx.reports import heard

        buffers = [
            flat(arg) if isinstance(param.type, ArrayType) else arg
            for arg, param in zip(args, self.func.params, strict=True)
        ]
        said = said_buffer() if self.code.reports else None
        words = [said if slot.kind == "said" else machine_word(slot, args, buffers) for slot in self.slots]
        cluster = (self.code.func.cluster, 1, 1)
        report = self.module.launch(
            self.func.name, blocks, self.code.threads, words, self.code.shared_bytes, cluster
        )
        report.findings += report.unread  # a kernel of tilec masks what lies outside of its arrays
        pointers = [(n, slot.param) for n, slot in enumerate(self.slots) if slot.kind == "pointer"]
        report.rename({f"argument {n}": self.func.params[p].name or f"argument {n}" for n, p in pointers})
        self.report = report
        error = None if said is None else heard(self.code.reports, said)
        if error is not None:
            error.report = report
            raise error
        report.raise_if_any()


def said_buffer() -> np.ndarray[Any, Any]:
    """Room for what a kernel prints and asserts."""
    from tilec.backends.ptx.reports import BUFFER_BYTES

    return np.zeros(BUFFER_BYTES // 4, np.uint32)


def machine_word(slot: Slot, args: Sequence[Any], buffers: Sequence[Any]) -> Any:
    """What is passed in one slot of a kernel's signature."""
    arg = args[slot.param]
    match slot.kind:
        case "pointer":
            return buffers[slot.param]
        case "scalar":
            return codec.to_storage(np.asarray(arg), slot.dtype)[()]
        case "extent":
            return np.int32(arg.shape[slot.axis])
        case "map":
            return tensor_map(slot, arg)
        case "said":
            return said_buffer()
    return np.int64(element_strides(arg)[slot.axis])


def tensor_map(slot: Slot, arg: Any) -> Any:
    """An array as the emulator's TMA sees it."""
    from tilec.backends.emulator import TensorMap

    box = slot.box
    assert box is not None, "a tensor map has a box"
    axes = box.seen(arg.shape, element_strides(arg), arg.itemsize)[::-1]
    held = flat(arg).view(np.uint8)
    held = held[: len(held) // box.unit * box.unit].view(f"u{box.unit}")
    extents, strides = zip(*axes, strict=True)
    seen = np.lib.stride_tricks.as_strided(held, extents, strides, writeable=False)
    return TensorMap(seen, box.extents[::-1], "none" if box.span == 16 else f"{box.span}B")


def element_strides(arg: Any) -> tuple[int, ...]:
    """Strides in elements."""
    if isinstance(arg, PackedArray):
        return tuple(int(np.prod(arg.shape[axis + 1 :], dtype=np.int64)) for axis in range(len(arg.shape)))
    if isinstance(arg, DeviceArray):
        return arg.strides
    return tuple(stride // arg.itemsize for stride in arg.strides)


def flat(arg: Any) -> np.ndarray[Any, Any]:
    """The memory from an array's first element to its last, as one contiguous row over the same bytes."""
    data = arg.bytes if isinstance(arg, PackedArray) else arg
    if data.flags.c_contiguous:
        return np.asarray(data).reshape(-1)
    span = 1 + sum((n - 1) * stride for n, stride in zip(data.shape, element_strides(data), strict=True))
    bits = data.view(f"u{data.itemsize}")  # as_strided does not take all dtypes of ml_dtypes
    row = np.lib.stride_tricks.as_strided(bits, (span if data.size else 0,), (data.itemsize,))
    return row.view(data.dtype)
