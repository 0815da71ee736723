"""Products of warpgroups: wgmma.fence, wgmma.mma_async for each part of the tile, commit_group, wait_group.

Sums are registers that wgmma works on while the thread goes on: they go through inline assembly as outputs
tied to inputs, so that LLVM leaves them where they are, and through the wait, so that no use comes before it.
Operands in shared memory are told by descriptors (PTX ISA, "Matrix descriptor"), in units of 16 bytes:
[0, 14) address, [16, 30) from one panel to the next, [32, 46) from 8 rows to the next 8, [62, 64) swizzle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.ptx.emitter import Fragment
from tilec.backends.ptx.mma import Kept, ptx_type
from tilec.backends.ptx.mma_sparse import held_places
from tilec.backends.ptx.threads import Table, per_thread
from tilec.ir.dtype import DType
from tilec.ir.func import Value
from tilec.ir.inst.arith import Full
from tilec.ir.inst.mma import GroupDot, GroupProduct, GroupWait, HeldDot
from tilec.ir.inst.sparse import GROUP as FOUR
from tilec.ir.inst.sparse import KEPT, HeldSparseDot
from tilec.ir.panels import GROUP as ROWS_TOGETHER
from tilec.ir.panels import Panels, match_panels
from tilec.ir.passes.anchors import GROUP, ROWS, WARP, split
from tilec.ir.target import WGMMA_COLUMNS

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

UNIT = 16  # bytes that a descriptor counts in
WINDOW = 1 << 18  # bytes of shared memory that a descriptor can tell apart
DEPTH = 32  # bytes along k of one instruction, of those that are kept
SWIZZLES = {128: 1, 64: 2, 32: 3, 16: 0}


@dataclass(frozen=True)
class _Source:
    """An operand in shared memory: `start` and `high`, the halves of the descriptor of its first element for
    this warpgroup. `inner`: its panels' rows run along k, else along m or n."""

    lies: Panels
    inner: bool
    bytes: int  # of an element
    depth: int  # bytes along k of one instruction
    start: str
    high: int

    def at(self, e: Emitter, row: int, step: int) -> str:
        """The descriptor of the part from this row (of a; column of b) and this step along k."""
        low = _plus(e, self.start, self.offset(row, step) // UNIT)
        return e.let(f"or disjoint i64 {e.let(f'zext i32 {low} to i64')}, {self.high}")

    def offset(self, row: int, step: int) -> int:
        """Bytes from the operand's start to there."""
        deep = step * self.depth
        along, across = (deep, row) if self.inner else (row * self.bytes, deep // self.bytes)
        panel, within = divmod(along, self.lies.span)
        return panel * self.lies.nbytes + across * self.lies.span + within


def _plus(e: Emitter, start: str, units: int) -> str:
    return e.let(f"add i32 {start}, {units}") if units else start


def _source(e: Emitter, array: Value, inner_is_columns: bool, first: Table, depth: int = DEPTH) -> _Source:
    """An operand whose part for each thread's warpgroup starts at row first[thread]. `inner_is_columns`: k
    runs along its last axis."""
    kind = array.array_type
    shape = tuple(n for n in kind.shape if isinstance(n, int))
    lies = match_panels(kind.layout, shape, kind.dtype.bytes)
    assert lies is not None, "operands of warpgroups lie in panels"
    inner = (lies.axis == kind.rank - 1) == inner_is_columns
    draft = _Source(lies, inner, kind.dtype.bytes, depth, "", 0)
    moved = np.array([draft.offset(int(row), 0) // UNIT for row in first])
    address = e.let(f"ptrtoint ptr addrspace(3) {e.array(array).base} to i32")
    units = e.let(f"lshr i32 {e.let(f'and i32 {address}, {WINDOW - UNIT}')}, 4")
    if moved.any():
        units = e.let(f"add i32 {units}, {_uniform_table(e, moved)}")
    leading, stride = lies.nbytes // UNIT, ROWS_TOGETHER * lies.span // UNIT
    if lies.span == UNIT and not inner:  # without a swizzle they change places
        leading, stride = stride, leading
    start = e.let(f"or disjoint i32 {units}, {leading << 16}")
    high = (stride | SWIZZLES[lies.span] << 30) << 32
    return _Source(lies, inner, kind.dtype.bytes, depth, start, high - (high >> 63 << 64))


def uniform(e: Emitter, x: str) -> str:
    """A value that a warp's lanes have in common, as the assembler can see."""
    return e.call("llvm.nvvm.shfl.sync.idx.i32", "i32", "i32 -1", f"i32 {x}", "i32 0", "i32 31")


def _uniform_table(e: Emitter, table: Table) -> str:
    """A static function of the thread's number that a warp's lanes have in common, made at the entry."""
    key = ("uniform", tuple(int(x) for x in table))
    if key not in e.once:
        value = per_thread(e, table)
        with e.at_entry():
            e.once[key] = uniform(e, value)
    return e.once[key]


@dataclass(frozen=True)
class _Shape:
    """One instruction, and how often a warpgroup does it along rows, columns and k."""

    columns: int
    k: int
    times: tuple[int, int, int]


def _shape(shape: tuple[int, int, int], groups: tuple[int, int], deep: int, whole: int) -> _Shape:
    """`deep`: how much of k an instruction takes; `whole`: columns have to come in multiples of this many."""
    m, n, k = shape
    mine = n // groups[1]
    columns = next(c for c in range(min(mine, WGMMA_COLUMNS), 0, -8)
                   if mine % c == 0 and (c % whole == 0 or c == mine))  # fmt: skip
    return _Shape(columns, deep, (m // (ROWS * groups[0]), mine // columns, k // deep))


def group_dot(e: Emitter, inst: GroupDot | HeldDot | HeldSparseDot) -> Fragment:
    """Starts the product: k outermost, so that sums are worked on in turn and fragments made in time."""
    groups = split(inst.shape[0], e.threads // (GROUP * WARP))
    number = np.arange(e.threads) // (GROUP * WARP)
    c, b_type = e.fragment(inst.c), inst.b.array_type.dtype
    depth = DEPTH * FOUR // KEPT if isinstance(inst, HeldSparseDot) else DEPTH
    right = _source(e, inst.b, inst.turned[1], number % groups[1] * (inst.shape[1] // groups[1]), depth)
    whole = 8 if right.inner else right.lies.span // b_type.bytes
    shape = _shape(inst.shape, groups, depth // b_type.bytes, whole)
    sums = _Sums(e, c, shape.times[0] * shape.times[1], isinstance(inst.c, Full) and inst.c.value == 0)
    if not isinstance(inst, GroupDot):
        _held(e, inst, shape, sums, right)
    else:
        left = _source(e, inst.a, not inst.turned[0], number // groups[1] * (shape.times[0] * ROWS))
        types = c.dtype, inst.a.array_type.dtype, b_type
        keep = _keep(e, inst)
        sums.fence([], True)
        for step, i, j in np.ndindex(shape.times[2], *shape.times[:2]):
            a, b = left.at(e, i * ROWS, step), right.at(e, j * shape.columns, step)
            call = _Call(shape, types, [a], b, (not left.inner, not right.inner))
            sums.multiply(i * shape.times[1] + j, call, keep if step == 0 else None)
    e.call("llvm.nvvm.wgmma.commit_group.sync.aligned", "void")
    return Fragment(c.dtype, c.layout, sums.slots())


def _keep(e: Emitter, inst: GroupProduct) -> str | None:
    return e.let(f"zext i1 {e.scalar(inst.keep)} to i32") if inst.keep is not None else None


def _held(e: Emitter, inst: HeldDot | HeldSparseDot, shape: _Shape, sums: _Sums, right: _Source) -> None:
    """With the left operand in registers: each step's fragments are fenced as it begins, all places first."""
    rows, columns, steps = shape.times
    a = e.fragment(inst.a)
    words = _words(e, a, rows * steps)
    types, keep = (sums.dtype, a.dtype, inst.b.array_type.dtype), _keep(e, inst)
    places = _places(e, inst, shape) if isinstance(inst, HeldSparseDot) else {}
    unfenced, fenced = list(dict.fromkeys(each.register for each in places.values())), dict[str, str]()
    for step in range(steps):
        mine = [word for i in range(rows) for word in words(i * steps + step)]
        fresh = sums.fence([*mine, *unfenced], step == 0)
        fenced, unfenced = fenced | dict(zip(unfenced, fresh[len(mine) :], strict=True)), []
        for i, j in np.ndindex(rows, columns):
            b = right.at(e, j * shape.columns, step)
            kept = places and replace(places[i, step], register=fenced[places[i, step].register])
            call = _Call(shape, types, fresh[4 * i : 4 * i + 4], b, (not right.inner,), kept or None)
            sums.multiply(i * columns + j, call, keep if step == 0 else None)


def _places(e: Emitter, inst: HeldSparseDot, shape: _Shape) -> dict[tuple[int, int], Kept]:
    """For each row of instructions and step: whose register has the places."""
    places = e.fragment(inst.places)
    if inst.turned[0]:
        places = replace(places, layout=places.layout.permute((1, 0)))
    kept = held_places(e, places, (ROWS, shape.columns, shape.k), inst.a.tile.dtype.bits)
    return {at: kept.places(*at) for at in np.ndindex(shape.times[0], shape.times[2])}


def _words(e: Emitter, tile: Fragment, count: int) -> Callable[[int], list[str]]:
    """The registers of each of `count` parts of a left operand."""
    per, each = 32 // tile.dtype.bits, len(tile.slots) // count

    def part(i: int) -> list[str]:
        return [
            e.word(list(tile.slots[s : s + per]), tile.dtype) for s in range(i * each, (i + 1) * each, per)
        ]

    return part


@dataclass(frozen=True)
class _Call:
    """One instruction's operands: registers of a or its descriptor, b's descriptor, which are MN-major, and
    what it is told of a sparse a."""

    shape: _Shape
    types: tuple[DType, DType, DType]
    a: Sequence[str]
    b: str
    across: tuple[bool, ...]
    kept: Kept | None = None


class _Sums:
    """The registers of a tile of sums, in parts, one for each instruction of a step."""

    def __init__(self, e: Emitter, tile: Fragment, parts: int, zero: bool) -> None:
        self.e, self.dtype, self.parts = e, tile.dtype, parts
        per = 32 // tile.dtype.bits
        count = len(tile.slots) // parts
        self.words: list[list[str]] = [
            []
            if zero
            else [
                e.word(list(tile.slots[s : s + per]), tile.dtype) if per > 1 else tile.slots[s]
                for s in range(i * count, (i + 1) * count, per)
            ]
            for i in range(parts)
        ]
        self.count = count // per
        self.kind, self.register = ("float", "f") if tile.dtype.is_float and per == 1 else ("i32", "r")

    def fence(self, fragments: Sequence[str], first: bool) -> list[str]:
        """wgmma.fence: what was done to the fragments, and to sums before the `first` product, is over. The
        fragments after it."""
        words = [word for part in self.words for word in part] if first else []
        kinds = [(self.kind, self.register)] * len(words) + [("i32", "r")] * len(fragments)
        made = _tied(self.e, "wgmma.fence.sync.aligned;", kinds, [*words, *fragments])
        if words:
            self.words = [made[i : i + self.count] for i in range(0, len(words), self.count)]
        return made[len(words) :]

    def multiply(self, part: int, call: _Call, keep: str | None = None) -> None:
        """One wgmma: part += a @ b, or = where nothing was there, or `keep` (an i32) is 0."""
        old, n = self.words[part], self.count
        outs = "{" + ", ".join(f"${i}" for i in range(n)) + "}"
        at, in_registers = n + (n if old else 0), len(call.a) > 1
        a = "{" + ", ".join(f"${at + i}" for i in range(4)) + "}" if in_registers else f"${at}"
        b = f"${at + len(call.a)}"
        last = at + len(call.a) + 1
        if call.kept:
            b, last = f"{b}, ${last}, {call.kept.selector}", last + 1
        scale = f"setp.ne.b32 p, {f'${last}' if keep else 1 if old else 0}, 0;"
        text = f"{{ .reg .pred p; {scale} {_name(call)} {outs}, {a}, {b}, p{_immediates(call)}; }}"
        kinds = [("r", "i32") if in_registers else ("l", "i64")] * len(call.a) + [("l", "i64")]
        others = [x for x in (call.kept and call.kept.register, keep) if x]
        kinds += [("r", "i32")] * len(others)
        ties = [str(i) for i in range(n)] if old else []
        constraints = ",".join([f"={self.register}"] * n + ties + [k for k, _ in kinds] + ["~{memory}"])
        given = [f"{self.kind} {x}" for x in old]
        given += [f"{kind} {x}" for (_, kind), x in zip(kinds, (*call.a, call.b, *others), strict=True)]
        self.words[part] = _call(self.e, text, constraints, given, [self.kind] * n)

    def slots(self) -> list[str]:
        words = [word for part in self.words for word in part]
        return (
            [x for word in words for x in self.e.unword(word, self.dtype)] if self.dtype.bits < 32 else words
        )


def _name(call: _Call) -> str:
    form, names = ".sp" if call.kept else "", ".".join(ptx_type(t) for t in call.types)
    return f"wgmma.mma_async{form}.sync.aligned.m64n{call.shape.columns}k{call.shape.k}.{names}"


def _immediates(call: _Call) -> str:
    """Signs, and which operands are MN-major; integers have neither, and only 16 bits the latter."""
    if call.types[1].is_integer:
        return ""
    return ", 1, 1" + ("".join(f", {int(t)}" for t in call.across) if call.types[1].bits == 16 else "")


def _tied(e: Emitter, text: str, kinds: Sequence[tuple[str, str]], words: Sequence[str]) -> list[str]:
    """An instruction that registers, each with its type and class, go through unchanged."""
    outs, ties = [f"={register}" for _, register in kinds], [str(i) for i in range(len(words))]
    constraints = ",".join([*outs, *ties, "~{memory}"])
    given = [f"{kind} {x}" for (kind, _), x in zip(kinds, words, strict=True)]
    return _call(e, text, constraints, given, [kind for kind, _ in kinds])


def _call(e: Emitter, text: str, constraints: str, given: Sequence[str], results: Sequence[str]) -> list[str]:
    kind = "void" if not results else results[0] if len(results) == 1 else "{ " + ", ".join(results) + " }"
    call = f'call {kind} asm sideeffect "{text}", "{constraints}"({", ".join(given)}) #2'
    if not results:
        e.line(call)
        return []
    whole = e.let(call)
    return (
        [whole]
        if len(results) == 1
        else [e.let(f"extractvalue {kind} {whole}, {i}") for i in range(len(results))]
    )


def group_wait(e: Emitter, inst: GroupWait) -> Fragment:
    """The sums, once their product is over."""
    tile = e.fragment(inst.x)
    sums = _Sums(e, tile, 1, False)
    kinds = [(sums.kind, sums.register)] * len(sums.words[0])
    sums.words = [_tied(e, f"wgmma.wait_group.sync.aligned {inst.pending};", kinds, sums.words[0])]
    return Fragment(tile.dtype, tile.layout, sums.slots())
