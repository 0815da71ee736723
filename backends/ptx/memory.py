"""Loads, stores, copies to shared memory, gathers, scatters and atomics of one thread.

Each element of a store, scatter or atomic is done once, by its owner; every holder of a loaded element loads
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.ptx import access, packed, shared
from tilec.backends.ptx.address import Window, conjunction, run_length, runs
from tilec.backends.ptx.emitter import ArrayRef, Fragment, Token, memory_bits
from tilec.backends.ptx.threads import predicate
from tilec.backends.ptx.words import as_words, from_words
from tilec.backends.writer import held
from tilec.ir.atoms import WARP
from tilec.ir.errors import TilecError
from tilec.ir.func import Value, root
from tilec.ir.inst import memory
from tilec.ir.layout import Layout, local, spatial
from tilec.ir.layouts import blocked
from tilec.ir.passes.bulk import is_zero
from tilec.ir.tile import ArrayType

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def fixed(e: Emitter, at: Sequence[Value]) -> list[int] | None:
    """Offsets known at compile time, or None."""
    found = [e.facts.constant(v) for v in at]
    return None if any(x is None for x in found) else [int(x) for x in found if x is not None]


def load(e: Emitter, inst: memory.Load) -> Fragment:
    assert inst.layout is not None, "the layout pass gives every tile a layout"
    kind, at = inst.array.array_type, fixed(e, inst.at)
    if shared.is_placed(kind) and at is not None and not inst.masked:
        return shared.load(e, inst.array, inst.layout, at, inst in e.lazy)
    moved = None if inst.masked else shared.moved(e, inst.array, inst.at)
    if moved is not None:
        return shared.load(e, inst.array, inst.layout, moved[1], inst in e.lazy, moved[0])
    window = Window(inst.array, inst.at, inst.layout, inst.masked)
    return packed.load(e, window, inst.other) if kind.packed else load_window(e, window, e.scalar(inst.other))


def load_window(e: Emitter, w: Window, other: str, when: str | None = None) -> Fragment:
    """A fragment from an array, `other` outside it; nothing is read where `when` is false."""
    dtype, array = w.type.dtype, w.array
    assert not w.type.packed, "packed arrays have loads of their own"
    taking = ~w.layout.pad_mask()
    length = run_length(e, w, taking)
    read_only, policy = root(array) in e.read_only, e.policy(array)
    slots = [e.writer.constant(0, dtype)] * w.layout.slots
    for run, pointer, condition in runs(e, w, length, taking, when):
        size = length * memory_bits(dtype) // 8
        if condition is None:
            words = access.load(e, pointer, size, w.type.space, read_only, policy)
        else:
            outside = as_words(e, [other] * length, dtype)
            words = access.load_if(e, condition, pointer, size, w.type.space, outside, read_only, policy)
        slots[run.start : run.stop] = from_words(e, words, length, dtype)
    return Fragment(dtype, w.layout, slots)


def store(e: Emitter, inst: memory.Store) -> None:
    tile, kind, at = e.fragment(inst.tile_), inst.array.array_type, fixed(e, inst.at)
    if shared.is_placed(kind) and at is not None and not inst.masked:
        shared.store(e, inst.array, tile, at)
        return
    window = Window(inst.array, inst.at, tile.layout, inst.masked)
    if kind.packed:
        packed.store(e, window, tile)
    else:
        store_window(e, window, tile)


def store_window(e: Emitter, w: Window, tile: Fragment) -> None:
    """A fragment into an array, each element by its owner; nothing outside."""
    assert not w.type.packed, "packed arrays have stores of their own"
    taking = w.layout.owner_mask()
    length = run_length(e, w, taking)
    for run, pointer, condition in runs(e, w, length, taking):
        words = as_words(e, tile.slots[run.start : run.stop], tile.dtype)
        size = length * memory_bits(tile.dtype) // 8
        if condition is None:
            access.store(e, pointer, words, size, w.type.space)
        else:
            access.store_if(e, condition, pointer, words, size, w.type.space)


def _held(e: Emitter, v: Value) -> Fragment:
    """A tile's fragment; a scalar's is that of a tile of rank 0, which every thread holds."""
    found = e.held(v)
    return found if isinstance(found, Fragment) else Fragment(v.tile.dtype, blocked((), e.threads), [found])


def elements(
    e: Emitter, array: Value, indices: Sequence[Fragment], taking: Mask
) -> Iterator[tuple[int, str | int, str]]:
    """(slot, number of the element, condition) of one element per slot: gathers, scatters, atomics."""
    ref = e.array(array)
    for s in range(taking.shape[1]):
        if not taking[:, s].any():
            continue
        total, conditions = ref.offset, []
        for index, extent, stride in zip(indices, ref.extents, ref.strides, strict=True):
            wide = _wide(e, index, s)
            conditions.append(e.let(f"icmp ult i64 {wide}, {_wide_extent(e, extent)}"))
            step = e.let(f"mul i64 {wide}, {stride}") if stride != 1 else wide
            total = e.let(f"add i64 {total}, {step}") if total != 0 else step
        who = predicate(e, taking[:, s])
        inside = conjunction(e, [*conditions, *([who] if who else [])])
        yield s, total, inside or "true"


def element_pointers(
    e: Emitter, array: Value, indices: Sequence[Fragment], taking: Mask
) -> Iterator[tuple[int, str, str]]:
    """As `elements`, with a pointer to each."""
    kind = array.array_type
    size = memory_bits(kind.dtype) // 8
    for s, element, condition in elements(e, array, indices, taking):
        scaled = e.let(f"mul i64 {element}, {size}") if size != 1 else element
        yield s, e.let(f"getelementptr i8, {_space(kind)} {e.array(array).base}, i64 {scaled}"), condition


def _wide(e: Emitter, index: Fragment, s: int) -> str:
    kind = held(index.dtype)
    if kind == "i64":
        return index.slots[s]
    return e.let(f"{'sext' if index.dtype.is_signed else 'zext'} {kind} {index.slots[s]} to i64")


def _wide_extent(e: Emitter, extent: str | int) -> str | int:
    return extent if isinstance(extent, int) else e.let(f"zext i32 {extent} to i64")


def _space(kind: ArrayType) -> str:
    return f"ptr addrspace({access.SPACES[kind.space]})"


def gather(e: Emitter, inst: memory.Gather) -> Fragment | str:
    indices = [_held(e, v) for v in inst.indices]
    layout, dtype, kind = indices[0].layout, inst.tile.dtype, inst.array.array_type
    slots = [e.writer.constant(0, dtype)] * layout.slots
    if kind.packed:
        for s, element, condition in elements(e, inst.array, indices, ~layout.pad_mask()):
            slots[s] = packed.load_one(e, inst.array, str(element), condition, inst.other)
    else:
        outside = as_words(e, [e.scalar(inst.other)], dtype)
        size, read_only = memory_bits(dtype) // 8, root(inst.array) in e.read_only
        for s, pointer, condition in element_pointers(e, inst.array, indices, ~layout.pad_mask()):
            words = access.load_if(e, condition, pointer, size, kind.space, outside, read_only)
            slots[s] = from_words(e, words, 1, dtype)[0]
    return Fragment(dtype, layout, slots) if inst.tile.rank else slots[0]


def scatter(e: Emitter, inst: memory.Scatter) -> None:
    tile, indices = _held(e, inst.tile_), [_held(e, v) for v in inst.indices]
    size = memory_bits(tile.dtype) // 8
    for s, pointer, condition in element_pointers(e, inst.array, indices, tile.layout.owner_mask()):
        words = as_words(e, [tile.slots[s]], tile.dtype)
        access.store_if(e, condition, pointer, words, size, inst.array.array_type.space)


def atomic(e: Emitter, inst: memory.Atomic) -> None:
    dtype = inst.tile_.tile.dtype
    if inst.op == "add" and dtype.name not in e.target.atomic_add:
        known = ", ".join(sorted(e.target.atomic_add))
        raise TilecError(
            f"{e.target.name} has no atomic_add on {dtype.name}, only on {known}: "
            "add up in f32, or compile for a newer target"
        )
    tile, indices = _held(e, inst.tile_), [_held(e, v) for v in inst.indices]
    space = inst.array.array_type.space
    for s, pointer, condition in element_pointers(e, inst.array, indices, tile.layout.owner_mask()):
        access.reduce_if(e, condition, pointer, inst.op, tile.slots[s], tile.dtype, space)


def copy(e: Emitter, inst: memory.Copy) -> Token:
    """Global to shared memory: cp.async in runs of 4, 8 or 16 bytes where that is proven, else through
    registers.
    """
    kind = inst.array.array_type
    bits = memory_bits(kind.dtype)
    length = max(1, 128 // bits)
    for _ in range(2):  # neighbouring threads have neighbouring runs: of what is proven, once that is known
        layout = _along(inst.buffer.array_type, inst.shape, e.threads, length)
        source = Window(inst.array, inst.at, layout, inst.masked)
        taking = layout.owner_mask()
        there = shared.byte_offsets(inst.buffer.array_type, layout, [0] * len(inst.shape))
        length = min(run_length(e, source, taking), shared.run_length(there, bits, taking))
    size = length * bits // 8
    when = e.scalar(inst.when) if inst.when is not None else None
    if size < 4 or not is_zero(inst.other) or not e.target.has("cp_async"):
        tile = load_window(e, source, e.scalar(inst.other), when)
        shared.store(e, inst.buffer, tile, [0] * len(inst.shape))
        if inst.when is not None:
            _commit(e)  # an empty group, as waits count every copy of a ring
        return Token()
    targets, policy = shared.places(e, inst.buffer, there[:, ::length]), e.policy(inst.array)
    for run, pointer, inside in runs(e, source, length, np.ones_like(taking), when):
        who = predicate(e, taking[:, run.start])
        access.copy_async(e, targets[run.start // length], pointer, size, inside, who, policy)
    _commit(e)
    return Token()


def _along(buffer: ArrayType, shape: tuple[int, ...], threads: int, vector: int) -> Layout:
    """Threads side by side along the axis whose neighbours are neighbours in the buffer; of a line each warp
    has a stretch, so that its copies have their addresses from one register: offsets are short.
    """
    digits = buffer.layout.parts if buffer.layout else ()
    last = len(shape) - 1
    axis = next((a for a, part in enumerate(digits) if any(d.stride == (1,) for d in part)), last)
    order = (*(a for a in range(len(shape)) if a != axis), axis)
    rows, line, at_once = tuple(shape[a] for a in order[:-1]), shape[axis], threads * vector
    found = blocked((*rows, line), threads, vector)
    if prod(rows) == 1 and line % at_once == 0:
        stretches = spatial(*rows, threads // WARP) * local(*rows, line // at_once)
        found = stretches * spatial(*rows, WARP) * local(*rows, vector)
    return found if axis == last else found.permute(tuple(order.index(a) for a in range(len(shape))))


def _commit(e: Emitter) -> None:
    """What was started since the last group is one: waits count groups."""
    e.call("llvm.nvvm.cp.async.commit.group", "void")


def wait(e: Emitter, inst: memory.Wait) -> None:
    """The copies of this thread are done; a barrier shows them to the others."""
    e.call("llvm.nvvm.cp.async.wait.group", "void", f"i32 {inst.pending}")


def array_slice(e: Emitter, inst: memory.ArraySlice) -> ArrayRef:
    """A view: another base, other extents; a dropped index outside the array leaves nothing."""
    parent, kind = e.array(inst.array), inst.array.array_type
    base, offset = parent.base, parent.offset
    extents: list[str | int] = []
    valid: list[str] = []
    for axis, (start, stop, step) in enumerate(zip(inst.starts, inst.stops, inst.steps, strict=True)):
        extent, stride = parent.extents[axis], parent.strides[axis]
        low = "0" if start is None else _clip(e, e.scalar(start), extent)
        if axis in inst.dropped:
            assert start is not None, "a dropped axis has an index"
            if not e.facts.inside(inst.array, axis, start, 1):
                valid.append(e.let(f"icmp ult i32 {e.scalar(start)}, {extent}"))
        elif inst.whole(axis):
            extents.append(extent)
        else:
            high = str(extent) if stop is None else _clip(e, e.scalar(stop), extent)
            extents.append(_count(e, low, high, step))
        if low != "0":
            elements = e.let(f"mul i64 {e.let(f'sext i32 {low} to i64')}, {stride}")
            base, offset = _advance(e, kind, base, offset, elements)
    nothing = conjunction(e, valid)
    if nothing is not None:
        extents = [e.let(f"select i1 {nothing}, i32 {n}, i32 0") for n in extents]
    strides = tuple(_stepped(e, parent.strides[axis], inst.steps[axis])
                    for axis in range(kind.rank) if axis not in inst.dropped)  # fmt: skip
    return ArrayRef(base, tuple(extents), strides, offset, moving=True)


def _clip(e: Emitter, x: str, extent: str | int) -> str:
    """min(max(x, 0), extent)"""
    low = e.call("llvm.smax.i32", "i32", f"i32 {x}", "i32 0")
    return e.call("llvm.smin.i32", "i32", f"i32 {low}", f"i32 {extent}")


def _count(e: Emitter, low: str, high: str, step: int) -> str:
    """How many indices low, low + step, ... lie below high."""
    span = e.call("llvm.smax.i32", "i32", f"i32 {e.let(f'sub i32 {high}, {low}')}", "i32 0")
    if step == 1:
        return span
    return e.let(f"udiv i32 {e.let(f'add i32 {span}, {step - 1}')}, {step}")


def _advance(
    e: Emitter, kind: ArrayType, base: str, offset: str | int, elements: str
) -> tuple[str, str | int]:
    """The base moved by some elements; packed arrays count elements, as they may start inside a byte."""
    if kind.packed:
        return base, e.let(f"add i64 {offset}, {elements}")
    size = memory_bits(kind.dtype) // 8
    scaled = elements if size == 1 else e.let(f"mul i64 {elements}, {size}")
    return e.let(f"getelementptr i8, {_space(kind)} {base}, i64 {scaled}"), offset


def _stepped(e: Emitter, stride: str | int, step: int) -> str | int:
    if step == 1 or isinstance(stride, int):
        return stride if step == 1 else int(stride) * step
    return e.let(f"mul i64 {stride}, {step}")
