"""The text of the native function: it takes blocks of the grid from a counter until none is left.

print(function_text(lower(func)))
"""

from __future__ import annotations

from functools import cache

from tilec.backends import llvm
from tilec.backends.cpu import effects
from tilec.backends.cpu.arrays import parameters
from tilec.backends.cpu.loops import loop
from tilec.backends.cpu.lower import Lowering
from tilec.backends.writer import Writer
from tilec.ir.func import Func

NAME = "blocks"


def lower(func: Func) -> Lowering:
    """The text of a function that takes blocks from the launch's counter until none is left."""
    w = Writer(_arch(), 1, _features())
    lo = Lowering(func, w, llvm.host().vector_bytes)
    parameters(lo)
    chunk, total = (_state(lo, which) for which in (effects.CHUNK, effects.TOTAL))
    w.jump("take")
    w.start("take")
    counter = effects.word(lo, effects.NEXT)
    first = w.let(f"atomicrmw add ptr {counter}, i64 {chunk} seq_cst")
    w.branch(w.let(f"icmp slt i64 {first}, {total}"), "run", "exit")
    w.start("run")
    last = w.let(f"add i64 {first}, {chunk}")
    _blocks(lo, first, w.let(f"select i1 {w.let(f'icmp slt i64 {last}, {total}')}, i64 {last}, i64 {total}"))
    w.jump("take")
    w.start("exit")
    w.line("ret void")
    return lo


def _blocks(lo: Lowering, first: str, last: str) -> None:
    with loop(lo.w, first, last) as run:
        lo.block = run.index
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
