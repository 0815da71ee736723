"""Which tiles a linear layer with quantised weights is cut into on a GPU: those that the model finds fastest.

    chosen(Problem(m=16, n=4096, k=4096, bits=4, group=128), rates("H200"))
        Tiles(bm=16, bn=128, bk=128, warps=4, stages=4, split=4)
Weights are packed for their fragment (bk, bn, warps), so that one fragment serves every m of a weight: the
one that over MS, small ms as many as large ones, is least behind the best for each. All candidates are priced
at once, as numpy's arrays.
"""

import json
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from tilec import cache
from tilec.cost import Number, times
from tilec.device import device
from tilec.ir.boards import BOARDS, Rates, rates
from tilec.ir.errors import TilecError
from tilec.ir.target import Target, parse_target, target
from tilec.ops.linear_cost import Problem, Tiles, registers, shared_bytes, sums, work
from tilec.places import current_target

FEW_ROWS = 4  # of x, whose weights threads read past shared memory
MS = (16, 32, 128, 512, 4096)
STEPS = (128, 64, 32, 16)
LEAST = 4  # steps of a block that shares a tile: fewer do not fill a pipeline
RUN = 32  # weights that a thread takes from a step at least, so that their bits can be placed
SPILL_FREE = 248  # registers that a kernel is given at most, by the model's count
FINISHED = 64  # sums of a thread that an epilogue takes without spills
SYNC = 0.62  # of the peak, that mma.sync reaches on GPUs whose peak is that of other instructions


class Priced(NamedTuple):
    """Candidates and their `seconds` [.., candidates], infinite where one does not fit."""

    tiles: Tiles
    seconds: Number

    def at(self, i: int) -> Tiles:
        return Tiles(*(int(x[i]) for x in self.tiles))


@lru_cache
def candidates(machine: Target, group: int) -> Tiles:
    """Arrays of all combinations that kernels are made for, smaller ones first."""
    grouped = machine.has("wgmma")
    rows = (16, 32, 64, 128) if grouped else (16, 32, 64)
    every = product(rows, (64, 128, 256), steps(group), (4, 8), (3, 4, 6), (1, 2, 4, 8))
    whole = (t for t in map(Tiles._make, every) if t.bn % (16 * t.warps if grouped else 8 * t.warps) == 0)
    return Tiles(*np.array([t for t in whole if t.bk * t.bn >= RUN * 32 * t.warps]).T)


def steps(group: int) -> tuple[int, ...]:
    """Steps along k of which a group is made; 32 where none is."""
    if not group:
        return STEPS[1::-1]
    return tuple(sorted(bk for bk in STEPS if group % bk == 0)[-2:]) or (32,)


