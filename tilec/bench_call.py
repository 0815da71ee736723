"""What a call of a kernel costs the host: `tilec bench call`.

for line in table(runs=5): print(line)
Kernels that copy eight elements are called again and again, with two arrays and with eight. The driver is one
that does nothing: what is left is our own time before it. On the CPU the native code's own call is included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np

from tilec.bench_kernels import copy2, copy8
from tilec.device import to_device
from tilec.kernels import Kernel
from tilec.scripts import replaced

CALLS, TIMES = 200, 20  # of one measurement; measurements of one run


class Silent:
    """A driver whose every function succeeds at once, with a GPU of capability 8.0. Memory is the host's."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return (lambda *args: (0, 1)) if name.startswith("cu") else self

    def cuDeviceGetAttribute(self, which: Any, device: int) -> tuple[int, int]:
        return 0, {self.major: 8, self.minor: 0}.get(which, 100)

    def cuDeviceGetName(self, length: int, device: int) -> tuple[int, bytes]:
        return 0, b"silent"

    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = major = object()
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = minor = object()

    def cuMemAlloc(self, nbytes: int) -> tuple[int, int]:
        self.kept.append(np.empty(nbytes + 256, np.uint8))
        return 0, -(-self.kept[-1].ctypes.data // 256) * 256

    def cuCtxGetCurrent(self) -> tuple[int, int]:
        return 0, 1

    def cuLaunchKernel(self, *args: Any) -> tuple[int]:
        return (0,)


@contextmanager
def silent(*kernels: Kernel) -> Iterator[None]:
    """A silent driver in the real one's place, for a while; these kernels forget it."""
    from tilec.backends.ptx import driver

    made = Silent()
    with replaced(driver, "api", lambda: made):
        driver.device.cache_clear()
        yield
        for kernel in kernels:
            kernel.forget()
        driver.device.cache_clear()


def table(runs: int) -> Iterator[str]:
    """Microseconds of a call that was made before, and of one with arrays that are new."""
    yield f"{'microseconds of host time':<44}{'2 arrays':>10}{'8 arrays':>10}{'each more':>11}"
    arrays = [np.ones(64, np.float32) for _ in range(8)]
    with silent(copy2, copy8):
        there = [to_device(x) for x in arrays]
        yield _row("arrays of a GPU, until the driver is called", there, runs)
        del there
    yield _row("numpy's arrays, until the CPU is done", arrays, runs)
    yield _line("numpy itself: np.copyto", microseconds(lambda: np.copyto(arrays[0], arrays[1]), runs), None)
    yield f"the fastest of {TIMES * runs} times {CALLS} calls: others are slower by what else the machine did"


def _row(name: str, arrays: list[Any], runs: int) -> str:
    few = microseconds(lambda: copy2(*arrays[:2]), runs)
    return _line(name, few, microseconds(lambda: copy8(*arrays), runs))


def _line(name: str, few: float, many: float | None) -> str:
    rest = "" if many is None else f"{many:10.2f}{(many - few) / 6:11.2f}"
    return f"{name:<44}{few:10.2f}{rest}"


def microseconds(call: Callable[[], Any], runs: int) -> float:
    """What a call takes, at best."""
    call()
    found = []
    for _ in range(TIMES * runs):
        start = perf_counter()
        for _ in range(CALLS):
            call()
        found.append((perf_counter() - start) / CALLS)
    return 1e6 * min(found)
