"""Which tiles a dense product is cut into on a GPU: those that the model finds fastest.

    chosen(Product(m=4096, n=4096, k=4096), rates("H100"))      Tiles(bm=128, bn=256, bk=64, ..., producer=1)
Both operands come through shared memory, in 16 bits. What blocks do is counted as the compiler writes it
(a test holds the counts against machine code), and priced by tilec/cost.py.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from tilec.cost import Number, Work, either, resident, times
from tilec.ir.boards import Rates
from tilec.ir.target import Target, target
from tilec.ops.linear_choice import FINISHED, MOVED, MS, SPILL_FREE, TIE, all_of, peak, where
from tilec.ops.linear_cost import GROUP, LAUNCHED, REGISTERS, Problem, Tiles, sums

BYTES = 2  # of an element
ATOM = 2048  # products of one instruction of a warp
ROWS = 64  # of the left operand, that four warps multiply together
ROUND, STEP, COPIES = {False: 35, True: 54}, 4, 23  # of a round besides, by warps that multiply together


class Product(NamedTuple):
    """a [m, k] @ b [k, n]; of a batch, `m` counts the rows of all. `finished`: an epilogue follows."""

    m: int
    n: int
    k: int
    finished: bool = False


@lru_cache
def candidates(board: Rates) -> Tiles:
    """Arrays of all combinations, plainer and smaller ones first."""
    plain = Tiles(*np.array(list(_shapes(board))).T)
    every = [plain, all_of(plain, producer=1)] if target(board.target).has("wgmma") else [plain]
    return Tiles(*map(np.concatenate, zip(*every, strict=True)))


def _shapes(board: Rates) -> Iterator[Tiles]:
    grouped = target(board.target).has("wgmma")
    for bm, bn, bk, warps, stages in product((16, 32, 64, 128), (64, 128, 256), (32, 64), (4, 8), (3, 4)):
        together = max(bm, bn) >= ROWS * warps // GROUP
        if together if grouped else bn >= 16 * _grid(bm, warps)[1]:
            yield Tiles(bm, bn, bk, warps, stages)


def _grid(bm: Number, warps: Number) -> tuple[Number, Number]:
    """How many warps share the rows and the columns of a tile, each on its own."""
    rows = either(bm > 16, 2, 1)
    return rows, warps // rows


@lru_cache(4096)
def chosen(p: Product, board: Rates) -> Tiles:
    """Of the fastest those tiles whose warps have least to do; m counts as the next power of two, so that
    kernels are few."""
    p = p._replace(m=1 << (min(max(p.m, 16), MS[-1]) - 1).bit_length())
    every, machine = candidates(board), target(board.target)
    done = work(p, every, machine)
    fits = (done.resident > 0) & (registers(every, machine) <= either(_moved(every), MOVED, SPILL_FREE))
    if p.finished:
        fits = fits & (sums(every) <= FINISHED)
    held = done._replace(resident=np.maximum(done.resident, 1))
    found = times(held, board, peak(Problem(p.m, p.n, p.k, 16, 0), board, every))
    seconds = np.where(fits, found.seconds, np.inf)
    busy = np.where(seconds <= TIE * seconds.min(), found.issue, np.inf)
    return Tiles(*(int(x) for x in where(every, int(np.argmin(busy)))))


def work(p: Product, t: Tiles, machine: Target) -> Work:
    """What a launch does."""
    columns, steps = -(-p.n // t.bn), -(-p.k // t.bk)
    tiles, (a, b) = -(-p.m // t.bm) * columns, _stage(t)
    read_a, read_b = _readers(t, machine)
    given = either(_moved(t), LAUNCHED, registers(t, machine))
    return Work(
        blocks=tiles,
        warps=t.warps,
        steps=steps,
        resident=resident(machine, t.warps + GROUP * t.producer, shared_bytes(t), given),
        memory=BYTES * (p.n * p.k + p.m * p.k + p.m * p.n),
        l2=tiles * (steps * (a + b) + BYTES * t.bm * t.bn),
        shared=a * (1 + read_a) + b * (1 + read_b),
        products=2 * t.bm * t.bn * t.bk,
        instructions=instructions(t, machine),
        integers=0,
        stages=t.stages,
    )


def instructions(t: Tiles, machine: Target) -> Number:
    """Of one warp in one round."""
    if machine.has("wgmma"):
        groups = t.warps / GROUP
        products = either(t.bm < ROWS * groups, t.bn, t.bm) / ROWS / groups * t.bk / 16
        return 1.5 * products + STEP * t.bk / 16 + ROUND[True] - COPIES * t.producer
    rows, columns = _grid(t.bm, t.warps)
    loaded = (t.bm / rows + t.bn / columns) * t.bk * BYTES / 512
    copied = sum(_stage(t)) / (512 * t.warps)
    return t.bm * t.bn * t.bk / (ATOM * t.warps) + loaded + copied + ROUND[False]


def registers(t: Tiles, machine: Target) -> Number:
    """Of a thread, in the loop: sums, fragments, addresses."""
    grouped = machine.has("wgmma")
    rows, columns = _grid(t.bm, t.warps)
    return sums(t) + (0 if grouped else (t.bm / rows + t.bn / columns) / 4) + REGISTERS[grouped]


def shared_bytes(t: Tiles) -> Number:
    """Of a block: both operands of every stage."""
    return t.stages * sum(_stage(t))


def _readers(t: Tiles, machine: Target) -> tuple[Number, Number]:
    """How often each operand is read from shared memory."""
    if not machine.has("wgmma"):
        return _grid(t.bm, t.warps)[::-1]
    groups = t.warps / GROUP  # they share the rows of a, or the columns of b where a has fewer
    return either(t.bm < ROWS * groups, groups, 1), either(t.bm < ROWS * groups, 1, groups)


def _moved(t: Tiles) -> Number:
    """Do registers move from a producer to the others?"""
    return (t.producer > 0) & (t.warps > GROUP)


def _stage(t: Tiles) -> tuple[Number, Number]:
    """Bytes of both operands in a round."""
    return BYTES * t.bm * t.bk, BYTES * t.bk * t.bn
