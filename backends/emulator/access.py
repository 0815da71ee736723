"""Loads and stores in every space: bounds and alignment first, then the shadows (initialised, races), then
bytes.

A lane that would fault is reported and left out: its load gives 0, its store does nothing; the others go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.emulator.device import GLOBAL, LOCAL, PARAM, SHARED, Bytes
from tilec.backends.emulator.lanes import first, part, size
from tilec.backends.emulator.metrics import Traffic, sectors, wavefronts
from tilec.backends.emulator.ptx_types import Array, Sel, unsigned

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

SHIFT = {1: 0, 2: 1, 4: 2, 8: 3, 16: 4}
WINDOWS = (
    ("shared", SHARED, 2 * SHARED),
    ("cluster", 2 * SHARED, LOCAL),
    ("local", LOCAL, PARAM),
    ("param", PARAM, GLOBAL),
    ("global", GLOBAL, 1 << 62),
)


def load(m: Machine, s: Sel, address: Array, width: int, space: str, strong: int = 0) -> Array:
    """`width` bytes per lane as an unsigned array (complex128 for 16)."""
    if space == "generic":
        space = window(address)
    if space == "mixed":
        return load_mixed(m, s, address, width, strong)
    good = faults(m, s, address, width, space, "read")
    if good is not None:
        out = np.zeros(size(s), unsigned(width))
        rest = part(s, good)
        if rest is not None:
            out[good] = load(m, rest, address[good], width, space, strong)
        return out
    memory, at = place(m, s, address, space)
    observe(m, s, address, at, width, space, False, strong)
    return memory.views[width][at >> SHIFT[width]]


def load_mixed(m: Machine, s: Sel, address: Array, width: int, strong: int) -> Array:
    out = np.zeros(size(s), unsigned(width))
    for name, low, high in WINDOWS:
        mask = (address >= low) & (address < high) if low != SHARED else address < high
        lanes = part(s, mask)
        if lanes is not None:
            out[mask] = load(m, lanes, address[mask], width, name, strong)
    return out


def store(m: Machine, s: Sel, address: Array, raw: Array, width: int, space: str, strong: int = 0) -> None:
    """Writes `raw` (unsigned of `width` bytes per lane)."""
    if space == "generic":
        space = window(address)
    if space == "mixed":
        for name, low, high in WINDOWS:
            mask = (address >= low) & (address < high) if low != SHARED else address < high
            lanes = part(s, mask)
            if lanes is not None:
                store(m, lanes, address[mask], raw[mask], width, name, strong)
        return
    good = faults(m, s, address, width, space, "write")
    if good is not None:
        rest = part(s, good)
        if rest is not None:
            store(m, rest, address[good], raw[good], width, space, strong)
        return
    memory, at = place(m, s, address, space)
    observe(m, s, address, at, width, space, True, strong)
    view, index = memory.views[width], at >> SHIFT[width]
    view[index] = raw
    if space == "shared" and m.race.on and not strong:
        clash(m, s, address, at, differ(view[index], raw))


def differ(a: Array, b: Array) -> Array:
    """Where bits differ; elements of 16 bytes are complex numbers to numpy, among them NaNs."""
    if a.dtype.itemsize < 16:
        return np.asarray(a != b)
    halves = (np.ascontiguousarray(x).view(np.uint64).reshape(-1, 2) for x in (a, b))
    return np.asarray(np.not_equal(*halves).any(axis=1))


def clash(m: Machine, s: Sel, address: Array, at: Array, lost: Array) -> None:
    """Two lanes of one instruction wrote different values to one place."""
    if lost.any():
        n = int(np.flatnonzero(lost)[0])
        name = m.shared_name(int(address[n]) - SHARED)
        message = f"two lanes of one instruction write different values to one place of {name}"
        within = m.race.author(m, int(at[n])) == m.race.me[lane(s, n)]
        m.record("race", lane(s, n), message, warning=bool(within), address=int(address[n]), array=name)


def window(address: Array) -> str:
    """The space of generic addresses, or "mixed"; null and wild ones count as global, where they fault."""
    low, high = int(address.min()), int(address.max())
    for name, start, end in WINDOWS:
        if start <= low and high < end:
            return name
    return "mixed" if high >= SHARED and low < GLOBAL else "global"


def place(m: Machine, s: Sel, address: Array, space: str) -> tuple[Bytes, Array]:
    """The memory of a space and the byte offsets in it."""
    if space in ("global", "const"):
        return m.launch.memory.arena, address - GLOBAL
    if space == "shared":
        return m.shared, address + m.shared_start[s]
    if space == "cluster":
        return m.shared, cluster_offset(m, s, address)
    if space == "local":
        return m.local, address + m.local_start[s]
    return m.param, address - PARAM


def cluster_offset(m: Machine, s: Sel, address: Array) -> Array:
    """shared::cluster addresses: window 1 is one's own block, window 2 + rank that of a block of the
    cluster."""
    if m.cluster_size == 1:
        return m.block[s] * m.shared_size + (address & (SHARED - 1))
    rank = (address >> 24) - 2
    block = np.where(rank < 0, m.block[s], m.block_of_rank(s, np.maximum(rank, 0)))
    gone = ~m.alive[block]
    if gone.any():
        n = int(np.flatnonzero(gone)[0])
        message = f"uses the shared memory of the cluster's block {int(rank[n])}, which has ended"
        m.record("race", lane(s, n), message, address=int(address[n]), times=int(gone.sum()))
    return block * m.shared_size + (address & (SHARED - 1))


def faults(m: Machine, s: Sel, address: Array, width: int, space: str, verb: str) -> Array | None:
    """None when every lane may go on; else the mask of those that may, the others reported."""
    low, high = int(address.min()), int(address.max()) + width
    if width > 1 and (address & (width - 1)).any():
        wrong = (address & (width - 1)) != 0
        n = int(np.flatnonzero(wrong)[0])
        message = (
            f"{width}-byte {verb} at {int(address[n]):#x}, which is {int(address[n]) % width} "
            f"bytes past a multiple"
        )
        m.record("misaligned", lane(s, n), message, address=int(address[n]), times=int(wrong.sum()))
        return ~wrong
    if space in ("global", "const"):
        if m.launch.memory.covers(low, high):
            return None
        good = m.launch.memory.inside(address, width)
    elif space == "cluster":
        good = in_cluster(m, address, width)
    else:
        start, end = limits(m, space)
        if start <= low and high <= end:
            return None
        good = (address >= start) & (address + width <= end)
    if good.all():
        return None
    outside(m, s, address, width, space, verb, ~good)
    return np.asarray(good)


def in_cluster(m: Machine, address: Array, width: int) -> Array:
    """Whether each lane's bytes are shared memory of its own or another block of its cluster."""
    window, offset = address >> 24, address & (SHARED - 1)
    return np.asarray((window >= 1) & (window < 2 + m.cluster_size) & (offset + width <= m.shared_used))


