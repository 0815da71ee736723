"""Layouts: every tile gets one, and conversions stand where neighbours differ.

The choice is made per component (tilec.ir.passes.choose); here it is written into the function. Constants,
indices and broadcasts are made again in the layout that a use wants. What has to cross warps in a reduction
is split off: each warp reduces its part, and the parts travel to every thread.
"""

from __future__ import annotations

from dataclasses import replace

from tilec.ir import dtype as dt
from tilec.ir.facts import analyse
from tilec.ir.func import Func, Inst, Value
from tilec.ir.inst import arith, control
from tilec.ir.inst import memory as mem
from tilec.ir.inst.mma import Dot, GroupProduct, GroupWait
from tilec.ir.inst.reduce import ArgReduce, Partial, Reduce, Scan, crosses_warps, reducible
from tilec.ir.inst.shape import Annotate, Broadcast, Convert, Extract, Permute, Reshape, Stack, View
from tilec.ir.inst.sparse import SparseDot
from tilec.ir.layout import Layout, local
from tilec.ir.layout_ops import slice_tile
from tilec.ir.layouts import blocked
from tilec.ir.passes import anchors
from tilec.ir.passes.choose import Choice, backward
from tilec.ir.passes.components import ELEMENTWISE, Components, is_tile, remade
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.target import Target


def assign_layouts(func: Func, target: Target) -> Func:
    """Gives every tile of rank 1 or more a layout."""
    threads = func.warps * target.warp_size
    components = Components(func)
    choice = Choice(func, components, analyse(func), threads)
    writer = _Assignment(choice, threads)
    return rebuild(func, writer.visit, writer.enter, writer.leave, writer.take)


