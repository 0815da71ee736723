"""Choosing layouts: per component the cheapest of what its border proposes.

Matrix products, views and annotations fix the layout of their components; from there decisions spread along
the links (reductions, broadcasts, reshapes, permutations), first to the components that know most about their
neighbours. `TILEC_DEBUG=1` prints each decision with the prices of the candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from tilec.ir import debug
from tilec.ir.errors import TilecError
from tilec.ir.facts import Facts
from tilec.ir.func import Block, Func, Inst, Value
from tilec.ir.inst import memory as mem
from tilec.ir.inst.control import If
from tilec.ir.inst.mma import Dot, GroupProduct
from tilec.ir.inst.reduce import ArgReduce, Reduce, Scan, crosses_warps, partial_layout, reducible
from tilec.ir.inst.shape import Annotate, Broadcast, Extract, Permute, Reshape, View
from tilec.ir.inst.sparse import SparseDot
from tilec.ir.layout import Layout
from tilec.ir.layout_ops import slice_tile
from tilec.ir.layouts import blocked
from tilec.ir.passes import anchors
from tilec.ir.passes.components import ELEMENTWISE, Component, Components
from tilec.ir.passes.sectors import whole_sectors

IMPOSSIBLE, ACROSS_WARPS, THROUGH_MEMORY = 500.0, 40.0, 60.0  # cycles: see anchors
ELEMENT = 0.5  # an elementwise instruction of a warp: 64 lanes a cycle
ROUNDS = 8.0  # of a loop


class Choice:
    """The layout of every component."""

    def __init__(self, func: Func, components: Components, facts: Facts, threads: int) -> None:
        self.components, self.facts, self.threads = components, facts, threads
        self.warps = threads // anchors.WARP
        self.of: dict[Component, Layout] = {}
        self._dots = [inst for inst in func.walk() if isinstance(inst, Dot | SparseDot)]
        results = {components.of(dot) for dot in self._dots} - {None}
        self._chained = results & {components.of(dot.factors[0]) for dot in self._dots}
        self._viewed = {components.of(v): v.layout for v in func.walk() if isinstance(v, View)}
        self._splits: dict[Component | None, tuple[anchors.Split, bool]] = {}
        self._asked = {inst.x for inst in func.walk() if isinstance(inst, Annotate)}
        self._rounds = _rounds(func.body, 1.0)
        self._fix(func)
        self._spread()

    def dot_layouts(self, dot: Dot | SparseDot) -> tuple[Layout, ...]:
        """Layouts of its factors and c. Products that share an accumulator are shared out alike."""
        component = self.components.of(dot)
        if component not in self._splits:
            together = [other for other in self._dots if self.components.of(other) is component]
            ways = anchors.splits(self.warps, dot.tile.shape)
            across = min(ways, key=lambda across: self._split_price(together, across))
            self._splits[component] = across, all(map(anchors.reads_along_k, together))
        return anchors.layouts_of_dot(dot, *self._splits[component])

    def _split_price(self, dots: list[Dot | SparseDot], across: anchors.Split) -> tuple[float, ...]:
        """Whether accumulators are asked for in another layout, then what bringing operands that are views to
        the products costs, then the products' own traffic."""
        of = self.components.of
        asked = self.of.get(of(dots[0]))  # type: ignore[arg-type]
        wants = [(dot, anchors.layouts_of_dot(dot, across)) for dot in dots]
        operands = [pair for dot, want in wants for pair in zip(dot.factors, want[:-1], strict=True)]
        views = [(have, want) for x, want in operands if (have := self._view_of(x)) is not None]
        chained = any({of(dot), of(dot.factors[0])} & self._chained for dot in dots)
        conversions = sum(anchors.conversion_cost(have, want) for have, want in views)
        elsewhere = asked is not None and asked != wants[0][1][-1]
        return float(elsewhere), conversions, *anchors.traffic(dots[0].tile.shape, across, chained)

    def _view_of(self, value: Value) -> Layout | None:
        """The layout of the view that a tile is computed from, perhaps transposed."""
        if isinstance(value, Permute):
            held = self._view_of(value.x)
            return held and held.permute(value.axes)
        return self._viewed.get(self.components.of(value))

    def _fix(self, func: Func) -> None:
        for inst in func.walk():
            component = self.components.of(inst)
            if component is None:
                continue
            if isinstance(inst, Annotate):
                _check_threads(inst.wanted, self.threads)
                self.of[component] = inst.wanted
            elif isinstance(inst, Dot | SparseDot):
                self.of.setdefault(component, self.dot_layouts(inst)[-1])
            elif isinstance(inst, GroupProduct):
                self.of.setdefault(component, anchors.layouts_of_group(inst, self.threads)[-1])
            elif isinstance(inst, View):
                _check_threads(inst.layout, self.threads)
                self.of.setdefault(component, inst.layout)

    def _spread(self) -> None:
        waiting = [(-self._known(c), c.number, c) for c in self.components.all if c not in self.of]
        heapify(waiting)
        while waiting:
            *_, best = heappop(waiting)
            if best in self.of:
                continue  # with what it knew before
            self.of[best] = self._cheapest(best)
            near = {self.components.of(v) for inst in best.border for v in (inst, *inst.operands)}
            for c in near - self.of.keys():
                if c is not None:
                    heappush(waiting, (-self._known(c), c.number, c))

    def _known(self, component: Component) -> int:
        """How many border instructions already know what they want."""
        return sum(
            1 for inst in component.border if any(True for _ in self._proposals(component, inst, False))
        )

    def _cheapest(self, component: Component) -> Layout:
        candidates = [
            layout for inst in component.border for layout in self._proposals(component, inst, True)
        ]
        candidates = list(dict.fromkeys(candidates)) or [blocked(component.shape, self.threads, 1)]
        prices = {layout: self.price(component, layout) for layout in candidates}
        chosen = min(candidates, key=lambda layout: prices[layout])
        if debug.level() >= 1:
            told = ", ".join(f"{price:.0f}: {layout}" for layout, price in prices.items())
            print(f"layout of {list(component.shape)} (component {component.number}): {chosen}  [{told}]")
        return chosen

    # -- what the border proposes -------------------------------------------------------------------

    def _proposals(self, c: Component, inst: Inst, memory: bool) -> Iterator[Layout]:
        """Layouts that an instruction at the border would like; `memory`: loads and stores too."""
        of = self.components.of
        match inst:
            case Dot() | SparseDot() | GroupProduct():
                yield from (layout for operand, layout in self._factors(inst) if of(operand) is c)
            case View() if of(inst.x) is c:
                yield inst.source
            case mem.Load() | mem.Store() if memory:
                yield from self._wide(c, inst)
            case Reduce() | ArgReduce():
                yield from self._reduction(c, inst, memory)
            case Scan() if memory:
                yield anchors.scanned(c.shape, inst.axis, self.threads)
            case Broadcast() | Permute() | Reshape() | Extract():
                yield from self._moved(c, inst)
                if memory and isinstance(inst, Extract) and of(inst.x) is c:
                    yield from anchors.in_parts(c.shape, inst.shape, self.threads)

    def _factors(self, dot: Dot | SparseDot | GroupProduct) -> Iterator[tuple[Value, Layout]]:
        """What a product multiplies from registers, and the layouts that it wants."""
        if isinstance(dot, GroupProduct):
            return zip(dot.factors, anchors.layouts_of_group(dot, self.threads)[:-1], strict=True)
        return zip(dot.factors, self.dot_layouts(dot)[:-1], strict=True)

    def _wide(self, c: Component, inst: mem.Load | mem.Store) -> Iterator[Layout]:
        if inst.array.array_type.space == "global":
            yield anchors.wide(inst, c.shape, self.threads, self.facts)
        else:
            yield blocked(c.shape, self.threads, 1)

    def _reduction(self, c: Component, inst: Reduce | ArgReduce, memory: bool) -> Iterator[Layout]:
        source, result = self.components.of(inst.x), self.components.of(inst)
        if result is c and source in self.of and source is not c:
            yield self.of[source].reduce(inst.axis)
        if source is c and memory:
            yield anchors.in_warp(c.shape, inst.axis, self.warps)

    def _moved(self, c: Component, inst: Broadcast | Permute | Reshape | Extract) -> Iterator[Layout]:
        source, result = self.components.of(inst.x), self.components.of(inst)
        found: Layout | None = None
        if result is c and source in self.of and source is not None:
            found = forward(inst, self.of[source])
        elif source is c and result in self.of and result is not None:
            found = backward(inst, self.of[result])
        if found is not None:
            yield found

    # -- prices -------------------------------------------------------------------------------------

    def price(self, c: Component, layout: Layout) -> float:
        """What a layout costs a component: work on its elements, and every step over its border, as often as
        they are done."""
        return sum(self._rounds[inst] * self._step(c, inst, layout) for inst in c.border)

    def _step(self, c: Component, inst: Inst, layout: Layout) -> float:
        of = self.components.of
        match inst:
            case Dot() | SparseDot() | GroupProduct():
                wants = self._factors(inst)
                return sum(anchors.conversion_cost(layout, want) for v, want in wants if of(v) is c)
            case View() if of(inst.x) is c:
                return anchors.conversion_cost(layout, inst.source)
            case mem.Load() | mem.Store():
                return self.access(inst, layout)[0]
            case Reduce() | ArgReduce():
                return self._reduce_price(c, inst, layout)
            case Scan():
                there = anchors.scanned(c.shape, inst.axis, self.threads)
                return anchors.conversion_cost(layout, there) + anchors.conversion_cost(there, layout)
            case Broadcast() | Permute() | Reshape() | Extract():
                return self._move_price(c, inst, layout)
            case _ if isinstance(inst, ELEMENTWISE):
                return ELEMENT * layout.slots
        return 0.0

    def access(self, inst: mem.Load | mem.Store, layout: Layout) -> tuple[float, Layout]:
        """The cheapest of reaching memory in this layout, in one that swaps within warps make of it, and in
        the widest with a conversion; and that layout. What is annotated where it is loaded is loaded so.
        """
        kind = inst.array.array_type
        if kind.space != "global":
            return float(layout.slots), layout
        wide = anchors.wide(inst, layout.shape, self.threads, self.facts)
        limit = max(1, 16 * 8 // max(8, kind.dtype.bits))
        direct = anchors.access_cost(layout, kind, limit)
        if wide == layout or inst in self._asked:
            return direct, layout
        if kind.packed and isinstance(inst, mem.Store):
            return anchors.access_cost(wide, kind, limit) + anchors.conversion_cost(layout, wide), wide
        ways = [(direct, layout)]
        for other in (self._near(inst, layout), wide):
            order = (other, layout) if isinstance(inst, mem.Load) else (layout, other)
            moving = anchors.conversion_cost(*order, max(8, kind.dtype.bits))
            ways.append((anchors.access_cost(other, kind, limit) + moving, other))
        return min(ways, key=lambda way: way[0])

    def _near(self, inst: mem.Load | mem.Store, layout: Layout) -> Layout:
        """The layout after swaps that make sectors whole. Loads in loops do without: what they read in part
        stays in the L1 cache for the next, and swaps would take their time in every round.
        """
        kind = inst.array.array_type
        axis = next((a for a in reversed(range(kind.rank)) if kind.strides[a] == 1), None)
        if axis is None or kind.packed or (isinstance(inst, mem.Load) and self._rounds[inst] > 1):
            return layout
        vector = anchors.proven_vector(inst, layout.shape, axis, self.facts)
        return whole_sectors(layout, axis, max(1, kind.dtype.bits // 8), vector)

    def _reduce_price(self, c: Component, inst: Reduce | ArgReduce, layout: Layout) -> float:
        source, result = self.components.of(inst.x), self.components.of(inst)
        if source is not c:
            known = self.of.get(source) if source else None
            return _reduced(known, inst, layout) if known else 0.0
        if not reducible(layout, inst.axis):
            return IMPOSSIBLE
        left = layout.reduce(inst.axis).slots
        across = ACROSS_WARPS + 2 * left if crosses_warps(layout, inst.axis) else 0.0
        known = self.of.get(result) if result else None
        return across + 5.0 * left + (_reduced(layout, inst, known) if known else 0.0)

    def _move_price(
        self, c: Component, inst: Broadcast | Permute | Reshape | Extract, layout: Layout
    ) -> float:
        source, result = self.components.of(inst.x), self.components.of(inst)
        if result is c and source in self.of and source is not None:
            return _move_cost(inst, self.of[source], layout)
        if source is c and result in self.of and result is not None:
            return _move_cost(inst, layout, self.of[result])
        if source is c and isinstance(inst, Extract) and forward(inst, layout) is None:
            return THROUGH_MEMORY + layout.slots  # whatever its result will have
        return 0.0


def _rounds(block: Block, times: float) -> dict[Inst, float]:
    """How often each instruction is done: a loop is guessed to take ROUNDS."""
    found: dict[Inst, float] = {}
    for inst in block.body:
        found[inst] = times
        for inner in inst.blocks:
            found |= _rounds(inner, times if isinstance(inst, If) else times * ROUNDS)
    return found


def _reduced(have: Layout, inst: Reduce | ArgReduce, want: Layout) -> float:
    """From what is reduced to the result's layout; parts of several warps are read in it."""
    if isinstance(inst, Reduce) and reducible(have, inst.axis) and crosses_warps(have, inst.axis):
        return float(partial_layout(have, inst.axis).shape[inst.axis] * want.slots)
    return anchors.conversion_cost(have.reduce(inst.axis), want)


def _move_cost(inst: Broadcast | Permute | Reshape | Extract, have: Layout, want: Layout) -> float:
    if isinstance(inst, Broadcast):
        return anchors.conversion_cost(have, anchors.collapsed(want, inst.x.tile.shape))
    moved = forward(inst, have)
    return THROUGH_MEMORY + have.slots if moved is None else anchors.conversion_cost(moved, want)


def forward(inst: Broadcast | Permute | Reshape | Extract, layout: Layout) -> Layout | None:
    """The result's layout when no element moves."""
    match inst:
        case Permute(axes=axes):
            return layout.permute(axes)
        case Reshape(shape=shape):
            return layout.reshape(shape)
        case Extract(start=start, shape=shape):
            return slice_tile(layout, start, shape)
    return None


def backward(inst: Broadcast | Permute | Reshape | Extract, layout: Layout) -> Layout | None:
    """The operand's layout with which no element moves."""
    match inst:
        case Permute(axes=axes):
            return layout.permute(tuple(axes.index(a) for a in range(len(axes))))
        case Reshape() if inst.x.tile.rank:
            before = layout.reshape(inst.x.tile.shape)
            there_and_back = before is not None and before.reshape(inst.shape) == layout
            return before if there_and_back else None  # pad on an axis of extent 1 may come back elsewhere
        case Broadcast() if inst.x.tile.rank:
            return anchors.collapsed(layout, inst.x.tile.shape)
    return None


def _check_threads(layout: Layout, threads: int) -> None:
    if layout.threads != threads:
        raise TilecError(f"this layout is for {layout.threads} threads, the kernel has {threads} "
                         f"(warps={threads // anchors.WARP})")  # fmt: skip
