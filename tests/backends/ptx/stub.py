"""A CUDA driver for tests: it looks like cuda.bindings.driver, records its calls, runs PTX in the emulator.

    monkeypatch.setattr(driver, "api", lambda: stub);  stub.calls == [("cuDeviceGetCount",), ...]
Device memory is memory of this process. `fail[function] = name` makes a function fail; a cubin (whatever
begins like an ELF file) loads where `cubins` allows, and is then launched in name only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tilec.backends import emulator
from tilec.backends.emulator import Report
from tilec.backends.ptx import driver

Array = np.ndarray[Any, Any]
LONGS, WORDS = ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint)
BITS, SWIZZLES = (8, 16, 32, 32, 64), ("none", "32B", "64B", "128B")  # by cuda.h's numbers
ERRORS = {
    2: ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    3: ("CUDA_ERROR_NOT_INITIALIZED", "initialization error"),
    100: ("CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"),
    209: ("CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"),
    218: ("CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"),
    222: ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the PTX was compiled with an unsupported toolchain."),
    715: ("CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"),
    700: ("CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
}


class StubDriver:
    """Two GPUs of one capability. `launches` has (name, blocks, threads, shared, packed) of each."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT=16,
        CU_DEVICE_ATTRIBUTE_CLOCK_RATE=13,
        CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE=36,
        CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH=37,
    )
    CUjit_option = SimpleNamespace(CU_JIT_ERROR_LOG_BUFFER=5, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES=6)
    CUfunction_attribute = SimpleNamespace(
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
        CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED=14,
    )
    CUtensorMapDataType = SimpleNamespace(
        CU_TENSOR_MAP_DATA_TYPE_UINT8=0, CU_TENSOR_MAP_DATA_TYPE_UINT16=1, CU_TENSOR_MAP_DATA_TYPE_UINT32=2,
        CU_TENSOR_MAP_DATA_TYPE_UINT64=4,
    )  # fmt: skip
    CUtensorMapInterleave = SimpleNamespace(CU_TENSOR_MAP_INTERLEAVE_NONE=0)
    CUtensorMapSwizzle = SimpleNamespace(
        CU_TENSOR_MAP_SWIZZLE_NONE=0, CU_TENSOR_MAP_SWIZZLE_32B=1, CU_TENSOR_MAP_SWIZZLE_64B=2,
        CU_TENSOR_MAP_SWIZZLE_128B=3,
    )  # fmt: skip
    CUtensorMapL2promotion = SimpleNamespace(CU_TENSOR_MAP_L2_PROMOTION_L2_128B=2)
    CUtensorMapFloatOOBfill = SimpleNamespace(CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE=0)
    CUresult = int
    CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2, CU_EVENT_DEFAULT=0)

    def __init__(self, capability: tuple[int, int] = (8, 0)) -> None:
        self.capability = capability
        self.calls: list[tuple[Any, ...]] = []
        self.fail: dict[str, int] = {}
        self.log = b""
        self.cubins = True
        self.contexts = [0]
        self.memory: dict[int, Array] = {}
        self.rooms: dict[int, Array] = {}
        self.pinned: dict[int, Array] = {}
        self.modules: list[Any] = []
        self.launches: list[tuple[str, int, int, int, bytes]] = []
        self.reports: list[Report] = []
        self.maps: list[tuple[Any, ...]] = []
        self.functions: list[Any] = []  # of C, which live as long

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cu") or not callable(found) or name.startswith("cuGetError"):
            return found

        def recorded(*args: Any) -> tuple[Any, ...]:
            self.calls.append((name, *args))
            if name in self.fail:
                return (self.fail[name], *[None] * (name in GIVING))
            if name == "cuModuleLoadDataEx" and args[0].startswith(b"\x7fELF") and not self.cubins:
                return (209, None)
            given = found(*args)
            return (0,) if given is None else (0, given)

        return recorded

    def take(self) -> list[tuple[Any, ...]]:
        """The calls since the last time."""
        calls, self.calls = self.calls, []
        return calls

    def cuGetErrorName(self, status: int) -> tuple[int, bytes]:
        return 0, ERRORS[status][0].encode()

    def cuGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, ERRORS[status][1].encode()

    def cuDeviceGetCount(self) -> int:
        return 2

    def cuDeviceGet(self, number: int) -> int:
        return number

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> int:
        counted = {16: 100, 13: 1_500_000, 36: 1_250_000, 37: 4096}
        return counted[attribute] if attribute in counted else self.capability[attribute - 75]

    def cuDeviceGetName(self, size: int, device: int) -> bytes:
        return b"NVIDIA Stub".ljust(size, b"\0")

    def cuDevicePrimaryCtxRetain(self, device: int) -> int:
        return 0xC0 + device

    def cuCtxGetCurrent(self) -> int:
        return self.contexts[-1]

    def cuCtxPushCurrent(self, context: int) -> None:
        self.contexts.append(context)

    def cuCtxPopCurrent(self) -> int:
        return self.contexts.pop()

    def cuMemAlloc(self, nbytes: int) -> int:
        room = np.full(nbytes + 256, 0xA5, np.uint8)
        start = -room.ctypes.data % 256
        at = room.ctypes.data + start
        self.rooms[at], self.memory[at] = room, room[start : start + nbytes]
        return at

    def cuMemFree(self, address: int) -> None:
        del self.memory[address], self.rooms[address]

    def cuMemHostAlloc(self, nbytes: int, flags: int) -> int:
        assert flags == 1, "portable"
        room = np.full(nbytes, 0xA5, np.uint8)
        self.pinned[room.ctypes.data] = room
        return int(room.ctypes.data)

    def cuMemFreeHost(self, address: int) -> None:
        del self.pinned[address]

    def cuMemcpyHtoD(self, address: int, host: int, nbytes: int) -> None:
        assert self.room_of(address).nbytes >= nbytes, "copied past the end"
        ctypes.memmove(address, host, nbytes)

    def cuMemcpyDtoH(self, host: int, address: int, nbytes: int) -> None:
        assert self.room_of(address).nbytes >= nbytes, "copied past the end"
        ctypes.memmove(host, address, nbytes)

    def cuEventCreate(self, flags: int) -> int:
        return 0xE0

    def cuEventRecord(self, event: int, stream: int) -> None: ...

    def cuEventDestroy(self, event: int) -> None: ...

    def cuEventSynchronize(self, event: int) -> None: ...

    def cuEventElapsedTime(self, start: int, end: int) -> float:
        return 0.25

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> None: ...

    def cuStreamSynchronize(self, stream: int) -> None: ...

    def cuModuleLoadDataEx(self, image: bytes, count: int, options: Any, values: Any) -> int:
        assert image.endswith(b"\0") and count == len(options) == len(values)
        values[0][: len(self.log)] = self.log
        if image.startswith(b"\x7fELF"):
            self.modules.append(None)
        else:
            self.modules.append(emulator.load(image[:-1].decode()))
        return len(self.modules) - 1

    def cuModuleGetFunction(self, module: int, name: bytes) -> tuple[int, str]:
        return module, name.decode()

    def cuFuncSetAttribute(self, function: Any, attribute: int, value: int) -> None: ...

    def cuLaunchKernel(self, function: tuple[int, str], *rest: Any) -> None:
        blocks, _, _, threads, _, _, shared, _stream, params, extra = rest
        words = (ctypes.c_void_p * 5).from_address(extra)
        assert (words[0], words[2], words[4], params) == (1, 2, None, 0)
        size = ctypes.c_size_t.from_address(words[3] or 0).value
        packed = ctypes.string_at(words[1] or 0, size)
        module, name = function
        self.launches.append((name, blocks, threads, shared, packed))
        if self.modules[module] is not None:
            self.run(self.modules[module], name, blocks, threads, shared, packed)

    def run(self, module: Any, name: str, blocks: int, threads: int, shared: int, packed: bytes) -> None:
        """Takes the buffer apart as the PTX declares it."""
        args, at = [], 0
        for param in module.programs[name].function.params:
            at += -at % min(param.size, 64)  # .align in the PTX is that of the memory pointed to
            args.append(self.argument(packed[at : at + param.size]))
            at += param.size
        assert at == len(packed), f"{name} takes {at} bytes of parameters, found {len(packed)}"
        report = module.launch(name, blocks, threads, args, shared)
        self.reports.append(report)
        if any("stopped itself with trap" in finding.message for finding in report.findings):
            self.fail["cuStreamSynchronize"] = 715  # as everything from then on
            return
        assert not report.findings, "\n".join(map(str, report.findings[:4]))

    def argument(self, raw: bytes) -> Any:
        """Addresses as the memory there, tensor maps as the emulator has them, all else as a number."""
        if len(raw) == 128:
            return self.tensor_map(*self.maps[raw[0]])
        number = np.frombuffer(raw, f"<u{len(raw)}")[0]
        memory = {**self.memory, **{at: m.view(np.uint32) for at, m in self.pinned.items()}}
        found = [m for at, m in memory.items() if len(raw) == 8 and at <= number < at + max(1, m.nbytes)]
        return found[0][int(number) - found[0].ctypes.data :] if found else number

    def cuDriverGetVersion(self) -> int:
        return 13000

    def cuGetProcAddress(self, name: bytes, version: int, flags: int) -> int | None:
        assert (name, version, flags) == (b"cuTensorMapEncodeTiled", 12000, 0), (
            "the one that is called itself"
        )
        kinds = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, LONGS, LONGS, WORDS, WORDS
        type_ = ctypes.CFUNCTYPE(ctypes.c_int, *kinds, *[ctypes.c_int] * 4)
        self.functions.append(type_(self.c_cuTensorMapEncodeTiled))
        return ctypes.cast(self.functions[-1], ctypes.c_void_p).value

    def c_cuTensorMapEncodeTiled(
        self, room: int, kind: int, rank: int, address: int, shape: Any, strides: Any, box: Any, steps: Any,
        *how: int,
    ) -> int:  # fmt: skip
        """As C calls it."""
        assert room % 128 == 0, "a tensor map is aligned"
        tables = shape[:rank], strides[: rank - 1], box[:rank], steps[:rank]
        interleave, swizzle, promotion, fill = how
        told = *tables, interleave, SWIZZLES[swizzle], promotion, fill
        status, encoded = self.cuTensorMapEncodeTiled(BITS[kind], rank, address, *told)
        if not status:
            ctypes.memmove(room, encoded, 128)
        return int(status)

    def cuTensorMapEncodeTiled(self, *told: Any) -> bytes:
        self.maps.append(told)
        return bytes([len(self.maps) - 1]) + b"\xff" * 127

    def tensor_map(
        self, bits: int, rank: int, address: int, shape: list[int], strides: list[int], box: list[int],
        steps: list[int], interleave: int, swizzle: str, promotion: int, fill: int,
    ) -> emulator.TensorMap:  # fmt: skip
        assert (interleave, fill, promotion, steps) == (0, 0, 2, [1] * rank) and len(strides) == rank - 1
        room = self.room_of(address)
        elements = room[: len(room) // (bits // 8) * (bits // 8)].view(f"u{bits // 8}")
        seen = np.lib.stride_tricks.as_strided(elements, shape[::-1], [*strides[::-1], bits // 8])
        return emulator.TensorMap(seen, box[::-1], swizzle)

    def room_of(self, address: int) -> Array:
        """The memory from an address on."""
        start = next(at for at, m in self.memory.items() if at <= address <= at + m.nbytes)
        return self.memory[start][address - start :]


GIVING = {
    "cuTensorMapEncodeTiled",
    "cuModuleLoadDataEx",
    "cuMemAlloc",
    "cuDeviceGetCount",
    "cuCtxGetCurrent",
    "cuModuleGetFunction",
}


@contextmanager
def installed(capability: tuple[int, int] = (8, 0)) -> Iterator[StubDriver]:
    """The stub in the driver's place, with devices of its own."""
    stub = StubDriver(capability)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "api", lambda: stub)
        driver.device.cache_clear()
        driver.tensor_map.cache_clear()
        driver._driver_version.cache_clear()
        yield stub
    driver.device.cache_clear()
