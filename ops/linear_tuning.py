"""Measuring the tiles of a quantised linear layer on the GPU that it runs on: what was fastest is taken from
then on, instead of what the model expects.

    ops.linear.tune(x, weight)              # x of a GPU, or numpy's under tc.target("cuda:0")
Candidates are the model's best with the fragment that it chose, so that the packed weight stays one. Results
are kept on disk, by board and problem, beside those of `kernel.tune`.
"""

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np

from tilec.device import device, to_device
from tilec.ir.boards import Rates
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.target import parse_target
from tilec.ops.arrays import Array, array, empty, flat
from tilec.ops.callers import any_arrays
from tilec.ops.epilogue import finishing
from tilec.ops.factors import compute_dtype
from tilec.ops.linear import product_dtypes, quantised_product
from tilec.ops.linear_choice import board_of, keep_measured, of_fragment, priced, rounded, where
from tilec.ops.linear_cost import Problem, Tiles
from tilec.ops.linear_kernel import whole_group
from tilec.ops.linear_plan import KINDS
from tilec.ops.tiling import Weighted, forget, known, operands, summed_as, weighted
from tilec.ops.weight import QuantizedWeight
from tilec.places import current_target
from tilec.tuning import REPEATS, Candidate, Tuned


def tune(x: Any, weight: QuantizedWeight, *, tries: int = 12) -> Tuned:
    """Runs the model's `tries` best tiles for x [..., K], of the dtypes that `plan` takes, and a quantised
    weight on its GPU and keeps the fastest for this problem: `ops.linear` takes it from then on, in later
    processes too.

    Rows count as the next power of two does, as in `plan`. Seconds are medians of launches one after another,
    weights in L2 where they fit. Raises TilecError where there is no GPU, and for other x and weights.
    """
    if not isinstance(weight, QuantizedWeight):
        raise TilecError(f"tune takes a QuantizedWeight, found {type(weight).__name__}")
    place = parse_target(current_target())
    if isinstance(x, np.ndarray) and place.runner.startswith("cuda"):
        x = to_device(x, place.device)
    return _tune(x, weight, tries)


@any_arrays
def _tune(x: Any, weight: QuantizedWeight, tries: int) -> Tuned:
    name = current_target()
    if not name.startswith("cuda"):
        raise TilecError(f'tune measures on a GPU, and x is on {name}: call it under tc.target("cuda:0")')
    rows = flat(array(x, "x", rank=1), 2)
    (n, k), kind = weight.shape, find_dtype(rows.dtype)
    if kind.name not in KINDS or rows.shape[1] != k or not len(rows):
        raise TilecError(f"tune takes rows x [M, {k}] in {', '.join(KINDS)}, found {kind} {list(rows.shape)}")
    group, board = whole_group(weight.group_size, k), board_of(name)
    made_of = summed_as(product_dtypes(kind, weight, group, name)[1], group, name)
    p = Problem(len(rows), n, k, weight.dtype.bits, group, operands=operands(made_of))
    tiles = {each: weighted(each, made_of, known(name)) for each in _likely(p, board, weight.steady, tries)}
    found = sorted((_row(*each, rows, weight, name) for each in tiles.items()), key=lambda each: each.rank)
    if found[0].refused:
        raise TilecError(f"no tiles of linear run on {name}: {found[0]}")
    keep_measured(p, board.board, Tiles(**found[0].constants))
    forget()
    return Tuned(name, tuple(found))


def _likely(p: Problem, board: Rates, steady: bool, tries: int) -> Iterator[Tiles]:
    """The model's best, of the fragment that it chose; `steady`: scales may be divided by each other."""
    every = of_fragment(p, board)
    found = priced(rounded(p), board, every if steady else where(every, every.rescaled == 0))
    for i in np.argsort(found.seconds, kind="stable")[:tries]:
        if np.isfinite(found.seconds[i]):
            yield found.at(int(i))


def _row(tiles: Tiles, schedule: Weighted, x: Array, weight: QuantizedWeight, place: str) -> Candidate:
    kind, wait = compute_dtype(find_dtype(x.dtype)), device(parse_target(place).device)
    y = empty((len(x), weight.shape[0]), kind)
    given, epilogue = finishing(y.shape, None, None, None, None, None, None)

    def run() -> float:
        wait.synchronise()
        start = perf_counter()
        quantised_product(x, weight, y, given, epilogue, schedule)
        wait.synchronise()
        return perf_counter() - start

    try:
        run()  # compiles, and loads
        return Candidate(tiles._asdict(), seconds=float(np.median([run() for _ in range(REPEATS)])))
    except TilecError as error:
        return Candidate(tiles._asdict(), refused=str(error))
