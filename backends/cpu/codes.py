"""Codes that are still packed: a place of tiles of narrow elements, which nobody has unpacked yet.

A view of bytes lies so where each row of it is a field of consecutive 32-bit words, one word per column:
    element (r, c) of u3:   words[first + c] >> shift & 7        (first, shift: constants of the row)
and rows repeat that after a while, some words on. Such a row is unpacked into 32-bit lanes by one shift and
one mask. A field that straddles two words takes its upper bits from a second one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tilec.backends.cpu.arena import Buffer
from tilec.backends.cpu.lanes import Lanes, read
from tilec.backends.cpu.loops import Index, add, mul, step_pointer
from tilec.backends.cpu.places import Ref, Shape
from tilec.backends.writer import Writer
from tilec.ir import codec
from tilec.ir.dtype import DType
from tilec.ir.func import Value
from tilec.ir.inst import shape
from tilec.ir.tile import dense_strides

Table = np.ndarray[Any, np.dtype[Any]]
WORD = 32
NEAR = 1 << 14  # bytes that the nearest cache has room for, beside what else is in use
LONGEST = 32  # rows after which a pattern has to repeat: that many are unrolled


@dataclass(frozen=True)
class Field:
    """Where a row's bits are: in word `first + column` from bit `shift` on, the rest in `second + column`."""

    first: int
    shift: int
    second: int | None = None


@dataclass(frozen=True)
class Codes:
    """`fields` of the first rows; the next as many rows lie `step` words further."""

    source: Ref
    dtype: DType
    shape: Shape
    fields: tuple[Field, ...]
    step: int

    @property
    def period(self) -> int:
        return len(self.fields)

    @property
    def buffer(self) -> Buffer | None:
        return self.source.buffer

    @property
    def root(self) -> Value | None:
        return self.source.root

    def word(self, w: Writer, block: Index, first: int, column: Index, lanes: Lanes) -> str:
        """A vector of words: those of some columns, in the block-th repetition. Where they come straight from
        an array the same of the next tile are asked for: weights are read once, and in order.
        """
        at = add(w, add(w, mul(w, block, self.step), first), column)
        pointer = step_pointer(w, self.source.base, "i32", at)
        if self.root:
            prefetch(w, pointer, prod(self.shape) * self.dtype.bits // 8)
        return read(w, pointer, "i32", 1, lanes, align=1)

    @property
    def values(self) -> Table:
        """What each code stands for."""
        return np.asarray(codec.decode(np.arange(1 << self.dtype.bits), self.dtype))


def prefetch(w: Writer, pointer: str, ahead: int) -> None:
    """Asks for the cache line so many bytes on, which may be nobody's: into the nearest cache where all that
    is asked for until then has room, else into the next.
    """
    w.declare("llvm.prefetch.p0", "void", "ptr", "i32", "i32", "i32")
    place, near = step_pointer(w, pointer, "i8", ahead), 3 if ahead <= NEAR else 2
    w.line(f"call void @llvm.prefetch.p0(ptr {place}, i32 0, i32 {near}, i32 1)")


def codes(inst: shape.View, source: Ref) -> Codes | None:
    """The place of a view of bytes that lie one after the other; None where rows are no such fields."""
    bits = inst.dtype.bits
    if inst.x.tile.dtype.bits != 8 or bits > 8 or inst.is_placed or len(inst.tile.shape) != 2:
        return None
    found = _fields(inst, bits)
    if found is None:
        return None
    first, shift, second = found
    for period in range(1, min(LONGEST, len(first)) + 1):
        step = _step(first, shift, second, period)
        if step is not None:
            rows = zip(first[:period], shift[:period], second[:period], strict=True)
            fields = (Field(int(a), int(s), int(b) if s + bits > WORD else None) for a, s, b in rows)
            return Codes(source, inst.dtype, inst.tile.shape, tuple(fields), step)
    return None


def _step(first: Table, shift: Table, second: Table, period: int) -> int | None:
    """How many words on a pattern of so many rows repeats; None where it does not."""
    if len(first) % period:
        return None
    if len(first) == period:
        return 0
    steps = np.concatenate([first[period:] - first[:-period], second[period:] - second[:-period]])
    same = (shift[period:] == shift[:-period]).all() and (steps == steps[0]).all()
    return int(steps[0]) if same else None


def _fields(inst: shape.View, bits: int) -> tuple[Table, Table, Table] | None:
    """For each row: the word of column 0, the shift, and the word that a straddling field ends in."""
    words = _words(inst)
    if words is None:
        return None
    into = inst.layout.points() @ np.array(dense_strides(inst.layout.shape), np.int64)
    start = np.broadcast_to(np.arange(into.shape[1]) * bits, into.shape)
    last = np.minimum((start + bits - 1) // WORD, words.shape[1] - 1)
    tables = [np.empty(into.size, np.int64) for _ in range(3)]
    columns = np.arange(inst.tile.shape[1])
    for table, held in zip(tables, _held(words, start, last), strict=True):
        table[into.reshape(-1)] = held.reshape(-1)
    first, shift, second = (table.reshape(inst.tile.shape) for table in tables)
    lines = [first - columns, shift, second - columns]
    if any((line != line[:, :1]).any() for line in lines):
        return None
    a, s, b = (line[:, 0] for line in lines)
    return a, s, b


def _held(words: Table, start: Table, last: Table) -> Iterator[Table]:
    yield np.take_along_axis(words, start // WORD, axis=1)
    yield start % WORD
    yield np.take_along_axis(words, last, axis=1)


def _words(inst: shape.View) -> Table | None:
    """The number of each thread's each word, if a thread's bytes are whole words of the source."""
    held = inst.source.points() @ np.array(dense_strides(inst.source.shape), np.int64)
    if held.shape[1] % 4 or (held[:, ::4] % 4).any():
        return None
    grouped = held.reshape(len(held), -1, 4)
    if (grouped != grouped[:, :, :1] + np.arange(4)).any():
        return None
    return np.asarray(grouped[:, :, 0] // 4)
