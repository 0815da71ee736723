"""The driver made for tests behind the real cuda-python: a libcuda.so.1 whose functions are the stub's.

    python -m pytest -p tests.backends.ptx.bridge tests/backends/ptx/test_driver.py
What tilec passes to the driver then goes through the binding's own conversions, as it will on a GPU: a
misspelt name, an argument of a wrong type or a result of another shape fails there. Only what finds the
functions is in C; they themselves are callbacks, declared as cuda.h has them.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.backends.ptx import stub
from tests.backends.ptx.stub import ERRORS, LONGS, WORDS, StubDriver
from tilec.backends.ptx import driver

SOURCE = """
#include <string.h>
void *(*find)(const char *name);
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags, int *why)
{
    *found = strncmp(name, "cuGetProcAddress", 16) ? find(name) : (void *)cuGetProcAddress_v2;
    if (why) *why = *found ? 0 : 1;
    return *found ? 0 : 500;
}
int cuInit(unsigned flags) { return 100; }  /* no device for who asks the library itself, as conftest does */
"""
TABLES = ctypes.POINTER(c_int), ctypes.POINTER(c_void_p)
# The type of what a function gives by its first parameter (None: it gives nothing), then the others' types.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (None, c_uint),
    "cuDriverGetVersion": (c_int,),
    "cuDeviceGetCount": (c_int,),
    "cuDeviceGet": (c_int, c_int),
    "cuDeviceGetAttribute": (c_int, c_int, c_int),
    "cuDeviceGetName": (None, c_void_p, c_int, c_int),
    "cuDevicePrimaryCtxRetain": (c_void_p, c_int),
    "cuCtxGetCurrent": (c_void_p,),
    "cuCtxPushCurrent": (None, c_void_p),
    "cuCtxPopCurrent": (c_void_p,),
    "cuMemAlloc": (c_uint64, c_size_t),
    "cuMemFree": (None, c_uint64),
    "cuMemHostAlloc": (c_void_p, c_size_t, c_uint),
    "cuMemFreeHost": (None, c_void_p),
    "cuMemcpyHtoD": (None, c_uint64, c_void_p, c_size_t),
    "cuMemcpyDtoH": (None, c_void_p, c_uint64, c_size_t),
    "cuEventCreate": (c_void_p, c_uint),
    "cuEventRecord": (None, c_void_p, c_void_p),
    "cuEventDestroy": (None, c_void_p),
    "cuStreamWaitEvent": (None, c_void_p, c_void_p, c_uint),
    "cuStreamSynchronize": (None, c_void_p),
    "cuModuleLoadDataEx": (c_void_p, c_void_p, c_uint, *TABLES),
    "cuModuleGetFunction": (c_void_p, c_void_p, c_char_p),
    "cuFuncSetAttribute": (None, c_void_p, c_int, c_int),
    "cuLaunchKernel": (None, c_void_p, *[c_uint] * 7, *[c_void_p] * 3),
    "cuTensorMapEncodeTiled": (
        None, c_void_p, c_int, c_uint, c_uint64, LONGS, LONGS, WORDS, WORDS, *[c_int] * 4,
    ),
    "cuGetErrorName": (None, c_int, TABLES[1]),
    "cuGetErrorString": (None, c_int, TABLES[1]),
}  # fmt: skip


class Bridge(StubDriver):
    """The stub as C sees it: handles are numbers, texts and tables pointers."""

    def __init__(self, capability: tuple[int, int] = (8, 0)) -> None:
        super().__init__(capability)
        self.handles: list[Any] = [None]
        self.texts: dict[str, Any] = {}

    def number(self, handle: Any) -> int:
        """Of a module or a function, which the stub knows by other things."""
        if handle not in self.handles:
            self.handles.append(handle)
        return self.handles.index(handle)

    def from_c(self, name: str, args: tuple[Any, ...]) -> int:
        """A call: the status, and what it gives where its first parameter points."""
        special = getattr(self, f"c_{name}", None)
        if special is not None:
            return int(special(*args))
        gives = SIGNATURES[name][0] is not None
        status, *given = getattr(self, name)(*(x or 0 for x in args[gives:]))
        if given and gives and not status:
            args[0][0] = given[0]
        return int(status)

    # Those whose parameters are no numbers.

    def c_cuInit(self, flags: int) -> int:
        return 0

    def c_cuDeviceGetName(self, room: int, length: int, device: int) -> int:
        status, name = self.cuDeviceGetName(length, device)
        ctypes.memmove(room, name, length)
        return int(status)

    def c_cuModuleLoadDataEx(self, found: Any, image: int, count: int, options: Any, values: Any) -> int:
        log = (ctypes.c_char * values[1]).from_address(values[0])
        status, module = self.cuModuleLoadDataEx(
            ctypes.string_at(image) + b"\0", count, tuple(options[:count]), (_Room(log), values[1])
        )
        found[0] = 0 if status else self.number(("module", module))
        return int(status)

    def c_cuModuleGetFunction(self, found: Any, module: int, name: bytes) -> int:
        status, function = self.cuModuleGetFunction(self.handles[module][1], name)
        found[0] = 0 if status else self.number(function)
        return int(status)

    def c_cuFuncSetAttribute(self, function: int, attribute: int, value: int) -> int:
        return int(self.cuFuncSetAttribute(self.handles[function], attribute, value)[0])

    def c_cuLaunchKernel(self, function: int, *rest: Any) -> int:
        return int(self.cuLaunchKernel(self.handles[function], *(x or 0 for x in rest))[0])

    def c_cuGetErrorName(self, status: int, text: Any) -> int:
        return self._text(ERRORS[status][0], text)

    def c_cuGetErrorString(self, status: int, text: Any) -> int:
        return self._text(ERRORS[status][1], text)

    def _text(self, said: str, text: Any) -> int:
        held = self.texts.setdefault(said, ctypes.create_string_buffer(said.encode()))
        text[0] = ctypes.addressof(held)
        return 0


class _Room:
    """A buffer of C's, which the stub writes to as to a bytearray."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __setitem__(self, where: slice, data: bytes) -> None:
        ctypes.memmove(self.held, data, len(data))


