"""Warp collectives: shfl, vote, match, redux, activemask, elect.

A Warps is the lanes of a selection as rows of 32, one row per warp of a block, with who takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.decode import COLLECTIVE, Form, Getter, Step, full
from tilec.backends.emulator.lanes import lanes_of, size
from tilec.backends.emulator.program import Pair
from tilec.backends.emulator.ptx_types import Array, Sel, numpy_type

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

LANES = np.arange(32)
BITS = np.uint32(1) << LANES.astype(np.uint32)


@dataclass(frozen=True)
class Warps:
    """lanes[w, i]: the machine lane of lane i of warp w. active: whether it takes part. back: where each
    lane of the selection stands in the flattened rows."""

    lanes: Array
    active: Array
    back: Array

    def rows(self, values: Any, fill: Any = 0) -> Array:
        """Values of the selection (or one for all) as [warps, 32]."""
        values = np.asarray(values)
        if values.ndim == 0:
            return np.full(self.lanes.shape, values, values.dtype)
        out = np.full(self.lanes.size, fill, values.dtype)
        out[self.back] = values
        return out.reshape(self.lanes.shape)

    def flat(self, rows: Array) -> Array:
        """[warps, 32] back to one value per lane of the selection."""
        return rows.reshape(-1)[self.back]


def warps(m: Machine, s: Sel) -> Warps:
    key = ("warps", s.start, s.stop) if isinstance(s, slice) else None
    if key in m.cache:
        known: Warps = m.cache[key]
        return known
    lanes = lanes_of(s)
    row, which = np.unique(m.warp[lanes] * m.blocks + m.block[lanes], return_inverse=True)
    table = (row // m.blocks * 32 * m.blocks + row % m.blocks)[:, None] + LANES * m.blocks
    back = which * 32 + m.lane[lanes]
    active = np.zeros(table.size, bool)
    active[back] = True
    found = Warps(table, active.reshape(table.shape), back)
    if key:
        m.cache[key] = found
    return found


def missing_group(m: Machine, s: Sel) -> Array | None:
    """The mask of the lanes of `s` whose warpgroup is not here as a whole; None: nobody waits."""
    if size(s) == np.count_nonzero(m.live):
        return None
    key = m.warp // 4 * m.blocks + m.block
    short = (np.bincount(key[lanes_of(s)], minlength=m.lanes) < np.bincount(key[m.live], minlength=m.lanes))[
        key[s]
    ]
    return short if short.any() else None


def missing(m: Machine, s: Sel, members: Getter) -> Array | None:
    """The mask of the lanes of `s` that must wait: those whose warp lacks a live member. None: nobody
    waits."""
    mask = members(m, s)
    whole = np.ndim(mask) == 0 and mask == 0xFFFFFFFF
    if whole and size(s) == np.count_nonzero(m.live):
        return None
    w = warps(m, s)
    present = ballot(w.active)
    alive = ballot(m.live[w.lanes])
    wanted = w.rows(mask) & alive[:, None]
    short = ((wanted & ~present[:, None]) != 0) & w.active
    return w.flat(short) if short.any() else None


def ballot(rows: Array) -> Array:
    """A bool [warps, 32] as one uint32 per warp."""
    return np.packbits(rows, axis=1, bitorder="little").view(np.uint32)[:, 0]


def member_rows(m: Machine, s: Sel, w: Warps, mask: Any) -> Array:
    """[warps, 32, 32] bool: whether lane j is in lane i's member mask and takes part."""
    bits = (w.rows(mask)[:, :, None] & BITS) != 0
    return bits & w.active[:, None, :]


def shfl(f: Form) -> Step:
    sync = f.take("sync")
    mode = f.need("up", "down", "bfly", "idx")
    f.type("b32")
    where = f.operand(0)
    d, p = (where.first, where.second) if isinstance(where, Pair) else (where, None)
    put, also = f.target(d, "b32"), f.target(p, "pred") if p else None
    a, b, c = f.source(1, "b32"), f.source(2, "u32"), f.source(3, "u32")
    members = f.source(4, "u32") if sync else f.error("shfl without .sync is not known to the emulator")

    def run(m: Machine, s: Sel) -> None:
        w = warps(m, s)
        source, valid = shuffle_source(
            mode, w.rows(b(m, s)).astype(np.int64), w.rows(c(m, s)).astype(np.int64)
        )
        values = w.rows(a(m, s))
        out = np.take_along_axis(values, source, 1)
        strangers(m, s, w, source)
        put(m, s, w.flat(out))
        if also:
            also(m, s, w.flat(valid))

    return Step(run, COLLECTIVE, members=members)


def shuffle_source(mode: str, b: Array, c: Array) -> tuple[Array, Array]:
    """(lane read from, whether it was in range) by the ISA's pseudocode; c packs clamp and segment mask."""
    b, clamp, segment = b & 31, c & 31, (c >> 8) & 31
    highest = (LANES & segment) | (clamp & ~segment & 31)
    lowest = LANES & segment
    j = {"up": LANES - b, "down": LANES + b, "bfly": LANES ^ b, "idx": lowest | (b & ~segment & 31)}[mode]
    valid = j >= highest if mode == "up" else j <= highest
    return np.where(valid, j, LANES + 0 * j) & 31, valid


