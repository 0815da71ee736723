"""Copies of whole boxes by one thread, TMA, and the gates in shared memory that tell when they have arrived.

gates = Gates(3, 2)                                     one per buffer of a ring, two copies each
BulkCopy(a, (i, s), Stage(ring, slot), gates, slot, when, (1, 0), (64, 128), 128, 2)
BulkWait(gates, slot, phase, (Stage(ring, slot),))      phase: how often the gate has opened, modulo 2
Where a producer's warps start the copies, gates tell the other way too:
gates = Gates(3, 2, readers=8)
BulkRoom(gates, slot, phase)                            the producer: have eight warps done with the buffer?
BulkDone(gates, slot, when)                             a reader: this warp has
The way back has no gates: BulkStore(c, (i, j), buffer, ..), and BulkStored((buffer,)) before that is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tilec.ir import dtype as dt
from tilec.ir.func import Effects, Inst, Value
from tilec.ir.inst.rules import window
from tilec.ir.run import Memory, State
from tilec.ir.signature import Box
from tilec.ir.tile import UNIT, ArrayType, TupleType

Array = np.ndarray[Any, Any]
GATE_BYTES = 8
Coming = list[tuple[int, list[tuple[Memory, Array]]]]  # for each gate: copies in a phase, and what they bring


@dataclass(frozen=True, eq=False)
class Gates(Inst):
    """`count` gates: each opens when `copies` copies to it have brought all their bytes, and closes again.
    With `readers`, as many again, which open when so many warps have told that they are done.
    """

    count: int
    copies: int
    readers: int = 0
    offset: int | None = None
    effects: ClassVar[Effects] = Effects(ordered=True)

    @property
    def nbytes(self) -> int:
        return GATE_BYTES * self.count * (2 if self.readers else 1)

    def result(self) -> ArrayType:
        return ArrayType(dt.i64, (self.count,), (1,), GATE_BYTES, "shared")

    def meaning(self, state: State) -> Coming:
        return [(self.copies, []) for _ in range(self.count)]


@dataclass(frozen=True, eq=False)
class BulkCopy(Inst):
    """Starts moving the window of `array` at `at` into the shared `buffer`, zeros where it leaves the array;
    the data is there after the wait for gate `slot`. Where `when` is false nothing happens.

    `axes`, `extents`, `span`, `unit`: the box of one copy of the hardware, as signature.Box.
    """

    array: Value
    at: tuple[Value, ...]
    buffer: Value
    gates: Value
    slot: Value
    when: Value
    axes: tuple[int, ...]
    extents: tuple[int, ...]
    span: int
    unit: int
    effects: ClassVar[Effects] = Effects(reads=("array",), writes=("buffer",))

    @property
    def box(self) -> Box:
        return Box(self.axes, self.extents, self.span, self.unit)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(extent for extent in self.buffer.array_type.shape if isinstance(extent, int))

    def result(self) -> TupleType:
        assert len(self.at) == self.array.array_type.rank == len(self.shape), "one offset per axis"
        assert self.array.array_type.dtype == self.buffer.array_type.dtype, "a copy keeps the dtype"
        return UNIT

    def meaning(self, state: State, array: Memory, *rest: Any) -> None:
        *at, buffer, gates, slot, when = rest
        if not bool(when):
            return
        buffer.poison()
        out = np.zeros(self.shape, array.dtype.reference)
        theirs, ours = window(array.data.shape, [int(x) for x in at], self.shape)
        out[ours] = array.read(theirs)
        gates[int(slot)][1].append((buffer, out))


@dataclass(frozen=True, eq=False)
class BulkWait(Inst):
    """Until gate `slot` has opened for the time that `phase` says: the data of `buffers` is there for all."""

    gates: Value
    slot: Value
    phase: Value
    buffers: tuple[Value, ...]
    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> TupleType:
        return UNIT

    def meaning(self, state: State, gates: Coming, slot: Array, phase: Array, *buffers: Any) -> None:
        copies, coming = gates[int(slot)]
        for buffer, data in coming[:copies]:
            buffer.write((slice(None),) * data.ndim, data)
        del coming[:copies]


@dataclass(frozen=True, eq=False)
class BulkStore(Inst):
    """Starts moving the shared `buffer` to the window of `array` at `at`; what leaves the array vanishes.
    Until BulkStored the buffer stays as it is. The box as in BulkCopy.
    """

    array: Value
    at: tuple[Value, ...]
    buffer: Value
    axes: tuple[int, ...]
    extents: tuple[int, ...]
    span: int
    unit: int
    effects: ClassVar[Effects] = Effects(reads=("buffer",), writes=("array",))

    @property
    def box(self) -> Box:
        return Box(self.axes, self.extents, self.span, self.unit)

    def result(self) -> TupleType:
        into, buffer = self.array.array_type, self.buffer.array_type
        assert len(self.at) == into.rank == buffer.rank, "one offset per axis"
        assert into.dtype == buffer.dtype, "a store keeps the dtype"
        return UNIT

    def meaning(self, state: State, array: Memory, *rest: Any) -> None:
        *at, buffer = rest
        theirs, ours = window(array.data.shape, [int(x) for x in at], buffer.data.shape)
        array.write(theirs, buffer.read(ours))


@dataclass(frozen=True, eq=False)
class BulkStored(Inst):
    """Until the stores that were started are done with their `buffers`; and, if `written`, have written."""

    buffers: tuple[Value, ...]
    written: bool = False
    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> TupleType:
        return UNIT

    def meaning(self, state: State, *buffers: Memory) -> None:
        return None


@dataclass(frozen=True, eq=False)
class BulkRoom(Inst):
    """The producer waits until the readers are done with what gate `slot` last let through; `phase` is that
    of the copies that follow. Nothing on numpy, where memory is no limit to what is under way.
    """

    gates: Value
    slot: Value
    phase: Value
    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> TupleType:
        return UNIT

    def meaning(self, state: State, gates: Coming, slot: Array, phase: Array) -> None:
        return None


@dataclass(frozen=True, eq=False)
class BulkDone(Inst):
    """Readers tell that they are done with what gate `slot` let through; not where `when` is false."""

    gates: Value
    slot: Value
    when: Value
    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> TupleType:
        return UNIT

    def meaning(self, state: State, gates: Coming, slot: Array, when: Array) -> None:
        return None
