"""Loops and branches. Scalars are carried in registers; tiles in buffers that stay where they are.

Before a loop its tiles are put into buffers of their own. The body reads them there, and what it computes
for the next round is written over them as soon as nobody reads the old values; what could not be is moved
at the end of the round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilec.backends.cpu.arena import Buffer
from tilec.backends.cpu.loops import Index, loop, phi
from tilec.backends.cpu.lower import Lowering, Several
from tilec.backends.cpu.places import Place, Ref, Splat
from tilec.ir.func import Arg, Block, Inst, Value, root
from tilec.ir.inst.control import For, If, While
from tilec.ir.tile import TileType


@dataclass(frozen=True)
class Slots:
    """Where carried values live: a buffer per tile, None for scalars."""

    kinds: tuple[TileType, ...]
    buffers: tuple[Buffer | None, ...]

    def places(self, lo: Lowering, registers: Sequence[str]) -> tuple[Place, ...]:
        """The values, given the registers of the scalars."""
        left = iter(registers)
        return tuple(
            lo.in_buffer(buffer, kind) if buffer else Splat(next(left), kind.dtype)
            for buffer, kind in zip(self.buffers, self.kinds, strict=True)
        )


def settle(lo: Lowering, inst: Inst) -> None:
    """Everything that waits is written, and what the blocks will overwrite is read first."""
    lo.flush_all()
    lo.unpack_all()
    for block in inst.blocks:
        for inner in block.walk():
            for name in inner.effects.writes:
                lo.before_write(root(getattr(inner, name)))
            if inner.effects.ordered:
                lo.before_anything()


def slots_for(lo: Lowering, kinds: Sequence[TileType]) -> Slots:
    buffers = [None if kind.size == 1 else _pinned(lo, kind) for kind in kinds]
    return Slots(tuple(kinds), tuple(buffers))


def _pinned(lo: Lowering, kind: TileType) -> Buffer:
    buffer = lo.new(kind).buffer
    assert buffer, "new places are in the arena"
    buffer.pinned = True
    return buffer


def fill(lo: Lowering, slots: Slots, values: Sequence[Value]) -> list[str]:
    """Moves values to their slots, as if all at once; gives the registers of the scalars."""
    moves = []
    for value, buffer, kind in zip(values, slots.buffers, slots.kinds, strict=True):
        place = lo.place(value)
        if buffer and not (
            isinstance(place, Ref) and place.buffer is buffer and place.dense and not place.root
        ):
            moves.append((place, buffer, kind))
    _move(lo, moves)
    return [lo.scalar(v) for v, kind in zip(values, slots.kinds, strict=True) if kind.size == 1]


def _move(lo: Lowering, moves: list[tuple[Place, Buffer, TileType]]) -> None:
    """A move waits for those that read its target; in a ring, one goes by way of a temporary."""
    while moves:
        sources = [place.buffer for place, _, _ in moves if isinstance(place, Ref)]
        free = next((m for m in moves if sources.count(m[1]) == 0), None)
        if free is None:
            place, target, kind = moves.pop(0)
            moves.append((lo.copy(place, kind, lo.temporary(kind)), target, kind))
        else:
            moves.remove(free)
            place, target, kind = free
            lo.copy(place, kind, lo.in_buffer(target, kind))


def enter(lo: Lowering, block: Block, places: Sequence[Place]) -> None:
    """A block's arguments are at these places; values that it gives are wanted there."""
    lo.enter(block)
    for arg, place in zip(block.args, places, strict=True):
        lo.define(arg, place)


def hint(lo: Lowering, block: Block, slots: Slots) -> None:
    """Results are best computed in their slots."""
    for value, buffer in zip(map(lo.same, block.results), slots.buffers, strict=True):
        if buffer and not isinstance(value, Arg):
            lo.hints.setdefault(value, buffer)


def finish(lo: Lowering, inst: Inst, slots: Slots, registers: Sequence[str]) -> None:
    """The instruction's values, and its operands read for the last time."""
    places = slots.places(lo, registers)
    for buffer in slots.buffers:
        if buffer:
            buffer.pinned = False
    lo.define(inst, Several(places))
    lo.used(inst)


def for_(lo: Lowering, inst: For) -> None:
    settle(lo, inst)
    slots = slots_for(lo, [v.tile for v in inst.init])
    scalars = fill(lo, slots, inst.init)
    carried = _carried(lo, slots, scalars)
    with loop(lo.w, lo.index(inst.start), lo.index(inst.stop), lo.index(inst.step), carried) as run:
        index = Splat(_narrow(lo, run.index, inst.start.tile), inst.start.tile.dtype)
        enter(lo, inst.body, [index, *slots.places(lo, run.values)])
        hint(lo, inst.body, slots)
        lo.body(inst.body)
        run.next = fill(lo, slots, inst.body.results)
        lo.leave(inst.body)
    finish(lo, inst, slots, run.values)


def _carried(lo: Lowering, slots: Slots, scalars: Sequence[str]) -> list[tuple[str, str]]:
    kinds = [lo.w.held(kind.dtype) for kind in slots.kinds if kind.size == 1]
    return list(zip(kinds, scalars, strict=True))


def _narrow(lo: Lowering, index: Index, kind: TileType) -> str:
    element = lo.w.held(kind.dtype)
    if isinstance(index, int):
        return lo.w.integer(index, element)
    return index if element == "i64" else lo.w.let(f"trunc i64 {index} to {element}")


def while_(lo: Lowering, inst: While) -> None:
    """A loop without end, left where the condition fails."""
    settle(lo, inst)
    slots = slots_for(lo, [v.tile for v in inst.init])
    carried = _carried(lo, slots, fill(lo, slots, inst.init))
    w, before = lo.w, lo.w.current
    head, body, done = w.label("while"), w.label("do"), w.label("done")
    w.jump(head)
    w.start(head)
    place, names = len(w.lines), [w.name() for _ in carried]
    w.lines += [""] * len(carried)
    enter(lo, inst.condition, slots.places(lo, names))
    lo.body(inst.condition)
    w.branch(lo.scalar(inst.condition.results[0]), body, done)
    lo.leave(inst.condition)
    w.start(body)
    enter(lo, inst.body, slots.places(lo, names))
    hint(lo, inst.body, slots)
    lo.body(inst.body)
    following = fill(lo, slots, inst.body.results)
    lo.leave(inst.body)
    latch = w.current
    w.jump(head)
    for i, ((kind, init), name, new) in enumerate(zip(carried, names, following, strict=True)):
        w.lines[place + i] = f"  {name} = phi {kind} [{init}, %{before}], [{new}, %{latch}]"
    w.start(done)
    finish(lo, inst, slots, names)


def if_(lo: Lowering, inst: If) -> None:
    settle(lo, inst)
    w, kinds = lo.w, [v.tile for v in inst.then.results]
    slots = slots_for(lo, kinds)
    labels = [w.label("then"), w.label("else")]
    done = w.label("joined")
    w.branch(lo.scalar(inst.condition), *labels)
    ends = []
    for label, block in zip(labels, inst.blocks, strict=True):
        w.start(label)
        enter(lo, block, ())
        hint(lo, block, slots)
        lo.body(block)
        registers = fill(lo, slots, block.results)
        lo.leave(block)
        ends.append((registers, w.current))
        w.jump(done)
    w.start(done)
    scalar_kinds = [lo.w.held(kind.dtype) for kind in kinds if kind.size == 1]
    joined = [
        phi(w, kind, [(registers[i], end) for registers, end in ends]) for i, kind in enumerate(scalar_kinds)
    ]
    finish(lo, inst, slots, joined)
