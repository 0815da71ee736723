"""Copies under way: nobody overwrites what they read, nobody reuses what they fill, before their wait."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import build, check
from tests.ir.kernels import Body, array
from tilec.ir import dtype as dt
from tilec.ir.func import Block, Func, Inst, Value, memory_of
from tilec.ir.inst.control import For, While
from tilec.ir.inst.memory import Alloc, Copy, Store, Wait
from tilec.ir.inst.sync import Barrier
from tilec.ir.passes.order import lower
from tilec.ir.passes.shared_memory import plan_shared_memory
from tilec.ir.target import target
from tilec.ir.verify import verify

SM_80 = target("sm_80")


@tc.kernel
def overwrites(x: tc.Array, y: tc.Array, *, warps=2):
    """The left operand is overwritten after it was read and before it is used."""
    left, right = y.load((0, 0), (32, 32)), x.load((0, 0), (32, 32))
    y.store((0, 0), right + right)
    y.store((0, 32), tc.dot(left, right).to(tc.f16))


@tc.kernel(alias=("x",))
def overwrites_another(x: tc.Array, y: tc.Array, *, warps=2):
    """As above, where x may be y."""
    left, right = x.load((0, 0), (32, 32)), x.load((0, 32), (32, 32))
    y.store((0, 0), right + right)
    y.store((0, 32), tc.dot(left, right).to(tc.f16))


@tc.kernel(alias=("x",))
def loop_over_another(x: tc.Array, y: tc.Array, *, warps=2):
    acc = tc.zeros((32, 32), tc.f32)
    for i in tc.range(2, stages=3):
        tile = x.load((0, i * 32), (32, 32))
        acc = tc.dot(tile, tile, acc)
        y.store((0, 0), acc.to(tc.f16))


def traced(kernel: tc.Kernel) -> Func:
    arrays = [tc.Spec("f16", (32, 64))] * 2
    return kernel.compile(*arrays, target="reference").traced


def order(func: Func, kinds: type[Inst] | tuple[type[Inst], ...]) -> Iterator[Inst]:
    return (inst for inst in func.walk() if isinstance(inst, kinds))


@pytest.mark.parametrize("kernel", [overwrites, overwrites_another], ids=lambda k: k.definition.name)
def test_sources_of_copies(kernel: tc.Kernel) -> None:
    """Between a copy and a store to its source stand its wait, and a barrier: other threads copy too."""
    func = lower(traced(kernel), SM_80)
    reading: set[Value] = set()
    waited: set[Value] = set()
    stores = 0
    for inst in order(func, (Copy, Wait, Barrier, Store)):
        match inst:
            case Copy():
                reading.add(memory_of(func, inst.array))
            case Wait(tokens=tokens):
                found = {memory_of(func, t.array) for t in tokens if isinstance(t, Copy)}
                reading, waited = reading - found, waited | found
            case Barrier():
                waited = set()
            case Store(array=array) if array.array_type.space == "global":
                stores += 1
                assert memory_of(func, array) not in reading | waited
    assert stores == 2


def test_loops_that_write_what_may_be_their_source_do_not_run_ahead() -> None:
    stages = dict(build(traced(loop_over_another), "sm_80")[0])
    loop = next(order(stages["pipeline"], For))
    assert isinstance(loop, For) and loop.stages == 1
    assert not any(a.count > 1 for a in order(stages["pipeline"], Alloc) if isinstance(a, Alloc))


def test_the_kernels_mean_what_they_meant() -> None:
    draw = np.random.default_rng(0)
    x, y = ((draw.integers(-2, 3, (32, 64)) / 2).astype(np.float16) for _ in range(2))
    for kernel in (overwrites, overwrites_another, loop_over_another):
        check(traced(kernel), [x, y], bound=0.1)


def test_a_buffer_lives_until_the_wait_of_its_copy() -> None:
    """Even when nobody reads it: the bytes arrive late."""
    x = array("x", dt.i32, 64)
    b = Body()
    zero, at = b.i32(0), (b.i32(0),)
    first = b(Alloc(dt.i32, (64,)))
    token = b(Copy(x, at, first, zero))
    second = b(Alloc(dt.i32, (64,)))
    b(Store(second, at, b.load(x, at, (64,))))
    b(Wait((token,)))
    func = plan_shared_memory(Func("k", (x,), Block((), tuple(b)), {"warps": 1}), SM_80)
    offsets = [a.offset for a in order(func, Alloc) if isinstance(a, Alloc)]
    assert sorted(o for o in offsets if o is not None) == [0, 256]


def test_buffers_of_different_times_share_bytes() -> None:
    x = array("x", dt.i32, 64)
    b = Body()
    at = (b.i32(0),)
    for _ in range(3):
        buffer = b(Alloc(dt.i32, (64,)))
        b(Store(buffer, at, b.load(x, at, (64,))))
        b(Store(x, at, b.load(buffer, at, (64,))))
    func = plan_shared_memory(Func("k", (x,), Block((), tuple(b)), {"warps": 1}), SM_80)
    assert [a.offset for a in order(func, Alloc) if isinstance(a, Alloc)] == [0, 0, 0]


@tc.kernel
def counts_up(x: tc.Array, y: tc.Array):
    """A loop's result is what another loop asks for before each round."""
    total, below = 0, 1
    for i in tc.range(4):
        total += x.at(i, 0).to(tc.i32)
    while below < total:
        below = below * 2
    y.store((0, 0), below.to(tc.f16))


def test_conditions_of_loops_take_what_was_moved() -> None:
    """Or the loop would run anew in each condition."""
    func = lower(traced(counts_up), SM_80)
    verify(func)
    assert [type(inst) for inst in func.body.body if isinstance(inst, For | While)] == [For, While]
