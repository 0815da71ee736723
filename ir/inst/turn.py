"""Blocks that take turns: what lies between TakeTurn and PassTurn is done in the order of `part`.

A block may wait only for blocks with lower numbers: those have started, on every runner.
    locks[key] == part        it is the turn of this part; all locks are 0 when the kernel is launched
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tilec.ir import dtype as dt
from tilec.ir.errors import TilecError
from tilec.ir.func import Effects, Inst, Value
from tilec.ir.run import State
from tilec.ir.tile import UNIT, TupleType

Array = np.ndarray[Any, Any]


def _check(locks: Value) -> TupleType:
    kind = locks.array_type
    if kind.dtype != dt.i32 or kind.rank != 1 or kind.space != "global":
        raise TilecError(f"tc.turn takes locks of one axis of i32 in global memory, found {kind}")
    return UNIT


@dataclass(frozen=True, eq=False)
class TakeTurn(Inst):
    """Waits until locks[key] is `part`; then all that earlier turns of this key wrote is seen."""

    locks: Value
    key: Value
    part: Value
    effects: ClassVar[Effects] = Effects(reads=("locks",), writes=("locks",), ordered=True)

    def result(self) -> TupleType:
        return _check(self.locks)

    def meaning(self, state: State, locks: Any, key: Array, part: Array) -> None:
        found = int(locks.read((int(key),)))
        if found != int(part):
            raise TilecError(
                f"block {state.block} waits for turn {int(part)} of key {int(key)}, which is at {found}: "
                "turns go to earlier blocks first, and locks start at 0",
                self.loc,
            )


@dataclass(frozen=True, eq=False)
class PassTurn(Inst):
    """locks[key] = following, after all that this block has written."""

    locks: Value
    key: Value
    following: Value
    effects: ClassVar[Effects] = Effects(writes=("locks",), ordered=True)

    def result(self) -> TupleType:
        return _check(self.locks)

    def meaning(self, state: State, locks: Any, key: Array, following: Array) -> None:
        locks.write((int(key),), np.asarray(following))
