"""Copies by TMA: one thread tells the gate of a buffer how many bytes will come, and starts a copy per box.

    mbarrier.arrive.expect_tx.shared::cta.b64 _, [gate], bytes;
    cp.async.bulk.tensor.2d...mbarrier::complete_tx::bytes [buffer], [map, {k, m}], [gate];
Everybody waits at the gate, which also shows the data to all. What an array looks like stands in a tensor
map, an argument of its own that the launcher makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING

from tilec.backends.ptx.emitter import ArrayRef
from tilec.backends.ptx.wgmma import uniform
from tilec.ir.func import Value, root
from tilec.ir.inst.bulk import (
    GATE_BYTES,
    BulkCopy,
    BulkDone,
    BulkRoom,
    BulkStore,
    BulkStored,
    BulkWait,
    Gates,
)
from tilec.ir.inst.memory import ArraySlice
from tilec.ir.signature import Slot

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

OWN_SHARED = 86  # the PTX version from which a copy can say that it fills the block's own shared memory:
# where clusters are slow to reach (sm_120), the assembler asks else, at each copy, whose it is


def gates(e: Emitter, inst: Gates) -> ArrayRef:
    """Gates that stand ready: one thread makes them and shows them to the hardware, a barrier to all."""
    assert inst.offset is not None, "shared memory is planned before code is written"
    with e.at_entry():
        base = e.let(f"getelementptr i8, ptr addrspace(3) @shared, i32 {inst.offset}")
    arrivals = [inst.copies] * inst.count + [inst.readers] * (inst.count if inst.readers else 0)
    with _first_warp(e, "true") as one:
        for i, count in enumerate(arrivals):
            gate = _address(e, base, i * GATE_BYTES)
            _only(e, one, f"mbarrier.init.shared::cta.b64 [$1], {count};", f"i32 {gate}")
        _only(e, one, "fence.mbarrier_init.release.cluster;")
    return ArrayRef(base, (inst.count,), (1,))


@contextmanager
def _first_warp(e: Emitter, when: str) -> Iterator[str]:
    """What is written inside is done by the first warp, if `when` holds; gives the condition that a thread is
    one of it. In a form that the assembler sees through: all lanes branch alike, and elect.sync chooses one;
    else it makes a loop over lanes for each copy. A producer's code is for its one warp anyway.
    """
    if e.role == "producer":
        yield _elected(e)
        return
    inside, after = e.writer.label("first"), e.writer.label("after")
    if "first warp" not in e.once:
        with e.at_entry():
            number = e.let(f"lshr i32 {e.tid}, 5")
            e.once["first warp"] = e.let(f"icmp eq i32 {uniform(e, number)}, 0")
    e.writer.branch(e.let(f"and i1 {e.once['first warp']}, {when}"), inside, after)
    e.start_block(inside)
    yield _elected(e)
    e.writer.jump(after)
    e.start_block(after)


def _elected(e: Emitter) -> str:
    """Whether a lane is the one that its warp chose."""
    text = "{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.b32 $0, 1, 0, p; }"
    chosen = e.let(f'call i32 asm sideeffect "{text}", "=r"() #2')
    return e.let(f"icmp ne i32 {chosen}, 0")


def _only(e: Emitter, who: str, text: str, *given: str) -> None:
    """An instruction of the thread for which `who` holds; operands are $1, $2 ..."""
    constraints = "".join("l," if x.startswith(("ptr", "i64")) else "r," for x in given)
    operands = ", ".join((f"i1 {who}", *given))
    e.line(f'call void asm sideeffect "@$0 {text}", "b,{constraints}~{{memory}}"({operands}) #2')


def _address(e: Emitter, base: str, offset: int) -> str:
    address = e.let(f"ptrtoint ptr addrspace(3) {base} to i32")
    return e.let(f"add i32 {address}, {offset}") if offset else address


def _gate(e: Emitter, gates: Value, slot: Value, back: bool = False) -> str:
    """The address of one gate; `back`: of that by which readers tell."""
    assert isinstance(gates, Gates), "gates are not views"
    offset = e.let(f"mul nuw nsw i32 {e.scalar(slot)}, {GATE_BYTES}")
    first = gates.count * GATE_BYTES if back else 0
    return e.let(f"add i32 {_address(e, e.array(gates).base, first)}, {offset}")


def copy(e: Emitter, inst: BulkCopy) -> None:
    """Tells the gate, and starts a copy for each box."""
    kind, box = inst.buffer.array_type, inst.box
    policy = e.policy(inst.array)
    nbytes, tensor_map, places = prod(inst.shape) * kind.dtype.bytes, _map(e, inst), _places(e, inst)
    if box.unit > kind.dtype.bytes:
        places[box.axes[0]] = e.let(f"sdiv exact i32 {places[box.axes[0]]}, {box.unit // kind.dtype.bytes}")
    first = places[box.axes[0]]
    with _first_warp(e, e.scalar(inst.when)) as one:
        gate = _gate(e, inst.gates, inst.slot)
        told = f"mbarrier.arrive.expect_tx.shared::cta.b64 _, [$1], {nbytes};"
        _only(e, one, told, f"i32 {gate}")
        for i in range(nbytes // box.nbytes):
            places[box.axes[0]] = e.let(f"add i32 {first}, {i * box.extents[0]}") if i else first
            to = _address(e, e.array(inst.buffer).base, i * box.nbytes)
            listed = [places[axis] for axis in box.axes]
            _start(e, one, to, tensor_map, ["0", *listed[1:]] if box.is_cut else listed, gate, policy)


def _start(
    e: Emitter, who: str, to: str, tensor_map: str, places: list[str], gate: str, policy: str | None
) -> None:
    rank, space = len(places), "cta" if e.target.ptx_version >= OWN_SHARED else "cluster"
    listed = ", ".join(f"${3 + i}" for i in range(rank))
    text = (
        f"cp.async.bulk.tensor.{rank}d.shared::{space}.global.tile.mbarrier::complete_tx::bytes"
        f"{'.L2::cache_hint' if policy else ''} [$1], [$2, {{{listed}}}], [${3 + rank}]"
        f"{f', ${4 + rank}' if policy else ''};"
    )
    given = [f"i32 {to}", f"ptr {tensor_map}", *(f"i32 {x}" for x in places), f"i32 {gate}"]
    _only(e, who, text, *given, *([f"i64 {policy}"] if policy else []))


def store(e: Emitter, inst: BulkStore) -> None:
    """One thread starts the stores of all boxes, as a group."""
    kind, box = inst.buffer.array_type, inst.box
    tensor_map, places = _map(e, inst), _places(e, inst)
    first, rank = places[box.axes[0]], len(box.axes)
    listed = ", ".join(f"${3 + i}" for i in range(rank))
    text = f"cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group [$2, {{{listed}}}], [$1];"
    size = prod(n for n in kind.shape if isinstance(n, int)) * kind.dtype.bytes
    with _first_warp(e, "true") as one:
        for i in range(size // box.nbytes):
            places[box.axes[0]] = e.let(f"add i32 {first}, {i * box.extents[0]}") if i else first
            source = _address(e, e.array(inst.buffer).base, i * box.nbytes)
            given = (f"i32 {places[axis]}" for axis in box.axes)
            _only(e, one, text, f"i32 {source}", f"ptr {tensor_map}", *given)
        _only(e, one, "cp.async.bulk.commit_group;")


def stored(e: Emitter, inst: BulkStored) -> None:
    """The thread that started them waits for its stores."""
    with _first_warp(e, "true") as one:
        _only(e, one, f"cp.async.bulk.wait_group{'' if inst.written else '.read'} 0;")


def _map(e: Emitter, inst: BulkCopy | BulkStore) -> str:
    """The kernel's parameter that describes the array with this box."""
    slot = Slot("map", e.func.params.index(root(inst.array)), box=inst.box)
    if slot not in e.maps:
        e.maps.append(slot)
    return f"%map{e.maps.index(slot)}"


