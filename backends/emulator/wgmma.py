"""wgmma: warpgroup matrix products whose operands lie in shared memory, and the checks of their asynchrony.

Results are computed at the issue; what the checks watch is that nobody touches accumulators or operand
registers, or overwrites operand memory, before wait_group, and that wgmma.fence stands between such touches
and the next wgmma.
D of m64nN: warp w of the warpgroup holds rows 16 w + g and 16 w + 8 + g: d[4j + i], d[4j + 2 + i] at column
8j + 2t + i.
A sparse product's A has half of the columns; each warp's metadata and selector are those of mma.sp for its 16
rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.decode import COLLECTIVE, Form, Getter, Step, constant, full
from tilec.backends.emulator.lanes import lanes_of
from tilec.backends.emulator.mma import SIZES, matrix_a
from tilec.backends.emulator.mma_sparse import codes, expanded, selector
from tilec.backends.emulator.program import Address, Immediate, Negated, Operand, Pair, Register, Vector
from tilec.backends.emulator.ptx_types import Array, Sel
from tilec.backends.emulator.warp import Warps, warps
from tilec.backends.emulator.wgmma_memory import Tile, read_tile

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

ALL = constant(np.uint32(0xFFFFFFFF))


@dataclass
class Reads:
    """Shared memory that a wgmma reads until its group is waited for: by warp rows, in one group number."""

    rows: Array
    group: Array
    granule: Array
    readers: Array  # the warp that reads each granule, as its row


@dataclass
class Wgmmas:
    """Per warp (a row of the clocks): groups committed and waited for; per register: touched,
    pending."""

    m: Machine
    reads: list[Reads] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows = self.m.blocks * self.m.race.each
        count = len(self.m.program.context.watched)
        self.on = self.m.checking("async")
        self.committed, self.finished = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        self.touched = np.ones((count, rows), bool)
        self.pending = np.zeros((count, rows), np.int64)  # the group (from 1) of the last wgmma on it

    def fence(self, s: Sel) -> None:
        self.touched[:, np.unique(self.m.row[s])] = False

    def commit(self, s: Sel) -> None:
        self.committed[np.unique(self.m.row[s])] += 1

    def wait(self, s: Sel, left: int) -> None:
        rows = np.unique(self.m.row[s])
        self.finished[rows] = np.maximum(self.finished[rows], self.committed[rows] - left)
        kept = []
        for each in self.reads:
            due = np.isin(each.rows, rows) & (each.group <= self.finished[each.rows])
            if not due.any():
                kept.append(each)
            else:
                self.done(each)
        self.reads = kept

    def done(self, each: Reads) -> None:
        """Reads are over: as new as if the warps read now."""
        race = self.m.race
        race.flight.finish_read(each.granule)
        if race.on:
            agents = race.agent[each.readers]
            race.read[each.granule, agents] = race.rows[each.readers, agents]

    def touch(self, s: Sel, registers: Array) -> None:
        """An ordinary instruction uses registers that belong to wgmma."""
        m = self.m
        lanes = lanes_of(s)
        rows = np.unique(m.row[lanes])
        waiting = self.pending[np.ix_(registers, rows)] > self.finished[rows]
        if waiting.any():
            lane = int(lanes[np.isin(m.row[lanes], rows[waiting.any(0)])][0])
            message = "uses a register of a wgmma that has not been waited for (wgmma.wait_group)"
            m.record("async", lane, message, times=int(waiting.any(0).sum()))
        self.touched[np.ix_(registers, rows)] = True

    def use(self, rows: Array, registers: Array, lane: int) -> None:
        """A wgmma takes its registers: nothing may have touched them since the last wgmma.fence."""
        if self.touched[np.ix_(registers, rows)].any():
            message = "a register of this wgmma was used since the last wgmma.fence: no wgmma.fence before it"
            self.m.record("async", lane, message)
        self.pending[np.ix_(registers, rows)] = self.committed[rows] + 1


@dataclass(frozen=True)
class Group:
    """The warpgroups of a selection: rows of `warps` [n, 4], and their clock rows [n, 4]."""

    index: Array
    clocks: Array
    lane: int


def groups(m: Machine, w: Warps) -> Group | None:
    """Warpgroups whose four warps are all here; others are reported."""
    lead = w.lanes[:, 0]
    warp, block = m.warp[lead], m.block[lead]
    order = np.lexsort((warp % 4, block, warp // 4))
    key = (warp // 4 * m.blocks + block)[order]
    _, first, count = np.unique(key, return_index=True, return_counts=True)
    if (count != 4).any():
        lane = int(lead[order[first[np.flatnonzero(count != 4)[0]]]])
        m.record(
            "divergence", lane, "wgmma needs the four warps of a warpgroup, and they are not here together"
        )
        first = first[count == 4]
        if not len(first):
            return None
    index = order[first[:, None] + np.arange(4)]
    return Group(index, m.row[lead][index], int(lead[index[0, 0]]))


@dataclass(frozen=True)
class Shape:
    n: int
    k: int
    d: str
    a: str
    b: str
    saturate: bool
    sparse: bool = False

    @property
    def kept(self) -> int:
        """The columns of A that are stored."""
        return self.k // 2 if self.sparse else self.k

    @property
    def count(self) -> int:
        return self.n // 4 if self.d == "f16" else self.n // 2


def read_shape(f: Form, sparse: bool) -> Shape:
    name = next((x for x in f.left if x.startswith("m64n")), None) or f.error("needs a shape m64nNkK")
    f.left.remove(name)
    n, k = (int(x) for x in name.removeprefix("m64n").split("k"))
    saturate = bool(f.take("satfinite"))
    types = [f.left.pop(0) for _ in range(min(3, len(f.left)))]
    if (
        len(types) < 3
        or types[0] not in ("f16", "f32", "s32")
        or types[1] not in SIZES
        or types[2] not in SIZES
    ):
        f.error("the emulator does not know wgmma on these types")
    if n % 8 or not 8 <= n <= 256 or k * SIZES[types[1]] != (512 if sparse else 256):
        f.error(f"{name} on .{types[1]} is not a wgmma shape")
    d, a, b = types
    return Shape(n, k, d, a, b, saturate, sparse)


def mma_async(f: Form) -> Step:
    sparse = bool(f.take("sp"))
    f.need("sync")
    f.need("aligned")
    shape = read_shape(f, sparse)
    kind = {"f16": "b32", "f32": "f32", "s32": "s32"}[shape.d]
    puts, gets = f.targets(0, kind, shape.count), f.sources(0, kind, shape.count)
    scale, metadata = f.source(5 if sparse else 3, "pred"), f.source(3, "b32") if sparse else None
    selected = selector(f, shape, 4) if sparse else 0
    in_registers = isinstance(f.operand(1), Vector)
    a = f.sources(1, "b32", 4) if in_registers else [f.source(1, "b64")]
    b = f.source(2, "b64")
    signs, transposes = immediates(f, shape, in_registers)
    f.context.features.update(("async", "proxy", "wgmma"))
    f.context.widths["shared"].add(16)
    watched = watch(f, [f.operand(0)] + ([f.operand(1)] if in_registers else []))
    tile_a = None if in_registers else Tile(64, shape.kept, SIZES[shape.a] // 8, transposes[0])
    tile_b = Tile(shape.n, shape.k, SIZES[shape.b] // 8, transposes[1])

    def run(m: Machine, s: Sel) -> None:
        w = warps(m, s)
        group = groups(m, w)
        if group is None:
            return
        if m.wgmmas.on:
            m.wgmmas.use(group.clocks.reshape(-1), watched, group.lane)
        x = operand_a(m, s, w, group, a, tile_a, shape)
        if metadata is not None:
            x = filled(x, w.rows(full(metadata(m, s), s)), group, shape, selected)
        right = common(m, s, w, group, b, "descriptor of B")
        y = read_tile(m, right, tile_b, shape.b, group.clocks, False)
        d = np.matmul(x * signs[0], y.transpose(0, 2, 1) * signs[1])
        old = accumulators([w.rows(full(get(m, s), s)) for get in gets], group, shape)
        keep = common(m, s, w, group, scale, "predicate")
        d = finish(d, np.where(keep[:, None, None], old, 0), shape)
        for put, register in zip(puts, registers(d, w, group, shape), strict=True):
            put(m, s, w.flat(register))

    return Step(run, COLLECTIVE, members=ALL, group=True)


def immediates(f: Form, shape: Shape, in_registers: bool) -> tuple[list[float], list[bool]]:
    """The signs of A and B, and whether each is MN-major."""
    values = [o.value for o in f.i.operands[6 if shape.sparse else 4 :] if isinstance(o, Immediate)]
    signs = [float(v) for v in values[:2]] or [1.0, 1.0]
    trans = [bool(v) for v in values[2:]]
    if in_registers:
        trans = [False, *trans]
    trans = [*trans, False, False][:2]
    if any(trans) and SIZES[shape.a] != 16:
        f.error("only 16-bit types can be transposed")
    return signs, trans


def watch(f: Form, operands: list[Operand]) -> Array:
    """Numbers of the registers that the checks follow."""
    names = [r.name for v in operands if isinstance(v, Vector) for r in v.items if isinstance(r, Register)]
    table = f.context.watched
    return np.unique([table.setdefault(name, len(table)) for name in names])


def common(m: Machine, s: Sel, w: Warps, group: Group, get: Getter, what: str) -> Array:
    """One value per warpgroup, which all of its lanes must have alike."""
    values = w.rows(full(get(m, s), s))[group.index]
    differs = values != values[:, :1, :1]
    if differs.any():
        lane = int(w.lanes[group.index][differs][0])
        m.record("divergence", lane, f"the {what} of this wgmma differs within its warpgroup")
    return np.asarray(values[:, 0, 0])


def operand_a(
    m: Machine, s: Sel, w: Warps, group: Group, gets: list[Getter], tile: Tile | None, shape: Shape
) -> Array:
    """A as [warpgroups, 64, k], or what is kept of it."""
    if tile is not None:
        left = common(m, s, w, group, gets[0], "descriptor of A")
        return read_tile(m, left, tile, shape.a, group.clocks, True)
    words = [w.rows(full(get(m, s), s))[group.index.reshape(-1)] for get in gets]
    return matrix_a(words, shape.a, 16).reshape(-1, 64, shape.kept)


def filled(kept: Array, metadata: Array, group: Group, shape: Shape, selected: int) -> Array:
    """A [warpgroups, 64, k] with its zeros; metadata: words [warps, 32]."""
    chosen = codes(metadata[group.index.reshape(-1)], shape, selected)
    return expanded(kept.reshape(-1, 16, shape.kept), chosen, shape.a).reshape(-1, 64, shape.k)


def accumulators(words: list[Array], group: Group, shape: Shape) -> Array:
    """Registers [warps, 32] as [warpgroups, 64, n]."""
    x = np.stack(words)[:, group.index]  # [register, wg, 4, 32]
    n = x.shape[1]
    if shape.d == "f16":
        x = x[..., None].view(np.float16).astype(np.float32)  # [2j + h, wg, w, lane, i]
        x = x.reshape(shape.n // 8, 2, n, 4, 8, 4, 2).transpose(2, 3, 1, 4, 0, 5, 6)
    else:
        x = x.reshape(shape.n // 8, 2, 2, n, 4, 8, 4).transpose(3, 4, 1, 5, 0, 6, 2)
    return x.reshape(n, 64, shape.n)


def registers(d: Array, w: Warps, group: Group, shape: Shape) -> list[Array]:
    """[warpgroups, 64, n] back to registers [warps, 32]; warps outside of warpgroups keep zeros."""
    n = d.shape[0]
    x = d.reshape(n, 4, 2, 8, shape.n // 8, 4, 2)
    if shape.d == "f16":
        packed = np.ascontiguousarray(x.astype(np.float16)).view(np.uint32)[..., 0]
        x = packed.transpose(4, 2, 0, 1, 3, 5).reshape(shape.count, n * 4, 32)
    else:
        x = x.transpose(4, 2, 6, 0, 1, 3, 5).reshape(shape.count, n * 4, 32)
    out = np.zeros((shape.count, *w.lanes.shape), x.dtype)
    out[:, group.index.reshape(-1)] = x
    return list(out)


def finish(d: Array, old: Array, shape: Shape) -> Array:
    if shape.d == "s32":
        wide = np.rint(d).astype(np.int64) + old.astype(np.int64)
        return (np.clip(wide, -(2**31), 2**31 - 1) if shape.saturate else wide).astype(np.int32)
    return np.asarray(d + old)


def wgmma(f: Form) -> Step:
    if f.take("mma_async"):
        return mma_async(f)
    operation = f.need("fence", "commit_group", "wait_group")
    f.need("sync")
    f.need("aligned")
    if operation == "wait_group":
        left = f.source(0, "u32")
        return Step(lambda m, s: m.wgmmas.wait(s, int(full(left(m, s), s)[0])), COLLECTIVE, members=ALL)
    if operation == "fence":
        return Step(lambda m, s: m.wgmmas.fence(s), COLLECTIVE, members=ALL)
    return Step(lambda m, s: m.wgmmas.commit(s), COLLECTIVE, members=ALL)


def watch_step(step: Step, table: dict[str, int]) -> Step:
    """The step of an instruction that is no wgmma, reporting its use of registers that are."""
    i = step.instruction
    if i.root == "wgmma" or not table:
        return step
    numbers = np.unique([table[n] for o in (*i.operands, i.guard) for n in names_in(o) if n in table])
    if not len(numbers):
        return step
    plain, numbers = step.run, numbers.astype(np.int64)

    def run(m: Machine, s: Sel) -> None:
        if m.wgmmas.on:
            m.wgmmas.touch(s, numbers)
        plain(m, s)

    step.run = run
    return step


def names_in(operand: Any) -> list[str]:
    if isinstance(operand, Register):
        return [operand.name]
    if isinstance(operand, Vector):
        return [n for item in operand.items for n in names_in(item)]
    if isinstance(operand, Address):
        return names_in(operand.base) + names_in(operand.coordinates)
    if isinstance(operand, Pair):
        return names_in(operand.first) + names_in(operand.second)
    return names_in(operand.of) if isinstance(operand, Negated) else []


BUILDERS: dict[str, Callable[[Form], Step]] = {"wgmma": wgmma}