current: list[Bridge] = []
_callbacks: dict[bytes, Any] = {}  # what the binding has found lives as long as this process
_errors: list[BaseException] = []


def _callback(name: str) -> Any:
    gives, *kinds = SIGNATURES[name]
    types = [*([ctypes.POINTER(gives)] if gives else []), *kinds]

    def called(*args: Any) -> int:
        try:
            return current[-1].from_c(name, args)
        except BaseException as error:  # C knows no exceptions
            _errors.append(error)
            return 999

    return ctypes.CFUNCTYPE(c_int, *types)(called)


def _find(name: bytes) -> int | None:
    if name.decode() not in SIGNATURES:
        return None
    if name not in _callbacks:
        _callbacks[name] = _callback(name.decode())
    return ctypes.cast(_callbacks[name], c_void_p).value


_finder = ctypes.CFUNCTYPE(c_void_p, c_char_p)(_find)


def build(folder: Path) -> None:
    """The library, loaded under the driver's name before the binding looks for it."""
    source, library = folder / "cuda.c", folder / "libcuda.so.1"
    source.write_text(SOURCE)
    compiler = shutil.which("cc")
    assert compiler, "there is a C compiler"
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    c_void_p.in_dll(loaded, "find").value = ctypes.cast(_finder, c_void_p).value


@contextmanager
def installed(capability: tuple[int, int] = (8, 0)) -> Iterator[Bridge]:
    """The stub in the driver's place, behind the binding, with devices of its own."""
    current.append(bridge := Bridge(capability))
    driver.api.cache_clear()
    driver.device.cache_clear()
    driver.tensor_map.cache_clear()
    driver._driver_version.cache_clear()
    try:
        yield bridge
    finally:
        driver.device.cache_clear()
        current.pop()
        if _errors:
            raise _errors.pop(0)


with TemporaryDirectory() as folder:
    build(Path(folder))
vars(stub)["installed"] = installed  # before tests import it
