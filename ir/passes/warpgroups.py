"""Matrix products by warpgroups: wgmma, which takes its operands from shared memory, or the left one from
registers, and works on while its threads do something else.

    dot(load(x), load(y), c)  ->  wait(group_dot(x, y, c))        x, y buffers in panels
`choose` says which products are worth it, before operands get their places: its rows are 64 for each four
warps, and where those of a do not fit, the columns of b may be the rows of the transposed product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from tilec.ir import dtype as dt
from tilec.ir.dead import dce
from tilec.ir.dtype import DType
from tilec.ir.func import Func, Inst, Value, root
from tilec.ir.inst.arith import Full
from tilec.ir.inst.bulk import BulkCopy
from tilec.ir.inst.memory import Alloc, Copy, Load, Store
from tilec.ir.inst.mma import Dot, GroupDot, GroupWait, HeldDot
from tilec.ir.inst.shape import Annotate, Permute, Reshape, View
from tilec.ir.inst.sparse import GROUP as FOUR
from tilec.ir.inst.sparse import KEPT, HeldSparseDot, Sparse
from tilec.ir.layout import Layout
from tilec.ir.layouts import mma_a, mma_b, mma_places, wgmma_a, wgmma_places
from tilec.ir.panels import SPANS, match_panels, panels
from tilec.ir.passes import anchors
from tilec.ir.passes.anchors import GROUP, ROWS, Split, split
from tilec.ir.passes.components import ELEMENTWISE
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.target import Target

Fragment = Callable[[DType, tuple[int, int], Split], Layout]
Wanted = Callable[[Split], Layout]
BANKS = 128  # bytes of shared memory in a cycle
SYNC = 0.62  # of wgmma's rate is what mma.sync reaches on the same machine
ROUND_TRIP = 60.0  # cycles: what is written to shared memory, fenced, and awaited by all


# -- which products ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Way:
    """A product as warpgroups would do it, a @ b or, `turned`, b^T @ a^T. `held`: the left operand comes from
    registers; `stored`: the right one does, and has to be put into shared memory. A sparse left operand has
    half the products."""

    shape: tuple[int, int, int]
    dtypes: tuple[DType, DType, DType]
    left: Value
    held: bool
    stored: bool
    turned: bool

    @property
    def sparse(self) -> bool:
        return isinstance(self.left, Sparse) and self.left.axis == (0 if self.turned else 1)


def choose(dot: Dot, target: Target, warps: int) -> tuple[int, ...]:
    """The atom of a product by warpgroups: rows of a, columns of b (either is 64), k; () where mma.sync or
    multiply-adds are as good, and for several products, which warps share out."""
    if warps % GROUP or not target.wgmma or dot.tile.rank != 2 or _annotated(dot):
        return ()
    ways = [_way(dot, turned) for turned in (False, True)]
    if any(way.sparse for way in ways):
        ways = [way for way in ways if way.sparse]
    found = [way for way in ways if _fits(way, target, warps // GROUP)]
    best = min(found, key=lambda way: _price(way, target, warps), default=None)
    if best is None or _price(best, target, warps) > _sync_price(dot, best, target, warps):
        return ()
    k = 256 // best.dtypes[0].bits * _times(best)
    return (8, ROWS, k) if best.turned else (ROWS, 8, k)


def _annotated(dot: Dot) -> bool:
    """Is it said who holds the sums? Those of warpgroups lie otherwise."""
    start: Value = dot
    while isinstance(start, Dot):
        start = start.c
    return isinstance(start, Annotate)


def _way(dot: Dot, turned: bool) -> _Way:
    (m, k), n = dot.a.tile.shape, dot.b.tile.shape[1]
    a, b, c = (v.tile.dtype for v in (dot.a, dot.b, dot.c))
    direct = [staged(v, k_axis) is None for v, k_axis in ((dot.a, 1), (dot.b, 0))]
    if turned:
        return _Way((n, m, k), (b, a, c), dot.b, direct[1], direct[0], True)
    return _Way((m, n, k), (a, b, c), dot.a, direct[0], direct[1], False)


def _fits(way: _Way, target: Target, groups: int) -> bool:
    (m, n, k), (a, b, c) = way.shape, way.dtypes
    kinds = target.wgmma_sparse if way.sparse else target.wgmma
    known = next((w for w in kinds if (w.a, w.b, w.acc) == (a.name, b.name, c.name)), None)
    if known is None or m % ROWS or k % known.k:
        return False
    beside = split(m, groups)[1]
    whole_panels = n // beside * b.bits // 8 % SPANS[0] == 0
    return n % (8 * beside) == 0 and (beside == 1 or whole_panels)


def source(v: Value) -> tuple[Load, bool] | None:
    """The read that an operand is, as a matrix of its last axis and the others, and whether it is that
    matrix's transpose."""
    turned = False
    while isinstance(v, Permute):
        turned, v = turned ^ (v.axes == (1, 0)), v.x
    if isinstance(v, Reshape) and isinstance(v.x, Load) and v.tile.shape[-1] == v.x.tile.shape[-1]:
        v = v.x
    return (v, turned) if isinstance(v, Load) and v.tile.rank >= 2 else None


