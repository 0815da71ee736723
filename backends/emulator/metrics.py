"""Counts of a launch: instructions, bytes, and how well accesses use shared memory's banks and global
sectors.

Instructions, bytes and branches are counted exactly; wavefronts and sectors are sampled: block 0 of each
batch and the first 64 executions of an instruction (per-instruction ratios do not change after that in the
kernels measured).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from tilec.backends.emulator.ptx_types import Array

SAMPLES = 64


@dataclass
class Traffic:
    """Sampled warp requests of one instruction, the wavefronts or sectors they took, and how few would have
    held their bytes: as many where no bank is met twice, and no sector is read in part.
    """

    requests: int = 0
    units: int = 0
    least: int = 0

    def add(self, requests: int, units: int, least: int) -> None:
        self.requests += requests
        self.units += units
        self.least += least

    @property
    def ratio(self) -> float:
        return self.units / self.requests if self.requests else 0.0


@dataclass
class Metrics:
    """thread instructions by opcode; bytes by space and direction; traffic by PTX line."""

    instructions: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    shared: dict[int, Traffic] = field(default_factory=dict)
    global_: dict[int, Traffic] = field(default_factory=dict)
    branches: int = 0
    divergent_branches: int = 0

    @property
    def thread_instructions(self) -> int:
        return sum(self.instructions.values())

    @property
    def branch_efficiency(self) -> float:
        """The share of warp branches whose lanes all went one way."""
        return 1 - self.divergent_branches / self.branches if self.branches else 1.0

    @property
    def wavefronts_per_request(self) -> float:
        return ratio(self.shared)

    @property
    def sectors_per_request(self) -> float:
        return ratio(self.global_)

    def table(self) -> str:
        rows = [
            f"{self.thread_instructions:>14,} thread instructions, branch efficiency "
            f"{self.branch_efficiency:.3f}"
        ]
        rows += [f"{count:>14,} {name}" for name, count in self.instructions.most_common()]
        rows += [f"{count:>14,} bytes, {name}" for name, count in sorted(self.bytes.items())]
        rows += [
            f"line {n}: {t.ratio:.2f} wavefronts per shared request" for n, t in sorted(self.shared.items())
        ]
        rows += [
            f"line {n}: {t.ratio:.2f} sectors per global request" for n, t in sorted(self.global_.items())
        ]
        return "\n".join(rows)


def ratio(traffic: dict[int, Traffic]) -> float:
    requests = sum(t.requests for t in traffic.values())
    return sum(t.units for t in traffic.values()) / requests if requests else 0.0


def sectors(address: Array, warp: Array, size: int) -> tuple[int, int, int]:
    """(requests, 32-byte sectors, fewest) of one access: each warp counts its different sectors."""
    first, last = address >> 5, (address + size - 1) >> 5
    keys = [warp * (1 << 44) + (first & ((1 << 44) - 1))]
    if size > 16 or (first != last).any():
        keys.append(warp * (1 << 44) + (last & ((1 << 44) - 1)))
    held = np.unique(np.stack([warp, address]), axis=1)[0]
    warps, counts = np.unique(held, return_counts=True)
    return len(warps), len(np.unique(np.concatenate(keys))), int((-(-counts * size // 32)).sum())


def wavefronts(offset: Array, warp: Array, lane: Array, size: int) -> tuple[int, int, int]:
    """(requests, wavefronts, fewest) of one shared access: 32 banks of 4 bytes; lanes in groups of 32 (up
    to 4 bytes each), 16 (8 bytes) or 8 (16 bytes); a wavefront per different word in the busiest bank of a
    group."""
    group = warp * 4 + lane // max(1, 128 // max(size, 4))
    words = max(1, size // 4)
    word = ((offset >> 2)[:, None] + np.arange(words)).reshape(-1)
    group = np.repeat(group, words)
    pairs = np.unique(group * (1 << 32) + word)
    bank = (pairs >> 32) * 32 + (pairs & 31)
    names, counts = np.unique(bank, return_counts=True)
    owner = names // 32
    starts = np.flatnonzero(np.concatenate(([True], owner[1:] != owner[:-1])))
    fewest = -(-np.add.reduceat(counts, starts) // 32)
    return len(np.unique(warp)), int(np.maximum.reduceat(counts, starts).sum()), int(fewest.sum())
