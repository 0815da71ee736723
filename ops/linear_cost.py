"""What the blocks of a linear layer with quantised weights do on a GPU, counted: the model that tiles are
chosen by.

    work(Problem(m=16, n=4096, k=4096, bits=4, group=128), Tiles(bm=16, bn=128, bk=128), target("sm_80"))
Instructions are counted as the compiler writes them: a test holds the counts, registers and shared memory
against machine code. Everything computes with numbers, arrays and symbols alike (tilec/cost.py).
"""

from typing import NamedTuple

from tilec.cost import Number, Work, either, largest, resident, smallest
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.target import Target

INTEGERS = {  # instructions of integers for a weight of 1 to 8 bits
    "f16": (0.53, 0.56, 0.66, 0.63, 0.78, 0.94, 1.09, 0.5),
    "i8": (0.16, 0.23, 0.34, 0.22, 0.45, 0.45, 0.56, 0.19),
    "f8e4m3": (0.2, 0.96, 1.07, 0.95, 1.19, 0.43, 0.5, 0.0),
    "f32": (1.5,) * 8,
}
FLOATS = {"f16": 0.5, "f32": 2.0}  # its zero's subtraction and its power of two, of 16 bits on pairs
ROUND, STEP = 40, 6  # of a round besides; of a product along its k, where four warps multiply together
COPIES = 36  # of these, which a producer does instead
REGISTERS = {False: 40, True: 26}  # besides sums and weights; where four warps multiply together
BYTES = 2  # of an element of y, of a scale
GROUP = 4  # warps that multiply together, and those of a producer
STREAM = 20  # more, where a block goes from tile to tile
LAUNCHED = 168  # registers of a thread that eight warps and a producer begin with: all that there are
UNDER_WAY = 128  # bytes of weights that a thread waits for, where no copy is ahead of it


class Problem(NamedTuple):
    """x [m, k] times weights [n, k] of `bits` bits, in groups of `group` (0: the whole row); `finished`: an
    epilogue follows; `operands`: what is multiplied, "f16" for bf16 as well.
    """

    m: Number
    n: Number
    k: Number
    bits: int
    group: int
    finished: bool = False
    operands: str = "f16"

    @property
    def size(self) -> int:
        """Bytes of an element of x."""
        return find_dtype(self.operands).bits // 8

    @property
    def depth(self) -> int:
        """k of one matrix product."""
        return 32 // self.size


class Tiles(NamedTuple):
    """A block's tile (bm, bn) of y, and its steps along k; `split` blocks share its sums, or so many `blocks`
    all tiles' steps. `producer`: warps of their own start the copies. `direct`: threads read what they
    multiply themselves. `rescaled`: a group's sums are added to those before it, in units of its scale.
    """

    bm: Number
    bn: Number
    bk: Number
    warps: Number = 4
    stages: Number = 3
    split: Number = 1
    blocks: Number = 0
    producer: Number = 0
    direct: Number = 0
    rescaled: Number = 0


