"""View: for each thread of two layouts, the bits of its slots in order, read as another type.

Layouts say which element of the source holds which bits of an element of the result; it is the same for
every block. So each result is put together from a few source elements by constant tables: which element,
how far to shift.
    u8 -> u4:   result[e] = source[at[e]] >> shift[e] & 15
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilec.backends.convert import from_code, to_code
from tilec.backends.cpu.codes import codes
from tilec.backends.cpu.lanes import read
from tilec.backends.cpu.loops import step_pointer
from tilec.backends.cpu.lower import Lowering
from tilec.backends.cpu.nest import Point, nest
from tilec.backends.cpu.places import Ref
from tilec.backends.cpu.unpack import Pattern, pattern, unpacked
from tilec.backends.writer import Writer
from tilec.ir import dtype as dt
from tilec.ir.inst import shape
from tilec.ir.tile import TileType, dense_strides

Table = np.ndarray[Any, np.dtype[np.int32]]
UNUSED = 64  # a shift that leaves nothing


@dataclass(frozen=True)
class Part:
    """For each element of the result, in row-major order: a source element, and how far its code moves to
    the left (to the right if negative). What is moved out at either end does not belong to it, nor do bits
    outside of `mask`.
    """

    source: Table
    left: Table
    mask: int = -1


def parts(inst: shape.View) -> list[Part]:
    """As many parts as an element of the result may take bits from."""
    old, new = inst.x.tile.dtype.bits, inst.dtype.bits
    source, into = (_flat(layout) for layout in (inst.source, inst.layout))
    if inst.is_placed:
        return [_bit(source, into, inst.places[:, i], i, old) for i in range(new)]
    first = np.arange(into.shape[1]) * new  # where a slot's bits start in its thread's
    found = []
    for i in range((new - 1) // old + 2):
        slot = first // old + i
        use = slot * old < first + new
        held = source[:, np.where(use, slot, 0)]
        left = np.where(use, slot * old - first, UNUSED)
        table = np.empty(into.size, np.int32), np.empty(into.size, np.int32)
        table[0][into.reshape(-1)] = held.reshape(-1)
        table[1][into.reshape(-1)] = np.broadcast_to(left, into.shape).reshape(-1)
        found.append(Part(*table))
    return [part for part in found if (part.left != UNUSED).any()]


def _bit(source: Table, into: Table, places: Table, i: int, old: int) -> Part:
    """Bit i of each element."""
    table = np.empty(into.size, np.int32), np.empty(into.size, np.int32)
    table[0][into.reshape(-1)] = source[:, places // old].reshape(-1)
    table[1][into.reshape(-1)] = np.broadcast_to(i - places % old, into.shape).reshape(-1)
    return Part(*table, mask=1 << i)


def _flat(layout: Any) -> Table:
    """The row-major number of the element in each thread and slot."""
    return np.asarray(layout.points() @ np.array(dense_strides(layout.shape), np.int32), np.int32)


def view(lo: Lowering, inst: shape.View) -> None:
    """Left packed where that is how products take it: whoever uses it otherwise unpacks."""
    place, packed = lo.place(inst.x), None
    if isinstance(place, Ref) and place.dense:
        packed = codes(inst, place)
    if packed:
        lo.define(inst, packed)
    else:
        into = lo.new(inst.tile, inst)
        write(lo, inst, into)
        lo.define(inst, into)
    lo.used(inst)


def write(lo: Lowering, inst: shape.View, into: Ref) -> None:
    """By groups that look alike where there are such, else by gathers."""
    found = parts(inst)
    alike = _pattern(inst, found)
    if alike:
        _by_groups(lo, inst, into, alike)
    else:
        _by_gathers(lo, inst, into, found)


def _pattern(inst: shape.View, found: list[Part]) -> Pattern | None:
    """The pattern of a view of bytes as something narrower, each element in bytes that follow each other."""
    if inst.x.tile.dtype.bits != 8 or inst.dtype.bits > 8 or inst.is_placed:
        return None
    starts = found[0].source.astype(np.int64) * 8 - found[0].left
    for part in found[1:]:
        here = part.left != UNUSED
        if (part.source[here] * 8 - part.left[here] != starts[here]).any():
            return None
    return pattern(starts, inst.dtype.bits)


def _by_groups(lo: Lowering, inst: shape.View, into: Ref, alike: Pattern) -> None:
    w, source = lo.w, _codes(lo, inst)
    table = lo.table(alike.first.astype(np.int32))
    flat = Ref(into.base, into.dtype, (inst.tile.size,), (1,), into.buffer)

    def body(args: list[str], point: Point) -> list[str]:
        group = (
            point.at[-1] if isinstance(point.at[-1], int) else w.let(f"udiv i64 {point.at[-1]}, {alike.size}")
        )
        start = w.let(f"load i32, ptr {step_pointer(w, table, 'i32', group)}")
        first = step_pointer(w, source.base, "i8", w.let(f"zext i32 {start} to i64"))
        return [from_code(w, unpacked(w, first, alike, inst.dtype.code_mask), inst.dtype)]

    nest(w, flat.shape, [], [flat], alike.size, body, merge=False)


def _by_gathers(lo: Lowering, inst: shape.View, into: Ref, found: list[Part]) -> None:
    x = inst.x.tile
    source = _codes(lo, inst)
    word = "i64" if max(x.dtype.bits, inst.dtype.bits) == 64 else "i32"
    tables = [
        (lo.table(part.source.astype(np.int32)), lo.table(part.left.astype(np.int32)), part.mask)
        for part in found
    ]

    def body(args: list[str], point: Point) -> list[str]:
        code = lo.w.integer(0, word)
        for at, left, mask in tables:
            places, moves = (_entries(lo.w, table, point, word) for table in (at, left))
            piece = _moved(lo.w, _picked(lo.w, source, places, word), moves, word)
            piece = piece if mask < 0 else lo.w.op("and", word, piece, lo.w.integer(mask, word))
            code = lo.w.op("or", word, code, piece)
        return [_result(lo.w, code, inst, word)]

    flat = Ref(into.base, into.dtype, (inst.tile.size,), (1,), into.buffer)
    nest(lo.w, flat.shape, [], [flat], lo.vector_bytes * 8 // int(word[1:]), body, merge=False)


def _codes(lo: Lowering, inst: shape.View) -> Ref:
    """The source's codes, dense and zero-extended, in the arena, where they may be read a little past the
    end.
    """
    kind, place = inst.x.tile, lo.place(inst.x)
    if isinstance(place, Ref) and place.dense and place.buffer and not place.root and kind.dtype == dt.u8:
        return place
    into = lo.temporary(kind)
    plain = Ref(into.base, code_type(kind).dtype, kind.shape, dense_strides(kind.shape))

    def body(args: list[str], point: Point) -> list[str]:
        return [to_code(lo.w, args[0], kind.dtype)[0]]

    nest(lo.w, kind.shape, [place], [plain], lo.width(kind.dtype), body)
    return plain


def code_type(kind: TileType) -> TileType:
    """The type of a tile of codes."""
    from tilec.ir.dtype import dtype

    return TileType(dtype(f"uint{max(8, kind.dtype.bits)}"), kind.shape)


def _entries(w: Writer, table: str, point: Point, word: str) -> str:
    found = read(w, step_pointer(w, table, "i32", point.at[-1]), "i32", 1, point.lanes)
    return w.convert("sext", "i32", found, word)


def _picked(w: Writer, source: Ref, places: str, word: str) -> str:
    """Codes by number. The arena may be read a little past the end, so whole words are, and cut."""
    pointers, masks, kind = w.vector("ptr"), w.vector("i1"), w.vector(word)
    at = w.let(f"getelementptr {source.element}, ptr {source.base}, {kind} {places}")
    if w.width == 1:
        found = w.let(f"load {word}, ptr {at}, align 1")
    else:
        name = f"llvm.masked.gather.{w.mangled(word)}.v{w.width}p0"
        w.declare(name, kind, pointers, "i32", masks, kind)
        on = w.splat("true", "i1")
        found = w.let(f"call {kind} @{name}({pointers} {at}, i32 1, {masks} {on}, {kind} zeroinitializer)")
    bits = source.dtype.bits
    return found if bits == int(word[1:]) else w.op("and", word, found, w.integer((1 << bits) - 1, word))


def _moved(w: Writer, code: str, left: str, word: str) -> str:
    """Shifted either way; by the width or more nothing is left."""
    zero, bits = w.integer(0, word), w.integer(int(word[1:]), word)
    right = w.op("sub", word, zero, left)
    found = []
    for name, by in (("shl", left), ("lshr", right)):
        fits = w.compare("ult", word, by, bits)
        moved = w.op(name, word, code, w.select(fits, word, by, zero))
        found.append(w.select(fits, word, moved, zero))
    return w.select(w.compare("slt", word, left, zero), word, found[1], found[0])


def _result(w: Writer, code: str, inst: shape.View, word: str) -> str:
    """The low bits, as the result is held."""
    element = f"i{max(8, inst.dtype.bits)}"
    narrow = code if element == word else w.convert("trunc", word, code, element)
    if inst.dtype.bits < 8:
        narrow = w.op("and", element, narrow, w.integer(inst.dtype.code_mask, element))
    return from_code(w, narrow, inst.dtype)
