"""Instructions in order, loops and branches: one table from instruction to emitter.

Carried values become phis, one per slot. A block's emitters only ever append lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tilec.backends import emit
from tilec.backends.ptx import (
    approx,
    bulk,
    memory,
    mma,
    mma_sparse,
    moves,
    reduce,
    reports,
    tables,
    turn,
    wgmma,
)
from tilec.backends.ptx.elementwise import elementwise
from tilec.backends.ptx.emitter import ArrayRef, Emitter, Fragment, Token
from tilec.backends.ptx.inline import inline_ptx
from tilec.backends.ptx.locations import mark
from tilec.backends.ptx.roles import write as write_roles
from tilec.backends.ptx.threads import per_thread
from tilec.backends.writer import held
from tilec.ir import dtype as dt
from tilec.ir.errors import TilecError
from tilec.ir.func import Block, Inst, Item, Value, root
from tilec.ir.inst import arith, control, shape, sync
from tilec.ir.inst import bulk as bulks
from tilec.ir.inst import memory as mem
from tilec.ir.inst import mma as products
from tilec.ir.inst import reduce as reductions
from tilec.ir.inst import turn as turns
from tilec.ir.inst.inline import InlinePtx
from tilec.ir.inst.sparse import HeldSparseDot, SparseDot
from tilec.ir.tile import TileType, TokenType, Type


def write_block(e: Emitter, block: Block) -> list[Any]:
    """Writes a block's instructions; gives the values that it is left with."""
    e.lazy |= _lazy_loads(e.users, block)
    for inst in block.body:
        handler = HANDLERS.get(type(inst))
        mark(e.writer.lines, inst.loc)
        try:
            e.values[inst] = handler(e, inst) if handler else elementwise(e, inst)
        except TilecError as error:
            raise error.at(inst.loc) if inst.loc else error from None
    return [e.held(v) for v in block.results]


def _lazy_loads(users: dict[Value, list[Inst]], block: Block) -> set[Value]:
    """Loads from shared memory that only products of this block use, with no write, wait or barrier in
    between.
    """
    found: set[Value] = set()
    waiting: set[Value] = set()
    for inst in reversed(block.body):
        if inst.effects.writes or inst.effects.ordered or inst.blocks:
            waiting.clear()
        elif isinstance(inst, products.Dot | SparseDot):
            waiting |= {inst, *inst.factors}
        elif isinstance(inst, shape.Permute | shape.Reshape | mem.Load) and inst in waiting:
            mine = users.get(inst, [])
            if all(
                isinstance(user, products.Dot | SparseDot | shape.Permute | shape.Reshape) and user in waiting
                for user in mine
            ):
                waiting |= set(inst.operands)
                found.add(inst)
    return found


def _full(e: Emitter, inst: arith.Full) -> Any:
    value = e.writer.constant(inst.value, inst.dtype)
    if not inst.shape:
        return value
    assert inst.layout is not None, "the layout pass gives every tile a layout"
    return Fragment(inst.dtype, inst.layout, [value] * inst.layout.slots)


def _iota(e: Emitter, inst: arith.Iota) -> Fragment:
    assert inst.layout is not None, "the layout pass gives every tile a layout"
    start = per_thread(e, inst.layout.thread_part()[:, inst.axis])
    steps = inst.layout.slot_part()[:, inst.axis].tolist()
    wide = {step: e.let(f"add i32 {start}, {step}") if step else start for step in dict.fromkeys(steps)}
    cast = {step: emit.cast(e.writer, x, dt.i32, inst.dtype) for step, x in wide.items()}
    return Fragment(inst.dtype, inst.layout, [cast[step] for step in steps])


def _size(e: Emitter, inst: mem.Size) -> str:
    return str(e.array(inst.array).extents[inst.axis])


def _alloc(e: Emitter, inst: mem.Alloc) -> ArrayRef:
    assert inst.offset is not None, "shared memory is planned before code is written"
    with e.at_entry():
        base = e.let(f"getelementptr i8, ptr addrspace(3) @shared, i32 {inst.offset}")
    return _dense(inst, base)


def _stage(e: Emitter, inst: mem.Stage) -> ArrayRef:
    """One buffer of a ring: its base moves, everything within it stays where it is."""
    ring = root(inst.array)
    assert isinstance(ring, mem.Alloc), "rings are allocations"
    moved = e.let(f"mul nuw nsw i32 {e.scalar(inst.index)}, {ring.stage_bytes}")
    base = e.let(f"getelementptr i8, ptr addrspace(3) {e.array(inst.array).base}, i32 {moved}")
    return _dense(inst, base, moving=True)


def _dense(inst: Inst, base: str, moving: bool = False) -> ArrayRef:
    kind = inst.array_type
    extents, strides = (tuple(int(n) for n in ns if isinstance(n, int)) for ns in (kind.shape, kind.strides))
    return ArrayRef(base, extents, strides, moving=moving)


