"""Elements narrower than a byte, one after the other: element i has bits [i * n, (i + 1) * n).

An element lies in one byte or in two; the second is touched only where it does.
    read(w, array, offsets, inside)      the codes (i8 lanes) of the elements at these offsets
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilec.backends.cpu.lanes import joined, lane, safe
from tilec.backends.cpu.loops import both
from tilec.backends.writer import Writer

if TYPE_CHECKING:
    from tilec.backends.cpu.lower import ArrayPlace


def read(w: Writer, array: ArrayPlace, offset: str, inside: str) -> str:
    """Codes of the elements at i64 offsets, where inside."""
    bits = array.dtype.bits
    first = w.op("mul", "i64", offset, w.integer(bits, "i64"))
    shift = w.convert("trunc", "i64", w.op("and", "i64", first, w.integer(7, "i64")), "i16")
    byte = w.op("lshr", "i64", first, w.integer(3, "i64"))
    spans = w.compare("ugt", "i16", shift, w.integer(8 - bits, "i16"))
    low, high = [], []
    for i in range(w.width):
        at = w.let(f"getelementptr i8, ptr {array.base}, i64 {lane(w, byte, 'i64', i)}")
        here = lane(w, inside, "i1", i)
        low.append(w.let(f"load i8, ptr {safe(w, here, at)}"))
        if 8 % bits:
            there = safe(
                w, both(w, here, lane(w, spans, "i1", i)), w.let(f"getelementptr i8, ptr {at}, i64 1")
            )
            high.append(w.let(f"load i8, ptr {there}"))
    word = w.convert("zext", "i8", joined(w, low, "i8"), "i16")
    if high:
        upper = w.op("shl", "i16", w.convert("zext", "i8", joined(w, high, "i8"), "i16"), w.integer(8, "i16"))
        word = w.op("or", "i16", word, upper)
    code = w.op("and", "i16", w.op("lshr", "i16", word, shift), w.integer(array.dtype.code_mask, "i16"))
    return w.convert("trunc", "i16", code, "i8")


def write(w: Writer, array: ArrayPlace, offset: str, inside: str, code: str) -> None:
    """One element: its bits in one byte or two are replaced. Scalars, one after the other."""
    bits = array.dtype.bits
    first = w.let(f"mul i64 {offset}, {bits}")
    shift = w.let(f"trunc i64 {w.let(f'and i64 {first}, 7')} to i16")
    at = w.let(f"getelementptr i8, ptr {array.base}, i64 {w.let(f'lshr i64 {first}, 3')}")
    mask = w.let(f"shl i16 {array.dtype.code_mask}, {shift}")
    value = w.let(f"shl i16 {w.let(f'zext i8 {code} to i16')}, {shift}")
    _replace(w, safe(w, inside, at), mask, value, 0)
    if 8 % bits:
        spans = w.let(f"icmp ugt i16 {shift}, {8 - bits}")
        there = w.let(f"getelementptr i8, ptr {at}, i64 1")
        _replace(w, safe(w, both(w, inside, spans), there), mask, value, 8)


def _replace(w: Writer, at: str, mask: str, value: str, part: int) -> None:
    """The bits of one byte under a part of the mask."""
    mask, value = (w.let(f"trunc i16 {w.let(f'lshr i16 {x}, {part}')} to i8") for x in (mask, value))
    kept = w.let(f"and i8 {w.let(f'load i8, ptr {at}')}, {w.let(f'xor i8 {mask}, -1')}")
    w.line(f"store i8 {w.let(f'or i8 {kept}, {value}')}, ptr {at}")
