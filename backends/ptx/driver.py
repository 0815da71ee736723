"""The CUDA driver, through cuda-python: devices, memory, modules, launches. Nothing else touches CUDA.

    gpu = device(0);   gpu.target.name == "sm_90a"
    kernel = gpu.load("add", (cubin, ptx), shared_bytes, Parameters(signature(func)))
    kernel.launch(blocks, threads, stream, values)
Each device's primary context is used, the one of torch and cupy, and left as it was found. Not yet run on
hardware: tests hold it against a driver made for them, and its names against cuda-python's.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np

from tilec.backends.ptx.arguments import MAP_BYTES, Packed, Parameters, Spot
from tilec.backends.ptx.reports import BUFFER_BYTES, Report, heard
from tilec.ir.boards import Rates, rates_of
from tilec.ir.errors import TilecError
from tilec.ir.signature import Box
from tilec.ir.target import Target, of_capability

LEGACY = 1  # the default stream, by a name that means the same with per-thread default streams
WITHOUT_ASKING = 48 << 10  # bytes of a block's shared memory that need no opt-in
PORTABLE_CLUSTER = 8  # blocks of a cluster that every GPU with clusters runs without being asked
MOST_BLOCKS = 2**31 - 1  # along x
LOG_BYTES = 8192
SMALL = 128 << 10  # bytes. Maps of arrays of fewer have a bit that may make Blackwell's TMA leave them, from
LAST_WITH_BIT = 13030  # drivers up to this: NVIDIA's release notes (595.71, known issues) say to clear it

LOST = (
    'the same call under tc.target("emulator:sm_80") says where. This process can use the GPU no '
    "more: start it again"
)
ADVICE = {
    "CUDA_ERROR_NO_DEVICE": "no GPU is visible (CUDA_VISIBLE_DEVICES hides some)",
    "CUDA_ERROR_NOT_INITIALIZED": "a forked process cannot use a GPU that its parent has used: start it by "
    'spawn, multiprocessing.get_context("spawn")',
    "CUDA_ERROR_INVALID_CLUSTER_SIZE": "choose a smaller cluster=",
    "CUDA_ERROR_OUT_OF_MEMORY": "free arrays, or pass smaller ones",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "update the driver, or pip install 'tilec[ptxas]' to assemble here",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "the code is for another GPU: compile for this one",
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES": "take fewer warps, smaller tiles or max_registers=",
    "CUDA_ERROR_ILLEGAL_ADDRESS": f"a kernel left its arrays; {LOST}",
    "CUDA_ERROR_MISALIGNED_ADDRESS": LOST,
    "CUDA_ERROR_LAUNCH_FAILED": f"an assertion of a kernel failed, or a kernel went wrong; {LOST}",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION": f"an assertion of a kernel failed, or a kernel went wrong; {LOST}",
    "CUDA_ERROR_LAUNCH_TIMEOUT": "the display's watchdog ended a long kernel: launch smaller ones",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver was updated under a running system: restart it",
}


@cache
def api() -> Any:
    """cuda.bindings.driver, ready for calls. TilecError where the package, the driver or a GPU is missing."""
    try:
        from cuda.bindings import driver
    except ImportError:
        raise TilecError(
            "running on a GPU needs cuda-python, 12.6.1 or newer: pip install -U cuda-python"
        ) from None
    try:
        (status,) = driver.cuInit(0)
    except (OSError, RuntimeError) as error:
        raise TilecError(
            f"running on a GPU needs NVIDIA's driver, and it cannot be loaded: {error}; without a GPU there "
            'are tc.target("cpu") and tc.target("emulator:sm_80")'
        ) from None
    if int(status):
        raise TilecError(told(driver, "cuInit", status))
    return driver


def told(driver: Any, function: str, status: Any, log: str = "") -> str:
    """An error of the driver: its name, its text, what to do."""
    name, text = (_text(f(status)) for f in (driver.cuGetErrorName, driver.cuGetErrorString))
    advice = f"; {ADVICE[name]}" if name in ADVICE else ""
    what = f"the CUDA driver failed in {function}: {name or int(status)}: {text}{advice}"
    return f"{what}\n{log}" if log else what


def _text(found: Any) -> str:
    status, text = found
    return "" if int(status) or not text else bytes(text).decode()


def call(function: str, *args: Any) -> Any:
    """What a function of the driver gives; TilecError where it fails."""
    driver = api()
    status, *found = getattr(driver, function)(*args)
    if int(status):
        raise TilecError(told(driver, function, status))
    return found[0] if found else None


@cache
def device(number: int) -> Device:
    """The GPU of this number, the same object each time."""
    count = int(call("cuDeviceGetCount"))
    if not 0 <= number < count:
        raise TilecError(f"there is no cuda:{number}: this machine has {count} GPU{'s' * (count != 1)}")
    return Device(number)


class Device:
    """A GPU: its primary context, what it can do, the kernels that were loaded on it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._handle = call("cuDeviceGet", number)
        major, minor = (self._attribute(f"COMPUTE_CAPABILITY_{which}") for which in ("MAJOR", "MINOR"))
        self.target: Target = of_capability(major, minor)
        self.context = call("cuDevicePrimaryCtxRetain", self._handle)
        self._context = int(self.context)
        self.said: weakref.WeakSet[Said] = weakref.WeakSet()  # of kernels that print or assert
        self._kernels: dict[tuple[str, bytes], Kernel] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<cuda:{self.number}, {self.target.name}>"

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside, driver calls of this thread are about this device."""
        pushed = self.enter()
        try:
            yield
        finally:
            if pushed:
                call("cuCtxPopCurrent")

    def enter(self) -> bool:
        """Makes the context current; whether it was not, so that it has to be popped."""
        if int(call("cuCtxGetCurrent") or 0) == self._context:
            return False
        call("cuCtxPushCurrent", self.context)
        return True

    @cached_property
    def name(self) -> str:
        """The board's, as NVIDIA calls it."""
        said: bytes = call("cuDeviceGetName", 256, self._handle)
        return said.partition(b"\0")[0].decode()

    @cached_property
    def rates(self) -> Rates:
        """What the board can do in a second: those of its kind, by what the driver counts of it."""
        like = self.target.rates
        assert like is not None, "targets that are GPUs have rates"
        names = "MULTIPROCESSOR_COUNT", "CLOCK_RATE", "MEMORY_CLOCK_RATE", "GLOBAL_MEMORY_BUS_WIDTH"
        sms, clock, memory_clock, bus = map(self._attribute, names)  # clocks in kHz, the bus in bits
        return rates_of(self.name, like, sms, clock / 1e6, 2 * memory_clock * bus / 8 / 1e6)

    def _attribute(self, name: str) -> int:
        which = getattr(api().CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(call("cuDeviceGetAttribute", which, self._handle))

    # Memory. Addresses are integers; copies are over when they return.

    def allocate(self, nbytes: int) -> int:
        """The address of new memory, a multiple of 256."""
        with self.current():
            return int(call("cuMemAlloc", max(nbytes, 1)))

    def free(self, address: int) -> None:
        with self.current():
            call("cuMemFree", address)

    def copy_in(self, address: int, host: int, nbytes: int) -> None:
        """From the host's memory to the device's."""
        if nbytes:
            with self.current():
                call("cuMemcpyHtoD", address, host, nbytes)

    def copy_out(self, host: int, address: int, nbytes: int) -> None:
        """From the device's memory to the host's."""
        if nbytes:
            with self.current():
                call("cuMemcpyDtoH", host, address, nbytes)

    def pinned(self, nbytes: int) -> int:
        """The address of new memory of the host that kernels write, and that outlives their traps."""
        portable = 1  # CU_MEMHOSTALLOC_PORTABLE; with unified addresses kernels use the same address
        with self.current():
            at = int(call("cuMemHostAlloc", nbytes, portable))
        ctypes.memset(at, 0, nbytes)
        return at

    def free_pinned(self, address: int) -> None:
        with self.current():
            call("cuMemFreeHost", address)

    # Streams.

    def wait(self, later: int, earlier: int) -> None:
        """What is launched on the stream `later` from now on waits for what `earlier` has been given."""
        with self.current():
            event = call("cuEventCreate", int(api().CUevent_flags.CU_EVENT_DISABLE_TIMING))
            try:
                call("cuEventRecord", event, earlier)
                call("cuStreamWaitEvent", later, event, 0)
            finally:
                call("cuEventDestroy", event)  # after it has come to pass

    def synchronise(self, stream: int = LEGACY) -> None:
        """Until the stream has nothing left to do. Errors of its kernels are raised here: of an assertion
        that failed its message, not the trap that it ended in. What they printed is printed."""
        try:
            with self.current():
                call("cuStreamSynchronize", stream)
        except TilecError as error:
            self._hear(error)
            raise
        self._hear(None)

    def _hear(self, trouble: TilecError | None) -> None:
        for said in list(self.said):
            error = said.heard()
            if error is not None:
                raise error from trouble

    # Kernels.

    def load(self, name: str, images: Sequence[bytes], shared_bytes: int, parameters: Parameters,
             cluster: int = 1) -> Kernel:  # fmt: skip
        """The kernel of this name in the first image that the driver takes: a cubin, or PTX to be assembled.

        The extent of its clusters stands in the code itself, so that every launch has it.
        TilecError with the driver's log where it takes none.
        """
        key = (name, hashlib.sha256(b"".join(images)).digest())
        with self._lock, self.current():
            if key not in self._kernels:
                function = call("cuModuleGetFunction", _module(images), name.encode())
                if shared_bytes > WITHOUT_ASKING:
                    most = api().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                    call("cuFuncSetAttribute", function, most, shared_bytes)
                if cluster > PORTABLE_CLUSTER:
                    wide = api().CUfunction_attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
                    call("cuFuncSetAttribute", function, wide, 1)
                self._kernels[key] = Kernel(self, name, function, shared_bytes, parameters)
            return self._kernels[key]


def _module(images: Sequence[bytes]) -> Any:
    """A module from the first image that loads; the error is the last one's."""
    assert images, "there is PTX at least"
    driver = api()
    known = driver.CUjit_option
    options = (known.CU_JIT_ERROR_LOG_BUFFER, known.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
    for image in images:
        log = bytearray(LOG_BYTES)
        status, module = driver.cuModuleLoadDataEx(image + b"\0", len(options), options, (log, len(log)))
        if not int(status):
            return module
    said = log.partition(b"\0")[0].decode(errors="replace").strip()
    raise TilecError(told(driver, "cuModuleLoadDataEx", status, said))


class Said:
    """A kernel's buffer for what it prints and asserts, heard whenever its device is waited for."""

    def __init__(self, device: Device, reports: Sequence[Report]) -> None:
        self.reports = tuple(reports)
        self.address = device.pinned(BUFFER_BYTES)
        words = (ctypes.c_uint32 * (BUFFER_BYTES // 4)).from_address(self.address)
        self.words = np.ctypeslib.as_array(words)
        device.said.add(self)
        weakref.finalize(self, _let_go, device, self.address).atexit = False  # then the driver frees all

    def heard(self) -> TilecError | None:
        """Prints what was printed; the error of an assertion that failed."""
        return heard(self.reports, self.words)


def _let_go(device: Device, address: int) -> None:
    with suppress(TilecError):  # of a launch before, which is told where somebody waits for it
        device.free_pinned(address)


@lru_cache(4096)
def tensor_map(address: int, size: int, shape: tuple[int, ...], strides: tuple[int, ...], box: Box) -> bytes:
    """What tells TMA of an array, encoded by the driver: `size` bytes an element, strides in elements. For an
    array without elements nothing: nobody reads it."""
    if 0 in shape:
        return bytes(MAP_BYTES)
    axes, room = box.seen(shape, strides, size), ctypes.create_string_buffer(2 * MAP_BYTES)
    at = ctypes.addressof(room) + -ctypes.addressof(room) % MAP_BYTES
    _encode(at, address, axes, box)
    if sum((extent - 1) * stride for extent, stride in axes) < SMALL and _driver_version() <= LAST_WITH_BIT:
        (ctypes.c_uint64 * 2).from_address(at)[1] &= ~(1 << 21)
    return ctypes.string_at(at, MAP_BYTES)


def _encode(at: int, address: int, axes: Sequence[tuple[int, int]], box: Box) -> None:
    """Writes the map of an array, of whose axes there are the extent and the stride in bytes."""
    cuda, rank = api(), len(axes)
    longs, words = ctypes.c_uint64 * rank, ctypes.c_uint32 * rank
    kind = getattr(cuda.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_UINT{8 * box.unit}")
    how = (
        cuda.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        getattr(cuda.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{_swizzle(box.span)}"),
        cuda.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
        cuda.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    extents, strides = longs(*(n for n, _ in axes)), longs(*(stride for _, stride in axes[1:]))
    extents_of_box, steps = words(*box.extents), words(*[1] * rank)
    status = _encoder(cuda)(
        at, int(kind), rank, address, extents, strides, extents_of_box, steps, *map(int, how)
    )
    if status:
        raise TilecError(told(cuda, "cuTensorMapEncodeTiled", cuda.CUresult(status)))


@lru_cache(1)
def _encoder(cuda: Any) -> Any:
    """cuTensorMapEncodeTiled itself: it takes a map at multiples of 64 bytes, and since CUDA 13 of 128, only,
    and cuda-python has them at multiples of 16."""
    address = int(call("cuGetProcAddress", b"cuTensorMapEncodeTiled", 12000, 0))
    longs, words = ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint32)
    kinds = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p, longs, longs, words, words)
    return ctypes.CFUNCTYPE(ctypes.c_int, *kinds, *[ctypes.c_int] * 4)(address)


@cache
def _driver_version() -> int:
    return int(call("cuDriverGetVersion"))


def _swizzle(span: int) -> str:
    return "NONE" if span == 16 else f"{span}B"


@dataclass(frozen=True, eq=False)
class Kernel:
    """A loaded kernel."""

    device: Device
    name: str
    function: Any
    shared_bytes: int
    parameters: Parameters

    def launch(self, blocks: int, threads: int, stream: int, values: Sequence[Any]) -> None:
        """Queues a launch on the stream. `values`: one per slot, scalars as bytes."""
        self.movable(blocks, threads, stream, values, ())(())

    def movable(
        self, blocks: int, threads: int, stream: int, values: Sequence[Any], spots: Sequence[Spot]
    ) -> Callable[[Sequence[int]], None]:
        """That launch with everything decided and packed, but for where arrays lie: each call takes these
        addresses, and queues it once, from any thread."""
        if blocks > MOST_BLOCKS:
            raise TilecError(f"{self.name} asks for {blocks} blocks, a GPU takes at most {MOST_BLOCKS}")
        context, driver = self.device.context, api()
        home, current, queue = int(context), driver.cuCtxGetCurrent, driver.cuLaunchKernel
        how = (self.function, blocks, 1, 1, threads, 1, 1, self.shared_bytes, stream, 0)
        buffers = [Packed(self.parameters, values)]  # that no launch is using

        def launch(addresses: Sequence[int]) -> None:
            try:
                packed = buffers.pop()
            except IndexError:
                packed = Packed(self.parameters, values)
            if spots:
                packed.put(addresses, spots)
            status, found = current()
            elsewhere = status or int(found or 0) != home
            if elsewhere:
                call("cuCtxPushCurrent", context)
            try:
                (status,) = queue(*how, packed.address)
            finally:
                buffers.append(packed)
                if elsewhere:
                    call("cuCtxPopCurrent")
            if status:
                raise TilecError(told(driver, "cuLaunchKernel", status))

        return launch