def _places(e: Emitter, inst: BulkCopy | BulkStore) -> dict[int, str]:
    """Where the window starts on each axis of the argument; an index that leaves it brings zeros."""
    view, places = inst.array, {axis: e.scalar(at) for axis, at in enumerate(inst.at)}
    while isinstance(view, ArraySlice):
        kept = [axis for axis in range(view.array.array_type.rank) if axis not in view.dropped]
        places = {axis: places[i] for i, axis in enumerate(kept)}
        for axis in view.dropped:
            start = view.starts[axis]
            assert start is not None, "a dropped axis has an index"
            places[axis] = e.scalar(start)
        view = view.array
    return places


def wait(e: Emitter, inst: BulkWait) -> None:
    """Until all has come."""
    _until_open(e, _gate(e, inst.gates, inst.slot), e.scalar(inst.phase))


def room(e: Emitter, inst: BulkRoom) -> None:
    """Until readers are done: the first time at once, as the phase before the first counts as over."""
    _until_open(e, _gate(e, inst.gates, inst.slot, True), e.let(f"xor i32 {e.scalar(inst.phase)}, 1"))


def done(e: Emitter, inst: BulkDone) -> None:
    """One lane tells for its warp, after all of them."""
    e.call("llvm.nvvm.bar.warp.sync", "void", "i32 -1")
    if "first lane" not in e.once:
        with e.at_entry():
            lane = e.let(f"and i32 {e.tid}, 31")
            e.once["first lane"] = e.let(f"icmp eq i32 {lane}, 0")
    who = e.let(f"and i1 {e.once['first lane']}, {e.scalar(inst.when)}")
    _only(e, who, "mbarrier.arrive.shared::cta.b64 _, [$1];", f"i32 {_gate(e, inst.gates, inst.slot, True)}")


def _until_open(e: Emitter, gate: str, phase: str) -> None:
    """Tries until the gate has opened: an attempt suspends the thread for a while."""
    again, there = e.writer.label("closed"), e.writer.label("open")
    e.writer.jump(again)
    e.start_block(again)
    text = "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [$1], $2; selp.b32 $0, 1, 0, p; }"
    opened = e.let(f'call i32 asm sideeffect "{text}", "=r,r,r,~{{memory}}"(i32 {gate}, i32 {phase}) #2')
    e.writer.branch(e.let(f"icmp ne i32 {opened}, 0"), there, again)
    e.start_block(there)
