"""Blocks of threads, tokens, and what a kernel says to its developer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tilec.ir import dtype as dt
from tilec.ir.errors import TilecError
from tilec.ir.func import Effects, Inst, Value
from tilec.ir.run import State
from tilec.ir.tile import UNIT, TileType, TupleType

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class BlockIndex(Inst):
    """This block's place (i32) along one axis of the grid; the last axis varies fastest."""

    grid: tuple[Value, ...]
    axis: int

    def result(self) -> TileType:
        return TileType(dt.i32)

    def meaning(self, state: State, *grid: Array) -> Array:
        place = np.unravel_index(state.block, [int(n) for n in grid])
        return np.asarray(place[self.axis], np.int32)


@dataclass(frozen=True, eq=False)
class Require(Inst):
    """A condition on shapes and scalars, checked on the host at launch, and a fact for the compiler."""

    condition: Value
    text: str
    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> TupleType:
        return UNIT

    def meaning(self, state: State, condition: Array) -> None:
        if not bool(condition):
            raise TilecError(f"the kernel requires {self.text}", self.loc)


@dataclass(frozen=True, eq=False)
class ReadOnce(Inst):
    """A hint: what this kernel reads of an array is read by one block, once; caches may drop it first."""

    array: Value
    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> TupleType:
        if self.array.array_type.space != "global":
            raise TilecError(f"read_once is about arrays in global memory, found {self.array.array_type}")
        return UNIT

    def meaning(self, state: State, array: Any) -> None:
        return None


@dataclass(frozen=True, eq=False)
class Barrier(Inst):
    """All threads of the block arrive before any goes on; shared and global writes before it are seen after
    it.
    """

    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> TupleType:
        return UNIT

    def meaning(self, state: State) -> None:
        return None


@dataclass(frozen=True, eq=False)
class ProxyFence(Inst):
    """What this thread wrote to shared memory is there for wgmma and TMA, in all threads after a barrier."""

    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> TupleType:
        return UNIT

    def meaning(self, state: State) -> None:
        return None


@dataclass(frozen=True, eq=False)
class Assert(Inst):
    """Fails the launch when any element of the condition is false."""

    condition: Value
    message: str
    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> TupleType:
        if not self.condition.tile.dtype.is_bool:
            raise TilecError(f"assert_ takes a bool, not {self.condition.tile}; compare with something")
        return UNIT

    def meaning(self, state: State, condition: Array) -> None:
        if not np.all(condition):
            raise TilecError(f"assertion failed in block {state.block}: {self.message}", self.loc)


@dataclass(frozen=True, eq=False)
class Print(Inst):
    """Writes a label and a tile, once per block."""

    label: str
    x: Value
    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> TupleType:
        return UNIT

    def meaning(self, state: State, x: Array) -> None:
        state.say(f"{self.label}{np.array2string(np.asarray(x), separator=', ')}")


@dataclass(frozen=True, eq=False)
class Breakpoint(Inst):
    """Stops the reference runner in the debugger, with tiles as numpy; nothing elsewhere."""

    values: tuple[Value, ...]
    names: tuple[str, ...]
    effects: ClassVar[Effects] = Effects(ordered=True)

    def result(self) -> TupleType:
        return UNIT

    def meaning(self, state: State, *values: Array) -> None:
        state.pause(dict(zip(self.names, values, strict=True)), self.loc)
