"""Reductions and scans of one thread and one warp: slots by a tree, lanes by butterflies.

The layout pass guarantees that the reduced axis lies in slots and in whole bits of the lane number; what lies
across warps has been split off (Partial) and goes through shared memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tilec.backends import emit
from tilec.backends.ptx.emitter import Fragment
from tilec.backends.ptx.threads import predicate
from tilec.backends.writer import held
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.func import Arg
from tilec.ir.inst import arith
from tilec.ir.inst.reduce import ArgReduce, Partial, Reduce, Scan, identity, reduced_lane_bits
from tilec.ir.layout import Layout, local
from tilec.ir.tile import TileType

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

Combine = Callable[[str, str], str]
OPERATIONS = {"sum": arith.Add, "max": arith.Maximum, "min": arith.Minimum, "any": arith.Or, "all": arith.And}


def _accumulator(op: str, dtype: DType) -> DType:
    """Sums of floats narrower than f32 are accumulated in f32 and rounded once."""
    return dt.f32 if op == "sum" and dtype.is_float and dtype.bits < 32 else dtype


def _combine(e: Emitter, op: str, dtype: DType) -> Combine:
    x, y = Arg(TileType(dtype)), Arg(TileType(dtype))
    inst = OPERATIONS[op](x, y)
    return lambda a, b: emit.elementwise(e.writer, inst, (a, b))


def reduce(e: Emitter, inst: Reduce | Partial) -> Fragment | str:
    tile, dtype = e.fragment(inst.x), inst.x.tile.dtype
    wide = _accumulator(inst.op, dtype)
    combine = _combine(e, inst.op, wide)
    neutral = e.writer.constant(identity(inst.op, wide), wide)
    slots = [emit.cast(e.writer, x, dtype, wide) for x in tile.slots]
    slots = without_pad(e, slots, tile.layout, neutral, held(wide))
    result = inst.tile.layout if inst.tile.rank else local(*())
    assert result is not None, "the layout pass gives every tile a layout"
    totals = [_tree(combine, [slots[s] for s in group]) for group in _groups(tile.layout, inst.axis, result)]
    for bit in reduced_lane_bits(tile.layout, inst.axis):
        totals = [combine(x, butterfly(e, x, wide, 1 << bit)) for x in totals]
    totals = [emit.cast(e.writer, x, wide, dtype) for x in totals]
    return Fragment(dtype, result, totals) if inst.tile.rank else totals[0]


def scan(e: Emitter, inst: Scan) -> Fragment:
    """Every lane runs over its own slots, then takes in what the lanes before it have in all. The layout pass
    gives each a run of the axis, so pad comes last.
    """
    tile, dtype, axis = e.fragment(inst.x), inst.x.tile.dtype, inst.axis
    wide = _accumulator(inst.op, dtype)
    combine = _combine(e, inst.op, wide)
    out = [emit.cast(e.writer, x, dtype, wide) for x in tile.slots]
    lanes = reduced_lane_bits(tile.layout, axis)
    for run in _along(tile.layout, axis).values():
        for before, s in itertools.pairwise(run):
            out[s] = combine(out[before], out[s])
        if lanes:
            before_me = _before(e, inst.op, wide, out[run[-1]], lanes)
            out = [combine(before_me, x) if s in run else x for s, x in enumerate(out)]
    return Fragment(dtype, tile.layout, [emit.cast(e.writer, x, wide, dtype) for x in out])


def _along(layout: Layout, axis: int) -> dict[tuple[int, ...], list[int]]:
    """Slots with the same other coordinates, in order along the axis."""
    part = layout.slot_part()
    found: dict[tuple[int, ...], list[int]] = {}
    for s in np.argsort(part[:, axis], kind="stable").tolist():
        found.setdefault(tuple(np.delete(part[s], axis).tolist()), []).append(s)
    return found


def _before(e: Emitter, op: str, dtype: DType, mine: str, lanes: list[int]) -> str:
    """What the lanes before this one have in all: halves of growing groups of lanes tell each other."""
    combine, kind = _combine(e, op, dtype), held(dtype)
    before, total = e.writer.constant(identity(op, dtype), dtype), mine
    for bit in lanes:
        other = butterfly(e, total, dtype, 1 << bit)
        upper = predicate(e, (np.arange(e.threads) >> bit & 1).astype(bool))
        before = e.let(f"select i1 {upper}, {kind} {combine(other, before)}, {kind} {before}")
        total = combine(total, other)
    return before


def without_pad(e: Emitter, slots: list[str], layout: Layout, neutral: str, kind: str) -> list[str]:
    """Pad replaced by the identity."""
    pad = layout.pad_mask()
    out = []
    for s, x in enumerate(slots):
        real = predicate(e, ~pad[:, s]) if pad[:, s].any() else None
        out.append(x if real is None else e.let(f"select i1 {real}, {kind} {x}, {kind} {neutral}"))
    return out


def _groups(layout: Layout, axis: int, result: Layout) -> list[list[int]]:
    """The slots that are summed into each slot of the result."""
    rest = np.delete(layout.slot_part(), axis, 1)
    groups: dict[tuple[int, ...], list[int]] = {}
    for s, point in enumerate(rest.tolist()):
        groups.setdefault(tuple(point), []).append(s)
    wanted = result.slot_part()
    if result.rank == layout.rank:  # Partial keeps the axis, with parts only in threads
        wanted = np.delete(wanted, axis, 1)
    return [groups[tuple(point)] for point in wanted.tolist()]


def _tree(combine: Combine, items: list[str]) -> str:
    """Pairs of neighbours until one is left: log2(n) deep."""
    while len(items) > 1:
        pairs = [combine(a, b) for a, b in zip(items[::2], items[1::2], strict=False)]
        items = pairs + items[len(pairs) * 2 :]
    return items[0]


def butterfly(e: Emitter, x: str, dtype: DType, mask: int) -> str:
    """The same value of the lane whose number differs by `mask`."""
    return shuffle(e, x, dtype, "bfly", str(mask))


def shuffle(e: Emitter, x: str, dtype: DType, mode: str, lane: str) -> str:
    """shfl.sync of one element of any dtype; all lanes take part."""
    kind = held(dtype)
    bits = max(8, 1 if kind == "i1" else dtype.bits) if kind != "float" else 32
    if bits == 64:
        both = e.let(f"bitcast {kind} {x} to <2 x i32>")
        moved = [
            _shuffle32(e, e.let(f"extractelement <2 x i32> {both}, i32 {i}"), mode, lane) for i in range(2)
        ]
        half = e.let(f"insertelement <2 x i32> poison, i32 {moved[0]}, i32 0")
        return e.let(
            f"bitcast <2 x i32> {e.let(f'insertelement <2 x i32> {half}, i32 {moved[1]}, i32 1')} to {kind}"
        )
    if kind in ("i32", "float"):
        word = x if kind == "i32" else e.let(f"bitcast float {x} to i32")
        moved32 = _shuffle32(e, word, mode, lane)
        return moved32 if kind == "i32" else e.let(f"bitcast i32 {moved32} to float")
    small = f"i{1 if kind == 'i1' else bits}"
    raw = x if kind == small else e.let(f"bitcast {kind} {x} to {small}")
    back = e.let(f"trunc i32 {_shuffle32(e, e.let(f'zext {small} {raw} to i32'), mode, lane)} to {small}")
    return back if kind == small else e.let(f"bitcast {small} {back} to {kind}")


def _shuffle32(e: Emitter, x: str, mode: str, lane: str) -> str:
    name = f"llvm.nvvm.shfl.sync.{mode}.i32"
    return e.call(name, "i32", "i32 -1", f"i32 {x}", f"i32 {lane}", "i32 31")


def arg_reduce(e: Emitter, inst: ArgReduce) -> Fragment | str:
    """Pairs (value, index): the better value wins, of equals the lower index; NaN beats everything."""
    tile, dtype = e.fragment(inst.x), inst.x.tile.dtype
    result = inst.tile.layout if inst.tile.rank else local(*())
    assert result is not None, "the layout pass gives every tile a layout"
    pad, points = tile.layout.pad_mask(), tile.layout
    start = points.thread_part()[:, inst.axis]
    totals = []
    for group in _groups(tile.layout, inst.axis, result):
        pairs = [_pair(e, tile, s, start, ~pad[:, s], inst.axis) for s in group]
        best = pairs[0]
        for pair in pairs[1:]:
            best = _better(e, inst.op, dtype, best, pair)
        for bit in reduced_lane_bits(tile.layout, inst.axis):
            other = (butterfly(e, best[0], dtype, 1 << bit), butterfly(e, best[1], dt.i32, 1 << bit))
            best = _better(e, inst.op, dtype, best, other)
        totals.append(best[1])
    return Fragment(dt.i32, result, totals) if inst.tile.rank else totals[0]


def _pair(
    e: Emitter, tile: Fragment, s: int, start: np.ndarray, real: np.ndarray, axis: int
) -> tuple[str, str]:
    """A slot's value and its index along the axis; pad has a huge index and loses by it (-1 unsigned)."""
    from tilec.backends.ptx.threads import per_thread

    at = int(tile.layout.slot_part()[s, axis])
    index = per_thread(e, np.where(real, start + at, -1))
    return tile.slots[s], index