def work(p: Problem, t: Tiles, machine: Target) -> Work:
    """What a launch does; tiles that do not fit have no resident blocks."""
    columns, steps = -(-p.n // t.bn), -(-p.k // t.bk)
    tiles = -(-p.m // t.bm) * columns
    streamed = t.blocks > 0
    blocks = either(streamed, t.blocks, tiles * t.split)
    rounds = -(-tiles * steps // blocks)
    x, codes = _stage(p, t)
    groups = -(-p.k // p.group) if p.group else 1
    lent = either(streamed, blocks, tiles * (t.split - 1))  # tiles of sums that blocks leave to others
    weights = steps * codes + BYTES * t.bn * groups
    readers = either(_grouped(p, t, machine), t.bn / 64, t.warps)  # each reads all of x
    again = either(streamed, rounds / steps * (1 - t.producer), 0)  # tiles that a block begins besides
    return Work(
        blocks=blocks,
        warps=t.warps,
        steps=rounds,
        resident=resident(machine, t.warps + GROUP * t.producer, shared_bytes(p, t), given(p, t, machine)),
        memory=p.n * p.k * p.bits / 8 + BYTES * (p.n * groups + p.m * p.n) + p.size * p.m * p.k,
        l2=p.size * columns * p.m * p.k + tiles * (weights + BYTES * t.bn * t.bm) + 8 * t.bm * t.bn * lent,
        shared=either(t.direct, 2 * x * readers, x * (1 + readers) + 2 * codes),
        products=2 * t.bm * t.bn * t.bk,
        instructions=instructions(p, t, machine),
        integers=_weights(t) * _integers(p),
        stages=either(t.direct, 1 + rounds_in_a_row(p, t), t.stages),
        turns=either(streamed, -(-steps // rounds), t.split - 1),
        fills=1 + again,
        asked=either(t.direct, 1 / rounds_in_a_row(p, t), 0),
    )


def instructions(p: Problem, t: Tiles, machine: Target) -> Number:
    """Of one warp in one round."""
    x, codes = _stage(p, t)
    grouped = _grouped(p, t, machine)
    unpacked = _weights(t) * (_integers(p) + FLOATS.get(p.operands, 0))
    ends = t.bk / p.group if p.group else 0  # of groups, in a round
    casts = sums(t) if p.operands == "i8" else 0
    at_ends = either(t.rescaled, sums(t) + 50, 1.2 * sums(t) + casts + 16)
    scaled = ends * at_ends + 10 if p.group else 0
    moved = (x + 2 * codes) / (512 * t.warps)  # copies, and codes to registers
    copied = moved + either(grouped, 0, t.bm * t.bk * p.size / 512) + ROUND - COPIES * t.producer
    read = t.bm * t.bk * p.size / 128 + codes / (512 * t.warps) + ROUND / rounds_in_a_row(p, t)
    return unpacked + scaled + products(p, t, grouped) + either(t.direct, read, copied)


def products(p: Problem, t: Tiles, grouped: Number) -> Number:
    """Instructions of one warp in one round that multiply, with what waits for them."""
    if p.operands == "f32":
        return 1.2 * t.bm * t.bn * t.bk / (32 * t.warps)  # and what reads their operands
    along = t.bk / p.depth
    alone = t.bm * t.bn * along / (16 * 8 * t.warps)
    return either(grouped, (t.bn / 64 / (t.warps / GROUP) + STEP) * along, alone)


def registers(p: Problem, t: Tiles, machine: Target) -> Number:
    """Of a thread, in the loop: the sums, once more for a group's, weights on their way, addresses."""
    twice = 2 - t.rescaled if p.group or p.operands == "i8" else 1
    kept = sums(t) * twice + either(t.blocks > 0, STREAM, 0)
    if p.operands == "f32":
        return kept + 4 * t.bk + REGISTERS[False]
    grouped = machine.has("wgmma")
    held = _weights(t) * p.size / 4 if grouped else t.bm * p.size / 8
    coming = _weights(t) * p.bits / 32 * rounds_in_a_row(p, t)
    return kept + either(t.direct, coming, held) + REGISTERS[grouped]


def shared_bytes(p: Problem, t: Tiles) -> Number:
    """Of a block: x and codes of every stage; what is multiplied as f32 once more as numbers."""
    numbers = 4 * t.bk * t.bn if p.operands == "f32" else 0
    return either(t.direct, 0, t.stages * sum(_stage(p, t)) + numbers)


def sums(t: Tiles) -> Number:
    """Of a thread."""
    return t.bm * t.bn / (32 * t.warps)


def given(p: Problem, t: Tiles, machine: Target) -> Number:
    """Registers that a thread begins with: a producer's go to the other warps where those are more than four.
    """
    return either((t.producer > 0) & (t.warps > GROUP), LAUNCHED, registers(p, t, machine))


def _grouped(p: Problem, t: Tiles, machine: Target) -> Number:
    """Do four warps multiply together?"""
    return either(t.direct, False, machine.has("wgmma") and p.operands != "f32")


def _integers(p: Problem) -> float:
    return INTEGERS[p.operands][min(p.bits, 8) - 1]


def _stage(p: Problem, t: Tiles) -> tuple[Number, Number]:
    """Bytes of x and of codes that a round takes."""
    return p.size * t.bm * t.bk, t.bn * t.bk * p.bits / 8


def _weights(t: Tiles) -> Number:
    """Of a thread."""
    return t.bk * t.bn / (32 * t.warps)


def rounds_in_a_row(p: Problem, t: Tiles) -> Number:
    """Rounds that are written out in a row where threads read weights themselves."""
    return smallest(4, largest(1, UNDER_WAY * 8 // (_weights(t) * p.bits)))
