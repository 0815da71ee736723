"""Loops whose carried tiles stay in registers: the nest over a tile's vectors is outside, the loop inside.

    for q in tc.range(7):                              for each vector of acc:
        acc = tc.fma(x.load(..q..), w.at(q), acc)          a = acc's vector
                                                           for q in 0 .. 6:  a = fma(x's vector, w[q], a)
                                                           acc's vector = a
So it is for bodies that are elementwise over one shape, of what is read in place. Others are in control.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tilec.backends.convert import resized
from tilec.backends.cpu import control
from tilec.backends.cpu.lanes import read
from tilec.backends.cpu.loops import Index, add, loop, mul, step_pointer
from tilec.backends.cpu.lower import ArrayPlace, Lowering
from tilec.backends.cpu.nest import Point, held_from, nest
from tilec.backends.cpu.places import Affine, Ref, Shape, Splat, reshaped_strides
from tilec.backends.emit import EMITTERS as ELEMENTWISE
from tilec.backends.emit import elementwise
from tilec.ir.func import Inst, Value
from tilec.ir.inst import shape as sh
from tilec.ir.inst.arith import Full
from tilec.ir.inst.control import For
from tilec.ir.inst.memory import Load
from tilec.ir.tile import TileType

REGISTERS = 30  # vectors that a round may hold
ONE = Full | sh.Reshape | sh.Broadcast | sh.Extract  # instructions that move a scalar
Strides = tuple[Index, ...]


def for_(lo: Lowering, inst: For) -> None:
    """A loop, in registers if it can be."""
    body = Body(lo, inst)
    if body.fits:
        body.write()
    else:
        control.for_(lo, inst)


@dataclass
class Body:
    """A loop's body: `vectors` are its values in registers, `strides` how others lie in memory."""

    lo: Lowering
    inst: For
    vectors: set[Value] = field(default_factory=set)
    strides: dict[Value, Strides] = field(default_factory=dict)

    @property
    def shape(self) -> Shape:
        return self.inst.init[0].tile.shape

    @property
    def fits(self) -> bool:
        """Is it elementwise, over one shape of several elements?"""
        kinds = [v.tile for v in self.inst.init]
        if not kinds or kinds[0].size == 1 or any(kind.shape != kinds[0].shape for kind in kinds):
            return False
        self.vectors |= set(self.inst.body.args[1:])
        if not all(map(self.takes, self.inst.body.body)):
            return False
        return all(self.lo.same(v) in self.vectors for v in self.inst.body.results)

    def takes(self, inst: Inst) -> bool:
        """One instruction; notes what it gives."""
        if inst.blocks or inst.effects.writes or inst.effects.ordered or not isinstance(inst.type, TileType):
            return False
        operands = [self.lo.same(v) for v in inst.operands]
        if type(inst) in ELEMENTWISE and inst.tile.size > 1:
            self.vectors.add(inst)
            return inst.tile.shape == self.shape and all(map(self.readable, operands))
        if any(v in self.vectors for v in operands):
            return False
        if isinstance(inst, Load):
            return self.in_place(inst)
        if inst.tile.size == 1:
            return type(inst) in ELEMENTWISE or isinstance(inst, ONE)
        return isinstance(inst, Full) or self.moved(inst)

    def readable(self, value: Value) -> bool:
        """Can a vector of it be had at any point?"""
        if value in self.vectors or value in self.strides or value.tile.size == 1:
            return True
        if value in self.inst.body.body:
            return isinstance(value, Full | sh.Broadcast)
        return isinstance(self.lo.place(value), Ref | Splat)

    def in_place(self, inst: Load) -> bool:
        """Is it an address only? Elements are neighbours along the last axis, and all are there."""
        if inst.tile.size == 1:
            return True
        array = self.lo.env.get(inst.array)
        if not isinstance(array, ArrayPlace) or array.packed or inst.masked:
            return False
        axes = [axis for axis, n in enumerate(inst.shape) if n != 1]
        self.strides[inst] = array.strides
        return array.strides[axes[-1]] == 1

    def moved(self, inst: Inst) -> bool:
        """Is it a tile in memory, seen differently?"""
        if isinstance(inst, sh.Convert | sh.Annotate):
            return True
        if not isinstance(inst, sh.Reshape | sh.Permute | sh.Broadcast):
            return False
        x = self.lo.same(inst.x)
        if x.tile.size == 1:
            return True
        strides = self.strides.get(x)
        if strides is None:
            return False
        found: Strides | None
        if isinstance(inst, sh.Reshape):
            found = reshaped_strides(x.tile.shape, strides, inst.shape)
        elif isinstance(inst, sh.Permute):
            found = tuple(strides[axis] for axis in inst.axes)
        else:
            found = tuple(0 if n == 1 else s for n, s in zip(x.tile.shape, strides, strict=True))
        if found is not None:
            self.strides[inst] = found
        return found is not None

    # Code.

    def write(self) -> None:
        lo, inst = self.lo, self.inst
        control.settle(lo, inst)
        slots = control.slots_for(lo, [v.tile for v in inst.init])
        inputs = [lo.place(v) for v in inst.init]
        outputs = [ref for ref in slots.places(lo, ()) if isinstance(ref, Ref)]
        bounds = [lo.index(v) for v in (inst.start, inst.stop, inst.step)]
        nest(
            lo.w, self.shape, inputs, outputs, self.width(), lambda args, at: self.rounds(args, at, bounds),
            merge=False,
        )  # fmt: skip
        control.finish(lo, inst, slots, ())

    def width(self) -> int:
        """Lanes: several vectors where scalars are then read less often, and registers are left."""
        vectors = [v for v in self.inst.body.body if v in self.vectors]
        operands = {self.lo.same(v) for inst in vectors for v in inst.operands}
        width = self.lo.width(*{v.tile.dtype for v in (*vectors, *operands)})
        scalars = sum(self.is_scalar(v) for v in operands)
        wide = 2 * len(self.inst.init) + scalars + 4 <= REGISTERS
        return 2 * width if scalars > 1 and wide else width

    def is_scalar(self, value: Value) -> bool:
        while isinstance(value, sh.Broadcast | sh.Reshape):
            value = self.lo.same(value.x)
        return value.tile.size == 1

    def rounds(self, args: Sequence[str], point: Point, bounds: Sequence[Index]) -> list[str]:
        """All rounds for one vector of each carried tile."""
        lo, w, block = self.lo, self.lo.w, self.inst.body
        kinds = [w.vector(w.held(v.tile.dtype)) for v in self.inst.init]
        start, stop, step = bounds
        with loop(w, start, stop, step, list(zip(kinds, args, strict=True))) as run:
            known: dict[Value, str] = dict(zip(block.args[1:], run.values, strict=True))
            with w.at_width(1):
                counter = block.args[0].tile.dtype
                index = Splat(resized(w, str(run.index), "i64", w.held(counter), counter.is_signed), counter)
            control.enter(lo, block, [index, *(Splat("poison", v.tile.dtype) for v in block.args[1:])])
            for inst in block.body:
                self.one(inst, known, point)
            run.next = [known[lo.same(v)] for v in block.results]
            lo.leave(block)
        return run.values

    def one(self, inst: Inst, known: dict[Value, str], point: Point) -> None:
        """An instruction: on vectors, or on what they are read from."""
        lo = self.lo
        if inst not in self.vectors:
            with lo.w.at_width(1):
                lo.instruction(inst)
            return
        operands = [self.vector(lo.same(v), known, point) for v in inst.operands]
        known[inst] = elementwise(lo.w, inst, operands)
        lo.define(inst, Splat("poison", inst.tile.dtype))
        lo.used(inst)

    def vector(self, value: Value, known: dict[Value, str], point: Point) -> str:
        """A value's vector, read once a round."""
        if value not in known:
            place, w = self.lo.place(value), self.lo.w
            assert not isinstance(place, Affine), "formulas are not taken"
            if isinstance(place, Splat):
                known[value] = w.spread(place.register, w.held(place.dtype))
            else:
                known[value] = self.fetched(place, point)
        return known[value]

    def fetched(self, place: Ref, point: Point) -> str:
        w, offset = self.lo.w, 0
        for at, n, stride in zip(point.at, place.shape, place.strides, strict=True):
            offset = add(w, offset, mul(w, at, stride if n != 1 else 0))  # type: ignore[assignment]
        pointer = step_pointer(w, place.base, place.element, offset)
        stride = 1 if w.width == 1 else place.strides[-1] if place.shape[-1] != 1 else 0
        return held_from(w, read(w, pointer, place.element, stride, point.lanes), place)
