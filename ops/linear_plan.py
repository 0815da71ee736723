"""What the model says of a linear layer's tiles on a GPU, before anything runs.

    print(ops.linear.plan(m=16, n=8192, k=8192, weight="u4", device="H200"))
The best tiles of every fragment, what bounds each, why others were dropped, and which are taken where nothing
was tuned. Seconds are the model's (tilec/cost.py, ops/linear_cost.py), of launches in a graph whose weights
come from memory: none was measured.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tilec.compiled import Compiled
from tilec.cost import Times, times
from tilec.ir.boards import Rates
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.target import target
from tilec.ops.factors import product_dtype
from tilec.ops.linear_choice import (
    board_of,
    candidates,
    chosen,
    fragment_of,
    measured,
    peak,
    priced,
    refusals,
    rounded,
    stated,
)  # fmt: skip
from tilec.ops.linear_cost import Problem, Tiles, work
from tilec.ops.op import Op, P, Q, R
from tilec.ops.quantize import check_group_size, weight_dtype
from tilec.ops.tiling import operands, summed_as
from tilec.tuning import Tuned

SHOWN = 6
KINDS = ("f16", "bf16", "f32", "i8", "f8e4m3", "f8e5m2")  # of x
WORDS = "{:>4}{:>5}{:>5}{:>7}{:>8}{:>7}{:>8}{:>8}"
COLUMNS = ("bm", "bn", "bk", "warps", "stages", "split", "blocks", "an SM")
WAYS = {  # what is done otherwise, by the number of Tiles that says so
    "blocks": "stream-K",
    "producer": "a producer",
    "direct": "past shared memory",
    "rescaled": "rescaled",
}


@dataclass(frozen=True)
class Row:
    """Tiles, what they do, and how long each unit works in seconds."""

    tiles: Tiles
    blocks: int
    resident: int  # blocks that an SM holds at once
    times: Times

    @property
    def seconds(self) -> float:
        return float(self.times.seconds)

    @property
    def way(self) -> str:
        """What is done otherwise than with plain tiles: "stream-K, a producer"."""
        return ", ".join(word for name, word in WAYS.items() if getattr(self.tiles, name))

    @property
    def bound(self) -> str:
        """The unit that works longest."""
        units = self.times.units
        return max(units, key=lambda name: float(units[name]))


@dataclass(frozen=True)
class Plan:
    """The best tiles of each fragment, the fastest first. `str` makes a table of it."""

    problem: Problem
    weight: DType
    x: DType
    board: Rates
    rows: tuple[Row, ...]
    chosen: Row  # what is taken where nothing was tuned: its fragment serves every m
    tried: int
    dropped: tuple[tuple[str, int], ...]  # why, and how many
    tuned: bool = False  # was what is taken measured?

    @property
    def seconds(self) -> float:
        """Of what is taken."""
        return self.chosen.seconds

    @property
    def loss(self) -> float:
        """How much longer that takes than the fastest, for keeping one packed copy of the weights."""
        return self.seconds / self.rows[0].seconds - 1

    @property
    def floors(self) -> dict[str, float]:
        """Seconds that no kernel is under: each byte moved once, each product done, at the board's peaks."""
        p, products = self.problem, stated(self.problem, self.board)
        memory = work(p, self.chosen.tiles, target(self.board.target)).memory
        return {"memory": memory / self.board.dram / 1e9, "products": 2 * p.m * p.n * p.k / products / 1e12}

    @cached_property
    def formulas(self) -> dict[str, Any]:
        """Each unit's seconds as a sympy expression in m, n, k, bm, bn, bk, warps, stages, split and
        resident, the blocks that an SM holds at once; "seconds" is all of it. For tiles of the way of those
        that are taken."""
        import sympy

        names = "m n k bm bn bk warps stages split resident"
        m, n, k, bm, bn, bk, warps, stages, split, held = sympy.symbols(names, integer=True, positive=True)
        p = self.problem._replace(m=m, n=n, k=k)
        machine = target(self.board.target)
        tiles = self.chosen.tiles._replace(bm=bm, bn=bn, bk=bk, warps=warps, stages=stages, split=split)
        done = work(p, tiles, machine)._replace(resident=held)
        found = times(done, self.board, peak(p, self.board, tiles))
        return {**found._asdict(), "seconds": found.seconds}

    def __str__(self) -> str:
        return "\n".join(_table(self))


