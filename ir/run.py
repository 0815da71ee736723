"""The reference runner: a kernel means what its instructions mean, one after another, on numpy.

It runs the IR after any pass, block by block in ticket order, with shared memory poisoned and copies
completed at their wait. Slow and plain on purpose: this is the definition that every other runner is held to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.ir import codec
from tilec.ir.dtype import DType
from tilec.ir.errors import Loc, TilecError

if TYPE_CHECKING:
    from tilec.ir.func import Block, Func, Inst, Value

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Memory:
    """An array as the reference sees it: the caller's elements (a numpy view), and the dtype they are codes
    of.
    """

    data: Array
    dtype: DType

    @staticmethod
    def poisoned(shape: tuple[int, ...], dtype: DType) -> Memory:
        memory = Memory(np.empty(shape, dtype.storage), dtype)
        memory.poison()
        return memory

    def poison(self) -> None:
        """All bits set: NaN in the usual floats, -1 in integers; true in bool."""
        ones = np.full(self.data.itemsize, 1 if self.dtype.is_bool else 255, np.uint8).view(self.data.dtype)
        self.data[...] = ones[0]

    def read(self, where: Any) -> Array:
        return codec.from_storage(np.asarray(self.data[where]), self.dtype)

    def write(self, where: Any, values: Array) -> None:
        stored = codec.to_storage(values, self.dtype)
        self.data[where] = stored.view(self.data.dtype) if stored.dtype != self.data.dtype else stored

    def update(self, place: tuple[int, ...], op: Callable[[Array, Array], Array], value: Array) -> None:
        with np.errstate(all="ignore"):
            old = self.read(place)
            new = op(old, value)
            self.write(place, codec.round_to(new, self.dtype) if self.dtype.is_float else np.asarray(new))


@dataclass
class State:
    """What instructions see besides their operands: the block's number, and where messages go."""

    block: int = 0
    said: list[str] = field(default_factory=list)
    output: Callable[[str], None] = print

    def say(self, text: str) -> None:
        self.said.append(text)
        self.output(text)

    def pause(self, values: Mapping[str, Array], loc: Loc | None) -> None:
        """tc.breakpoint(): a debugger with the tiles by name."""
        import pdb

        place = f"{loc.file}:{loc.line}" if loc else "the kernel"
        print(f"tc.breakpoint() at {place}, block {self.block}: {', '.join(values)}")
        pdb.Pdb().set_trace() if not values else pdb.runeval("breakpoint_", dict(values, breakpoint_=None))


def run(func: Func, args: Sequence[Any], state: State | None = None) -> None:
    """Runs every block of the kernel; arrays (Memory) are written in place, scalars are numpy scalars.

    Raises TilecError where a requirement does not hold.
    """
    state = state or State()
    env: dict[Value, Any] = dict(zip(func.params, args, strict=True))
    for block in range(grid_size(func, env)):
        state.block = block
        run_block(func.body, env, state)


def grid_size(func: Func, env: Mapping[Value, Any]) -> int:
    """Checks what the kernel requires and counts its blocks: pure scalar code, run on the host."""
    from tilec.ir.inst.sync import Require

    known = dict(env)
    for inst in func.body.body:
        if isinstance(inst, Require):
            inst.meaning(State(), evaluate(inst.condition, known))
    extents = [int(evaluate(extent, known)) for extent in func.grid]
    return prod(max(0, extent) for extent in extents)


def evaluate(value: Value, env: dict[Value, Any]) -> Any:
    """A pure value from the values that it is made of."""
    if value not in env:
        inst: Any = value
        if not (hasattr(inst, "pure") and inst.pure):
            where = getattr(inst, "loc", None)
            raise TilecError("the grid and tc.require take only shapes and scalar parameters", where)
        env[value] = inst.meaning(State(), *(evaluate(v, env) for v in inst.operands))
    return env[value]


def run_block(block: Block, env: Mapping[Value, Any], state: State) -> tuple[Any, ...]:
    """The values that a block leaves with."""
    known = dict(env)
    for inst in block.body:
        known[inst] = step(inst, known, state)
    return tuple(known[v] for v in block.results)


def step(inst: Inst, env: Mapping[Value, Any], state: State) -> Any:
    """What one instruction gives."""
    from tilec.ir.inst import control

    match inst:
        case control.For():
            return _for(inst, env, state)
        case control.While():
            return _while(inst, env, state)
        case control.If():
            return run_block(inst.then if bool(env[inst.condition]) else inst.orelse, env, state)
        case control.Roles():
            return run_block(inst.producer, env, state) + run_block(inst.consumer, env, state)
    result = inst.meaning(state, *(env[v] for v in inst.operands))
    return np.asarray(result)[()] if isinstance(result, np.generic) else result


def _for(inst: Any, env: Mapping[Value, Any], state: State) -> tuple[Any, ...]:
    carried = tuple(env[v] for v in inst.init)
    start, stop, by = (int(env[v]) for v in (inst.start, inst.stop, inst.step))
    kind = inst.start.tile.dtype.reference.type
    for index in range(start, stop, by):
        entered = dict(zip(inst.body.args, (kind(index), *carried), strict=True))
        carried = run_block(inst.body, {**env, **entered}, state)
    return carried


def _while(inst: Any, env: Mapping[Value, Any], state: State) -> tuple[Any, ...]:
    carried = tuple(env[v] for v in inst.init)
    while bool(
        run_block(inst.condition, {**env, **dict(zip(inst.condition.args, carried, strict=True))}, state)[0]
    ):
        carried = run_block(inst.body, {**env, **dict(zip(inst.body.args, carried, strict=True))}, state)
    return carried