def strangers(m: Machine, s: Sel, w: Warps, source: Array) -> None:
    """Reading a lane that does not take part gives an undefined value."""
    absent = ~np.take_along_axis(w.active, source, 1) & w.active
    if absent.any():
        n = int(w.lanes[absent][0])
        m.record(
            "divergence", n, "reads a lane that does not take part in this shfl", times=int(absent.sum())
        )


def vote(f: Form) -> Step:
    if not f.take("sync"):
        f.error("vote without .sync is not known to the emulator")
    mode = f.need("all", "any", "uni", "ballot")
    kind = f.type("pred", "b32")
    put, value, members = f.target(0, kind), f.source(1, "pred"), f.source(2, "u32")

    def run(m: Machine, s: Sel) -> None:
        w = warps(m, s)
        votes, mask = ballot(w.rows(value(m, s), False) & w.active), w.rows(members(m, s))
        votes, mask = votes[:, None] & mask, mask & ballot(w.active)[:, None]
        out = {
            "all": votes == mask,
            "any": votes != 0,
            "uni": (votes == 0) | (votes == mask),
            "ballot": votes,
        }[mode]
        put(m, s, w.flat(out))

    return Step(run, COLLECTIVE, members=members)


def match(f: Form) -> Step:
    mode = f.need("any", "all")
    if not f.take("sync"):
        f.error("match needs .sync")
    kind = f.type("b32", "b64")
    where = f.operand(0)
    d, p = (where.first, where.second) if isinstance(where, Pair) else (where, None)
    put, also = f.target(d, "b32"), f.target(p, "pred") if p else None
    value, members = f.source(1, kind), f.source(2, "u32")

    def run(m: Machine, s: Sel) -> None:
        w = warps(m, s)
        rows = w.rows(value(m, s))
        inside = member_rows(m, s, w, members(m, s))
        same = (rows[:, :, None] == rows[:, None, :]) & inside
        found = (same * BITS).sum(2).astype(np.uint32)
        if mode == "all":
            everyone = (same == inside).all(2)
            found = np.where(everyone, (inside * BITS).sum(2).astype(np.uint32), np.uint32(0))
            if also:
                also(m, s, w.flat(everyone))
        put(m, s, w.flat(found))

    return Step(run, COLLECTIVE, members=members)


REDUCE: dict[str, Any] = {
    "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor
}  # fmt: skip


def redux(f: Form) -> Step:
    if not f.take("sync"):
        f.error("redux needs .sync")
    operation = f.need(*REDUCE)
    absolute, nan = f.take("abs"), f.take("NaN")
    kind = f.type("u32", "s32", "b32", "f32")
    put, value, members = f.target(0, kind), f.source(1, kind), f.source(2, "u32")
    dtype = numpy_type(kind)

    def run(m: Machine, s: Sel) -> None:
        w = warps(m, s)
        inside, rows = member_rows(m, s, w, members(m, s)), w.rows(value(m, s))
        rows = np.abs(rows) if absolute else rows
        put(m, s, w.flat(reduce_rows(rows, inside, operation, dtype, bool(nan))))

    return Step(run, COLLECTIVE, members=members)


def reduce_rows(rows: Array, inside: Array, operation: str, dtype: Any, nan: bool) -> Array:
    function = REDUCE[operation]
    if dtype.kind == "f":
        function = {"min": np.minimum if nan else np.fmin, "max": np.maximum if nan else np.fmax}[operation]
        neutral: Any = dtype.type(np.inf if operation == "min" else -np.inf)
        return function.reduce(np.where(inside, rows[:, None, :], neutral), axis=2)
    info = np.iinfo(dtype)
    neutral = {"min": info.max, "max": info.min, "and": ~dtype.type(0)}.get(operation, dtype.type(0))
    return function.reduce(np.where(inside, rows[:, None, :], dtype.type(neutral)), axis=2, dtype=dtype)


def activemask(f: Form) -> Step:
    f.type("b32")
    put = f.target(0, "b32")

    def run(m: Machine, s: Sel) -> None:
        w = warps(m, s)
        put(m, s, w.flat(np.repeat(ballot(w.active)[:, None], 32, 1)))

    return Step(run)


def elect(f: Form) -> Step:
    """The lowest member leads."""
    if not f.take("sync"):
        f.error("elect needs .sync")
    where = f.operand(0)
    d, p = (where.first, where.second) if isinstance(where, Pair) else f.error("elect gives d|p")
    put, also, members = f.target(d, "b32"), f.target(p, "pred"), f.source(1, "u32")

    def run(m: Machine, s: Sel) -> None:
        mask = full(members(m, s), s)
        w = warps(m, s)
        mask = w.flat(w.rows(mask) & ballot(w.active)[:, None])
        leader = np.bitwise_count((mask & (~mask + np.uint32(1))) - np.uint32(1)).astype(np.uint32)
        put(m, s, leader)
        also(m, s, leader == m.lane[s])

    return Step(run, COLLECTIVE, members=members)


BUILDERS: dict[str, Callable[[Form], Step]] = {
    "shfl": shfl, "vote": vote, "match": match, "redux": redux, "activemask": activemask, "elect": elect,
}  # fmt: skip
