"""Tables in memory, read where they are used: constants that threads hold different parts of.

Each use reads the table anew. What LLVM may merge and move out of loops it keeps in registers from there on,
however many there are; the assembler, which knows how many are left, is free to do the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.ptx.emitter import WORD, Remade, memory_bits
from tilec.backends.ptx.words import from_words
from tilec.ir.dtype import DType
from tilec.ir.inst import arith
from tilec.ir.layout import Layout

LANES, ROW = 32, 4  # threads of a warp; words of an access
Words = np.ndarray[Any, Any]

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter


@dataclass(frozen=True)
class Row:
    """Four words of each thread, or of each lane where warps have them alike, `at` bytes after the first."""

    every: str  # "thread" or "lane"
    at: int


def table(e: Emitter, inst: arith.Table) -> Remade:
    """Words that every thread has alike are immediates, the others lie in memory in the order of threads."""
    layout = inst.layout
    assert layout is not None, "the layout pass gives every tile a layout"
    per = max(1, min(layout.slots, WORD // memory_bits(inst.dtype)))
    words = _words_of_threads(inst.elements(), layout, per)
    same = {i: str(np.int32(column[0])) for i, column in enumerate(words.T) if (column == column[0]).all()}
    loaded = [i for i in range(words.shape[1]) if i not in same]
    groups = [loaded[first : first + ROW] for first in range(0, len(loaded), ROW)]
    rows = [(mine, _kept(e, words[:, mine])) for mine in groups]

    def read() -> list[str]:
        held = same | {i: word for mine, row in rows for i, word in zip(mine, _read(e, row), strict=False)}
        return from_words(e, _narrowed(e, held, per, inst.dtype), per, inst.dtype)[: layout.slots]

    return Remade(inst.dtype, layout, read)


def _narrowed(e: Emitter, held: dict[int, str], per: int, dtype: DType) -> list[str]:
    bits = min(WORD, memory_bits(dtype) * per)
    words = [held[i] for i in range(len(held))]
    return words if bits == WORD else [e.let(f"trunc i32 {word} to i{bits}") for word in words]


def _words_of_threads(codes: Words, layout: Layout, per: int) -> Words:
    """The elements that threads hold, `per` of them to a word: uint32 [threads, words]."""
    inside = np.minimum(layout.points(), np.array(codes.shape) - 1)  # pad holds anything
    mine = codes[tuple(np.moveaxis(inside, -1, 0))]
    mine = np.ascontiguousarray(np.pad(mine, ((0, 0), (0, -mine.shape[1] % per)), mode="edge"))
    size = min(4, mine.itemsize * per)
    return mine.astype(mine.dtype.newbyteorder("<")).view(f"<u{size}").astype(np.uint32)


def _kept(e: Emitter, words: Words) -> Row:
    """Puts up to four words of each thread, [threads, words], among the kernel's constants."""
    padded = np.pad(words, ((0, 0), (0, ROW - words.shape[1])))
    warps = padded.reshape(-1, LANES, ROW)
    every = "lane" if (warps == warps[:1]).all() else "thread"
    rows = e.rows.setdefault(every, [])
    rows.append(warps[0] if every == "lane" else padded)
    return Row(every, sum(row.nbytes for row in rows[:-1]))


def constants(e: Emitter) -> list[str]:
    """The rows as module constants."""
    found = []
    for every, rows in e.rows.items():
        words = np.concatenate(rows).ravel().astype(np.int32).tolist()
        kind, items = f"[{len(words)} x i32]", ", ".join(f"i32 {word}" for word in words)
        found.append(f"@rows_of_each_{every} = internal addrspace(1) constant {kind} [{items}], align 16")
    return found


def _read(e: Emitter, row: Row) -> list[str]:
    text = f"ld.global.nc.v4.b32 {{$0, $1, $2, $3}}, [$4+{row.at}];"
    kind, given = "{ i32, i32, i32, i32 }", f"ptr addrspace(1) {_mine(e, row.every)}"
    whole = e.let(f'call {kind} asm sideeffect "{text}", "=r,=r,=r,=r,l"({given})')
    return [e.let(f"extractvalue {kind} {whole}, {i}") for i in range(ROW)]


def _mine(e: Emitter, every: str) -> str:
    """Where this thread's first row is."""
    key = ("rows", every)
    if key not in e.once:
        with e.at_entry():
            index = e.tid if every == "thread" else e.let(f"and i32 {e.tid}, {LANES - 1}")
            rows = f"ptr addrspace(1) @rows_of_each_{every}"
            e.once[key] = e.let(f"getelementptr inbounds <{ROW} x i32>, {rows}, i32 {index}")
    return e.once[key]