def _table(plan: Plan) -> Iterator[str]:
    p = plan.problem
    groups = f"groups of {p.group}" if p.group else "one group a row"
    yield f"{plan.x} x [{p.m}, {p.k}], {plan.weight} weight [{p.n}, {p.k}], {groups}, on {plan.board.board}"
    yield f"  {WORDS.format(*COLUMNS)}{'us':>9}  most of it"
    taken = plan.chosen.tiles
    shown = plan.rows[:SHOWN]
    if all(row.tiles != taken for row in shown):
        shown = (*shown[:-1], plan.chosen)
    for row in shown:
        mark = "* " if row.tiles == taken else "  "
        words = WORDS.format(*row.tiles[: len(COLUMNS) - 2], row.blocks, row.resident)
        yield f"{mark}{words}{1e6 * row.seconds:9.1f}  {_most(row)}{row.way and '; ' + row.way}"
    floors = ", ".join(f"{name} {1e6 * time:.1f}" for name, time in plan.floors.items())
    yield f"floors in us: {floors}"
    dropped = "".join(f", {count} {why}" for why, count in plan.dropped)
    yield f"{plan.tried} tried{dropped}"
    behind = f"{100 * plan.loss:.0f} % behind the first" if plan.loss >= 0.005 else "no slower than the first"
    why = "measured fastest" if plan.tuned else "weights packed for it serve every m"
    yield f"* is taken: {why}; {behind}"


def _most(row: Row) -> str:
    """The units that work longest, in microseconds."""
    units = sorted(row.times.units.items(), key=lambda each: -float(each[1]))[:3]
    return ", ".join(f"{name} {1e6 * float(time):.1f}" for name, time in units)


def plan(
    *,
    m: int,
    n: int,
    k: int,
    weight: Any = "u4",
    x: Any = "f16",
    group_size: int | None = 128,
    device: str | None = None,
) -> Plan:
    """What the model says of x [m, k] times a quantised weight [n, k] on a device: tiles in order of their
    time, what bounds them, and which are taken where nothing was tuned.

    `device`: a board ("H200", "H100", "A100", "L40S", "RTX 4090", ...), a target ("sm_80": the board that it
    stands for, "cuda:0": the GPU that is there), or None: the current target, and an H100 where that is the
    CPU. x is f16, bf16, f32, i8, f8e4m3 or f8e5m2. Raises TilecError for others, for a device that is not
    known, and for extents that are no numbers.

    The model is a roofline (Williams, Waterman, Patterson 2009) with the waves that a GPU runs blocks in:
    `print(plan.formulas["issue"])` and so on. Instructions are counted as they are in the machine code. It
    knows nothing of warps that share K, nor of 2:4 weights, whose tiles are a rule.
    """
    board = board_of(device)
    p, kind = _problem(m, n, k, weight, x, group_size, board.target)
    machine = target(board.target)
    found = priced(p, board, candidates(board, p.group, p.operands))
    order = [found.at(int(i)) for i in np.argsort(found.seconds, kind="stable")]
    fitting = order[: int(np.isfinite(found.seconds).sum())]
    firsts = {fragment_of(t): t for t in reversed(fitting)}
    rows = tuple(row(p, board, t) for t in fitting if firsts[fragment_of(t)] is t)
    whys = refusals(found.tiles, p, machine)
    dropped = tuple((why, int(where.sum())) for why, where in whys.items() if where.any())
    taken = row(p, board, chosen(p, board))
    tuned = rounded(p) in measured(board.board)
    return Plan(p, weight_dtype(weight), kind, board, rows, taken, len(order), dropped, tuned)


def _problem(
    m: int, n: int, k: int, weight: Any, x: Any, group_size: int | None, target: str
) -> tuple[Problem, DType]:
    kind, held = find_dtype(x), weight_dtype(weight)
    if kind.name not in KINDS:
        raise TilecError(f"plan ranks the tiles of an x in {', '.join(KINDS)}, found {kind}")
    for name, extent in (("m", m), ("n", n), ("k", k)):
        if not isinstance(extent, int) or isinstance(extent, bool) or extent < 1:
            raise TilecError(f"plan needs extents that are numbers from 1 on, found {name}={extent!r}")
    check_group_size(group_size)
    group = 0 if group_size is None or group_size >= k else group_size
    made_of = summed_as(product_dtype(kind, held, None, group, target), group, target)
    return Problem(m, n, k, held.bits, group, operands=operands(made_of)), kind


def row(p: Problem, board: Rates, tiles: Tiles) -> Row:
    machine = target(board.target)
    done = work(p, tiles, machine)
    return Row(tiles, int(done.blocks), int(done.resident), times(done, board, peak(p, board, tiles)))


class Planned(Op[P, Q, R]):
    """An operator that also says beforehand what tiles would take, `print(linear.plan(m=1, n=8, k=8))`, and
    measures them: `linear.tune(x, weight)`.
    """

    plan = staticmethod(plan)

    @staticmethod
    def tune(x: Any, weight: Any, *, tries: int = 12) -> Tuned:
        """Runs the `tries` tiles that `plan` thinks best for x [..., K] and a QuantizedWeight on the GPU of x
        or of the current target, and keeps the fastest: `linear` takes it from then on for this problem, in
        later processes too. For a layer with `activations` x is what ops.quantize_activation gives. Raises
        TilecError where there is no GPU, and for other x and weights.
        """
        from tilec.ops.linear_tuning import tune  # which calls the layer

        return tune(x, weight, tries=tries)


def planned(compile: Callable[Q, Compiled]) -> Callable[[Callable[P, R]], Planned[P, Q, R]]:  # noqa: A002
    """Marks a linear layer as an operator, with what compiles its kernel."""
    return lambda function: Planned(function, compile)
