"""Tiles in shared memory at places known at compile time: wide accesses and ldmatrix.

Every thread's byte offsets are a static table. `Places` writes them as (base ^ x) + c: one base per thread,
an xor per distinct swizzled part, and a constant that becomes part of the instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from tilec.backends.ptx import access
from tilec.backends.ptx.emitter import WORD, ArrayRef, Fragment, memory_bits
from tilec.backends.ptx.threads import per_thread, predicate
from tilec.backends.ptx.words import as_words, from_words
from tilec.ir.func import Value
from tilec.ir.layout import Layout
from tilec.ir.memory_layout import row_major
from tilec.ir.tile import ArrayType, dense_strides

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

Offsets = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
LANES, ROW = 32, 16  # of a warp; bytes of a row that ldmatrix reads


def is_placed(kind: ArrayType) -> bool:
    """Whether every element's place within an array is known: a shared buffer, dense or laid out, or all of
    one axis of it; not a view with steps or gaps."""
    if kind.space != "shared" or not all(isinstance(n, int) for n in kind.shape):
        return False
    shape = tuple(n for n in kind.shape if isinstance(n, int))
    return kind.layout is not None or kind.strides == dense_strides(shape)


def byte_offsets(kind: ArrayType, layout: Layout, at: Sequence[int], pad: bool = True) -> Offsets:
    """Byte offset of each (thread, slot) of a tile at `at`, int64 [threads, slots]. Pad is put at the tile's
    edge; without `pad` nobody goes there, and what is simplest will do.
    """
    shape = tuple(n for n in kind.shape if isinstance(n, int))
    points = layout.points().astype(np.int64)
    if pad:
        points = np.clip(points, 0, np.array(layout.shape) - 1)
    points += np.array(at, np.int64)
    memory = kind.layout or row_major(shape)
    bits = memory_bits(kind.dtype)
    return np.asarray(memory.byte_offset(tuple(np.moveaxis(points, -1, 0)), bits), np.int64).reshape(
        points.shape[:2]
    )


class Places:
    """Pointers to static byte offsets, [threads, n], of one shared buffer."""

    def __init__(self, e: Emitter, array: ArrayRef, offsets: Offsets, swizzled: int) -> None:
        self.e, self.offsets, self.swizzled = e, offsets, swizzled
        self.base, self.moving = array.base, array.moving
        self.made: dict[str, str] = {}

    def __getitem__(self, i: int) -> str:
        first, mine = self.offsets[:, 0], self.offsets[:, i]
        flip = int(first[0] ^ mine[0]) & self.swizzled
        step = int(mine[0] - (first[0] ^ flip))
        if not np.array_equal((first ^ flip) + step, mine):
            flip, step, first = 0, int(mine.min()), mine - mine.min()
        start = per_thread(self.e, first ^ flip) if flip == 0 else self._flipped(first, flip)
        pointer = self._at(start)
        return self.e.let(f"getelementptr i8, ptr addrspace(3) {pointer}, i32 {step}") if step else pointer

    def _flipped(self, first: Offsets, flip: int) -> str:
        key = ("flip", per_thread(self.e, first), flip)
        if key not in self.e.once:
            with self.e.at_entry():
                self.e.once[key] = self.e.let(f"xor i32 {key[1]}, {flip}")
        return self.e.once[key]

    def _at(self, start: str) -> str:
        text = f"getelementptr i8, ptr addrspace(3) {self.base}, i32 {start}"
        if self.moving:
            if start not in self.made:
                self.made[start] = self.e.let(text)
            return self.made[start]
        key = ("place", self.base, start)
        if key not in self.e.once:
            with self.e.at_entry():
                self.e.once[key] = self.e.let(text)
        return self.e.once[key]


def places(e: Emitter, buffer: Value, offsets: Offsets, source: ArrayRef | None = None) -> Places:
    layout = buffer.array_type.layout
    swizzle = layout.swizzle if layout is not None else None
    return Places(e, source or e.array(buffer), offsets, swizzle.block - 1 if swizzle else 0)


def moved(e: Emitter, buffer: Value, at: Sequence[Value]) -> tuple[ArrayRef, list[int]] | None:
    """The dense buffer from run-time places on, and the places that are left: known ones. None unless it
    moves by whole rows of ldmatrix, which keep every alignment.
    """
    kind = buffer.array_type
    if not is_placed(kind) or kind.layout is not None:
        return None
    ref, offset, left = e.array(buffer), "", []
    for v, stride in zip(at, ref.strides, strict=True):
        known = e.facts.constant(v)
        left.append(int(known or 0))
        if known is not None:
            continue
        step = int(stride) * memory_bits(kind.dtype) // 8
        if step * e.facts.multiple(v) % ROW:
            return None
        by = e.let(f"mul nsw i32 {e.scalar(v)}, {step}")
        offset = e.let(f"add nsw i32 {offset}, {by}") if offset else by
    base = e.let(f"getelementptr i8, ptr addrspace(3) {ref.base}, i32 {offset}")
    return replace(ref, base=base, moving=True), left


def run_length(offsets: Offsets, bits: int, static: Mask) -> int:
    """Slots that one instruction moves: used alike, and next to each other and aligned in threads that use
    them.
    """
    size, slots = bits // 8, offsets.shape[1]
    length: int = min(16 // size, slots & -slots)
    while length > 1:
        grouped = offsets.reshape(len(offsets), -1, length)
        used = static[:, ::length]
        near = (grouped == grouped[..., :1] + np.arange(length) * size).all(axis=2)
        alike = (static.reshape(grouped.shape) == used[..., None]).all()
        if alike and (near & (grouped[..., 0] % (length * size) == 0) | ~used).all():
            break
        length //= 2
    return length


def groups(offsets: Offsets, bits: int, static: Mask) -> list[list[int]]:
    """Slots that one instruction each moves: in the order of their addresses, as many as are next to each
    other, aligned and used alike in every thread.
    """
    size = bits // 8
    order = np.argsort(offsets[0], kind="stable")
    offsets, static = offsets[:, order], static[:, order]
    near = ((np.diff(offsets, axis=1) == size) & (static[:, 1:] == static[:, :-1])).all(axis=0).tolist()
    aligned = np.gcd.reduce(offsets, axis=0).tolist()
    found: list[list[int]] = []
    at = 0
    while at < len(order):
        length = 16 // size
        while length > 1 and (
            at + length > len(order) or aligned[at] % (length * size) or not all(near[at : at + length - 1])
        ):
            length //= 2
        found.append(order[at : at + length].tolist())
        at += length
    return found


class Lazy(Sequence[str]):
    """Slots that are loaded when they are first asked for, a group at a time: fragments live as short as they
    can.
    """

    def __init__(self, groups: Sequence[Sequence[int]], load: Callable[[int], list[str]]) -> None:
        self.load_group = load
        self.places = {slot: (i, place) for i, group in enumerate(groups) for place, slot in enumerate(group)}
        self.loaded: dict[int, list[str]] = {}

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if i not in self.places:
            raise IndexError(i)
        group, place = self.places[i]
        if group not in self.loaded:
            self.loaded[group] = self.load_group(group)
        return self.loaded[group][place]


def load(
    e: Emitter, buffer: Value, layout: Layout, at: Sequence[int], lazy: bool, source: ArrayRef | None = None
) -> Fragment:
    """A tile from a shared buffer (or from `source`, where it lies elsewhere): by ldmatrix where its
    fragments match, else in wide runs.
    """
    kind = buffer.array_type
    offsets, bits = byte_offsets(kind, layout, at), memory_bits(kind.dtype)
    matrices = _matrices(offsets, bits) if e.target.has("ldmatrix") else None
    if matrices is not None:
        slots = _by_matrices(e, kind, places(e, buffer, _starts(matrices[0]), source), *matrices)
    else:
        found = groups(offsets, bits, np.ones(offsets.shape, bool))
        starts = places(e, buffer, offsets[:, [group[0] for group in found]], source)
        slots = _by_groups(e, kind, starts, found)
    return Fragment(kind.dtype, layout, slots if lazy else list(slots))


def _by_groups(e: Emitter, kind: ArrayType, starts: Places, found: list[list[int]]) -> Lazy:
    bits = memory_bits(kind.dtype)

    def one(i: int) -> list[str]:
        count = len(found[i])
        words = access.load(e, starts[i], count * bits // 8, "shared", False)
        return from_words(e, words, count, kind.dtype)

    return Lazy(found, one)


def store(e: Emitter, buffer: Value, tile: Fragment, at: Sequence[int]) -> None:
    """A tile into a shared buffer, each element by its owner."""
    kind, taking = buffer.array_type, tile.layout.owner_mask()
    offsets, bits = byte_offsets(kind, tile.layout, at, pad=False), memory_bits(kind.dtype)
    matrices = _matrices(offsets, bits) if e.target.has("stmatrix") and taking.all() else None
    if matrices is not None:
        _store_matrices(e, places(e, buffer, _starts(matrices[0])), tile, *matrices)
        return
    found = [group for group in groups(offsets, bits, taking) if taking[:, group[0]].any()]
    starts = places(e, buffer, offsets[:, [group[0] for group in found]])
    for i, group in enumerate(found):
        words, size = as_words(e, [tile.slots[s] for s in group], tile.dtype), len(group) * bits // 8
        condition = predicate(e, taking[:, group[0]])
        if condition is None:
            access.store(e, starts[i], words, size, "shared")
        else:
            access.store_if(e, condition, starts[i], words, size, "shared")


# -- ldmatrix: four 8x8 blocks of 16-bit units per instruction --------------------------------------


def _matrices(offsets: Offsets, bits: int) -> tuple[Offsets, bool] | None:
    """Byte offsets of the rows of each matrix, [warps, matrices, 8], and whether it is read transposed."""
    per = 32 // bits if bits <= 32 else 0
    if not per or offsets.shape[1] % per or offsets.shape[0] % LANES or bits < 8:
        return None
    words = offsets.reshape(-1, 8, 4, offsets.shape[1] // per, per)  # warp, lane / 4, lane % 4, word, element
    size = bits // 8
    rows = words[:, :, :1, :, :1]
    along = (np.arange(4) * 4)[:, None, None] + np.arange(per) * size
    if np.array_equal(np.broadcast_to(rows + along, words.shape), words) and (rows % ROW == 0).all():
        return rows[:, :, 0, :, 0].transpose(0, 2, 1), False
    if bits != 16:
        return None
    rows = words[:, :1]
    across = (np.arange(8) * size)[:, None, None, None]
    if np.array_equal(np.broadcast_to(rows + across, words.shape), words) and (rows % ROW == 0).all():
        return rows[:, 0].transpose(0, 2, 1, 3).reshape(len(words), -1, 8), True
    return None


def _starts(rows: Offsets) -> Offsets:
    """The addresses that the lanes give, instruction by instruction."""
    count, n = rows.shape[1], _at_once(rows)
    tables = [np.tile(rows[:, first : first + n], (1, 4 // n, 1)).reshape(-1) for first in range(0, count, n)]
    return np.stack(tables, 1)


def _at_once(rows: Offsets) -> int:
    """Matrices of one instruction."""
    return next(n for n in (4, 2, 1) if rows.shape[1] % n == 0)


def _by_matrices(e: Emitter, kind: ArrayType, addresses: Places, rows: Offsets, transposed: bool) -> Lazy:
    """Every fragment of a tile; lanes 8i .. 8i + 7 give the row addresses of matrix i."""
    count, n = rows.shape[1], _at_once(rows)
    per = 32 // memory_bits(kind.dtype)

    def one(i: int) -> list[str]:
        words = _ldmatrix_once(e, addresses[i], n, transposed)
        return [slot for word in words for slot in e.unword(word, kind.dtype)]

    return Lazy([range(i, i + n * per) for i in range(0, count * per, n * per)], one)


def _store_matrices(e: Emitter, addresses: Places, tile: Fragment, rows: Offsets, transposed: bool) -> None:
    """The way back, by stmatrix."""
    count, n, per = rows.shape[1], _at_once(rows), WORD // memory_bits(tile.dtype)
    listed = ", ".join(f"${1 + i}" for i in range(n))
    text = f"stmatrix.sync.aligned.m8n8.x{n}{'.trans' * transposed}.shared.b16 [$0], {{{listed}}};"
    for i in range(0, count, n):
        slots = [list(tile.slots[s : s + per]) for s in range(i * per, (i + n) * per, per)]
        words = ", ".join(f"i32 {e.word(each, tile.dtype)}" for each in slots)
        address = e.let(f"ptrtoint ptr addrspace(3) {addresses[i // n]} to i32")
        constraints = ",".join(["r"] * (n + 1))
        e.line(f'call void asm sideeffect "{text}", "{constraints},~{{memory}}"(i32 {address}, {words}) #2')


def _ldmatrix_once(e: Emitter, address: str, n: int, transposed: bool) -> list[str]:
    name = f"llvm.nvvm.ldmatrix.sync.aligned.m8n8.x{n}{'.trans' if transposed else ''}.b16.p3"
    result = "i32" if n == 1 else "{ " + ", ".join(["i32"] * n) + " }"
    found = e.call(name, result, f"ptr addrspace(3) {address}")
    return [found] if n == 1 else [e.let(f"extractvalue {result} {found}, {i}") for i in range(n)]
