"""Turns: the thread that runs a block spins at a lock in memory until earlier blocks have passed it on."""

from __future__ import annotations

from tilec.backends.cpu.effects import FAILED, FAILED_BLOCK, word
from tilec.backends.cpu.loops import mul, step_pointer
from tilec.backends.cpu.lower import Lowering, Report
from tilec.ir.func import Value
from tilec.ir.inst.turn import PassTurn, TakeTurn

PATIENCE = 1 << 28  # looks at the lock: some seconds; no block that can be waited for takes so long
MESSAGE = (
    "the turn that this block waits for never came: turns go to earlier blocks first, and locks start at 0"
)


def take(lo: Lowering, inst: TakeTurn) -> None:
    """Gives up where another thread has failed, and after a long time."""
    lo.before_anything()
    lo.reports.append(Report(MESSAGE, inst.loc))
    w, lock, part = lo.w, _address(lo, inst.locks, inst.key), lo.index(inst.part)
    came, again, look, late = (w.label(name) for name in ("turn", "again", "look", "late"))
    before = w.current
    w.jump(again)
    w.start(again)
    count = w.name()
    following = w.name()
    w.line(f"{count} = phi i64 [ 0, %{before} ], [ {following}, %{look} ]")
    found = w.let(f"load atomic i32, ptr {lock} acquire, align 4")
    w.branch(w.let(f"icmp eq i64 {w.let(f'sext i32 {found} to i64')}, {part}"), came, look)
    w.start(look)
    w.line(f"{following} = add i64 {count}, 1")
    failed = w.let(f"load atomic i64, ptr {word(lo, FAILED)} monotonic, align 8")
    patient = w.let(f"icmp ult i64 {following}, {PATIENCE}")
    go_on = w.let(f"and i1 {patient}, {w.let(f'icmp eq i64 {failed}, 0')}")
    w.branch(go_on, again, late)
    w.start(late)
    end = w.label("end")
    w.branch(patient, "exit", end)
    w.start(end)
    w.line(f"store i64 {lo.block}, ptr {word(lo, FAILED_BLOCK)}")
    w.line(f"store i64 {len(lo.reports)}, ptr {word(lo, FAILED)}")
    w.jump("exit")
    w.start(came)
    lo.used(inst)


def pass_on(lo: Lowering, inst: PassTurn) -> None:
    lo.before_anything()
    lock, value = _address(lo, inst.locks, inst.key), lo.index(inst.following)
    narrow = value if isinstance(value, int) else lo.w.let(f"trunc i64 {value} to i32")
    lo.w.line(f"store atomic i32 {narrow}, ptr {lock} release, align 4")
    lo.used(inst)


def _address(lo: Lowering, locks: Value, key: Value) -> str:
    place = lo.array(locks)
    return step_pointer(lo.w, place.base, "i32", mul(lo.w, lo.index(key), place.strides[0]))
