"""Sums of warpgroups that a loop starts anew are not set to zero: the next product overwrites them.

    for s: part = dot(.., part); part = if done: 0 else: part
becomes
    for s: part = dot(.., part, keep); keep = not done          with keep = false at the start
wgmma adds to its sums or not, as a predicate says. What is left of the branch is what it does besides.
"""

from __future__ import annotations

from dataclasses import replace

from tilec.ir import dtype as dt
from tilec.ir.func import Arg, Block, Func, Inst, Item, Value
from tilec.ir.inst.arith import Full, Not
from tilec.ir.inst.control import For, If
from tilec.ir.inst.mma import GroupProduct, GroupWait
from tilec.ir.passes.pipeline import rebuilt
from tilec.ir.rewrite import Emit, Rewritten, rebuild, uses
from tilec.ir.target import Target
from tilec.ir.tile import TileType


def fresh_sums(func: Func, target: Target) -> Func:
    """After warpgroups, which makes the products."""
    users = uses(func)
    wanted = {(v.source, v.index) for v in users if isinstance(v, Item)}

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if not isinstance(inst, For):
            return None
        k = next((k for k in range(len(inst.init)) if (emit.old, k) not in wanted and _fresh(inst, k)), None)
        if k is None:
            return None
        loop = emit(_with_keep(inst, k))
        return tuple(Item(loop, i) for i in range(len(inst.init)))

    return rebuild(func, visit)


def _is_zero(v: Value) -> bool:
    return isinstance(v, Full) and v.value == 0


def _branch(loop: For, k: int) -> tuple[If, int, GroupWait] | None:
    """The branch that a carried value comes from, as which of its results, and the wait for its product."""
    match loop.body.results[k]:
        case Item(source=If(then=then, orelse=orelse) as branch, index=j):
            pair = then.results[j], orelse.results[j]
            wait = next((v for v in pair if isinstance(v, GroupWait)), None)
            return (branch, j, wait) if wait is not None and any(map(_is_zero, pair)) else None
    return None


def _fresh(loop: For, k: int) -> bool:
    """Whether carried values are sums from zero that a product adds to, or that a branch sets to zero."""
    found, body, arg = _branch(loop, k), loop.body, loop.body.args[1 + k]
    if found is None or not _is_zero(loop.init[k]):
        return False
    dot, item = found[2].x, body.results[k]
    here = isinstance(dot, GroupProduct) and dot.c is arg and dot.keep is None and dot in body.body
    inner = list(body.walk())
    given = [v for inst in inner for block in inst.blocks for v in block.results]
    taken = [v for inst in inner for v in inst.operands] + given + list(body.results)
    return here and taken.count(arg) == 1 and taken.count(item) == 1


def _with_keep(loop: For, k: int) -> For:
    found = _branch(loop, k)
    assert found is not None, "the loop has been looked at"
    branch, j, wait = found
    keep, body = Arg(TileType(dt.bool), "keep"), loop.body
    assert isinstance(wait.x, GroupProduct), "the loop has been looked at"
    new: dict[Value, Value] = {}
    made: list[Inst] = []
    for inst in body.body:
        given = replace(inst, keep=keep) if inst is wait.x and isinstance(inst, GroupProduct) else inst
        new[inst] = moved = rebuilt(given, new)
        made.append(moved)
    kept = new.get(branch.condition, branch.condition)
    if _is_zero(branch.then.results[j]):
        kept = Not(kept, loc=branch.loc)
        made.append(kept)
    results = [new.get(v, v) for v in body.results]
    results[k] = new[wait]
    start = Full(False, dt.bool, loc=loop.loc)
    return replace(
        loop, init=(*loop.init, start), body=Block((*body.args, keep), tuple(made), (*results, kept))
    )
