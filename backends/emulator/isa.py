"""The instruction set: a table from opcode to builder, and a kernel's code as one list of steps.

Everything unknown is an error here, when a module is loaded, and names line and text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tilec.backends.emulator import (
    async_copy,
    atomic,
    barrier,
    bitwise,
    cluster,
    compare,
    control,
    convert,
    floating,
    integer,
    matrix,
    mbarrier,
    memory,
    mma,
    proxy,
    registers,
    warp,
    wgmma,
)
from tilec.backends.emulator.decode import Context, Form, Step
from tilec.backends.emulator.device import LOCAL, PARAM, SHARED
from tilec.backends.emulator.program import Function, Instruction, Source, Symbol, Variable
from tilec.ir.errors import TilecError

Builder = Callable[[Form], Step]
FLOATING = {
    "add": floating.add, "sub": floating.sub, "mul": floating.mul, "mad": floating.fma, "div": floating.div,
    "abs": floating.absolute, "neg": floating.negate, "min": floating.extremum(False),
    "max": floating.extremum(True),
}  # fmt: skip
INTEGER = {
    "add": integer.add, "sub": integer.sub, "mul": integer.mul, "mad": integer.mad, "div": integer.div,
    "abs": integer.absolute, "neg": integer.neg, "min": integer.extremum(np.minimum),
    "max": integer.extremum(np.maximum),
}  # fmt: skip
TABLES = (
    integer,
    bitwise,
    floating,
    compare,
    convert,
    memory,
    control,
    warp,
    barrier,
    atomic,
    async_copy,
    matrix,
    mma,
    mbarrier,
    proxy,
    registers,
    cluster,
    wgmma,
)


def by_type(root: str) -> Builder:
    """add, mul, ...: floats and integers are different instructions of one name."""

    def build(f: Form) -> Step:
        if any(name in floating.FLOATS for name in f.left):
            return FLOATING[root](f)
        if root == "add" and any(name in ("u16x2", "s16x2") for name in f.left):
            return integer.add_pairs(f)
        return INTEGER[root](f)

    return build


def table() -> dict[str, Builder]:
    found: dict[str, Builder] = {root: by_type(root) for root in FLOATING}
    for module in TABLES:
        for root, builder in module.BUILDERS.items():
            assert root not in found, f"{root} is built in two places"
            found[root] = builder
    return found


BUILDERS = table()


@dataclass(frozen=True)
class Program:
    """A kernel ready to run: steps of the kernel and of the functions it calls, and where its variables
    lie."""

    function: Function
    source: Source
    context: Context
    steps: list[Step]
    shared_size: int
    shared_names: list[tuple[int, int, str]]
    local_size: int

    def granule(self, space: str) -> int:
        """The narrowest access of a space, in bytes."""
        return min(self.context.widths[space], default=4)

    def source_place(self, i: Instruction) -> tuple[str, int] | None:
        if i.source is None:
            return None
        index, line = i.source
        return self.source.files.get(int(index), f"file {index}"), line


def build(source: Source, name: str, addresses: dict[str, int]) -> Program:
    """The program of one kernel; `addresses` are those of the module's global variables."""
    function = source.functions[name]
    functions = [function, *callees(source, function)]
    context = Context(addresses=dict(addresses), spaces={n: "global" for n in addresses})
    context.functions = {f.name: f for f in functions}
    place_params(function, context)
    shared, names = place_shared(source, functions, context)
    local = place_local(functions, context)
    steps = decode(functions, context)
    return Program(function, source, context, steps, shared, names, local)


def callees(source: Source, root: Function) -> list[Function]:
    """Every function that a kernel may reach; recursion is an error."""
    order: list[Function] = []

    def visit(function: Function, path: tuple[str, ...]) -> None:
        for i in function.code:
            for name in called(i) - control.SYSTEM_CALLS.keys():
                callee = source.functions.get(name)
                if callee is None or not callee.defined:
                    raise TilecError(f"PTX line {i.line}: {name!r} is called and not defined: {i.text!r}")
                if name in path:
                    raise TilecError(
                        f"PTX line {i.line}: {name!r} is recursive, which is not known to the emulator"
                    )
                visit(callee, (*path, name))
                if callee not in order:
                    order.append(callee)

    visit(root, (root.name,))
    return order


def called(i: Instruction) -> set[str]:
    """The function that an instruction calls, if any."""
    return {next(o.name for o in i.operands if isinstance(o, Symbol))} if i.root == "call" else set()


def aligned(at: int, align: int) -> int:
    return (at + align - 1) // align * align


def place_params(function: Function, context: Context) -> None:
    at = 0
    for v in function.params:
        at = aligned(at, v.align)
        context.addresses[v.name], context.spaces[v.name] = PARAM + at, "param"
        at += v.size


def place_shared(
    source: Source, functions: list[Function], context: Context
) -> tuple[int, list[tuple[int, int, str]]]:
    """Static variables by alignment, then the dynamic array, which all extern declarations share."""
    found = [v for v in source.variables.values() if v.space == "shared"]
    found += [v for f in functions for v in f.variables if v.space == "shared"]
    at, names, dynamic = 0, [], [v for v in found if v.size == 0]
    for v in [v for v in found if v.size]:
        at = aligned(at, v.align)
        context.addresses[v.name], context.spaces[v.name] = SHARED + at, "shared"
        names.append((at, v.size, plain(v.name)))
        at += v.size
    at = aligned(at, max([v.align for v in dynamic], default=1))
    for v in dynamic:
        context.addresses[v.name], context.spaces[v.name] = SHARED + at, "shared"
        names.append((at, 1 << 24, plain(v.name)))
    return at, names


def plain(name: str) -> str:
    """A variable's name in its source: without our scope, nor C++'s mangling of a function's variable."""
    name = name.partition("@")[0]
    local = re.search(r"E(\d+)([A-Za-z_]\w*)$", name) if name.startswith("_ZZ") else None
    return local[2][: int(local[1])] if local else name


def place_local(functions: list[Function], context: Context) -> int:
    """Local variables, and the parameters of functions, which live in each thread's local memory."""
    at = 0
    for n, f in enumerate(functions):
        formal: list[Variable] = f.params + f.results if n else []
        for v in formal + [v for v in f.variables if v.space in ("local", "param")]:
            at = aligned(at, v.align)
            context.addresses[v.name], context.spaces[v.name] = LOCAL + at, "local"
            at += v.size
    return at


def decode(functions: list[Function], context: Context) -> list[Step]:
    starts, at = {}, 0
    for f in functions:
        starts[f.name] = at
        at += len(f.code) + 1
    context.labels.update(starts)
    steps: list[Step] = []
    for f in functions:
        code = [*f.code, Instruction("ret", (), (), None, f.code[-1].line if f.code else f.line, "(end)")]
        for i in code:
            steps.append(decode_one(i, context, f, starts[f.name], len(steps)))
    return [wgmma.watch_step(step, context.watched) for step in steps]


def decode_one(i: Instruction, context: Context, function: Function, start: int, at: int) -> Step:
    form = Form(i, context, function, start, at)
    builder = BUILDERS.get(i.root)
    if builder is None:
        form.error(f"the emulator does not know the instruction {i.root!r}")
    step = builder(form)
    form.finish()
    guard = form.source(i.guard, "pred") if i.guard is not None else None
    return replace(step, guard=guard, instruction=i)
