"""The passes, in order, and which targets each serves.

lower(func, target("sm_80"))        the function that tilec.backends.ptx writes out
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tilec.ir import debug
from tilec.ir.func import Func
from tilec.ir.passes.barriers import insert_barriers, proxy_fences
from tilec.ir.passes.bounds import bounds
from tilec.ir.passes.bulk_stores import bulk_stores
from tilec.ir.passes.exchange import exchange
from tilec.ir.passes.expand_math import expand_math
from tilec.ir.passes.fresh_sums import fresh_sums
from tilec.ir.passes.late_loads import late_loads
from tilec.ir.passes.late_waits import late_waits
from tilec.ir.passes.layouts import assign_layouts
from tilec.ir.passes.pipeline import pipeline
from tilec.ir.passes.places import places, widen_dots
from tilec.ir.passes.producer import producer
from tilec.ir.passes.registers import check_registers
from tilec.ir.passes.roles import roles
from tilec.ir.passes.shared_memory import plan_shared_memory
from tilec.ir.passes.simplify import simplify
from tilec.ir.passes.sparse import sparse
from tilec.ir.passes.warpgroups import warpgroups
from tilec.ir.target import Target


@dataclass(frozen=True)
class Pass:
    """One step from Func to Func. `threads` marks those that only targets with threads and registers need."""

    run: Callable[[Func, Target], Func]
    threads: bool = False

    @property
    def name(self) -> str:
        return self.run.__name__


PASSES = (
    Pass(simplify),
    Pass(expand_math),
    Pass(sparse),
    Pass(simplify),
    Pass(bounds),
    Pass(widen_dots, threads=True),
    Pass(places, threads=True),  # before layouts: operands of products choose theirs by where they live
    Pass(producer, threads=True),  # after places: what it takes, the pipeline does not
    Pass(pipeline, threads=True),  # after places: copies are what runs ahead
    Pass(late_loads, threads=True),
    Pass(warpgroups, threads=True),  # after late_loads: products read buffers where they stand
    Pass(bulk_stores, threads=True),
    Pass(fresh_sums, threads=True),
    Pass(late_waits, threads=True),
    Pass(assign_layouts, threads=True),
    Pass(check_registers, threads=True),
    Pass(exchange, threads=True),  # after layouts: writes out the conversions that cross warps
    Pass(simplify, threads=True),  # after exchange: the same conversion twice is one
    Pass(plan_shared_memory, threads=True),  # before barriers: buffers that share bytes conflict
    Pass(proxy_fences, threads=True),  # before barriers: they show to all what was fenced
    Pass(insert_barriers, threads=True),
    Pass(roles, threads=True),  # last: until here the kernel is one program
)


def lower(func: Func, target: Target, record: Callable[[str, Func], None] | None = None) -> Func:
    """The function after every pass that its target needs; `record` sees it after each."""
    for step in PASSES:
        if step.threads and not target.needs_layouts:
            continue
        with debug.stage(step.name):
            func = step.run(func, target)
        if debug.checking():
            from tilec.ir.verify import verify

            verify(func, step.name)
        if record:
            record(step.name, func)
    return func