def limits(m: Machine, space: str) -> tuple[int, int]:
    if space == "shared":
        return SHARED, SHARED + m.shared_used
    return (LOCAL, LOCAL + m.local_size) if space == "local" else (PARAM, PARAM + len(m.launch.params))


def outside(m: Machine, s: Sel, address: Array, width: int, space: str, verb: str, bad: Array) -> None:
    n = int(np.flatnonzero(bad)[0])
    at = int(address[n])
    if space in ("global", "const"):
        name, distance = m.launch.memory.describe(at)
    elif space == "cluster":
        name, rank = "shared memory", (at >> 24) - 2
        whose = f"the cluster's block {rank}" if rank >= 0 else "one's own block"
        distance = f"offset {at & (SHARED - 1)} of {whose}; {m.cluster_size} blocks of {m.shared_used} bytes"
    else:
        name = f"{space} memory"
        distance = (
            f"{space} offset {at - limits(m, space)[0]}, of {limits(m, space)[1] - limits(m, space)[0]} bytes"
        )
    message = f"{width}-byte {verb} of {space} memory out of bounds: {distance}"
    m.record("out-of-bounds", lane(s, n), message, address=at, array=name, times=int(bad.sum()))


def lane(s: Sel, n: int) -> int:
    return first(s) + n if isinstance(s, slice) else int(s[n])


def observe(
    m: Machine,
    s: Sel,
    address: Array,
    at: Array,
    width: int,
    space: str,
    write: bool,
    strong: int,
    atomic: bool = False,
) -> None:
    """The shadows' checks and the counters, before the bytes move."""
    launch = m.launch
    if space in ("shared", "cluster"):
        m.race.access(m, s, at, width, write, strong)
    elif space == "local":
        m.race.local(m, s, at, width, write)
    elif space == "global" and launch.global_race is not None:
        launch.global_race.access(m, s, at, width, write, strong, atomic)
    launch.metrics.bytes[f"{space} {'written' if write else 'read'}"] += size(s) * width
    if launch.checks and space in ("shared", "global"):
        measure(m, s, address, width, space)


def measure(m: Machine, s: Sel, address: Array, width: int, space: str) -> None:
    chosen = m.sample(s)
    if chosen is None:
        return
    line = m.program.steps[m.pc].instruction.line
    warp, address = m.warp[s][chosen], address[chosen]
    table = m.launch.metrics.shared if space == "shared" else m.launch.metrics.global_
    traffic = table.setdefault(line, Traffic())
    if space == "shared":
        traffic.add(*wavefronts(address - SHARED, warp, m.lane[s][chosen], width))
    else:
        traffic.add(*sectors(address, warp, width))
