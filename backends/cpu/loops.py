"""Loops, branches and index arithmetic in the text of one function.

    with loop(w, 0, 128, 16) as run:      # for (i = 0; i < 128; i += 16)
        ... run.index ...
An index is an int where it is known and the name of an i64 register where it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tilec.backends.writer import Writer

Index = int | str


@dataclass
class Loop:
    """`values` are carried registers: their values in this round, and after the loop the last ones."""

    index: Index
    values: list[str]
    next: list[str] = field(default_factory=list)


@contextmanager
def loop(
    w: Writer, start: Index, stop: Index, step: Index = 1, carried: Sequence[tuple[str, str]] = ()
) -> Iterator[Loop]:
    """A loop with registers carried as (type, initial value); the body fills in `next`.

    It asks at its end whether to go on, and before it only where it may have no round at all: the form that
    LLVM would give it, which takes LLVM as long as all else in kernels of many loops. One round is no loop.
    """
    if _is_once(start, stop, step):
        run = Loop(start, [initial for _, initial in carried])
        yield run
        run.values = list(run.next)
        return
    body, done = w.label("body"), w.label("done")
    some = isinstance(start, int) and isinstance(stop, int) and start < stop
    before = w.current
    if some:
        w.jump(body)
    else:
        w.branch(w.let(f"icmp slt i64 {start}, {stop}"), body, done)
    w.start(body)
    place = len(w.lines)
    index = w.name()
    run = Loop(index, [w.name() for _ in carried])
    w.lines += [""] * (1 + len(carried))
    yield run
    assert len(run.next) == len(carried), "a loop gives a next value for each that it carries"
    following = w.let(f"add nsw i64 {index}, {step}")
    again, latch = w.let(f"icmp slt i64 {following}, {stop}"), w.current
    w.branch(again, body, done)
    phis = [(index, "i64", str(start), following)]
    phis += [(v, kind, init, new) for v, (kind, init), new in zip(run.values, carried, run.next, strict=True)]
    for i, (name, kind, init, new) in enumerate(phis):
        w.lines[place + i] = f"  {name} = phi {kind} [{init}, %{before}], [{new}, %{latch}]"
    w.start(done)
    ends = [(kind, ((init, before), (new, latch))) for _, kind, init, new in phis[1:]]
    run.values = list(run.next) if some else [phi(w, kind, ways) for kind, ways in ends]


def _is_once(start: Index, stop: Index, step: Index) -> bool:
    known = isinstance(start, int) and isinstance(stop, int) and isinstance(step, int)
    return known and int(start) < int(stop) <= int(start) + int(step)


def phi(w: Writer, kind: str, incoming: Sequence[tuple[str, str]]) -> str:
    """One of several registers, by the block that was left last: [(register, label), ...]."""
    return w.let(f"phi {kind} {', '.join(f'[{value}, %{label}]' for value, label in incoming)}")


# Arithmetic: constants are folded.


def add(w: Writer, a: Index, b: Index) -> Index:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if a == 0 or b == 0:
        return b if a == 0 else a
    return w.let(f"add nsw i64 {a}, {b}")


def sub(w: Writer, a: Index, b: Index) -> Index:
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    return a if b == 0 else w.let(f"sub nsw i64 {a}, {b}")


def mul(w: Writer, a: Index, b: Index) -> Index:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if a == 0 or b == 0:
        return 0
    if a == 1 or b == 1:
        return b if a == 1 else a
    return w.let(f"mul nsw i64 {a}, {b}")


def clamp(w: Writer, x: Index, low: Index, high: Index) -> Index:
    """x, but at least low and then at most high."""
    if isinstance(x, int) and isinstance(low, int) and isinstance(high, int):
        return min(max(x, low), high)
    return smaller(w, larger(w, x, low), high)


def smaller(w: Writer, a: Index, b: Index) -> Index:
    return _extreme(w, "smin", a, b)


def larger(w: Writer, a: Index, b: Index) -> Index:
    return _extreme(w, "smax", a, b)


def _extreme(w: Writer, name: str, a: Index, b: Index) -> Index:
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b) if name == "smin" else max(a, b)
    w.declare(f"llvm.{name}.i64", "i64", "i64", "i64")
    return w.let(f"call i64 @llvm.{name}.i64(i64 {a}, i64 {b})")


def test(w: Writer, how: str, a: Index, b: Index) -> str:
    """An i1 register or constant: icmp on indices."""
    if isinstance(a, int) and isinstance(b, int):
        holds = {"slt": a < b, "sle": a <= b, "sge": a >= b, "sgt": a > b, "eq": a == b}[how]
        return "true" if holds else "false"
    return w.let(f"icmp {how} i64 {a}, {b}")


def both(w: Writer, *conditions: str) -> str:
    """All of them."""
    found = "true"
    for condition in conditions:
        if "false" in (found, condition):
            return "false"
        if found == "true":
            found = condition
        elif condition != "true":
            found = w.let(f"and i1 {found}, {condition}")
    return found


def pick(w: Writer, condition: str, a: Index, b: Index) -> Index:
    """a where the condition holds, else b."""
    if condition in ("true", "false") or a == b:
        return a if condition == "true" else b
    return w.let(f"select i1 {condition}, i64 {a}, i64 {b}")


def step_pointer(w: Writer, pointer: str, element: str, by: Index) -> str:
    """The address `by` elements further."""
    return pointer if by == 0 else w.let(f"getelementptr {element}, ptr {pointer}, i64 {by}")
