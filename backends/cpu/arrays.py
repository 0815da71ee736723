"""Arrays: parameters, views of them, and shared memory, which on the CPU is a row-major part of the arena."""

from __future__ import annotations

from math import prod

from tilec.backends.convert import from_code
from tilec.backends.cpu.filled import filled
from tilec.backends.cpu.lanes import memory_type
from tilec.backends.cpu.loops import Index, add, both, clamp, larger, mul, pick, step_pointer, sub, test
from tilec.backends.cpu.lower import ArrayPlace, Lowering
from tilec.backends.cpu.places import Splat
from tilec.backends.writer import Writer
from tilec.ir.dtype import DType
from tilec.ir.inst import memory
from tilec.ir.signature import signature
from tilec.ir.tile import ArrayType, dense_strides


def parameters(lo: Lowering) -> None:
    """Reads the slots: an 8-byte word each."""
    words = {}
    for i, slot in enumerate(signature(lo.func)):
        place = lo.w.let(f"getelementptr i64, ptr %slots, i64 {i}")
        kind = "ptr" if slot.kind == "pointer" else "i64"
        words[slot.kind, slot.param, slot.axis] = lo.w.let(f"load {kind}, ptr {place}")
    for i, param in enumerate(lo.func.params):
        if isinstance(param.type, ArrayType):
            lo.env[param] = _parameter(param.type, i, words)
        else:
            dtype = param.tile.dtype
            lo.env[param] = Splat(_scalar(lo.w, words["scalar", i, 0], dtype), dtype)


def _parameter(kind: ArrayType, i: int, words: dict[tuple[str, int, int], str]) -> ArrayPlace:
    extents = [n if isinstance(n, int) else words["extent", i, axis] for axis, n in enumerate(kind.shape)]
    strides = [n if isinstance(n, int) else words["stride", i, axis] for axis, n in enumerate(kind.strides)]
    base = words["pointer", i, 0]
    return ArrayPlace(base, kind.dtype, tuple(extents), tuple(strides), kind.packed)


def _scalar(w: Writer, word: str, dtype: DType) -> str:
    """The low bits of a word are the scalar's code."""
    element = f"i{max(8, dtype.bits)}"
    return from_code(w, word if element == "i64" else w.let(f"trunc i64 {word} to {element}"), dtype)


def size(lo: Lowering, inst: memory.Size) -> None:
    extent = lo.array(inst.array).extents[inst.axis]
    known = isinstance(extent, int)
    lo.define(inst, Splat(str(extent) if known else lo.w.let(f"trunc i64 {extent} to i32"), inst.tile.dtype))


def array_slice(lo: Lowering, inst: memory.ArraySlice) -> None:
    """Starts and stops are clipped; a dropped axis whose index lies outside leaves nothing on any axis."""
    w, array = lo.w, lo.array(inst.array)
    offset: Index = array.offset
    kept: list[tuple[Index, Index]] = []
    some = "true"
    for axis, extent in enumerate(array.extents):
        low, count = _clipped(lo, inst, axis, extent)
        offset = add(w, offset, mul(w, low, array.strides[axis]))
        if axis in inst.dropped:
            some = both(w, some, test(w, "sgt", count, 0))
        else:
            kept.append((count, mul(w, array.strides[axis], inst.steps[axis])))
    extents = tuple(pick(w, some, count, 0) for count, _ in kept)
    strides = tuple(stride for _, stride in kept)
    base = array.base if array.packed else step_pointer(w, array.base, memory_type(array.dtype), offset)
    rest = offset if array.packed else 0
    lo.define(inst, ArrayPlace(base, array.dtype, extents, strides, array.packed, rest, array.raw))
    lo.used(inst)


def _clipped(lo: Lowering, inst: memory.ArraySlice, axis: int, extent: Index) -> tuple[Index, Index]:
    """First index of an axis and how many there are."""
    w, start, stop, step = lo.w, inst.starts[axis], inst.stops[axis], inst.steps[axis]
    asked: Index = 0 if start is None else lo.index(start)
    low = clamp(w, asked, 0, extent)
    high = extent if stop is None else clamp(w, lo.index(stop), 0, extent)
    if axis in inst.dropped and start is not None:
        inside = both(w, test(w, "sge", asked, 0), test(w, "slt", asked, extent))
        high = pick(w, inside, high, low)
    span = larger(w, sub(w, high, low), 0)
    return low, span if step == 1 else _divided(w, add(w, span, step - 1), step)


def _divided(w: Writer, a: Index, b: int) -> Index:
    return a // b if isinstance(a, int) else w.let(f"udiv i64 {a}, {b}")


def alloc(lo: Lowering, inst: memory.Alloc) -> None:
    """Shared memory starts poisoned, all bits set, or true, unless it is filled before anyone looks."""
    if inst in lo.env:
        return
    nbytes = prod(inst.shape) * max(8, inst.dtype.bits) // 8
    buffer = lo.arena.take(nbytes)
    buffer.pinned = True
    base = lo.address(buffer)
    if inst not in filled(lo.func).allocs:
        byte = 1 if inst.dtype.is_bool else -1
        lo.w.declare("llvm.memset.p0.i64", "void", "ptr", "i8", "i64", "i1")
        lo.w.line(f"call void @llvm.memset.p0.i64(ptr {base}, i8 {byte}, i64 {nbytes}, i1 false)")
    lo.define(inst, ArrayPlace(base, inst.dtype, inst.shape, dense_strides(inst.shape)))


def stage(lo: Lowering, inst: memory.Stage) -> None:
    """One of several buffers."""
    array = lo.array(inst.array)
    offset = mul(lo.w, lo.index(inst.index), array.strides[0])
    base = step_pointer(lo.w, array.base, memory_type(array.dtype), offset)
    lo.define(inst, ArrayPlace(base, array.dtype, array.extents[1:], array.strides[1:], raw=array.raw))
    lo.used(inst)


def array_reshape(lo: Lowering, inst: memory.ArrayReshape) -> None:
    array = lo.array(inst.array)
    lo.define(inst, ArrayPlace(array.base, array.dtype, inst.shape, dense_strides(inst.shape), raw=array.raw))
