"""Checks that a function is well formed; after a pass, says which pass broke what.

    verify(func, "pipeline")        AssertionError: after pipeline: a value is used before it is computed: ...
Values are computed before they are used, in the same block or one around it, and once; types are what the
type rules say; loops and branches take and give the types that they carry; there is one grid; effects name
arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tilec.ir.errors import TilecError
from tilec.ir.fields import operand_fields
from tilec.ir.func import Arg, Block, Func, Inst, Item, Value
from tilec.ir.inst.control import For, If, While
from tilec.ir.inst.memory import Alloc, Copy, Load, Store, Wait
from tilec.ir.inst.sync import BlockIndex
from tilec.ir.rewrite import entry_types
from tilec.ir.text import describe
from tilec.ir.tile import UNIT, ArrayType, TileType, TokenType, TupleType, Type


def verify(func: Func, after: str = "") -> None:
    """Raises AssertionError with everything that is wrong. `after`: the pass that made the function."""
    wrong = list(problems(func))
    where = f"after {after}: " if after else ""
    assert not wrong, "\n".join(where + problem for problem in wrong)


def problems(func: Func) -> Iterator[str]:
    """What is wrong with a function, in order."""
    seen: set[Inst] = set()
    yield from _block(func.body, set(func.params), seen)
    yield from _grid(func)
    if func.body.args or func.body.results:
        yield f"the body of {func.name} takes and gives nothing, its parameters belong to the function"


def _block(block: Block, outer: set[Value], seen: set[Inst]) -> Iterator[str]:
    """Problems of a block that may use the values of `outer`."""
    known = outer | set(block.args)
    for inst in block.body:
        if inst in seen:
            yield f"an instruction stands in two places: {describe(inst)}"
        seen.add(inst)
        for operand in inst.operands:
            if operand not in known:
                yield f"a value is used where it is not known: {_name(operand)} in {describe(inst)}"
        yield from _instruction(inst)
        for inner in inst.blocks:
            yield from _block(inner, known, seen)
        known.add(inst)
    for result in block.results:
        if result not in known:
            yield f"a block gives what it does not know: {_name(result)}"


def _name(v: Value) -> str:
    return describe(v) if isinstance(v, Inst) else f"argument {getattr(v, 'name', '')!r} of type {v.type}"


def _instruction(inst: Inst) -> Iterator[str]:
    yield from _fields(inst)
    yield from _typed(inst)
    yield from _effects(inst)
    yield from _control(inst)
    if isinstance(inst, Item):
        count = len(inst.source.type.items) if isinstance(inst.source.type, TupleType) else 0
        if not 0 <= inst.index < count or not isinstance(inst.source, For | While | If):
            yield f"an item is one of what a loop or branch gives, here {count}: {describe(inst)}"
    elif any(isinstance(v.type, TupleType) for v in inst.operands):
        yield f"what a loop or branch gives is used through item only: {describe(inst)}"
    if isinstance(inst, Load | Store | Copy) and not set(inst.inside) <= set(range(len(inst.at))):
        yield f"inside names axes of the array, 0 to {len(inst.at) - 1}: {describe(inst)}"


def _fields(inst: Inst) -> Iterator[str]:
    """Fields for values hold values, whatever a constructor was given."""
    for name in operand_fields(type(inst)):
        held = getattr(inst, name)
        parts = held if isinstance(held, tuple) else (held,)
        if not all(part is None or isinstance(part, Value) for part in parts):
            yield f"the field {name} is for values, it holds {held!r}: {describe(inst)}"


# Types.


def _typed(inst: Inst) -> Iterator[str]:
    try:
        derived = inst.result()
    except (TilecError, AssertionError, IndexError) as error:
        yield f"the type rule fails: {describe(inst)}: {error}"
        return
    if _plain(derived) != _plain(inst.type):
        yield f"the type is {inst.type}, the type rule gives {derived}: {describe(inst)}"
    if isinstance(inst.type, TileType):
        yield from _layout(inst, inst.type)


def _plain(kind: Type) -> object:
    """A type without the names of extents: those of views are new each time."""
    if not isinstance(kind, ArrayType):
        return kind
    extents = tuple(n if isinstance(n, int) else ("dim", n.multiple) for n in (*kind.shape, *kind.strides))
    return extents, kind.dtype, kind.align, kind.space, kind.layout, kind.packed


def _layout(inst: Inst, kind: TileType) -> Iterator[str]:
    if kind.layout is not None and not kind.shape:
        yield f"a scalar has no layout: {describe(inst)}"
    elif kind.layout is not None and kind.layout.shape != kind.shape:
        yield f"a layout of {list(kind.layout.shape)} does not hold {kind}: {describe(inst)}"


# Control.


def _control(inst: Inst) -> Iterator[str]:
    types = entry_types(inst, inst.operands)
    for block in inst.blocks:
        given = tuple(arg.type for arg in block.args)
        if given != types:
            yield f"a block is entered with {_list(types)} but takes {_list(given)}: {describe(inst)}"
    match inst:
        case For():
            bounds = [v.type for v in (inst.start, inst.stop, inst.step)]
            first = bounds[0]
            whole = isinstance(first, TileType) and not first.shape and first.dtype.is_integer
            if not whole or any(kind != first for kind in bounds):
                yield f"a loop runs over integer scalars of one dtype, not {_list(bounds)}: {describe(inst)}"
        case While():
            yield from _condition(inst, *inst.condition.results)
        case If():
            yield from _condition(inst, inst.condition)


def _condition(inst: Inst, *given: Value) -> Iterator[str]:
    if len(given) != 1 or not (isinstance(kind := given[0].type, TileType) and str(kind) == "bool"):
        yield f"a condition is one scalar bool, not {_list(v.type for v in given)}: {describe(inst)}"


def _list(types: Iterable[Type]) -> str:
    return f"({', '.join(map(str, types))})"


# Effects and the grid.


def _effects(inst: Inst) -> Iterator[str]:
    for name in (*inst.effects.reads, *inst.effects.writes):
        if not isinstance(getattr(inst, name).type, ArrayType):
            yield f"the effect on {name} is on no array: {describe(inst)}"
    if isinstance(inst, Copy) and inst.buffer.array_type.space != "shared":
        yield f"a copy goes to shared memory: {describe(inst)}"
    if isinstance(inst, Wait) and not all(isinstance(v.type, TokenType) for v in inst.tokens):
        yield f"wait takes tokens: {describe(inst)}"
    used = inst.type == UNIT or not inst.effects.writes or isinstance(inst, Copy | Alloc)
    if not used:
        yield f"what writes gives nothing but a token: {describe(inst)}"


def _grid(func: Func) -> Iterator[str]:
    indices = [inst for inst in func.walk() if isinstance(inst, BlockIndex)]
    for inst in indices:
        if inst.grid != indices[0].grid:
            yield f"a kernel has one grid: {describe(indices[0])} and {describe(inst)}"
        if not 0 <= inst.axis < len(inst.grid):
            yield f"the grid has {len(inst.grid)} axes: {describe(inst)}"
    outermost = {*func.params, *func.body.body}
    for extent in func.grid:
        if extent not in outermost or not (
            isinstance(extent, Arg) or (isinstance(extent, Inst) and extent.pure)
        ):
            yield f"an extent of the grid is a pure scalar of the outermost block: {_name(extent)}"