def staged(v: Value, k_axis: int) -> tuple[Load, Layout] | None:
    """The read of global memory that an operand is, and how warpgroups want it in shared memory; None where
    they cannot read it there. `k_axis`: along which of the operand's axes products are summed."""
    found = source(v)
    if found is None or found[0].array.array_type.space != "global" or found[0].array.array_type.packed:
        return None
    load, turned = found
    axis, dtype = _fastest(load), load.tile.dtype
    layout = panels(load.shape, axis, dtype.bytes)
    return (load, layout) if layout and _summed(load, axis, turned, k_axis, dtype) else None


def _fastest(load: Load) -> int:
    """The axis of a tile whose neighbours are neighbours in its array, and so in its buffer."""
    strides = load.array.array_type.strides
    return next((axis for axis in (1, 0) if strides[axis] == 1), 1) if len(strides) == 2 else len(strides) - 1


def _summed(load: Load, axis: int, turned: bool, k_axis: int, dtype: DType) -> bool:
    """Whether an operand whose neighbours along `axis` lie together suits: but for 16 bits, that is k."""
    column = axis == load.tile.rank - 1
    return dtype.bits == 16 or column == (k_axis == (0 if turned else 1))


# -- what they cost, in cycles of an SM ----------------------------------------------------------------


def _price(way: _Way, target: Target, warps: int) -> float:
    (m, n, k), dtype = way.shape, way.dtypes[0]
    groups = split(m, warps // GROUP)
    reads = k * dtype.bytes * (n * m / ROWS + (0 if way.held else m * groups[1])) / BANKS
    stored = ROUND_TRIP + 2 * n * k * dtype.bytes / BANKS if way.stored else 0.0
    brought = _brought(_left(way, (wgmma_a, wgmma_places)), [groups]) if way.held else 0.0
    return max(m * n * k / _rate(way, target), reads) + stored + warps * brought


def _left(way: _Way, made: tuple[Fragment, ...]) -> Iterator[tuple[Value, Wanted]]:
    """The left operand, or the numbers and places of a sparse one, and how each is held."""
    parts = (way.left.values, way.left.places) if isinstance(way.left, Sparse) else (way.left,)
    for part, fragment in zip(parts, made, strict=False):
        yield part, partial(_fragment, fragment, way.dtypes[0], part.tile.shape, way.turned)


def _fragment(made: Fragment, dtype: DType, shape: tuple[int, ...], turned: bool, across: Split) -> Layout:
    rows, columns = shape[::-1] if turned else shape
    layout = made(dtype, (rows, columns), across)
    return layout.permute((1, 0)) if turned else layout


def _brought(operands: Iterable[tuple[Value, Wanted]], splits: Sequence[Split]) -> float:
    """What it takes to bring operands that are views to a product."""
    return sum(
        min(anchors.conversion_cost(have, wanted(across)) for across in splits)
        for v, wanted in operands
        if (have := viewed(v))
    )


def _sync_price(dot: Dot, way: _Way, target: Target, warps: int) -> float:
    (m, k), n, dtype = dot.a.tile.shape, dot.b.tile.shape[1], dot.a.tile.dtype
    splits = anchors.splits(warps)
    lines = min(anchors.traffic((m, n), across, False) for across in splits)[1]
    work = m * n * k / (SYNC * _rate(way, target))
    operands = _left(way, (mma_a, mma_places)) if way.sparse else _both(dot)
    return max(work, warps * lines * k * dtype.bytes / BANKS) + warps * _brought(operands, splits)


def _both(dot: Dot) -> Iterator[tuple[Value, Wanted]]:
    """The operands of mma.sync, and how each is held."""
    for v, made in ((dot.a, mma_a), (dot.b, mma_b)):
        yield v, partial(_fragment, made, dot.a.tile.dtype, v.tile.shape, False)


def _times(way: _Way) -> int:
    """How much deeper instructions are, in the same time."""
    return FOUR // KEPT if way.sparse else 1


def _rate(way: _Way, target: Target) -> float:
    """Multiply-adds of one SM in a cycle, those with zeros counted."""
    return _dense_rate(way.dtypes[0], target) * _times(way)


@lru_cache(64)
def _dense_rate(dtype: DType, target: Target) -> float:
    rates = target.rates
    assert rates is not None, "targets with matrix units have rates"
    flops = rates.tensor_tflops(dtype.name) or rates.tensor_tflops("f16") or rates.f32
    return flops * 1000 / (2 * rates.sms * rates.clock)


def viewed(v: Value) -> Layout | None:
    """The layout of the view that a tile is computed from, if it is one."""
    todo, seen = [v], set()
    while todo:
        value = todo.pop()
        if isinstance(value, View):
            return value.layout
        if isinstance(value, ELEMENTWISE) and value not in seen:
            seen.add(value)
            todo += [x for x in value.operands if x.type == value.type or getattr(x, "tile", None)]
    return None


# -- the products as they are done ---------------------------------------------------------------------


def warpgroups(func: Func, target: Target) -> Func:
    """Products that `choose` gave to warpgroups read their buffers themselves; after late_loads, so that
    nothing is written between a read and its product."""
    copied = _copied(func)

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if not isinstance(inst, Dot) or ROWS not in inst.atom[:2]:
            return None
        turned = inst.atom[1] == ROWS
        a, b = _in_panels(inst.a, 1, copied), _in_panels(inst.b, 0, copied)
        left, right = (b, a or _stored(inst.a, 1, emit)) if turned else (a, b or _stored(inst.b, 0, emit))
        if left is None:
            held, way = inst.b if turned else inst.a, (turned, turned ^ right[1], turned)
            if isinstance(held, Sparse):
                return GroupWait(HeldSparseDot(held.values, right[0], inst.c, way, places=held.places))
            return GroupWait(HeldDot(held, right[0], inst.c, way))
        return GroupWait(GroupDot(left[0], right[0], inst.c, (turned ^ left[1], turned ^ right[1], turned)))

    done = rebuild(func, visit)
    return func if done is func else dce(done)


def _copied(func: Func) -> set[Value]:
    """Buffers that nothing but copies write."""
    written: dict[Value, set[type]] = {}
    for inst in func.walk():
        for name in inst.effects.writes:
            written.setdefault(root(getattr(inst, name)), set()).add(type(inst))
    return {buffer for buffer, kinds in written.items() if kinds <= {Copy, BulkCopy}}


def _in_panels(v: Value, k_axis: int, copied: set[Value]) -> tuple[Value, bool] | None:
    """The buffer that an operand is read from, and whether it is its transpose; None where warpgroups cannot
    read it there."""
    found = source(v)
    if found is None or root(found[0].array) not in copied:
        return None
    (load, turned), kind = found, found[0].array.array_type
    lies = match_panels(kind.layout, load.shape, kind.dtype.bytes) if kind.shape == load.shape else None
    return (load.array, turned) if lies and _summed(load, lies.axis, turned, k_axis, kind.dtype) else None


def _stored(v: Value, k_axis: int, emit: Emit) -> tuple[Value, bool]:
    """A right operand from registers into a buffer: as it is held if that may be, else k innermost."""
    axis = k_axis if v.tile.dtype.bits != 16 else 0 if isinstance(v, Permute) else 1
    buffer = emit(Alloc(v.tile.dtype, v.tile.shape, panels(v.tile.shape, axis, v.tile.dtype.bytes)))
    emit(Store(buffer, (Full(0, dt.i32),) * 2, v, (0, 1)))
    return buffer, False
