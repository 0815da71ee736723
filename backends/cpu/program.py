"""The text of the native function: it takes blocks of the grid from counters until none is left.

print(function_text(lower(func)))
"""

from __future__ import annotations

from functools import cache

from tilec.backends import llvm
from tilec.backends.cpu import effects
from tilec.backends.cpu.arrays import parameters
from tilec.backends.cpu.loops import Index, add, loop, mul, smaller, step_pointer, test
from tilec.backends.cpu.lower import Lowering
from tilec.backends.writer import Writer
from tilec.ir.func import Func
from tilec.ir.inst.turn import TakeTurn

NAME = "blocks"


def lower(func: Func) -> Lowering:
    """The text of a function that takes blocks of a launch until none is left. The grid has a part for each
    thread, where it begins: so memory that neighbours share stays in its caches, from launch to launch.
    Blocks with turns are taken in order.
    """
    w = Writer(_arch(), 1, _features())
    lo = Lowering(func, w, llvm.host().vector_bytes)
    parameters(lo)
    in_order = any(isinstance(inst, TakeTurn) for inst in func.body.walk())
    parts = "1" if in_order else _state(lo, effects.PARTS)
    seat = w.let(f"atomicrmw add ptr {effects.word(lo, effects.SEATS)}, i64 1 seq_cst")
    with loop(w, 0, parts) as run:
        _part(lo, w.let(f"urem i64 {add(w, seat, run.index)}, {parts}"), parts)
    w.jump("exit")
    w.start("exit")
    w.line("ret void")
    return lo


def _part(lo: Lowering, part: str, parts: str) -> None:
    """Takes blocks of one part, some at a time, until it has no more."""
    w = lo.w
    chunk, total = (_state(lo, which) for which in (effects.CHUNK, effects.TOTAL))
    begin, end = (w.let(f"udiv i64 {mul(w, total, add(w, part, i))}, {parts}") for i in (0, 1))
    taken = step_pointer(w, effects.word(lo, effects.TAKEN), "i64", part)
    take, run, done = w.label("take"), w.label("run"), w.label("done")
    w.jump(take)
    w.start(take)
    first = add(w, begin, w.let(f"atomicrmw add ptr {taken}, i64 {chunk} seq_cst"))
    w.branch(test(w, "slt", first, end), run, done)
    w.start(run)
    _blocks(lo, first, smaller(w, add(w, first, chunk), end))
    w.jump(take)
    w.start(done)


def _blocks(lo: Lowering, first: Index, last: Index) -> None:
    with loop(lo.w, first, last) as run:
        lo.block = str(run.index)
        lo.enter(lo.func.body)
        lo.body(lo.func.body)
        lo.leave(lo.func.body)


def _state(lo: Lowering, which: int) -> str:
    return lo.w.let(f"load i64, ptr {effects.word(lo, which)}")


def function_text(lo: Lowering) -> str:
    """The whole module."""
    bits = lo.vector_bytes * 8
    params = ", ".join(f"ptr noalias %{name}" for name in ("slots", "state", "scratch", "tables"))
    head = f"define void @{NAME}({params}) #0 {{"
    wide = f'attributes #0 = {{ nounwind "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}" }}'
    return "\n".join([head, "entry:", *lo.w.lines, "}", *lo.w.declarations.values(), wide, ""])


@cache
def _arch() -> str:
    return "aarch64" if llvm.host().has_neon else "x86"


@cache
def _features() -> frozenset[str]:
    return frozenset(name[1:] for name in llvm.host().features.split(",") if name.startswith("+"))