def _better(e: Emitter, op: str, dtype: DType, a: tuple[str, str], b: tuple[str, str]) -> tuple[str, str]:
    """Of two pairs the better one; pad (index -1) never is."""
    kind = held(dtype)
    x, y = Arg(TileType(dtype)), Arg(TileType(dtype))

    def compare(how: str, p: str, q: str) -> str:
        return emit.elementwise(e.writer, arith.Compare(how, x, y), (p, q))

    wins = compare("gt" if op == "max" else "lt", b[0], a[0])
    same = compare("eq", a[0], b[0])
    if dtype.is_float:
        a_nan, b_nan = (compare("ne", p, p) for p in (a[0], b[0]))
        a_real = e.let(f"xor i1 {a_nan}, true")
        wins = e.let(f"or i1 {wins}, {e.let(f'and i1 {b_nan}, {a_real}')}")
        same = e.let(f"or i1 {same}, {e.let(f'and i1 {a_nan}, {b_nan}')}")
    earlier = e.let(f"icmp ult i32 {b[1]}, {a[1]}")
    wins = e.let(f"or i1 {wins}, {e.let(f'and i1 {same}, {earlier}')}")
    real = e.let(f"icmp ne i32 {b[1]}, -1")
    missing = e.let(f"icmp eq i32 {a[1]}, -1")
    wins = e.let(f"and i1 {real}, {e.let(f'or i1 {wins}, {missing}')}")
    return (
        e.let(f"select i1 {wins}, {kind} {b[0]}, {kind} {a[0]}"),
        e.let(f"select i1 {wins}, i32 {b[1]}, i32 {a[1]}"),
    )