def _array_reshape(e: Emitter, inst: mem.ArrayReshape) -> ArrayRef:
    return _dense(inst, e.array(inst.array).base)


def _block_index(e: Emitter, inst: sync.BlockIndex) -> str:
    """One digit of the block's number, read in mixed radix with the grid's extents."""
    number = e.call("llvm.nvvm.read.ptx.sreg.ctaid.x", "i32")
    for extent in reversed(inst.grid[inst.axis + 1 :]):
        number = e.let(f"udiv i32 {number}, {e.scalar(extent)}")
    return e.let(f"urem i32 {number}, {e.scalar(inst.grid[inst.axis])}") if inst.axis else number


def _item(e: Emitter, inst: Item) -> Any:
    return e.values[inst.source][inst.index]


def _barrier(e: Emitter, inst: sync.Barrier) -> None:
    e.barrier()


def _proxy_fence(e: Emitter, inst: sync.ProxyFence) -> None:
    e.line('call void asm sideeffect "fence.proxy.async.shared::cta;", "~{memory}"()')


def _nothing(e: Emitter, inst: Inst) -> None:
    """Instructions that say something to the host or to the reference runner only."""


def _same(e: Emitter, inst: shape.Annotate) -> Any:
    return e.held(inst.x)


def _assert(e: Emitter, inst: sync.Assert) -> None:
    """Stops the kernel where any element is false."""
    held_ = e.held(inst.condition)
    whole: str | None = None
    slots = held_.slots if isinstance(held_, Fragment) else [held_]
    real = (
        reduce.without_pad(e, list(slots), held_.layout, "true", "i1")
        if isinstance(held_, Fragment)
        else slots
    )
    for slot in real:
        whole = slot if whole is None else e.let(f"and i1 {whole}, {slot}")
    failed, fine = e.writer.label("failed"), e.writer.label("fine")
    e.writer.branch(str(whole), fine, failed)
    e.start_block(failed)
    reports.failed(e, inst)
    e.writer.jump(fine)
    e.start_block(fine)


# -- control flow -----------------------------------------------------------------------------------


def _names(value: Any) -> list[str]:
    """The registers of a carried value; a token has none."""
    if isinstance(value, Fragment):
        return list(value.slots)
    return [] if isinstance(value, Token) else [value]


def _like(kind: Type, names: list[str]) -> Any:
    """A carried value made of registers."""
    if isinstance(kind, TokenType):
        return Token()
    assert isinstance(kind, TileType), "loops carry tiles and tokens"
    if kind.rank == 0:
        return names[0]
    assert kind.layout is not None, "the layout pass gives every tile a layout"
    return Fragment(kind.dtype, kind.layout, names)


class _Phis:
    """Phis of carried values, written when what comes along every edge is known."""

    def __init__(self, e: Emitter, types: Sequence[Type]) -> None:
        self.e, self.types = e, types
        self.edges: list[tuple[str, list[str]]] = []
        counts = [_registers(kind) for kind in types]
        self.names = [[e.writer.label("%phi") for _ in range(n)] for n in counts]
        self.at = len(e.writer.lines)

    @property
    def values(self) -> list[Any]:
        return [_like(kind, names) for kind, names in zip(self.types, self.names, strict=True)]

    def come(self, values: Sequence[Any]) -> None:
        """The current block jumps here with these values."""
        self.edges.append((self.e.block, [name for value in values for name in _names(value)]))

    def write(self) -> None:
        """Puts the phis where this object was made: right after its block's label."""
        kinds = [held(kind.dtype) for kind, names in zip(self.types, self.names, strict=True)
                 if isinstance(kind, TileType) for _ in names]  # fmt: skip
        flat = [name for names in self.names for name in names]
        lines = []
        for i, (name, kind) in enumerate(zip(flat, kinds, strict=True)):
            arms = ", ".join(f"[ {values[i]}, %{block} ]" for block, values in self.edges)
            lines.append(f"  {name} = phi {kind} {arms}")
        self.e.writer.lines[self.at : self.at] = lines


def _registers(kind: Type) -> int:
    if not isinstance(kind, TileType):
        return 0
    return kind.layout.slots if kind.layout else 1


def _types(values: Sequence[Value]) -> list[Type]:
    return [v.type for v in values]


def _for(e: Emitter, inst: control.For) -> tuple[Any, ...]:
    head, inner, out = (e.writer.label(stem) for stem in ("loop", "body", "done"))
    index = inst.start.tile
    start, stop = e.scalar(inst.start), e.scalar(inst.stop)
    before = [start, *(e.held(v) for v in inst.init)]
    came_from = e.block
    e.writer.jump(head)
    e.start_block(head)
    phis = _Phis(e, [index, *_types(inst.init)])
    phis.edges.append((came_from, [name for value in before for name in _names(value)]))
    entered = phis.values
    kind = held(index.dtype)
    order = "slt" if index.dtype.is_signed else "ult"
    more = e.let(f"icmp {order} {kind} {entered[0]}, {stop}")
    e.writer.branch(more, inner, out)
    e.start_block(inner)
    e.values.update(zip(inst.body.args, entered, strict=True))
    results = write_block(e, inst.body)
    phis.come([_next_index(e, inst, entered[0]), *results])
    e.line(f"br label %{head}, !llvm.loop !2")
    phis.write()
    e.start_block(out)
    return tuple(entered[1:])


