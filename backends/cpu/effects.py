"""What a block knows of the grid, and what it says to the host: assertions and prints."""

from __future__ import annotations

from tilec.backends.cpu.lower import Lowering, Report
from tilec.backends.cpu.nest import Point, nest
from tilec.backends.cpu.places import Ref, Splat
from tilec.ir.func import Inst
from tilec.ir.inst import sync
from tilec.ir.tile import dense_strides

# 8-byte words that the host shares with all threads; those from CHANGING on are 0 before a launch. The last:
# what has been taken of each of the PARTS.
TOTAL, CHUNK, PARTS, FAILED_BLOCK, PRINT, FAILED, SEATS, TAKEN = range(8)
CHANGING = FAILED


def word(lo: Lowering, which: int) -> str:
    """The address of a word of the launch's state."""
    return lo.w.let(f"getelementptr i64, ptr %state, i64 {which}")


def block_index(lo: Lowering, inst: sync.BlockIndex) -> None:
    """The block's number in mixed radix, the last axis fastest."""
    w, rest = lo.w, lo.block
    for axis in range(len(inst.grid) - 1, inst.axis, -1):
        rest = w.let(f"udiv i64 {rest}, {lo.index(inst.grid[axis])}")
    if inst.axis:
        rest = w.let(f"urem i64 {rest}, {lo.index(inst.grid[inst.axis])}")
    lo.define(inst, Splat(w.let(f"trunc i64 {rest} to i32"), inst.tile.dtype))
    lo.used(inst)


def nothing(lo: Lowering, inst: Inst) -> None:
    """Checked on the host, or only of use elsewhere."""
    lo.used(inst)


def fence(lo: Lowering, inst: Inst) -> None:
    """Reads that stand before it are done before it."""
    lo.before_anything()
    lo.used(inst)


def assertion(lo: Lowering, inst: sync.Assert) -> None:
    """The first false element ends this thread's work; the host raises."""
    lo.reports.append(Report(inst.message, inst.loc))
    holds = _all(lo, inst)
    w, failed, fine = lo.w, lo.w.label("failed"), lo.w.label("holds")
    w.branch(holds, fine, failed)
    w.start(failed)
    w.line(f"store i64 {lo.block}, ptr {word(lo, FAILED_BLOCK)}")
    w.line(f"store i64 {len(lo.reports)}, ptr {word(lo, FAILED)}")
    w.jump("exit")
    w.start(fine)
    lo.used(inst)


def _all(lo: Lowering, inst: sync.Assert) -> str:
    """Whether every element of the condition is true: one flag, cleared by any false one."""
    place, w = lo.place(inst.condition), lo.w
    if isinstance(place, Splat):
        return place.register
    flag = lo.temporary(type(inst.condition.tile)(inst.condition.tile.dtype, (1,)))
    w.line(f"store i8 1, ptr {flag.base}")

    def body(args: list[str], point: Point) -> list[str]:
        cond = (
            args[0] if point.lanes.all else w.select(point.lanes.text, "i1", args[0], w.splat("true", "i1"))
        )
        name = f"llvm.vector.reduce.and.{w.mangled('i1')}"
        if w.width > 1:
            w.declare(name, "i1", w.vector("i1"))
            cond = w.let(f"call i1 @{name}({w.vector('i1')} {cond})")
        old = w.let(f"load i8, ptr {flag.base}")
        w.line(f"store i8 {w.let(f'select i1 {cond}, i8 {old}, i8 0')}, ptr {flag.base}")
        return []

    nest(w, inst.condition.tile.shape, [place], [], lo.width(inst.condition.tile.dtype), body)
    return w.let(f"trunc i8 {w.let(f'load i8, ptr {flag.base}')} to i1")


def say(lo: Lowering, inst: sync.Print) -> None:
    """Calls the host with the print's number and the tile, row-major."""
    kind = inst.x.tile
    lo.reports.append(Report(inst.label, inst.loc, kind))
    into = lo.temporary(kind)
    lo.copy(lo.place(inst.x), kind, Ref(into.base, kind.dtype, kind.shape, dense_strides(kind.shape)))
    callback = lo.w.let(f"load ptr, ptr {word(lo, PRINT)}")
    lo.w.line(f"call void {callback}(i64 {len(lo.reports) - 1}, ptr {into.base})")
    lo.used(inst)