def refusals(tiles: Tiles, p: Problem, machine: Target) -> dict[str, Number]:
    """Why tiles do not fit, and which: no more shared memory and registers than there are, some of them to
    finish sums with."""
    room, steps = machine.shared_bytes_per_block, -(-p.k // tiles.bk)
    empty = -(-steps // -(-steps // tiles.split)) < tiles.split  # the last of its parts
    return {
        f"want more than {room >> 10} KiB of shared memory": shared_bytes(p, tiles) > room,
        f"want more than {SPILL_FREE} registers": registers(p, tiles, machine) > SPILL_FREE,
        f"have more than {FINISHED} sums to finish": (sums(tiles) > FINISHED) & p.finished,
        f"leave a block under {LEAST} steps": (tiles.split > 1) & ((steps < LEAST * tiles.split) | empty),
    }


def priced(p: Problem, board: Rates, tiles: Tiles) -> Priced:
    """What the model says of these tiles, for one m or an array [ms, 1] of them."""
    machine = target(board.target)
    done = work(p, tiles, machine)
    held = done._replace(resident=np.maximum(done.resident, 1))  # those that do not fit are refused
    seconds = times(held, board, peak(board, machine)).seconds
    refused = np.logical_or.reduce(list(refusals(tiles, p, machine).values()))
    return Priced(tiles, np.where(refused, np.inf, seconds))


def peak(board: Rates, machine: Target) -> float:
    """TFLOP/s that the target's matrix instructions can reach."""
    stated = board.tensor_tflops("f16") or board.f32
    return stated * SYNC if machine.sm in (90, 100) and not machine.has("wgmma") else stated


@lru_cache(4096)
def chosen(p: Problem, board: Rates, shared: bool = True) -> Tiles:
    """The tiles that were fastest when they were measured, else the model's best, with the fragment that
    serves every m; `shared`: blocks may share a tile.
    """
    machine, key = target(board.target), fragment(p.n, p.k, p.bits, p.group, board)
    fastest = measured(board.board).get(rounded(p)) if shared else None
    if fastest and fragment_of(fastest) == key and not any(refusals(fastest, p, machine).values()):
        return fastest
    every = of_fragment(p, board)
    found = priced(rounded(p)._replace(finished=p.finished), board, every)
    one = np.where(shared | (every.split == 1), found.seconds, np.inf)
    return found.at(int(np.argmin(one)))


def rounded(p: Problem) -> Problem:
    """The problem that stands for p, so that kernels are few: m counts as FEW_ROWS, or as the next power of
    two from MS[0] to MS[-1].
    """
    power = 1 << (min(max(p.m, MS[0]), MS[-1]) - 1).bit_length()
    return p._replace(m=FEW_ROWS if p.m <= FEW_ROWS else power, finished=False)


def of_fragment(p: Problem, board: Rates) -> Tiles:
    """The candidates with the fragment that serves every m."""
    machine = target(board.target)
    where = fragments(machine, p.group)[fragment(p.n, p.k, p.bits, p.group, board)]
    return Tiles(*(x[where] for x in candidates(machine, p.group)))


@lru_cache
def measured(board: str) -> dict[Problem, Tiles]:
    """What was measured on a board and kept, by the problem that stands for others; read once."""
    held = cache.fetch(_entry(board))
    rows = json.loads(held["tiles"]) if held else []
    return {Problem(*p): Tiles(*tiles) for p, tiles in rows}


def keep_measured(p: Problem, board: str, tiles: Tiles) -> None:
    """The fastest tiles for p, from now on."""
    measured.cache_clear()  # another process may have kept some
    found = measured(board)
    found[rounded(p)] = tiles
    cache.keep(_entry(board), {"tiles": json.dumps(list(found.items())).encode()})
    chosen.cache_clear()


def _entry(board: str) -> str:
    return cache.key("tiles of linear", board)


@lru_cache(1024)
def fragment(n: int, k: int, bits: int, group: int, board: Rates) -> tuple[int, int, int]:
    """(bk, bn, warps) of the bytes that serve a weight at every m."""
    every = candidates(target(board.target), group)
    ms = np.array(MS)[:, None]
    found = priced(Problem(ms, n, k, bits, group), board, every).seconds
    keys = fragments(target(board.target), group)
    best = np.stack([found[:, where].min(1) for where in keys.values()])
    behind = np.log(best / best.min(0)).mean(1)
    return list(keys)[int(np.argmin(behind))]


@lru_cache
def fragments(machine: Target, group: int) -> dict[tuple[int, int, int], Number]:
    """(bk, bn, warps) of all candidates, and the places of those that have them."""
    every = candidates(machine, group)
    keys = list(zip(*(x.tolist() for x in fragment_of(every)), strict=True))
    return {key: np.array([i for i, other in enumerate(keys) if other == key]) for key in dict.fromkeys(keys)}


def fragment_of(tiles: Tiles) -> tuple[Number, Number, Number]:
    return tiles.bk, tiles.bn, tiles.warps


def board_of(name: str | None) -> Rates:
    """The board of this name, that which a target stands for, or a GPU that is there; None: of the current
    target, and a CPU's is an H100."""
    text = current_target() if name is None else name
    if not isinstance(text, str):
        raise TilecError(f"device names a board, a target or cuda:0, found {text!r}")
    try:
        place = parse_target(text)
    except TilecError:
        return rates(text)
    if place.target is None:
        found: Rates = device(place.device).rates
        return found
    machine = place.target
    return _made_for(machine.rates, machine.name) if machine.rates else BOARDS["H100"]


@lru_cache
def _made_for(board: Rates, name: str) -> Rates:
    """The board with code for a target that is not its own, sm_90 on an H100."""
    return replace(board, target=name)
