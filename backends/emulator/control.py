"""Control flow: bra, brx.idx, call, ret, exit, trap, brkpt.

Lanes that part go their ways and meet again where their program counters do: the scheduler runs the lowest
first.
Functions cannot be recursive, so each has one return address per lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.decode import FLOW, Form, Step, full
from tilec.backends.emulator.device import LOCAL
from tilec.backends.emulator.lanes import first, lanes_of, part
from tilec.backends.emulator.program import Label, Operand, Symbol, Variable, Vector
from tilec.backends.emulator.ptx_types import Sel

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine


def bra(f: Form) -> Step:
    f.take("uni")
    target = f.operand(0)
    if not isinstance(target, Label):
        f.error("bra needs a label")
    to = f.start + target.target
    return Step(lambda m, s: m.resume(to, s), FLOW)


def brx(f: Form) -> Step:
    f.need("idx")
    f.take("uni")
    table = f.operand(1)
    index = f.source(0, "u32")
    name = table.name if isinstance(table, Symbol) else ""
    if name not in f.function.branch_targets:
        f.error("brx.idx needs a .branchtargets list")
    targets = np.array([f.start + label.target for label in f.function.branch_targets[name]])

    def run(m: Machine, s: Sel) -> None:
        scatter(m, s, targets[np.minimum(full(index(m, s), s), len(targets) - 1)])

    return Step(run, FLOW)


def scatter(m: Machine, s: Sel, targets: Any) -> None:
    """Each lane goes to its own target."""
    for pc in np.unique(targets):
        m.resume(int(pc), part(s, targets == pc))


def call(f: Form) -> Step:
    f.take("uni")
    operands = list(f.i.operands)
    results = operands.pop(0) if isinstance(operands[0], Vector) else Vector(())
    name = operands.pop(0)
    if isinstance(name, Symbol) and name.name in SYSTEM_CALLS:
        return system_call(f, results, SYSTEM_CALLS[name.name])
    if not isinstance(name, Symbol) or name.name not in f.context.labels:
        f.error("the emulator does not know the function called")
    arguments = operands.pop(0) if operands else Vector(())
    callee, to = f.context.functions[name.name], f.context.labels[name.name]
    assert isinstance(results, Vector) and isinstance(arguments, Vector), "operands of call are lists"
    moves = pairs(f, arguments, callee.params)
    f.context.returns.setdefault(name.name, []).append((f.at + 1, pairs(f, results, callee.results)))

    def run(m: Machine, s: Sel) -> None:
        for there, here, size in moves:
            copy(m, s, here, there, size)
        back = m.returns.setdefault(to, np.zeros(m.lanes, np.int64))
        back[s] = m.pc + 1
        m.resume(to, s)

    return Step(run, FLOW)


SYSTEM_CALLS = {"vprintf": "", "__assertfail": "an assert of the kernel failed"}  # what each one reports


def system_call(f: Form, results: Operand, failure: str) -> Step:
    """What the driver provides: vprintf prints nothing here and says 0; a failed assert ends its threads."""
    assert isinstance(results, Vector), "operands of call are lists"
    at = [place(f, item) - LOCAL for item in results.items]

    def run(m: Machine, s: Sel) -> None:
        if failure:
            m.record("divergence", first(s), failure, times=len(lanes_of(s)))
            return m.exit(s)
        for offset in at:
            m.local.data.reshape(m.lanes, m.local_size)[s, offset : offset + 4] = 0
            if m.race.init:
                m.race.local_known.reshape(m.lanes, m.local_size)[s, offset : offset + 4] = True
        return m.resume(m.pc + 1, s)

    return Step(run, FLOW)


def pairs(f: Form, items: Vector, formal: list[Variable]) -> list[tuple[int, int, int]]:
    """(formal address, actual address, bytes) of each parameter, all of them in local memory."""
    if len(items.items) != len(formal):
        f.error(f"the function takes {len(formal)} parameters, here are {len(items.items)}")
    return [
        (f.context.addresses[v.name], place(f, item), v.size)
        for v, item in zip(formal, items.items, strict=True)
    ]


def place(f: Form, item: Operand) -> int:
    if not isinstance(item, Symbol) or f.context.spaces.get(item.name) != "local":
        f.error("parameters of calls must be .param variables")
    return f.context.addresses[item.name]


def copy(m: Machine, s: Sel, source: int, target: int, size: int) -> None:
    """Bytes within local memory, and whether they were written: padding may be passed on unwritten."""
    a, b = source - LOCAL, target - LOCAL
    rows = m.local.data.reshape(m.lanes, m.local_size)
    rows[s, b : b + size] = rows[s, a : a + size]
    if m.race.init:
        known = m.race.local_known.reshape(m.lanes, m.local_size)
        known[s, b : b + size] = known[s, a : a + size]


def ret(f: Form) -> Step:
    f.take("uni")
    if f.function.entry:
        return Step(lambda m, s: m.exit(s), FLOW)
    to, returns = f.context.labels[f.function.name], f.context.returns.setdefault(f.function.name, [])

    def run(m: Machine, s: Sel) -> None:
        back = m.returns[to][s]
        for pc, moves in returns:
            lanes = part(s, back == pc)
            if lanes is not None:
                for there, here, size in moves:
                    copy(m, lanes, there, here, size)
                m.resume(pc, lanes)

    return Step(run, FLOW)


def exit_(f: Form) -> Step:
    return Step(lambda m, s: m.exit(s), FLOW)


def trap(f: Form) -> Step:
    def run(m: Machine, s: Sel) -> None:
        m.record("divergence", first(s), "the kernel stopped itself with trap", times=len(lanes_of(s)))
        m.exit(s)

    return Step(run, FLOW)


BUILDERS: dict[str, Callable[[Form], Step]] = {
    "bra": bra, "brx": brx, "call": call, "ret": ret, "exit": exit_, "trap": trap, "brkpt": trap,
}  # fmt: skip
