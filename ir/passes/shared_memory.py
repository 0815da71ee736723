"""Where each buffer lies in shared memory: buffers that are never in use at once share bytes.

A buffer lives from its first to its last use; one that is made outside a loop and used inside lives through
the loop. First fit, largest first: deterministic, and near the optimum on the few buffers that a kernel has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tilec.ir.func import Block, Func, Inst, root
from tilec.ir.inst.bulk import GATE_BYTES, Gates
from tilec.ir.inst.control import For, While
from tilec.ir.inst.memory import Alloc, Copy
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.target import Target

ALIGN = 128


@dataclass
class _Life:
    first: int
    last: int


def plan_shared_memory(func: Func, target: Target) -> Func:
    """Gives every allocation its offset."""
    lives = _lives(func)
    offsets: dict[Inst, int] = {}
    for buffer in sorted(lives, key=lambda b: (-b.nbytes, lives[b].first)):
        taken = sorted((offsets[o], offsets[o] + o.nbytes) for o in lives
                       if o in offsets and _overlap(lives[o], lives[buffer]))  # fmt: skip
        offsets[buffer] = _first_fit(taken, buffer.nbytes, _alignment(buffer))

    end = -(-max((offsets[b] + b.nbytes for b in lives), default=0) // GATE_BYTES) * GATE_BYTES
    for gates in (inst for inst in func.walk() if isinstance(inst, Gates)):  # nobody else's, ever
        offsets[gates], end = end, end + gates.nbytes

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        return replace(inst, offset=offsets[emit.old]) if isinstance(inst, Alloc | Gates) else None

    return rebuild(func, visit)


def _alignment(buffer: Alloc) -> int:
    swizzle = buffer.layout.swizzle if buffer.layout else None
    return max(ALIGN, swizzle.period if swizzle else 1)


def _overlap(a: _Life, b: _Life) -> bool:
    return a.first <= b.last and b.first <= a.last


def _first_fit(taken: list[tuple[int, int]], size: int, align: int) -> int:
    at = 0
    for start, end in taken:
        if at + size <= start:
            break
        at = max(at, -(-end // align) * align)
    return at


def _lives(func: Func) -> dict[Alloc, _Life]:
    lives: dict[Alloc, _Life] = {}
    _walk(func.body, 0, lives, {})
    return lives


def _walk(block: Block, clock: int, lives: dict[Alloc, _Life], made: dict[Alloc, int]) -> int:
    """Counts instructions from `clock`; notes when each buffer is used. `made`: when it was allocated."""
    for inst in block.body:
        clock += 1
        if isinstance(inst, Alloc):
            lives[inst], made[inst] = _Life(clock, clock), clock
        for value in inst.operands:
            buffer = root(value.buffer if isinstance(value, Copy) else value)  # a wait ends a copy's work
            if isinstance(buffer, Alloc):
                lives[buffer].last = max(lives[buffer].last, clock)
        start = clock
        for inner in inst.blocks:
            clock = _walk(inner, clock, lives, made)
        if isinstance(inst, For | While):
            _through(lives, made, start, clock)
    return clock


def _through(lives: dict[Alloc, _Life], made: dict[Alloc, int], start: int, end: int) -> None:
    """Buffers from outside a loop that are used inside live until it ends: the next round may read them."""
    for buffer, life in lives.items():
        if made[buffer] <= start < life.last:
            life.last = max(life.last, end)
