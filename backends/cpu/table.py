"""The CPU's emitter for each type of instruction."""

from __future__ import annotations

from tilec.backends.cpu import (
    arrays,
    cluster,
    control,
    dot_several,
    effects,
    reduce,
    register_loops,
    scan,
    scattered,
    shapes,
    transfers,
    turn,
    view,
)
from tilec.backends.cpu.lower import Emitter
from tilec.backends.emit import EMITTERS as ELEMENTWISE
from tilec.ir.func import Inst, Item
from tilec.ir.inst import arith, memory, mma, sync
from tilec.ir.inst import control as ctl
from tilec.ir.inst import reduce as red
from tilec.ir.inst import shape as sh
from tilec.ir.inst import turn as turns

EMITTERS: dict[type[Inst], Emitter] = {
    **dict.fromkeys(ELEMENTWISE, cluster.join),
    memory.Gather: cluster.join,
    arith.Full: shapes.full,
    arith.Iota: shapes.iota,
    arith.Table: shapes.table,
    sh.Reshape: shapes.reshaped,
    sh.Permute: shapes.permuted,
    sh.Broadcast: shapes.broadcasted,
    sh.Extract: shapes.extracted,
    sh.Stack: shapes.stack,
    sh.View: view.view,
    Item: shapes.item,
    memory.Size: arrays.size,
    memory.ArraySlice: arrays.array_slice,
    memory.ArrayReshape: arrays.array_reshape,
    memory.Stage: arrays.stage,
    memory.Alloc: arrays.alloc,
    memory.Load: transfers.load,
    memory.Store: transfers.store,
    memory.Copy: transfers.copy,
    memory.Wait: effects.fence,
    memory.Scatter: scattered.scatter,
    memory.Atomic: scattered.atomic,
    red.Reduce: reduce.reduced,
    red.ArgReduce: scan.argument,
    red.Scan: scan.scanned,
    mma.Dot: dot_several.dot,
    ctl.For: register_loops.for_,
    ctl.While: control.while_,
    ctl.If: control.if_,
    sync.BlockIndex: effects.block_index,
    sync.Require: effects.nothing,
    sync.ReadOnce: effects.nothing,
    sync.Barrier: effects.fence,
    sync.Assert: effects.assertion,
    sync.Print: effects.say,
    sync.Breakpoint: effects.nothing,
    turns.TakeTurn: turn.take,
    turns.PassTurn: turn.pass_on,
}
