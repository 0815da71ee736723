"""Turns: one thread waits at a lock in global memory, and passes it on when the block is done.

The wait is an acquire, and a barrier after it shows the others what it has seen; before the release a barrier
gathers what they have written.
    $again: ld.acquire.gpu.global.b32 r, [lock];  if (r != part) goto $again;  bar.sync 0
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilec.ir.func import Value
from tilec.ir.inst.turn import PassTurn, TakeTurn

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter


def take(e: Emitter, inst: TakeTurn) -> None:
    lock = _address(e, inst.locks, inst.key)
    again, seen, after = (e.writer.label(name) for name in ("again", "seen", "turn"))
    e.writer.branch(_first(e), again, after)
    e.start_block(again)
    text = "ld.acquire.gpu.global.b32 $0, [$1];"
    found = e.let(f'call i32 asm sideeffect "{text}", "=r,l,~{{memory}}"(ptr addrspace(1) {lock})')
    e.writer.branch(e.let(f"icmp eq i32 {found}, {e.scalar(inst.part)}"), seen, again)
    e.start_block(seen)
    e.writer.jump(after)
    e.start_block(after)
    e.barrier()


def pass_on(e: Emitter, inst: PassTurn) -> None:
    lock = _address(e, inst.locks, inst.key)
    give, after = e.writer.label("give"), e.writer.label("passed")
    e.barrier()
    e.writer.branch(_first(e), give, after)
    e.start_block(give)
    text = "st.release.gpu.global.b32 [$0], $1;"
    given = f"ptr addrspace(1) {lock}, i32 {e.scalar(inst.following)}"
    e.line(f'call void asm sideeffect "{text}", "l,r,~{{memory}}"({given})')
    e.writer.jump(after)
    e.start_block(after)


def _first(e: Emitter) -> str:
    return e.let(f"icmp eq i32 {e.tid}, 0")


def _address(e: Emitter, locks: Value, key: Value) -> str:
    ref = e.array(locks)
    wide = e.let(f"sext i32 {e.scalar(key)} to i64")
    scaled = e.let(f"mul i64 {e.let(f'mul i64 {wide}, {ref.strides[0]}')}, 4")
    return e.let(f"getelementptr i8, ptr addrspace(1) {ref.base}, i64 {scaled}")
