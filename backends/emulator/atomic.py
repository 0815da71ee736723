"""atom and red: read, change, write in one step, in lane order; global and shared.

    atom.global.add.u32 d, [a], b;      red.shared.max.s32 [a], b;
Lanes that meet at one address act one after another (a random order under a seed is not modelled: integer
results do not depend on it, float sums do within rounding).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator import access
from tilec.backends.emulator.decode import Form, Step, full
from tilec.backends.emulator.floating import Kind, pick
from tilec.backends.emulator.handshake import RELAXED
from tilec.backends.emulator.lanes import part
from tilec.backends.emulator.memory import CACHES, SCOPES, note_width, order_of, space_of, vector_length
from tilec.backends.emulator.ptx_types import Array, Sel, bits, numpy_type, unsigned

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

Change = Callable[[Any, Any], Any]
INTEGER: dict[str, Change] = {
    "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "exch": lambda old, b: b,
    "inc": lambda old, b: np.where(old >= b, 0, old + np.asarray(1, old.dtype)).astype(old.dtype),
    "dec": lambda old, b: np.where((old == 0) | (old > b), b, old - np.asarray(1,
    old.dtype)).astype(old.dtype),
}  # fmt: skip
FLOATS = ("f16", "bf16", "f16x2", "bf16x2", "f32", "f64")


def change_of(f: Form, operation: str, kind: str, ftz: bool) -> Change:
    """old, operand -> new, on the raw element type."""
    if kind not in FLOATS:
        return INTEGER[operation]
    form = Kind(kind)
    function: Change = np.add
    if operation in ("min", "max"):
        function = lambda a, b: pick(a, b, operation == "max", False, False)  # noqa: E731
    elif operation != "add":
        f.error(f"{operation} on .{kind} is not an atomic operation")

    def change(old: Any, b: Any) -> Any:
        x = function(form.load(np.asarray(old)), form.load(np.asarray(b)))
        return form.store(form.flush(x) if ftz else x)

    return change


def atom(f: Form) -> Step:
    returns = f.i.root == "atom"
    if f.take("async"):
        f.error("red.async is not known to the emulator")
    order = order_of(f.take("relaxed", "acquire", "release", "acq_rel"), f) or RELAXED
    f.take(*SCOPES)
    space = space_of(f)
    while f.take(*CACHES):
        pass
    operation = f.need(*INTEGER, "cas")
    ftz = not f.take("noftz")
    count, kind = vector_length(f), f.type()
    if operation == "cas":
        return compare_and_swap(f, kind, space, order)
    raw = Kind(kind).raw if kind in FLOATS else kind
    change = change_of(f, operation, kind, ftz and kind == "f32" and space == "global")
    width = bits(kind) // 8
    note_width(f, space, width)
    puts = f.targets(0, raw, count) if returns else []
    address, gets = f.address(1 if returns else 0), f.sources(2 if returns else 1, raw, count)

    def run(m: Machine, s: Sel) -> None:
        at = address(m, s)
        for n, get in enumerate(gets):
            old = update(m, s, at + n * width, full(get(m, s), s), change, width, space, order)
            if puts:
                puts[n](m, s, old)

    return Step(run)


def update(
    m: Machine, s: Sel, address: Array, b: Array, change: Change, width: int, space: str, order: int
) -> Array:
    """Applies `change` lane by lane where addresses meet, all at once where they differ; gives the old
    values."""
    if space == "generic":
        space = access.window(address)
    if space == "mixed":
        out = np.zeros_like(b)
        for name, low, high in access.WINDOWS:
            there = (address >= low) & (address < high)
            lanes = part(s, there)
            if lanes is not None:
                out[there] = update(m, lanes, address[there], b[there], change, width, name, order)
        return out
    good = access.faults(m, s, address, width, space, "atomic")
    if good is not None:
        out = np.zeros_like(b)
        rest = part(s, good)
        if rest is not None:
            out[good] = update(m, rest, address[good], b[good], change, width, space, order)
        return out
    memory, at = access.place(m, s, address, space)
    access.observe(m, s, address, at, width, space, True, order, True)
    return apply(memory.views[width].view(b.dtype), at // width, b, change)


def apply(view: Array, index: Array, b: Array, change: Change) -> Array:
    order = np.argsort(index, kind="stable")
    place = index[order]
    start = np.concatenate(([True], place[1:] != place[:-1]))
    turn = np.arange(len(place)) - np.maximum.accumulate(np.where(start, np.arange(len(place)), 0))
    old = np.empty_like(b)
    for now in range(int(turn.max()) + 1):  # one lane per address at a time
        lanes = order[turn == now]
        old[lanes] = view[index[lanes]]
        view[index[lanes]] = change(old[lanes], b[lanes])
    return old


def compare_and_swap(f: Form, kind: str, space: str, order: int) -> Step:
    width, dtype = bits(kind) // 8, unsigned(bits(kind) // 8)
    raw = f"b{width * 8}"
    put, address, b, c = f.target(0, raw), f.address(1), f.source(2, raw), f.source(3, raw)
    pair = np.dtype([("expected", dtype), ("new", dtype)])
    note_width(f, space, width)

    def run(m: Machine, s: Sel) -> None:
        expected, new = full(b(m, s), s), full(c(m, s), s)
        both = np.empty(len(expected), pair)
        both["expected"], both["new"] = expected, new
        put(m, s, swap(m, s, address(m, s), both, width, space, order))

    return Step(run)


def swap(m: Machine, s: Sel, address: Array, both: Array, width: int, space: str, order: int) -> Array:
    """update() with an operand of two numbers: it travels as an index into `both`."""
    numbers = np.arange(len(both)).astype(numpy_type(f"u{width * 8}"))

    def change(old: Any, n: Any) -> Any:
        chosen = both[n]
        return np.where(old == chosen["expected"], chosen["new"], old)

    return update(m, s, address, numbers, change, width, space, order)


BUILDERS: dict[str, Callable[[Form], Step]] = {"atom": atom, "red": atom}
