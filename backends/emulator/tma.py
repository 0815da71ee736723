"""cp.async.bulk.tensor: boxes of an array in 1 to 5 dimensions, with swizzles and fill.

Box element (i0, i1, ...), innermost first, lies in global memory at base + sum (c + i * step) * stride and in
shared memory at its linear place in the box, swizzled by its absolute address; step is the axis's element
stride. Elements outside the array are loaded as the map's fill, and count; stores leave them out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.bulk import in_shared
from tilec.backends.emulator.bulk_linear import COMBINE, combined, mbarrier_key, observe, receivers
from tilec.backends.emulator.decode import Form, Getter, Step, full
from tilec.backends.emulator.device import GLOBAL, PARAM
from tilec.backends.emulator.lanes import lanes_of, part
from tilec.backends.emulator.memory import CACHES
from tilec.backends.emulator.program import Address, Operand, Vector
from tilec.backends.emulator.ptx_types import Array, Sel
from tilec.backends.emulator.tensormap import MAGIC, TensorMap, xor

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine


def tensor(f: Form, reduce: bool = False) -> Step:
    rank = int(f.need("1d", "2d", "3d", "4d", "5d")[0])
    spaces = [f.left.pop(0), f.left.pop(0)] if len(f.left) > 1 else f.error("needs two state spaces")
    load = spaces[0] in ("shared::cluster", "shared::cta", "shared") and spaces[1] == "global"
    if not load and not (spaces[0] == "global" and spaces[1].startswith("shared")):
        f.error(f"cannot copy from {spaces[1]} to {spaces[0]}")
    operation = f.need(*COMBINE) if reduce else ""
    f.take("tile")
    other = next((name for name in f.left if name.startswith(("im2col", "tile::"))), None)
    if other:
        f.error(f".{other} copies are not known to the emulator; only boxes (.tile) are")
    f.need("mbarrier::complete_tx::bytes") if load else f.need("bulk_group")
    multicast = bool(f.take("multicast::cluster"))
    f.take("cta_group::1", "cta_group::2")
    while f.take(*CACHES):
        pass
    if load:
        return loads(f, rank, multicast)
    return stores(f, rank, operation)


def map_operand(f: Form, operand: Operand, rank: int) -> tuple[Getter, list[Getter]]:
    """The map's address and the coordinates of [map, {c0, c1, ...}]."""
    if not isinstance(operand, Address) or not isinstance(operand.coordinates, Vector):
        f.error("needs [tensor map, {coordinates}]")
    return f.location(operand), f.sources(operand.coordinates, "s32", rank)


def loads(f: Form, rank: int, multicast: bool) -> Step:
    to, bar = f.address(0), f.address(2)
    where, coordinates = map_operand(f, f.operand(1), rank)
    mask = f.source(3, "u16") if multicast else None

    def run(m: Machine, s: Sel) -> None:
        places = np.stack([full(c(m, s), s) for c in coordinates], 1).astype(np.int64)
        targets, maps, bars = to(m, s), where(m, s), bar(m, s)
        masks = full(mask(m, s), s) if mask else None
        read = np.zeros(len(places), bool)
        for n, lane in enumerate(lanes_of(s).tolist()):
            tensor_map = find(m, lane, int(maps[n]), rank)
            if tensor_map is None:
                continue
            raw, unit, read[n] = box_values(m, lane, tensor_map, places[n])
            chosen = None if masks is None else int(masks[n])
            for target, barrier in receivers(int(targets[n]), int(bars[n]), chosen):
                deliver(m, lane, tensor_map, target, barrier, raw, unit)
        m.launch.unread.note(m, s, part(s, read))

    return Step(run)


def deliver(
    m: Machine, lane: int, tensor_map: TensorMap, target: int, bar: int, raw: Array, unit: int
) -> None:
    start = in_shared(m, lane, target, tensor_map.size, 128, "asynchronous write")
    key = mbarrier_key(m, lane, bar)
    if start is None or key is None:
        return
    m.bulk.load(lane, shared_places(m, tensor_map, start, unit), raw, unit, key, tensor_map.size)


def shared_places(m: Machine, tensor_map: TensorMap, start: int, unit: int) -> Array:
    """Batch offsets of the box's units, swizzled within their block."""
    base = start // m.shared_size * m.shared_size
    linear = start - base + np.arange(0, tensor_map.size, unit)
    return base + xor(linear, tensor_map.span)


