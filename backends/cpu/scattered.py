"""Gather, scatter and atomics: one place of an array per element.

Each lane's place is checked against the array's extents. Masked lanes read and write the arena's first bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilec.backends.convert import from_memory, resized, to_memory
from tilec.backends.cpu import packed
from tilec.backends.cpu.lanes import SIZES, Lanes, joined, lane, memory_type, safe
from tilec.backends.cpu.loops import Index
from tilec.backends.emit import elementwise
from tilec.backends.writer import Writer
from tilec.ir.func import Inst, Value
from tilec.ir.inst import arith, memory

if TYPE_CHECKING:
    from tilec.backends.cpu.lower import ArrayPlace, Lowering

WIDE = ("i32", "i64", "float", "double")  # what gather instructions move


def gathered(lo: Lowering, inst: memory.Gather, operands: Sequence[str], lanes: Lanes) -> str:
    """The elements at the places; `other` outside the array."""
    *indices, other = operands
    w, array = lo.w, lo.array(inst.array)
    inside, offset = places(w, array, inst.indices, indices)
    inside = w.op("and", "i1", inside, lanes.text) if not lanes.all else inside
    if array.packed:
        found = packed.read(w, array, offset, inside)
    else:
        found = _read(w, array.base, memory_type(array.dtype), offset, inside)
    value = from_memory(w, found, array.dtype) if array.raw or array.dtype.is_bool else found
    return w.select(inside, w.held(array.dtype), value, other)


def places(w: Writer, array: ArrayPlace, tiles: Sequence[Value], indices: Sequence[str]) -> tuple[str, str]:
    """Which lanes lie inside the array, and the element offset of each (i64)."""
    inside, offset = w.splat("true", "i1"), w.integer(0, "i64")
    for tile, index, extent, stride in zip(tiles, indices, array.extents, array.strides, strict=True):
        dtype = tile.tile.dtype
        wide = resized(w, index, w.held(dtype), "i64", dtype.is_signed)
        below = w.compare("ult", "i64", wide, _spread(w, extent))  # unsigned: a negative index is huge
        inside = w.op("and", "i1", inside, below)
        offset = w.op("add", "i64", offset, w.op("mul", "i64", wide, _spread(w, stride)))
    return inside, w.op("add", "i64", offset, _spread(w, array.offset)) if array.packed else offset


def _spread(w: Writer, index: Index) -> str:
    return w.integer(index, "i64") if isinstance(index, int) else w.spread(index, "i64")


def _read(w: Writer, base: str, element: str, offset: str, inside: str) -> str:
    if w.width > 1 and element in WIDE:
        return _gather(w, base, element, offset, inside)
    found = []
    for i in range(w.width):
        place = w.let(f"getelementptr {element}, ptr {base}, i64 {lane(w, offset, 'i64', i)}")
        place = safe(w, lane(w, inside, "i1", i), place)
        found.append(w.let(f"load {element}, ptr {place}, align {SIZES[element]}"))
    return joined(w, found, element)


def _gather(w: Writer, base: str, element: str, offset: str, inside: str) -> str:
    kind, masks, pointers = w.vector(element), w.vector("i1"), w.vector("ptr")
    at = w.let(f"getelementptr {element}, ptr {base}, {w.vector('i64')} {offset}")
    name = f"llvm.masked.gather.{w.mangled(element)}.v{w.width}p0"
    w.declare(name, kind, pointers, "i32", masks, kind)
    size = SIZES[element]
    return w.let(
        f"call {kind} @{name}({pointers} {at}, i32 {size}, {masks} {inside}, {kind} zeroinitializer)"
    )


def scatter(lo: Lowering, inst: memory.Scatter) -> None:
    """Lane after lane; of two lanes with one place the later wins."""
    from tilec.backends.cpu.nest import Point, nest

    lo.before_write(inst.array)
    places_ = [lo.place(v) for v in (*inst.indices, inst.tile_)]
    array, w = lo.array(inst.array), lo.w
    assert not array.packed, "packed arrays are stored to by whole tiles only"

    def body(args: list[str], point: Point) -> list[str]:
        inside, offset = places(w, array, inst.indices, args[:-1])
        register = to_memory(w, args[-1], array.dtype)
        for i in range(point.lanes.count):
            at = w.let(
                f"getelementptr {memory_type(array.dtype)}, ptr {array.base}, i64 {lane(w, offset, 'i64', i)}"
            )
            at = safe(w, lane(w, inside, "i1", i), at)
            element = memory_type(array.dtype)
            w.line(f"store {element} {lane(w, register, element, i)}, ptr {at}, align {SIZES[element]}")
        return []

    dtypes = [v.tile.dtype for v in (*inst.indices, inst.tile_)]
    nest(w, inst.tile_.tile.shape, places_, [], lo.width(*dtypes), body)
    lo.used(inst)


def atomic(lo: Lowering, inst: memory.Atomic) -> None:
    """One element at a time, in order."""
    from tilec.backends.cpu.nest import Point, nest

    lo.before_write(inst.array)
    places_ = [lo.place(v) for v in (*inst.indices, inst.tile_)]
    array, w = lo.array(inst.array), lo.w

    def body(args: list[str], point: Point) -> list[str]:
        inside, offset = places(w, array, inst.indices, args[:-1])
        at = w.let(f"getelementptr {memory_type(array.dtype)}, ptr {array.base}, i64 {offset}")
        yes, no = w.label("inside"), w.label("outside")
        w.branch(inside, yes, no)
        w.start(yes)
        _update(w, inst, at, args[-1])
        w.jump(no)
        w.start(no)
        return []

    nest(w, inst.tile_.tile.shape, places_, [], 1, body)
    lo.used(inst)


def _update(w: Writer, inst: memory.Atomic, at: str, value: str) -> None:
    dtype = inst.tile_.tile.dtype
    if dtype.is_integer:
        op = inst.op if inst.op not in ("min", "max") or dtype.is_signed else f"u{inst.op}"
        w.let(f"atomicrmw {op} ptr {at}, {w.held(dtype)} {value} monotonic")
    else:
        _retried(w, inst, at, value)


def _retried(w: Writer, inst: memory.Atomic, at: str, value: str) -> None:
    """Float addition as any other addition of its dtype, tried until nobody came between."""
    dtype = inst.tile_.tile.dtype
    word = f"i{dtype.bits}"
    head, done = w.label("retry"), w.label("added")
    w.jump(head)
    w.start(head)
    old = w.let(f"load atomic {word}, ptr {at} monotonic, align {dtype.bytes}")
    before = from_memory(w, w.convert("bitcast", word, old, w.held(dtype)), dtype)
    total = elementwise(w, _addition(inst), [before, value])
    new = w.convert("bitcast", w.held(dtype), total, word)
    swapped = w.let(f"cmpxchg weak ptr {at}, {word} {old}, {word} {new} monotonic monotonic")
    w.branch(w.let(f"extractvalue {{ {word}, i1 }} {swapped}, 1"), done, head)
    w.start(done)


def _addition(inst: memory.Atomic) -> Inst:
    return arith.Add(inst.tile_, inst.tile_)
