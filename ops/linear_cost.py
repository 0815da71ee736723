"""What the blocks of a linear layer with quantised weights do on a GPU, counted: the model that tiles are
chosen by.

    work(Problem(m=16, n=4096, k=4096, bits=4, group=128), Tiles(bm=16, bn=128, bk=128), target("sm_80"))
Instructions are counted as the compiler writes them: a test holds the counts, registers and shared memory
against machine code. Everything computes with numbers, arrays and symbols alike (tilec/cost.py).
"""

from typing import NamedTuple

from tilec.cost import Number, Work, resident
from tilec.ir.target import Target

INTEGERS = (0.53, 0.56, 0.66, 0.63, 0.78, 0.94, 1.09, 0.5)  # for a weight of 1 to 8 bits into f16
FLOATS = 0.5  # its zero's subtraction and its power of two, on pairs
ROUND, STEP = 40, 6  # of a round besides; of 16 of its k, where four warps multiply together
REGISTERS = {False: 40, True: 26}  # besides sums and weights; where four warps multiply together
BYTES = 2  # of an element of x, of y, of a scale


class Problem(NamedTuple):
    """x [m, k] times weights [n, k] of `bits` bits, in groups of `group` (0: the whole row); `finished`: an
    epilogue follows.
    """

    m: Number
    n: Number
    k: Number
    bits: int
    group: int
    finished: bool = False


class Tiles(NamedTuple):
    """A block's tile (bm, bn) of y, and its steps along k; `split` blocks share its sums."""

    bm: Number
    bn: Number
    bk: Number
    warps: Number = 4
    stages: Number = 3
    split: Number = 1


def work(p: Problem, t: Tiles, machine: Target) -> Work:
    """What a launch does; tiles that do not fit have no resident blocks."""
    columns, steps = -(-p.n // t.bn), -(-p.k // t.bk)
    tiles = -(-p.m // t.bm) * columns
    x, codes = _stage(p, t)
    groups = -(-p.k // p.group) if p.group else 1
    partial = t.bm * t.bn * 4 * (t.split - 1) * 2  # bytes of sums, written and read
    weights = steps * codes + BYTES * t.bn * groups
    grouped = machine.has("wgmma")
    readers = t.bn // 64 if grouped else t.warps  # each reads all of x
    return Work(
        blocks=tiles * t.split,
        warps=t.warps,
        steps=-(-steps // t.split),
        resident=resident(machine, t.warps, shared_bytes(p, t), registers(p, t, machine)),
        memory=p.n * p.k * p.bits / 8 + BYTES * (p.n * groups + p.m * p.k + p.m * p.n),
        l2=BYTES * columns * p.m * p.k + tiles * (weights + BYTES * t.bn * t.bm + partial),
        shared=x * (1 + readers) + 2 * codes,
        products=2 * t.bm * t.bn * t.bk,
        instructions=instructions(p, t, machine),
        integers=_weights(t) * INTEGERS[min(p.bits, 8) - 1],
        stages=t.stages,
        turns=t.split - 1,
    )


def instructions(p: Problem, t: Tiles, machine: Target) -> Number:
    """Of one warp in one round."""
    x, codes = _stage(p, t)
    unpacked = _weights(t) * (INTEGERS[min(p.bits, 8) - 1] + FLOATS)
    moved = (x + codes) / (512 * t.warps) + codes / (512 * t.warps)  # copies, and codes to registers
    ends = t.bk / p.group if p.group else 0  # of groups, in a round
    scaled = ends * (1.2 * sums(t) + 16) + 10 if p.group else 0
    if machine.has("wgmma"):
        products = (t.bn / 64) * (t.bk / 16) / (t.warps / 4)
        return unpacked + moved + scaled + products + ROUND + STEP * t.bk / 16
    products = t.bm * t.bn * t.bk / (2048 * t.warps)
    return unpacked + moved + scaled + products + t.bm * t.bk / 256 + ROUND


def registers(p: Problem, t: Tiles, machine: Target) -> Number:
    """Of a thread, in the loop: the sums, once more for a group's, weights on their way, addresses."""
    grouped = machine.has("wgmma")
    kept = sums(t) * (2 if p.group else 1)
    held = _weights(t) / 2 if grouped else t.bm / 4
    return kept + held + REGISTERS[grouped]


def shared_bytes(p: Problem, t: Tiles) -> Number:
    """Of a block: x and codes of every stage."""
    return t.stages * sum(_stage(p, t))


def _stage(p: Problem, t: Tiles) -> tuple[Number, Number]:
    """Bytes of x and of codes that a round takes."""
    return BYTES * t.bm * t.bk, t.bn * t.bk * p.bits / 8


def _weights(t: Tiles) -> Number:
    """Of a thread."""
    return t.bk * t.bn / (32 * t.warps)


def sums(t: Tiles) -> Number:
    """Of a thread."""
    return t.bm * t.bn / (32 * t.warps)
