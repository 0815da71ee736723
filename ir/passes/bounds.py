"""Which accesses stay inside their arrays: fills `inside` of loads, stores and copies with the axes that
facts prove.

    load a, (i * 32, s * 16), (32, 16)      inside=(0, 1) where 32 divides a's rows and 16 its columns
The axes that are left are masked: reads give `other` there. A maximum over such an axis takes `other` for an
element, so `other` has to be written by the user; where it is not, this pass says so.
"""

from __future__ import annotations

from dataclasses import replace

from tilec.ir.errors import TilecError
from tilec.ir.facts import Facts, analyse
from tilec.ir.func import Arg, Func, Inst, Item, Value, root
from tilec.ir.inst import arith
from tilec.ir.inst.arith import Where
from tilec.ir.inst.control import For, If, While
from tilec.ir.inst.memory import Copy, Gather, Load, Store
from tilec.ir.inst.reduce import ArgReduce, Reduce, Scan
from tilec.ir.inst.shape import Annotate, Broadcast, Convert, Extract, Permute, Reshape, Stack
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.target import Target
from tilec.ir.tile import TileType

Access = Load | Store | Copy
Axes = dict[int, Inst]  # masked axes of a value, and the read that each comes from


def bounds(func: Func, target: Target) -> Func:
    """The function with `inside` filled in. Every target takes part.

    Raises TilecError where max, min, argmax or argmin takes in what lies outside an array.
    """
    facts = analyse(func)

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if not isinstance(inst, Access) or not isinstance(emit.old, Access):
            return None
        inside = proven(emit.old, facts)
        return None if inside == inst.inside else replace(inst, inside=inside)

    func = rebuild(func, visit)
    _check_reductions(func)
    return func


def proven(access: Access, facts: Facts) -> tuple[int, ...]:
    """The axes along which an access stays inside its array."""
    shape = access.tile_.tile.shape if isinstance(access, Store) else access.shape
    windows = enumerate(zip(access.at, shape, strict=True))
    return tuple(axis for axis, (at, extent) in windows
                 if axis in access.inside or facts.inside(access.array, axis, at, extent))  # fmt: skip


def _check_reductions(func: Func) -> None:
    extremes = [inst for inst in func.walk()
                if isinstance(inst, Reduce | ArgReduce | Scan) and inst.op in ("max", "min")]  # fmt: skip
    masks = _Masks(func) if extremes else None
    for inst in extremes:
        if masks is not None and inst.axis in (found := masks.axes(inst.x)):
            raise TilecError(_message(inst, found[inst.axis]), inst.loc)


def _message(inst: Reduce | ArgReduce | Scan, read: Inst) -> str:
    assert isinstance(read, Load | Gather), "what is masked is a read"
    name = f"arg{inst.op}" if isinstance(inst, ArgReduce) else inst.op
    array, dtype = root(read.array), inst.x.tile.dtype
    of = array.name if isinstance(array, Arg) and array.name else "an array"
    least = inst.op == "max"
    limit = ("-inf" if least else "inf") if dtype.is_float else str(dtype.min if least else dtype.max)
    read_name, place = type(read).__name__.lower(), f" at {read.loc}" if read.loc else ""
    return (
        f"{name} along axis {inst.axis} takes in elements outside {of}: the {read_name}{place} is not proven "
        f"to stay inside and gives 0 there; write other={limit} in it, choose with tc.where before {name}, "
        "or say by tc.require what makes it fit"
    )


class _Masks:
    """The masked axes of values: those along which some elements may lie outside while others do not. They
    are followed through elementwise and shape instructions, loops and branches; nothing else passes them on.
    """

    def __init__(self, func: Func) -> None:
        self.known: dict[Value, Axes] = {}
        while self._walk(func):
            pass  # what a loop carries comes around once more

    def axes(self, v: Value) -> Axes:
        return self.known.get(v, {})

    def _walk(self, func: Func) -> bool:
        changed = False
        for inst in func.walk():
            if isinstance(inst, For | While):
                first = isinstance(inst, For)
                for i, arg in enumerate(inst.body.args[first:]):
                    changed |= self._learn(arg, self._union(inst.init[i], inst.body.results[i]))
            if isinstance(inst.type, TileType):
                found = self._axes(inst)
                changed |= self._learn(inst, {a: found[a] for a in found if inst.type.shape[a] > 1})
        return changed

    def _learn(self, v: Value, axes: Axes) -> bool:
        old = self.axes(v)
        self.known[v] = axes
        return old.keys() != axes.keys()

    def _axes(self, v: Inst) -> Axes:
        match v:
            case Load(written=False):
                return {axis: v for axis in v.masked}
            case Gather(written=False):
                return {axis: v for axis in range(v.tile.rank)}
            case Item(source, index):
                return self._given(source, index)
            case Where():
                return {}
            case Reshape(x):
                return _regrouped(self.axes(x), x.tile.shape, v.shape)
            case Permute(x, order):
                return {i: self.axes(x)[axis] for i, axis in enumerate(order) if axis in self.axes(x)}
            case Broadcast(x) | Extract(x) | Convert(x) | Annotate(x):
                return self.axes(x)
            case Stack(tiles, axis):
                return {a + (a >= axis): read for a, read in self._union(*tiles).items()}
        return self._union(*v.operands) if type(v).__module__ == arith.__name__ else {}

    def _given(self, source: Value, index: int) -> Axes:
        match source:
            case For(init=init, body=body) | While(init=init, body=body):
                return self._union(init[index], body.results[index])
            case If(then=then, orelse=orelse):
                return self._union(then.results[index], orelse.results[index])
        return {}

    def _union(self, *values: Value) -> Axes:
        return {axis: read for v in values for axis, read in self.axes(v).items()}


def _regrouped(axes: Axes, old: tuple[int, ...], new: tuple[int, ...]) -> Axes:
    """Masked axes after a reshape: axes that are joined or split stand for each other."""
    found: Axes = {}
    for before, after in _groups(old, new):
        reads = [axes[a] for a in before if a in axes]
        found.update((a, reads[0]) for a in after if reads)
    return found


def _groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The finest runs of axes with equal products: (4, 6) and (2, 2, 6) give ([0], [0, 1]), ([1], [2])."""
    groups: list[tuple[list[int], list[int]]] = []
    olds, news = enumerate(old), enumerate(new)
    for axis, extent in olds:
        before, after, left, right = [axis], list[int](), extent, 1
        while left != right:
            axis, extent = next(news if left > right else olds)
            if left > right:
                after.append(axis)
                right *= extent
            else:
                before.append(axis)
                left *= extent
        groups.append((before, after))
    return groups