class _Assignment:
    def __init__(self, choice: Choice, threads: int) -> None:
        self.choice, self.threads = choice, threads
        self.converted: dict[tuple[Value, Layout], Value] = {}

    def wanted(self, old: Value) -> Layout:
        """The layout of a value of the old function; what is in no component starts blocked."""
        component = self.choice.components.of(old)
        return self.choice.of[component] if component else blocked(old.tile.shape, self.threads, 1)

    # -- adapting a value to a layout ---------------------------------------------------------------

    def adapt(self, v: Value, layout: Layout, emit: Emit) -> Value:
        """The value in this layout: itself, made again, or converted."""
        if v.tile.layout == layout:
            return v
        known = self.converted.get((v, layout))
        if known is None or not emit.visible(known):
            known = self.converted[v, layout] = emit(self._adapted(v, layout, emit))
        return known

    def _adapted(self, v: Value, layout: Layout, emit: Emit) -> Value:
        match v:
            case arith.Full() | arith.Iota() | arith.Table():
                return replace(v, layout=layout)
            case Broadcast(x=x) if x.tile.rank == 0 or remade(x) or _free(v, layout):
                return self.broadcast(v, layout, emit)
            case Reshape(x=x) | Permute(x=x) if remade(v):
                before = backward(v, layout)
                if x.tile.rank == 0:
                    return v.changed(layout=layout)
                if before is not None:
                    again = replace(v, x=self.adapt(x, before, emit))
                    return replace(again, layout=layout) if isinstance(again, Reshape) else again
        if isinstance(v, ELEMENTWISE) and isinstance(v, Inst) and remade(v):
            operands = [self.adapt(x, layout, emit) for x in v.operands]
            return v.with_parts(operands, ())
        return Convert(v, layout)

    def broadcast(self, inst: Broadcast, layout: Layout, emit: Emit) -> Value:
        x = inst.x
        if x.tile.rank:
            x = self.adapt(x, anchors.collapsed(layout, x.tile.shape), emit)
        return replace(inst, x=x, layout=layout)

    # -- the walk -----------------------------------------------------------------------------------

    def enter(self, old: Inst, values: tuple[Value, ...], emit: Emit) -> tuple[Value, ...]:
        """Carried tiles enter a loop in their component's layout."""
        return tuple(self.adapt(v, self.wanted(o), emit) if is_tile(v) else v
                     for v, o in zip(values, _entered(old), strict=True))  # fmt: skip

    def leave(self, old: Inst, values: tuple[Value, ...], emit: Emit) -> tuple[Value, ...]:
        """And leave every round, or branch, in it."""
        if len(values) == 1 and not is_tile(values[0]):
            return values
        slots = _carried_slots(old)
        return tuple(
            self.adapt(v, self.wanted(o), emit) if is_tile(v) else v
            for v, o in zip(values, slots, strict=True)
        )

    def take(self, old: Inst, values: tuple[Value, ...], emit: Emit) -> tuple[Value, ...]:
        """Operands of an elementwise instruction come in its layout; of a remade one, in the first's."""
        if not isinstance(old, ELEMENTWISE) or not is_tile(old):
            return values
        if remade(old):
            held = [v.tile.layout for v in values if is_tile(v)]
            layout = held[0]
        else:
            layout = self.wanted(old)
        return tuple(self.adapt(v, layout, emit) if is_tile(v) and layout else v for v in values)

    def visit(self, inst: Inst, emit: Emit) -> Rewritten:
        for rule in (self._made, self._moved, self._summed, self._memory):
            found = rule(inst, emit)
            if found is not None:
                return found
        return None

    def _made(self, inst: Inst, emit: Emit) -> Rewritten:
        """What has no operand whose layout it must take, or says itself which it wants."""
        match inst:
            case arith.Full() | arith.Iota() | arith.Table():
                return replace(inst, layout=self.wanted(emit.old)) if inst.shape else None
            case Broadcast():
                return self.broadcast(inst, self.wanted(emit.old), emit)
            case Annotate():
                return self.adapt(inst.x, inst.wanted, emit)
            case Convert():
                return self.adapt(inst.x, inst.layout, emit)
            case View():
                return replace(inst, x=self.adapt(inst.x, inst.source, emit))
        return None

    def _moved(self, inst: Inst, emit: Emit) -> Rewritten:
        match inst:
            case Reshape():
                return self._reshape(inst, emit)
            case Permute():
                return self.settle(inst, emit)
            case Extract():
                return self._extract(inst, emit)
            case Stack():
                return self._stack(inst, emit)
        return None

    def _summed(self, inst: Inst, emit: Emit) -> Rewritten:
        match inst:
            case Reduce() | ArgReduce():
                return self._reduce(inst, emit)
            case Scan():
                x = self.adapt(inst.x, anchors.scanned(inst.x.tile.shape, inst.axis, self.threads), emit)
                return self.settle(replace(inst, x=x), emit)
            case Dot() | SparseDot():
                return self._dot(inst, emit)
            case GroupProduct():
                return self._group_product(inst, emit)
            case GroupWait():
                return self.settle(inst, emit)
        return None

    def _memory(self, inst: Inst, emit: Emit) -> Rewritten:
        match inst:
            case mem.Load():
                layout = self.wanted(emit.old)
                assert isinstance(emit.old, mem.Load), "a load was a load"
                return self.settle(replace(inst, layout=self.choice.access(emit.old, layout)[1]), emit)
            case mem.Store():
                return self._store(inst, emit)
            case mem.Gather() | mem.Scatter() | mem.Atomic():
                old = emit.old if isinstance(inst, mem.Gather) else emit.old.tile_  # type: ignore[attr-defined]
                layout = self.wanted(old)
                return inst.mapped(lambda v: self.adapt(v, layout, emit) if is_tile(v) else v)
        return None

    def settle(self, inst: Inst, emit: Emit) -> Value:
        """The value in its component's layout, where it has one."""
        emit(inst)
        if not is_tile(inst) or self.choice.components.of(emit.old) is None:
            return inst
        return self.adapt(inst, self.wanted(emit.old), emit)

    # -- one instruction each -----------------------------------------------------------------------

    def _dot(self, inst: Dot | SparseDot, emit: Emit) -> Value:
        assert isinstance(emit.old, Dot | SparseDot), "a product was a product"
        layouts = self.choice.dot_layouts(emit.old)
        given = [self.adapt(v, want, emit) for v, want in zip(inst.operands, layouts, strict=True)]
        return self.settle(inst.with_parts(given, ()), emit)

    def _group_product(self, inst: GroupProduct, emit: Emit) -> Value:
        wants = zip((*inst.held, "c"), anchors.layouts_of_group(inst, self.threads), strict=True)
        given = {name: self.adapt(getattr(inst, name), want, emit) for name, want in wants}
        return replace(inst, **given)  # type: ignore[arg-type]  # its wait settles: until then nothing is there

    def _reduce(self, inst: Reduce | ArgReduce, emit: Emit) -> Value:
        x, axis = inst.x, inst.axis
        layout = x.tile.layout
        assert layout is not None, "operands come with layouts"
        if not reducible(layout, axis) or (isinstance(inst, ArgReduce) and crosses_warps(layout, axis)):
            x = self.adapt(x, anchors.in_warp(x.tile.shape, axis, self.threads // anchors.WARP), emit)
            layout = x.tile.layout
        if isinstance(inst, Reduce) and layout is not None and crosses_warps(layout, axis):
            parts = emit(Partial(inst.op, x, axis))
            x = emit(Convert(parts, _all_parts(self.wanted(emit.old), axis, parts.tile.shape[axis])))
        return self.settle(replace(inst, x=x), emit)

    def _reshape(self, inst: Reshape, emit: Emit) -> Value:
        x = inst.x
        if x.tile.rank == 0:
            return replace(inst, layout=anchors.everywhere(inst.shape, self.threads))
        if inst.tile.rank == 0:
            return replace(inst, x=self.adapt(x, anchors.everywhere(x.tile.shape, self.threads), emit))
        assert x.tile.layout is not None, "operands come with layouts"
        natural = x.tile.layout.reshape(inst.shape)
        if natural is not None:
            return self.settle(replace(inst, layout=natural), emit)
        want = self.wanted(emit.old)
        before = backward(inst, want)
        if before is not None:
            return replace(inst, x=self.adapt(x, before, emit), layout=want)
        return self._through_memory(x, inst.shape, (0,) * len(inst.shape), want, emit)

    def _through_memory(
        self, x: Value, shape: tuple[int, ...], start: tuple[int, ...], want: Layout, emit: Emit
    ) -> Value:
        """Part of a tile by way of shared memory: stored in one layout, loaded in another."""
        buffer = emit(mem.Alloc(x.tile.dtype, x.tile.shape))
        zero = arith.Full(0, dt.i32)
        emit(mem.Store(buffer, (zero,) * x.tile.rank, x, tuple(range(x.tile.rank))))
        seen: Value = buffer
        if len(shape) != x.tile.rank or not _part(shape, x.tile.shape):
            seen = emit(mem.ArrayReshape(buffer, shape))
        at = tuple(arith.Full(i, dt.i32) for i in start)
        nothing = arith.Full(0, x.tile.dtype)
        return mem.Load(seen, at, shape, nothing, True, tuple(range(len(shape))), want)

    def _extract(self, inst: Extract, emit: Emit) -> Value:
        assert inst.x.tile.layout is not None, "operands come with layouts"
        natural = slice_tile(inst.x.tile.layout, inst.start, inst.shape)
        if natural is not None:
            return self.settle(replace(inst, layout=natural), emit)
        return self._through_memory(inst.x, inst.shape, inst.start, self.wanted(emit.old), emit)

    def _stack(self, inst: Stack, emit: Emit) -> Value:
        layout = inst.tiles[0].tile.layout
        if layout is None:
            layout = anchors.everywhere((), self.threads)
            tiles: tuple[Value, ...] = inst.tiles
        else:
            tiles = tuple(self.adapt(v, layout, emit) for v in inst.tiles)
        ones = [1] * (layout.rank + 1)
        ones[inst.axis] = len(inst.tiles)
        return self.settle(
            replace(inst, tiles=tiles, layout=local(*ones) * layout.insert_axis(inst.axis)), emit
        )

    def _store(self, inst: mem.Store, emit: Emit) -> Inst:
        assert isinstance(emit.old, mem.Store), "a store was a store"
        if inst.tile_.tile.rank == 0:
            return inst
        have = inst.tile_.tile.layout
        assert have is not None, "operands come with layouts"
        if remade(inst.tile_):
            have = blocked(inst.tile_.tile.shape, self.threads, 1)
        return replace(inst, tile_=self.adapt(inst.tile_, self.choice.access(emit.old, have)[1], emit))


def _part(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return all(a <= b for a, b in zip(shape, whole, strict=True))


def _free(inst: Broadcast, layout: Layout) -> bool:
    """Whether the operand, as it is held, broadcasts to this layout without moving."""
    have = inst.x.tile.layout
    return (
        have is not None and anchors.conversion_cost(have, anchors.collapsed(layout, inst.x.tile.shape)) == 0
    )


def _all_parts(result: Layout, axis: int, count: int) -> Layout:
    """Every thread holds all warps' parts of what it holds of the result, in slots."""
    ones = [1] * (result.rank + 1)
    ones[axis] = count
    return local(*ones) * result.insert_axis(axis)


def _entered(old: Inst) -> tuple[Value, ...]:
    """For each operand of a loop or branch, a value of the old function in the same component."""
    match old:
        case control.For(init=init):
            return (*old.operands[:3], *(old.body.args[-len(init) :] if init else ()))
        case control.While(init=init):
            return old.body.args
    return old.operands


def _carried_slots(old: Inst) -> tuple[Value, ...]:
    """For each value that a block is left with, a value of the old function in the same component."""
    match old:
        case control.For(init=init) | control.While(init=init):
            return old.body.args[-len(init) :] if init else ()
        case control.If(then=then, orelse=orelse):
            pairs = zip(then.results, orelse.results, strict=True)
            return tuple(b if remade(a) else a for a, b in pairs)
    raise AssertionError("only control flow is left")
