"""Device memory: one arena of bytes, allocations apart by red zones, addresses from 2^33 up.

    memory = GlobalMemory(); at = memory.add(array, "argument 0"); ...; memory.write_back()
Address windows: null and small numbers fault; 2^24 shared memory of one's own block, (2 + rank) * 2^24 that
of a block of the cluster; 2^29 local; 2^30 parameters; 2^33 global.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilec.backends.emulator.ptx_types import Array, unsigned
from tilec.backends.emulator.tensormap import TensorMap

SHARED, LOCAL, PARAM, GLOBAL = 1 << 24, 1 << 29, 1 << 30, 1 << 33
RED_ZONE = 512


class Bytes:
    """A flat uint8 array of a multiple of 16 bytes, and its views as wider elements."""

    def __init__(self, size: int, fill: int | None = None) -> None:
        raw = np.empty(size + 4096 + 16, np.uint8)
        start = -raw.ctypes.data % 4096
        self.data = raw[start : start + (size + 15) // 16 * 16]
        if fill is not None:
            self.data.fill(fill)
        self.views = {n: self.data.view(unsigned(n)) for n in (1, 2, 4, 8, 16)}


@dataclass
class Allocation:
    name: str
    start: int
    size: int
    host: Array | None = None


class GlobalMemory:
    """Allocations are planned first (add), then the arena is made (fill), used, and copied out
    (write_back)."""

    def __init__(self) -> None:
        self.allocations: list[Allocation] = []
        self.end = GLOBAL + 4096
        self.starts: list[int] = []
        self.tensor_maps: list[TensorMap] = []
        self.arena = Bytes(0)

    def reserve(self, size: int, name: str, align: int = 256) -> Allocation:
        start = (self.end + align - 1) // align * align
        self.allocations.append(Allocation(name, start, size))
        self.starts.append(start)
        self.end = (start + size + RED_ZONE + 255) // 256 * 256
        return self.allocations[-1]

    def add(self, array: Array, name: str) -> int:
        """Reserves room for an array's bytes (those between its first and last element) and remembers it;
        gives the address of its first element. Arrays that share memory share their room."""
        low, high = byte_bounds(array)
        here = int(array.__array_interface__["data"][0])
        for known in self.allocations:
            if known.host is not None:
                start, stop = byte_bounds(known.host)
                if start <= low and high <= stop:
                    return known.start + here - start
        allocation = self.reserve(high - low, name)
        allocation.host = array
        return allocation.start + here - low

    def fill(self) -> None:
        self.arena = Bytes(self.end - GLOBAL)
        for each in self.allocations:
            if each.host is not None:
                self.part(each)[:] = host_bytes(each.host)

    def part(self, each: Allocation) -> Array:
        return self.arena.data[each.start - GLOBAL : each.start - GLOBAL + each.size]

    def write_back(self) -> None:
        for each in self.allocations:
            if each.host is not None and each.host.flags.writeable:
                host_bytes(each.host)[:] = self.part(each)

    def holder(self, address: int) -> Allocation | None:
        """The allocation that starts at or before an address."""
        n = bisect_right(self.starts, address) - 1
        return self.allocations[n] if n >= 0 else None

    def covers(self, low: int, high: int) -> bool:
        """Whether one allocation holds every byte in [low, high)."""
        each = self.holder(low)
        return each is not None and high <= each.start + each.size

    def inside(self, address: Array, size: int) -> Array:
        if not self.allocations:
            return np.zeros(len(address), bool)
        starts = np.array(self.starts, np.int64)
        ends = np.array([a.start + a.size for a in self.allocations], np.int64)
        n = np.searchsorted(starts, address, side="right") - 1
        return (n >= 0) & (address + size <= ends[np.maximum(n, 0)])

    def describe(self, address: int) -> tuple[str, str]:
        """(array name, how far an address lies outside it) by the nearest allocation."""
        best = min(self.allocations, key=lambda a: distance(a, address), default=None)
        if best is None or distance(best, address) > 1 << 24:
            return "no array", f"address {address:#x} is in no array"
        if address < best.start:
            return best.name, f"{best.start - address} bytes before {best.name} ({best.size} bytes)"
        past = address - best.start - best.size
        if past >= 0:
            return best.name, f"{past} bytes past the end of {best.name} ({best.size} bytes)"
        return best.name, f"byte {address - best.start} of {best.name} ({best.size} bytes)"


def distance(each: Allocation, address: int) -> int:
    return max(each.start - address, address - each.start - each.size, 0)


def byte_bounds(array: Array) -> tuple[int, int]:
    low, high = np.lib.array_utils.byte_bounds(array)
    return int(low), int(high)


def host_bytes(array: Array) -> Any:
    """The memory between an array's first and last byte, as uint8, without a copy."""
    if array.flags.c_contiguous:
        return array.reshape(-1).view(np.uint8)
    low, high = byte_bounds(array)
    return np.frombuffer(memoryview((ctypes.c_uint8 * (high - low)).from_address(low)), np.uint8)
