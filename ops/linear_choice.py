"""Which tiles a linear layer with quantised weights is cut into on a GPU: those that the model finds fastest.

    chosen(Problem(m=16, n=4096, k=4096, bits=4, group=128), rates("H200"))
        Tiles(bm=16, bn=128, bk=128, warps=4, stages=4, split=4)
Weights are packed for their fragment (bk, bn, warps), so that one fragment serves every m of a weight: the
one that over MS, small ms as many as large ones, is least behind the best for each. All candidates are priced
at once, as numpy's arrays.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, reduce
from itertools import product
from typing import NamedTuple

import numpy as np

from tilec.backends import cache
from tilec.cost import Number, either, times
from tilec.device import device
from tilec.ir.boards import BOARDS, Rates, rates
from tilec.ir.errors import TilecError
from tilec.ir.target import Target, parse_target, target
from tilec.ops.linear_cost import Problem, Tiles, registers, shared_bytes, sums, work
from tilec.places import current_target

FEW_ROWS = 8  # of x: more are read in halves of sectors where threads read them past shared memory
MS = (4, 16, 64, 256, 1024, 4096)
STEPS = (128, 64, 32, 16)
LEAST = 4  # steps of a block that shares a tile: fewer do not fill a pipeline
LARGE = 128 * 128  # sums of a tile, of which there is hardly room for those of a group besides
RUN = 32  # weights that a thread takes from a step at least, so that their bits can be placed
WORD = 32  # bits that threads read at once
SPILL_FREE = 248  # registers that a kernel is given at most, by the model's count
MOVED = 224  # of those, where it has eight warps and a producer
FINISHED = 64  # sums of a thread that an epilogue takes without spills
TIE = 1.02  # times the least is as fast: the model knows no better
SYNC = 0.62  # of the peak, that mma.sync reaches on GPUs whose peak is that of other instructions


class Priced(NamedTuple):
    """Candidates and their `seconds` [.., candidates], infinite where one does not fit."""

    tiles: Tiles
    seconds: Number

    def at(self, i: int) -> Tiles:
        return Tiles(*(int(x[i]) for x in self.tiles))


@lru_cache
def candidates(board: Rates, group: int, operands: str = "f16") -> Tiles:
    """Arrays of all combinations that kernels are made for, plainer and smaller ones first."""
    machine, base = target(board.target), Tiles(*np.array(list(_shapes(board, group, operands))).T)
    plain = [all_of(base, split=split) for split in (1, 2, 4, 8)]
    every = [*plain, all_of(base, blocks=board.sms)]
    if machine.has("wgmma") and operands == "f16" and group:
        large = where(base, (base.bm * base.bn >= LARGE) & (group % base.bk == 0))
        every += [all_of(large, rescaled=1), all_of(large, rescaled=1, blocks=board.sms)]
    if machine.has("wgmma") and operands != "f32":
        every += [all_of(each, producer=1) for each in every]
    if operands == "f16":
        words = base.bk * base.bn % (WORD * 32 * base.warps) == 0
        few = where(base, words & (base.bm == base.bm.min()) & (base.stages == base.stages.min()))
        rows = 8 if machine.has("wgmma") else 16  # of x, that weights as a left operand meet, or as the right
        every[:0] = [all_of(few, bm=rows, stages=1, direct=1, split=split) for split in (1, 2, 4, 8)]
    return Tiles(*map(np.concatenate, zip(*every, strict=True)))


def all_of(tiles: Tiles, **columns: int) -> Tiles:
    """The same with some numbers in all of them."""
    return tiles._replace(**{name: np.full_like(tiles.bm, value) for name, value in columns.items()})


def where(tiles: Tiles, which: Number) -> Tiles:
    """Some of them."""
    return Tiles(*(x[which] for x in tiles))


def _shapes(board: Rates, group: int, operands: str) -> Iterator[Tiles]:
    """One block to a tile."""
    if operands == "f32":  # multiply-adds of threads: larger tiles are more than registers hold
        shapes = product((16, 32, 64), [bk for bk in (16, 32) if group % bk == 0] or [32])
        yield from (Tiles(bm, 64, bk) for bm, bk in shapes if bm * bk <= 1024)
        return
    grouped = target(board.target).has("wgmma")
    rows, along = (16, 32, 64, 128)[: 4 if grouped else 3], steps(group, 16 if operands == "f16" else 32)
    for bm, bn, bk, warps, stages in product(rows, (64, 128, 256), along, (4, 8), (3, 4, 6)):
        if bn % ((16 if grouped else 8) * warps) == 0 and bk * bn >= RUN * 32 * warps:
            yield Tiles(bm, bn, bk, warps, stages)


def steps(group: int, least: int = 16) -> tuple[int, ...]:
    """Steps along k of which a group is made; 32 where none is."""
    if not group:
        return STEPS[1::-1]
    return tuple(sorted(bk for bk in STEPS if group % bk == 0 and bk >= least)[-2:]) or (32,)


def refusals(tiles: Tiles, p: Problem, machine: Target) -> dict[str, Number]:
    """Why tiles do not fit, and which: no more shared memory and registers than there are, some of them to
    finish sums with."""
    room, steps = machine.shared_bytes_per_block, -(-p.k // tiles.bk)
    empty = -(-steps // -(-steps // tiles.split)) < tiles.split  # the last of its parts
    short = (tiles.split > 1) & ((steps < LEAST * tiles.split) | empty)
    rounds = -(-p.m // tiles.bm) * -(-p.n // tiles.bn) * steps
    given = either((tiles.producer > 0) & (tiles.warps > 4), MOVED, SPILL_FREE)
    return {
        f"want more than {room >> 10} KiB of shared memory": shared_bytes(p, tiles) > room,
        f"want more than {SPILL_FREE} registers": registers(p, tiles, machine) > given,
        f"have more than {FINISHED} sums to finish": (sums(tiles) > FINISHED) & p.finished,
        f"leave a block under {LEAST} steps": short | (rounds < LEAST * tiles.blocks),
        f"take no more than {FEW_ROWS} rows of x": (tiles.direct > 0) & (p.m > FEW_ROWS),
    }


def priced(p: Problem, board: Rates, tiles: Tiles) -> Priced:
    """What the model says of these tiles, for one m or an array [ms, 1] of them."""
    machine = target(board.target)
    done = work(p, tiles, machine)
    held = done._replace(resident=np.maximum(done.resident, 1))  # those that do not fit are refused
    seconds = times(held, board, peak(p, board, tiles)).seconds
    refused = reduce(np.logical_or, refusals(tiles, p, machine).values())
    return Priced(tiles, np.where(refused, np.inf, seconds))


def peak(p: Problem, board: Rates, tiles: Tiles) -> Number:
    """TFLOP/s that the instructions of these tiles can reach."""
    machine, most = target(board.target), stated(p, board)
    slow = most * SYNC if machine.sm in (90, 100) else most  # peaks are of instructions for four warps there
    return either(tiles.direct, slow, most if machine.has("wgmma") else slow)


def stated(p: Problem, board: Rates) -> float:
    """TFLOP/s of the board for these operands."""
    return (p.operands != "f32" and board.tensor_tflops(p.operands)) or board.f32


@lru_cache(4096)
def chosen(p: Problem, board: Rates, shared: bool = True, steady: bool = True) -> Tiles:
    """The tiles that were fastest when they were measured, else the model's best, with the fragment that
    serves every m; `shared`: blocks may share a tile; `steady`: scales are such that sums may be rescaled.
    """
    machine, key = target(board.target), fragment(p, board)
    fastest = measured(board.board).get(rounded(p)) if shared else None
    suits = fastest is not None and fragment_of(fastest) == key and (steady or not fastest.rescaled)
    if fastest and suits and not any(refusals(fastest, p, machine).values()):
        return fastest
    every = of_fragment(p, board)
    found = priced(rounded(p)._replace(finished=p.finished), board, every)
    alone = (every.split == 1) & (every.blocks == 0)
    seconds = np.where((shared | alone) & (steady | (every.rescaled == 0)), found.seconds, np.inf)
    return found.at(int(np.argmax(seconds <= TIE * seconds.min())))  # the plainest of those as fast


def rounded(p: Problem) -> Problem:
    """The problem that stands for p, so that kernels are few: m counts as the next power of two from MS[0] to
    MS[-1].
    """
    return p._replace(m=1 << (min(max(p.m, MS[0]), MS[-1]) - 1).bit_length(), finished=False)


def of_fragment(p: Problem, board: Rates) -> Tiles:
    """The candidates with the fragment that serves every m."""
    alike = fragments(board, p.group, p.operands)[fragment(p, board)]
    return where(candidates(board, p.group, p.operands), alike)


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


def fragment(p: Problem, board: Rates) -> tuple[int, int, int]:
    """(bk, bn, warps) of the bytes that serve a weight at every m."""
    return _fragment(p._replace(m=0, finished=False), board)


@lru_cache(1024)
def _fragment(p: Problem, board: Rates) -> tuple[int, int, int]:
    every = candidates(board, p.group, p.operands)
    found = priced(p._replace(m=np.array(MS)[:, None]), board, every).seconds
    keys = fragments(board, p.group, p.operands)
    best = np.stack([found[:, alike].min(1) for alike in keys.values()])
    behind = np.log(best / best.min(0)).mean(1)
    return list(keys)[int(np.argmin(behind))]


@lru_cache
def fragments(board: Rates, group: int, operands: str = "f16") -> dict[tuple[int, int, int], Number]:
    """(bk, bn, warps) of all candidates, and the places of those that have them."""
    keys = np.stack(fragment_of(candidates(board, group, operands)), axis=1)
    kinds, which = np.unique(keys, axis=0, return_inverse=True)
    rows = [(bk, bn, warps) for bk, bn, warps in kinds.tolist()]
    return {key: np.flatnonzero(which.reshape(-1) == i) for i, key in enumerate(rows)}


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