def _next_index(e: Emitter, inst: control.For, index: str) -> str:
    """index + step; `stop` where that could pass the top of the index's type, which ends the loop too."""
    dtype, kind = inst.start.tile.dtype, held(inst.start.tile.dtype)
    stop, step = e.scalar(inst.stop), e.scalar(inst.step)
    by = e.facts.constant(inst.step)
    if by == 1 or (by is not None and e.facts.range(inst.stop)[1] + by - 1 <= dtype.max):
        return e.let(f"add {'nsw' if dtype.is_signed else 'nuw'} {kind} {index}, {step}")
    left = e.let(f"sub {kind} {stop}, {index}")
    further = e.let(f"icmp ugt {kind} {left}, {step}")
    return e.let(f"select i1 {further}, {kind} {e.let(f'add {kind} {index}, {step}')}, {kind} {stop}")


def _while(e: Emitter, inst: control.While) -> tuple[Any, ...]:
    head, inner, out = (e.writer.label(stem) for stem in ("while", "body", "done"))
    came_from, before = e.block, [e.held(v) for v in inst.init]
    e.writer.jump(head)
    e.start_block(head)
    phis = _Phis(e, _types(inst.init))
    phis.edges.append((came_from, [name for value in before for name in _names(value)]))
    entered = phis.values
    e.values.update(zip(inst.condition.args, entered, strict=True))
    more = write_block(e, inst.condition)[0]
    e.writer.branch(more, inner, out)
    e.start_block(inner)
    e.values.update(zip(inst.body.args, entered, strict=True))
    phis.come(write_block(e, inst.body))
    e.writer.jump(head)
    phis.write()
    e.start_block(out)
    return tuple(entered)


def _if(e: Emitter, inst: control.If) -> tuple[Any, ...]:
    yes, no, after = (e.writer.label(stem) for stem in ("then", "else", "after"))
    e.writer.branch(e.scalar(inst.condition), yes, no)
    left: list[tuple[str, list[Any]]] = []
    for label, block in ((yes, inst.then), (no, inst.orelse)):
        e.start_block(label)
        results = write_block(e, block)
        left.append((e.block, results))
        e.writer.jump(after)
    e.start_block(after)
    phis = _Phis(e, _types(inst.then.results))
    phis.edges = [(block, [name for value in results for name in _names(value)]) for block, results in left]
    phis.write()
    return tuple(phis.values)


HANDLERS: dict[type[Inst], Callable[..., Any]] = {
    arith.Full: _full, arith.Iota: _iota, arith.Table: tables.table, arith.Math: approx.math,
    InlinePtx: inline_ptx, shape.Reshape: moves.reshape, shape.Permute: moves.same_slots,
    shape.Broadcast: moves.broadcast,
    shape.Extract: moves.extract, shape.Stack: moves.stack, shape.Convert: moves.convert,
    shape.Annotate: _same, shape.View: moves.view,
    reductions.Reduce: reduce.reduce, reductions.Partial: reduce.reduce,
    reductions.ArgReduce: reduce.arg_reduce, reductions.Scan: reduce.scan, products.Dot: mma.dot,
    SparseDot: mma_sparse.dot,
    products.GroupDot: wgmma.group_dot, products.HeldDot: wgmma.group_dot, HeldSparseDot: wgmma.group_dot,
    products.GroupWait: wgmma.group_wait,
    mem.Size: _size, mem.ArraySlice: memory.array_slice, mem.Alloc: _alloc, mem.Stage: _stage,
    mem.ArrayReshape: _array_reshape, mem.Load: memory.load, mem.Store: memory.store,
    mem.Gather: memory.gather, mem.Scatter: memory.scatter, mem.Atomic: memory.atomic,
    mem.Copy: memory.copy, mem.Wait: memory.wait, bulks.Gates: bulk.gates,
    bulks.BulkCopy: bulk.copy, bulks.BulkWait: bulk.wait, bulks.BulkRoom: bulk.room,
    bulks.BulkDone: bulk.done, bulks.BulkStore: bulk.store, bulks.BulkStored: bulk.stored,
    sync.BlockIndex: _block_index, sync.Barrier: _barrier, sync.ProxyFence: _proxy_fence,
    sync.ReadOnce: _nothing, sync.Require: _nothing,
    sync.Breakpoint: _nothing, sync.Assert: _assert, sync.Print: reports.printed,
    turns.TakeTurn: turn.take, turns.PassTurn: turn.pass_on,
    control.For: _for, control.While: _while, control.If: _if, Item: _item,
    control.Roles: lambda e, inst: write_roles(e, inst, write_block),
}  # fmt: skip
