"""Fields of words as numbers: what a code stands for, in one or two instructions after the mask.

Where a type's values are its codes but for a constant, as with integers, the code is moved nowhere: it is
put into the mantissa of a large power of two, and what that makes too much is subtracted, exactly.
    u4, bits 4..7 of a word:   (word & 0xf0) | bits of 2^19   =   2^19 + code,   minus (2^19 + 8)  =  code - 8
Other types of up to 5 bits are looked up in a register or two, where the machine can; the rest is arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilec.backends.cpu.codes import Codes, Field
from tilec.backends.writer import Writer, float_text

Table = np.ndarray[Any, np.dtype[Any]]
MANTISSA, BIAS = 23, 127


@dataclass(frozen=True)
class Line:
    """value = 2^slope * (code ^ flip) + start."""

    slope: int
    start: float
    flip: int


def line(values: Table, codes: Codes) -> Line | None:
    """The line that f32 values of all codes lie on, if they do and it is as steep as a power of two."""
    if not np.isfinite(values).all():
        return None
    flip = 1 << codes.dtype.bits - 1 if codes.dtype.is_signed and codes.dtype.is_integer else 0
    ordered = values.astype(np.float64)[np.arange(len(values)) ^ flip]
    steps = np.diff(ordered)
    mantissa, exponent = np.frexp(steps[0])
    if mantissa != 0.5 or (steps != steps[0]).any() or not -64 < exponent < 64:
        return None
    return Line(int(exponent) - 1, float(ordered[0]), flip)


def number(w: Writer, words: list[str], field: Field, bits: int, on: Line) -> str:
    """The f32 that a field stands for; `words`: one, or the two that it lies in."""
    here = [field.shift] if len(words) == 1 else []
    place = next(p for p in (*here, *range(MANTISSA)) if _fits(p, bits, on))
    large = MANTISSA - place + on.slope
    word, mask = moved(w, words, field.shift, place), (1 << bits) - 1 << place
    masked = w.op("and", "i32", word, w.integer(mask, "i32"))
    raised = w.op("xor", "i32", masked, w.integer(large + BIAS << MANTISSA | on.flip << place, "i32"))
    return w.op("fsub", "float", w.convert("bitcast", "i32", raised, "float"), w.real(2.0**large - on.start))


def _fits(place: int, bits: int, on: Line) -> bool:
    """Is there room in the mantissa, and is what has to be subtracted exact?"""
    excess = 2.0 ** (MANTISSA - place + on.slope) - on.start
    return place + bits <= MANTISSA and float(np.float32(excess)) == excess


def moved(w: Writer, words: list[str], shift: int, place: int) -> str:
    """The field's bits from bit `place` on, with others around them."""
    if len(words) == 2:
        low = w.call("llvm.fshr", "i32", words[1], words[0], w.integer(shift, "i32"))
        return moved(w, [low], 0, place)
    if shift == place:
        return words[0]
    name = "lshr" if shift > place else "shl"
    return w.op(name, "i32", words[0], w.integer(abs(shift - place), "i32"))


def code(w: Writer, words: list[str], field: Field, bits: int) -> str:
    """The code as an i32."""
    return w.op("and", "i32", moved(w, words, field.shift, 0), w.integer((1 << bits) - 1, "i32"))


def can_look_up(w: Writer, bits: int) -> bool:
    return "avx512f" in w.features and w.width == 16 and bits <= 5


def looked_up(w: Writer, words: list[str], field: Field, bits: int, values: Table) -> str:
    """The f32 that a field stands for, from a table in registers; bits above the field choose copies."""
    index = moved(w, words, field.shift, 0)
    table = np.tile(values.astype(np.float32), max(1, 16 >> bits))
    halves = [constants(table[i : i + 16]) for i in range(0, len(table), 16)]
    if len(halves) == 1:
        name = "llvm.x86.avx512.permvar.sf.512"
        w.declare(name, "<16 x float>", "<16 x float>", "<16 x i32>")
        return w.let(f"call <16 x float> @{name}(<16 x float> {halves[0]}, <16 x i32> {index})")
    name = "llvm.x86.avx512.vpermi2var.ps.512"
    w.declare(name, "<16 x float>", "<16 x float>", "<16 x i32>", "<16 x float>")
    given = f"<16 x float> {halves[0]}, <16 x i32> {index}, <16 x float> {halves[1]}"
    return w.let(f"call <16 x float> @{name}({given})")


def constants(values: Table) -> str:
    return f"<{', '.join('float ' + float_text(float(v), 'float') for v in values)}>"
