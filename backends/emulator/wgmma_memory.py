"""Operands of wgmma in shared memory: matrix descriptors, major-ness, swizzles.

A descriptor (64 bits): [0, 14) address >> 4, [16, 30) leading offset >> 4, [32, 46) stride offset >> 4,
[49, 52) base offset, [62, 64) swizzle: 0 none, 1 128 bytes, 2 64, 3 32. With S the swizzle's bytes, e an
element's, chunk the 16 bytes that lie together, element (r, k) of an operand that is K-major lies at
    S > 0    start + (r / 8) stride + (r % 8) S + k e
    none     start + (r / 8) stride + (r % 8) 16 + (k e / 16) leading + (k e) % 16
and of one that is MN-major (16-bit types) at
    S > 0    start + (r / (S / e)) leading + (k / 8) stride + (k % 8) S + (r % (S / e)) e
    none     start + (r / 8) stride + (k / 8) leading + (k % 8) 16 + (r % 8) e
then swizzled by its absolute address.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.emulator.device import SHARED
from tilec.backends.emulator.fast_shadow import NOTE
from tilec.backends.emulator.mma import elements
from tilec.backends.emulator.ptx_types import Array
from tilec.backends.emulator.tensormap import xor

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

SPANS = (0, 128, 64, 32)


@dataclass(frozen=True)
class Tile:
    """The operand's rows (M or N), depth (K), bytes per element, and whether rows are contiguous
    (MN-major)."""

    rows: int
    depth: int
    item: int
    transposed: bool


@cache
def pattern(tile: Tile, span: int) -> tuple[Array, Array, Array]:
    """Each 16-byte chunk's (multiple of leading, multiple of stride, fixed bytes) as arrays [outer, chunks]:
    outer is r and chunks run along k, or the other way round for a transposed tile."""
    per = 16 // tile.item
    if not tile.transposed:
        r, c = np.meshgrid(np.arange(tile.rows), np.arange(tile.depth // per), indexing="ij")
        if span:
            return np.zeros_like(c), r // 8, r % 8 * span + c * 16
        return c, r // 8, r % 8 * 16
    k, c = np.meshgrid(np.arange(tile.depth), np.arange(tile.rows // per), indexing="ij")
    if span:
        chunks = span // 16
        return c // chunks, k // 8, k % 8 * span + c % chunks * 16
    return k // 8, c, k % 8 * 16


def read_tile(m: Machine, descriptor: Array, tile: Tile, name: str, clocks: Array, own_rows: bool) -> Array:
    """[warpgroups, rows, depth] of values; checked and marked as being read.

    own_rows: operand A, of which warp w reads rows 16 w to 16 w + 15; else all four warps read everything.
    """
    d = np.asarray(descriptor).astype(np.uint64)
    start, leading, stride = (
        ((d >> np.uint64(n)) & np.uint64(0x3FFF)).astype(np.int64) << 4 for n in (0, 16, 32)
    )
    mode = ((d >> np.uint64(62)) & np.uint64(3)).astype(np.int64)
    base = ((d >> np.uint64(49)) & np.uint64(7)).astype(np.int64)
    span = SPANS[int(mode[0])]
    block = clocks[:, 0] // m.race.each
    aligned(m, clocks, start, base, span)
    within_rows(m, clocks, start, tile, span)
    by_leading, by_stride, fixed = (x.reshape(-1) for x in pattern(tile, span))
    at = start[:, None] + leading[:, None] * by_leading + stride[:, None] * by_stride + fixed
    at = xor(at, span)
    at = inside(m, clocks, at) + block[:, None] * m.shared_size
    chunks = m.shared.views[16][at >> 4]
    observe(m, clocks, at, tile, own_rows)
    shape = pattern(tile, span)[0].shape
    words = np.ascontiguousarray(chunks).view(np.uint32).reshape(len(d), shape[0], -1)
    values = elements(words, name).reshape(len(d), shape[0], -1)
    return values.transpose(0, 2, 1) if tile.transposed else values


def aligned(m: Machine, clocks: Array, start: Array, base: Array, span: int) -> None:
    """The swizzle's pattern repeats every 8 * span bytes; a tile that starts elsewhere must say so."""
    wrong = span and (((start >> 7) & (span // 16 - 1)) != base)
    if np.any(wrong):
        n = int(np.flatnonzero(wrong)[0])
        message = (
            f"the matrix at shared offset {int(start[n])} starts within the {span}-byte swizzle's "
            f"pattern: align it "
        )
        message += f"to {8 * span} bytes or set the base offset"
        m.record("misaligned", lane_of(m, int(clocks[n, 0])), message, address=SHARED + int(start[n]))


def within_rows(m: Machine, clocks: Array, start: Array, tile: Tile, span: int) -> None:
    """A swizzled K-major operand lies within rows of the span: hardware does not use the leading offset."""
    begin, taken = start & max(span - 1, 0), tile.depth * tile.item
    beyond = begin + taken > span
    if span and not tile.transposed and beyond.any():
        n = int(np.flatnonzero(beyond)[0])
        message = (
            f"the matrix at shared offset {int(start[n])} takes {taken} bytes of each row from byte "
            f"{int(begin[n])} on, and rows of the {span}-byte swizzle end before"
        )
        m.record("misaligned", lane_of(m, int(clocks[n, 0])), message, address=SHARED + int(start[n]))


def lane_of(m: Machine, row: int) -> int:
    """The first lane of a warp, from its clock row."""
    block, warp = divmod(row, m.race.each)
    return warp * 32 * m.blocks + block


def inside(m: Machine, clocks: Array, at: Array) -> Array:
    bad = at + 16 > m.shared_used
    if bad.any():
        n = int(np.flatnonzero(bad.any(1))[0])
        message = f"a wgmma operand reaches shared offset {int(at[n].max()) + 16}, of {m.shared_used} bytes"
        m.record("out-of-bounds", lane_of(m, int(clocks[n, 0])), message, array="shared memory")
        at = np.where(bad, 0, at)
    return at


def observe(m: Machine, clocks: Array, at: Array, tile: Tile, own_rows: bool) -> None:
    """Shadow checks of one operand: in flight, initialised, races, the proxy; then its reads are in
    flight."""
    race = m.race
    m.launch.metrics.bytes["shared read"] += at.size * 16
    if not (race.on or race.init or race.flight.on):
        return
    readers = reader_rows(clocks, at, tile, own_rows)
    lead = readers % race.each * 32 * m.blocks + readers // race.each
    granule, lanes = race.spread(at.reshape(-1), lead.reshape(-1), 16)
    if race.flight.on:
        race.flight.check(m, lanes, granule, False)
        race.flight.proxy(m, lanes, granule, True)
    if race.init:
        race.initialised(m, lanes, granule, False)
    if race.on:
        everyone(m, lanes, granule, own_rows)
    from tilec.backends.emulator.wgmma import Reads

    if race.flight.on:
        unique, where = np.unique(granule, return_index=True)
        race.flight.start_read(unique, m.pc)
        rows = clocks.reshape(-1)
        group = m.wgmmas.committed[rows] + 1
        m.wgmmas.reads.append(Reads(rows, group, unique, m.row[lanes[where]]))


def reader_rows(clocks: Array, at: Array, tile: Tile, own_rows: bool) -> Array:
    """The clock row of the warp that reads each chunk (the first of the four where all do)."""
    if not own_rows:
        return np.broadcast_to(clocks[:, :1], at.shape)
    outer = np.arange(at.shape[1]) // (at.shape[1] // (tile.depth if tile.transposed else tile.rows))
    if tile.transposed:
        per = 16 // tile.item
        row = np.arange(at.shape[1]) % (tile.rows // per) * per
    else:
        row = outer
    return clocks[:, row // 16]


def everyone(m: Machine, lanes: Array, granule: Array, own_rows: bool) -> None:
    """A's rows are read by one warp each; B by all four warps of the warpgroup."""
    race = m.race
    for step in range(1 if own_rows else 4):
        each = lanes + step * 32 * m.blocks
        if race.quick(m, each, granule, NOTE) == 0:
            continue
        race.examine(m, each, granule, False, False, within=False)
        race.read[granule, race.me[each]] = race.flat_clock[race.own[each]]
        race.read_pc[granule] = m.pc
