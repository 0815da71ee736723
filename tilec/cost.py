"""What a launch takes, from what its blocks do and what a board can do in a clock: a roofline with waves.

    times(Work(blocks=64, warps=4, steps=64, ...), rates("H200"), 989)      Times(memory=8.2e-06, l2=..., ...)
Every function here computes with numbers, with numpy arrays of them (many candidates at once) and with
sympy's symbols, which is how a formula is shown: there is one text of each.

The busiest SM does ceil(blocks / SMs) of the blocks, and holds `resident` of them at once: so many waves
follow one another. Each unit is busy for the sum of what these want from it; memory and L2 serve all SMs
together. Units work at the same time, but not wholly: the whole is the cubic norm of their times, which is
1.26 times either of two that are equal. To it come a launch, the first bytes' way, and turns that blocks wait
for one another.
This is the roofline model (Williams, Waterman, Patterson 2009) with the waves of GPUs; the shares of peaks
that are reached are those of published kernels (on an H200 4.3 of 4.8 TB/s, 790 of 989 TFLOP/s).
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from tilec.ir.boards import Rates
from tilec.ir.target import Target

LAUNCH = 2.5e-6  # seconds of a launch in a graph, its first and last instructions included
LATENCY, NEAR = 0.8e-6, 0.2e-6  # until bytes from memory, from L2 are there
TURN = 1.0e-6  # from one block's end to the next one's, through L2
MEMORY_SHARE, PRODUCTS_SHARE = 0.88, 0.82  # of their peaks
SHARED_BYTES, ISSUES, INTEGERS = 128, 4, 2  # of an SM in a clock: bytes, instructions, those of integers
ALONE = 0.35  # instructions that a warp issues in a clock where nothing else runs: each waits for others

Number = Any  # int, float, numpy's array of them, sympy's expression


class Work(NamedTuple):
    """Of a launch: `blocks`, each of `warps` warps and `steps` rounds of its loop, `resident` of them on an
    SM at once; `memory`: bytes that move once between memory and the GPU, `l2` all that SMs ask for.
    Of a block's round: `shared` bytes of shared memory written and read, `products` in flops of the matrix
    units, and for one warp `instructions`, `integers` among them. `stages`: rounds whose copies are
    there or under way; `turns`: how often a block waits for another; `fills`: how often its pipeline begins;
    `asked`: how often in a round warps ask L2 for what they need at once.
    """

    blocks: Number
    warps: Number
    steps: Number
    resident: Number
    memory: Number
    l2: Number
    shared: Number
    products: Number
    instructions: Number
    integers: Number
    stages: Number
    turns: Number = 0
    fills: Number = 1
    asked: Number = 0


class Times(NamedTuple):
    """Seconds that each unit is busy, on the busiest SM where units are an SM's; `latency`: that rounds take
    at least, one after another; `fixed`: that come on top."""

    memory: Number
    l2: Number
    products: Number
    issue: Number
    integers: Number
    shared: Number
    latency: Number
    fixed: Number

    @property
    def seconds(self) -> Number:
        """Of the launch."""
        return sum(unit * unit * unit for unit in self.units.values()) ** (1 / 3) + self.fixed

    @property
    def units(self) -> dict[str, Number]:
        """What works at the same time."""
        return {name: time for name, time in self._asdict().items() if name != "fixed"}


def times(work: Work, board: Rates, tensor: Number) -> Times:
    """How long each unit of a board works; `tensor`: the peak of its matrix units in TFLOP/s."""
    clock = board.clock * 1e9
    most = -(-work.blocks // board.sms)  # blocks of one SM
    waves = -(-most // work.resident)
    busiest = most * work.steps  # rounds
    held = work.warps * smallest(work.resident, most) / ISSUES  # of one scheduler
    issued = smallest(1, ALONE * held) * ISSUES
    per_clock = PRODUCTS_SHARE * tensor * 1e12 / clock / board.sms
    chain = work.instructions / ALONE / clock + work.asked * NEAR  # of a round, with nothing else to do
    ahead = largest(LATENCY / (work.stages - 1), chain)
    return Times(
        memory=work.memory / (MEMORY_SHARE * board.dram * 1e9),
        l2=work.l2 / (board.l2 * 1e9),
        products=busiest * work.products / per_clock / clock,
        issue=busiest * work.warps * work.instructions / issued / clock,
        integers=busiest * work.warps * work.integers / INTEGERS / clock,
        shared=busiest * work.shared / SHARED_BYTES / clock,
        latency=waves * (work.steps * ahead + (work.fills - 1) * LATENCY),
        fixed=LAUNCH + LATENCY + work.turns * TURN,
    )


def resident(machine: Target, warps: Number, shared_bytes: Number, registers: Number) -> Number:
    """How many blocks an SM holds at once, by threads, blocks, shared memory and registers (0: not known)."""
    threads = warps * machine.warp_size
    given = -(-largest(registers, 1) // 8) * 8 * threads  # given out in eights
    return smallest(
        machine.max_threads_per_sm // threads,
        machine.max_blocks_per_sm,
        machine.shared_bytes_per_sm // (shared_bytes + machine.shared_bytes_reserved),
        machine.registers_per_sm // given,
    )


def either(condition: Number, yes: Number, no: Number) -> Number:
    """One of two, element by element."""
    if isinstance(condition, np.ndarray):
        return np.where(condition, yes, no)
    if condition in (True, False):
        return yes if condition else no
    import sympy

    return sympy.Piecewise((yes, condition), (no, True))


def largest(*numbers: Number) -> Number:
    """The largest, element by element."""
    return _choose("Max", np.maximum, max, numbers)


def smallest(*numbers: Number) -> Number:
    """The smallest, element by element."""
    return _choose("Min", np.minimum, min, numbers)


def _choose(symbolic: str, arrays: Any, plain: Any, numbers: tuple[Number, ...]) -> Number:
    kinds = {type(x).__module__.partition(".")[0] for x in numbers}
    if "sympy" in kinds:
        import sympy

        return getattr(sympy, symbolic)(*numbers)
    return reduce(arrays, numbers) if "numpy" in kinds else plain(numbers)