def find(m: Machine, lane: int, address: int, rank: int) -> TensorMap | None:
    """The tensor map whose handle lies at a generic address."""
    found = None
    size, memory = 16, m.param.data
    if PARAM <= address < GLOBAL:
        at = address - PARAM
    else:
        at, memory = address - GLOBAL, m.launch.memory.arena.data
    if at >= 0 and at + size <= len(memory):
        magic, number = memory[at : at + size].view(np.uint64).tolist()
        found = m.launch.memory.tensor_maps[number] if magic == MAGIC else None
    if found is None:
        m.record("out-of-bounds", lane, f"there is no tensor map at address {address:#x}", address=address)
    elif address % 64:
        message = f"the tensor map at {address:#x}, which is not a multiple of 64"
        m.record("misaligned", lane, message, address=address)
    elif len(found.box) != rank:
        m.record("async", lane, f"a {rank}-dimensional copy with a tensor map of {len(found.box)} dimensions")
        return None
    return found


def geometry(tensor_map: TensorMap, place: Array) -> tuple[Array, Array, int]:
    """(global byte offsets from the array's base, mask of those inside, bytes per unit) of a box's units in
    order.

    Units are 16 bytes where whole units lie inside or outside, else elements.
    """
    item = tensor_map.array.itemsize
    inner, extent = int(tensor_map.counts[0]) * item, int(tensor_map.extent[0]) * item
    start = int(place[0]) * item
    unit = 16 if start % 16 == 0 and extent % 16 == 0 and tensor_map.address % 16 == 0 else item
    at = start + np.arange(0, inner, unit)
    inside = (at >= 0) & (at < extent)
    for axis in range(1, len(tensor_map.counts)):
        index = int(place[axis]) + np.arange(tensor_map.counts[axis]) * tensor_map.steps[axis]
        valid = (index >= 0) & (index < tensor_map.extent[axis])
        at = (index * tensor_map.strides[axis])[:, None] + at.reshape(1, -1)
        inside = valid[:, None] & inside.reshape(1, -1)
        at, inside = at.reshape(-1), inside.reshape(-1)
    return at, inside, unit


def box_values(m: Machine, lane: int, tensor_map: TensorMap, place: Array) -> tuple[Array, int, bool]:
    """The box's units, the map's fill where it leaves the array; and whether any of it is inside."""
    at, inside, unit = geometry(tensor_map, place)
    view = m.launch.memory.arena.views[unit]
    base = tensor_map.address - GLOBAL
    m.launch.metrics.bytes["global read"] += int(inside.sum()) * unit
    observe(m, lane, base + at[inside], unit, False)
    if inside.all():
        return view[(base + at) // unit], unit, True
    fill = np.frombuffer(tensor_map.fill * (unit // len(tensor_map.fill)), view.dtype)
    raw = np.repeat(fill, len(at))
    raw[inside] = view[(base + at[inside]) // unit]
    return raw, unit, bool(inside.any())


def stores(f: Form, rank: int, operation: str) -> Step:
    where, coordinates = map_operand(f, f.operand(0), rank)
    source = f.address(1)

    def run(m: Machine, s: Sel) -> None:
        places = np.stack([full(c(m, s), s) for c in coordinates], 1).astype(np.int64)
        sources, maps = source(m, s), where(m, s)
        for n, lane in enumerate(lanes_of(s).tolist()):
            tensor_map = find(m, lane, int(maps[n]), rank)
            start = None
            if tensor_map is not None:
                start = in_shared(m, lane, int(sources[n]), tensor_map.size, 128, "asynchronous read")
            if tensor_map is not None and start is not None:
                put_box(m, lane, tensor_map, places[n], start, operation)

    return Step(run)


def put_box(m: Machine, lane: int, tensor_map: TensorMap, place: Array, start: int, operation: str) -> None:
    at, inside, unit = geometry(tensor_map, place)
    raw = m.bulk.store(lane, shared_places(m, tensor_map, start, unit), unit)
    index, values = (tensor_map.address - GLOBAL + at[inside]), raw[inside]
    observe(m, lane, index, unit, True, bool(operation))
    view: Any = m.launch.memory.arena.views[unit]
    if operation:
        dtype = tensor_map.dtype
        old = view[index // unit]
        values = combined(operation, old.view(dtype), values.view(dtype), dtype).view(view.dtype)
    view[index // unit] = values
    m.launch.metrics.bytes["global written"] += len(index) * unit
