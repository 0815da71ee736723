"""Two programs in one kernel: warps branch by their number, once, and registers move to those that need them.

    warp >= 8:   setmaxnreg.dec 40;  the producer's program, by the first of its warps
    else:        setmaxnreg.inc 232; the consumer's, with barriers over its own threads
What a program needs of each thread's number is computed at its own beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tilec.backends.ptx.wgmma import uniform
from tilec.ir.func import PRODUCER_WARPS, Block, Func
from tilec.ir.inst.control import Roles
from tilec.ir.target import Target

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

GROUP = 4  # warps among which registers are moved
UNIT, LEAST, MOST = 8, 24, 240  # registers of a thread, in which they move
PRODUCER = 40  # what a producer does with
WriteBlock = Callable[["Emitter", Block], list[Any]]


def moved_registers(func: Func, target: Target) -> tuple[int, int] | None:
    """Registers of a thread of the producer and of a consumer; None where they stay where they are."""
    if not target.has("setmaxnreg") or func.warps % GROUP:
        return None
    threads = func.all_warps * target.warp_size * func.schedule.get("blocks_per_sm", 1)
    even = min(func.schedule.get("max_registers", MOST), target.registers_per_sm // threads) // UNIT * UNIT
    saved = (even - min(PRODUCER, even)) * PRODUCER_WARPS
    consumer = min(MOST, (even + saved // func.warps) // UNIT * UNIT)
    return (PRODUCER, consumer) if consumer > even > PRODUCER else None


def write(e: Emitter, inst: Roles, write_block: WriteBlock) -> None:
    """Both programs, and where they meet again: at the kernel's end."""
    producer, consumer, after = (e.writer.label(name) for name in ("producer", "consumer", "after"))
    warp = uniform(e, e.let(f"lshr i32 {e.tid}, 5"))
    moved = moved_registers(e.func, e.target)
    e.writer.branch(e.let(f"icmp uge i32 {warp}, {e.func.warps}"), producer, consumer)
    with _role(e, "producer", producer):
        _registers(e, "dec", moved[0] if moved else None)
        first = e.writer.label("first")
        e.writer.branch(e.let(f"icmp eq i32 {warp}, {e.func.warps}"), first, after)
        e.start_block(first)
        write_block(e, inst.producer)
        e.writer.jump(after)
    with _role(e, "consumer", consumer):
        _registers(e, "inc", moved[1] if moved else None)
        write_block(e, inst.consumer)
        e.writer.jump(after)
    e.start_block(after)


def _registers(e: Emitter, how: str, count: int | None) -> None:
    if count is not None:
        e.line(f'call void asm sideeffect "setmaxnreg.{how}.sync.aligned.u32 {count};", ""() #2')


@contextmanager
def _role(e: Emitter, role: str, block: str) -> Iterator[None]:
    """What is written inside stands in this block and is for warps of this role, as is its entry."""
    e.start_block(block)
    at, outer = len(e.writer.lines), (e.entry, e.once, e.role)
    e.entry, e.once, e.role = [], dict(e.once), role
    yield
    e.writer.lines[at:at] = e.entry
    e.entry, e.once, e.role = outer
