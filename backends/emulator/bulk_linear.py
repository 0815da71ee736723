"""cp.async.bulk of plain bytes, and cp.reduce.async.bulk.

    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [to], [from], size, [mbar];
    cp.async.bulk.global.shared::cta.bulk_group [to], [from], size;
    cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [to], [from], size, [mbar];
Sizes and addresses are multiples of 16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.bulk import in_shared
from tilec.backends.emulator.decode import Form, Step, constant, full
from tilec.backends.emulator.device import GLOBAL, SHARED
from tilec.backends.emulator.floating import Kind
from tilec.backends.emulator.lanes import lanes_of
from tilec.backends.emulator.memory import CACHES
from tilec.backends.emulator.ptx_types import Array, Sel, numpy_type

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

COMBINE = ("add", "min", "max", "inc", "dec", "and", "or", "xor")


def combined(operation: str, old: Array, new: Array, dtype: Any) -> Array:
    """Elementwise reduction in the element's type; integers wrap."""
    functions: dict[str, Any] = {
        "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }  # fmt: skip
    return np.asarray(functions[operation](old, new)).astype(dtype)


def linear(f: Form, reduce: bool = False) -> Step:
    spaces = [f.left.pop(0), f.left.pop(0)] if len(f.left) > 1 else f.error("needs two state spaces")
    load = spaces[0].startswith("shared")
    sources = ("global", "shared::cta") if load else ("shared::cta",)
    if spaces[1] not in sources or not (load or spaces[0] == "global"):
        f.error(f"cannot copy from {spaces[1]} to {spaces[0]}")
    f.need("mbarrier::complete_tx::bytes") if load else f.need("bulk_group")
    multicast = bool(f.take("multicast::cluster"))
    while f.take(*CACHES):
        pass
    if reduce and load:
        f.error("reductions into shared memory are not known to the emulator")
    operation = f.need(*COMBINE[:3], *COMBINE[5:]) if reduce else ""
    f.take("noftz")
    kind = f.type() if reduce else "b8"
    if load:
        return loads(f, multicast) if spaces[1] == "global" else between_blocks(f)
    return stores(f, operation, kind)


def mbarrier_key(m: Machine, lane: int, address: int) -> int | None:
    """The place of an initialised mbarrier; None, and a finding, where there is none."""
    start = in_shared(m, lane, address, 8, 8, "mbarrier access")
    if start is None:
        return None
    _, there = m.mbarriers.find(slice(lane, lane + 1), np.array([start]))
    return start if there[0] else None


def sized(m: Machine, lane: int, size: int, address: int) -> bool:
    if size % 16 or size <= 0 or address % 16:
        message = f"a bulk copy of {size} bytes at global address {address:#x}: both must be multiples of 16"
        m.record("misaligned", lane, message, address=address)
        return False
    if m.launch.memory.covers(address, address + size):
        return True
    name, distance = m.launch.memory.describe(address + size)
    m.record("out-of-bounds", lane, f"bulk copy of {size} bytes: {distance}", address=address, array=name)
    return False


def receivers(target: int, bar: int, mask: int | None) -> list[tuple[int, int]]:
    """(destination, mbarrier) of each block that gets the data: with multicast the same offsets in several
    blocks."""
    if mask is None:
        return [(target, bar)]
    low = SHARED - 1
    ranks = [r for r in range(16) if mask >> r & 1]
    return [((2 + r << 24) | (target & low), (2 + r << 24) | (bar & low)) for r in ranks]


def calls(f: Form, mask: bool = False) -> Callable[[Machine, Sel], Iterator[tuple[int, ...]]]:
    """Lane by lane (lane, destination, source, size, mbarrier, and the mask of blocks)."""
    to, source, size, bar = f.address(0), f.address(1), f.source(2, "u32"), f.address(3)
    blocks = f.source(4, "u16") if mask else constant(np.uint16(0))

    def rows(m: Machine, s: Sel) -> Iterator[tuple[int, ...]]:
        columns = (lanes_of(s), to(m, s), source(m, s), full(size(m, s), s), bar(m, s), full(blocks(m, s), s))
        return zip(*(column.tolist() for column in columns), strict=True)

    return rows


def loads(f: Form, multicast: bool) -> Step:
    rows = calls(f, multicast)

    def run(m: Machine, s: Sel) -> None:
        for lane, target, address, n, barrier, mask in rows(m, s):
            for to, bar in receivers(target, barrier, mask if multicast else None):
                start = in_shared(m, lane, to, n, 16, "asynchronous write")
                key = mbarrier_key(m, lane, bar)
                if start is None or key is None or not sized(m, lane, n, address):
                    continue
                at = address - GLOBAL + np.arange(0, n, 16)
                m.launch.metrics.bytes["global read"] += n
                raw = m.launch.memory.arena.views[16][at // 16]
                observe(m, lane, at, 16, False)
                m.bulk.load(lane, start + np.arange(0, n, 16), raw, 16, key, n)

    return Step(run)


def between_blocks(f: Form) -> Step:
    """From one's own shared memory to that of a block of the cluster, whose mbarrier counts the bytes."""
    rows = calls(f)

    def run(m: Machine, s: Sel) -> None:
        for lane, target, address, n, barrier, _ in rows(m, s):
            if n % 16 or n <= 0:
                message = f"a bulk copy of {n} bytes: it must be a multiple of 16"
                m.record("misaligned", lane, message, address=address)
                continue
            start = in_shared(m, lane, target, n, 16, "asynchronous write")
            source = in_shared(m, lane, address, n, 16, "asynchronous read")
            key = mbarrier_key(m, lane, barrier)
            if start is None or source is None or key is None:
                continue
            raw, read = m.bulk.fetch(lane, source + np.arange(0, n, 16), 16)
            m.bulk.load(lane, start + np.arange(0, n, 16), raw, 16, key, n, read)

    return Step(run)


def stores(f: Form, operation: str, kind: str) -> Step:
    to, source, size = f.address(0), f.address(1), f.source(2, "u32")

    def run(m: Machine, s: Sel) -> None:
        rows = zip(lanes_of(s).tolist(), to(m, s), source(m, s), full(size(m, s), s), strict=True)
        for lane, target, address, count in rows:
            n = int(count)
            start = in_shared(m, lane, int(address), n, 16, "asynchronous read")
            if start is None or not sized(m, lane, n, int(target)):
                continue
            raw = m.bulk.store(lane, start + np.arange(0, n, 16), 16)
            put(m, lane, int(target) - GLOBAL + np.arange(0, n, 16), raw, operation, kind)

    return Step(run)


def observe(m: Machine, lane: int, at: Array, unit: int, write: bool, atomic: bool = False) -> None:
    """An engine's access of global memory, on behalf of the lane that asked for it."""
    race = m.launch.global_race
    if race is None or not len(at):
        return
    if write:
        race.access(m, np.full(len(at), lane), at, unit, True, atomic)
    else:
        race.fetch(m, lane, at, unit)


def put(m: Machine, lane: int, at: Array, raw: Array, operation: str, kind: str) -> None:
    view = m.launch.memory.arena.views[16]
    observe(m, lane, at, 16, True, bool(operation))
    if operation:
        raw = reduced(operation, view[at // 16], raw, kind)
    view[at // 16] = raw
    m.launch.metrics.bytes["global written"] += 16 * len(at)


def reduced(operation: str, old: Array, new: Array, kind: str) -> Array:
    if kind in ("f16", "bf16"):
        form = Kind(f"{kind}x2")
        words = combined(
            operation, form.load(old.view(np.uint32)), form.load(new.view(np.uint32)), np.float32
        )
        return np.asarray(form.store(words)).view(np.complex128)
    dtype = numpy_type(kind)
    return combined(operation, old.view(dtype), new.view(dtype), dtype).view(np.complex128)
