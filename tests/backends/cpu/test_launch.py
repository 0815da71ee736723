"""Launches: the grid, threads, scalars, assertions and prints, and what a compiled kernel shows."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.backends.cpu.build import Builder, agree, array, copied, reference, scalar
from tests.backends.cpu.test_memory import stored
from tilec.backends import cpu
from tilec.backends.cpu import effects
from tilec.backends.cpu.arguments import scalar_code
from tilec.ir import codec, run
from tilec.ir import dtype as dt
from tilec.ir.dtype import ALL, DType
from tilec.ir.errors import Loc, TilecError
from tilec.ir.inst import arith, memory, shape, sync
from tilec.ir.inst.turn import TakeTurn
from tilec.ir.tile import Dim


def grid_kernel() -> Any:
    """Each block of a 3-axis grid writes its number into its place."""
    b = Builder(array(dt.i32, Dim("x"), Dim("y"), Dim("z")))
    extents = tuple(b(memory.Size(b.params[0], axis)) for axis in range(3))
    i, j, k = (b(sync.BlockIndex(extents, axis)) for axis in range(3))
    code = b(
        arith.Add(b(arith.Mul(b(arith.Add(b(arith.Mul(i, b.const(10, dt.i32))), j)), b.const(10, dt.i32))), k)
    )
    b.store(b.params[0], (i, j, k), b(shape.Reshape(code, (1, 1, 1))))
    return b.func()


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
@pytest.mark.parametrize("extents", [(1, 1, 1), (3, 5, 7), (9, 2, 4), (0, 3, 3)])
def test_every_block_runs_once(extents: tuple[int, ...], threads: int | None) -> None:
    agree(grid_kernel(), [np.full(extents, -1, np.int32)], threads=threads)


def order_kernel(turns: bool) -> Any:
    """Each of 9 blocks writes how many came before it, where one thread runs them all."""
    b = Builder(array(dt.i32, 9), array(dt.i32, 1), array(dt.i32, 9))
    came, count, locks = b.params
    block, one = b(sync.BlockIndex((b.const(9, dt.i32),), 0)), b.const(1, dt.i32, 1)
    if turns:
        b(TakeTurn(locks, block, b.const(0, dt.i32)))
    before = b.load(count, (0,), 1)
    b.store(came, (block,), before)
    b.store(count, (0,), b(arith.Add(before, one)))
    return b.func()


@pytest.mark.parametrize(("turns", "expected"), [(False, [7, 8, 0, 1, 2, 3, 4, 5, 6]), (True, range(9))])
def test_a_thread_begins_with_its_own_part(turns: bool, expected: Sequence[int]) -> None:
    """The second of four threads, when no other comes; blocks with turns are taken in order."""
    came, count, locks = (np.zeros(n, np.int32) for n in (9, 1, 9))
    kernel = cpu.compile(order_kernel(turns))
    state = [0] * (effects.TAKEN + 4)
    state[effects.TOTAL], state[effects.CHUNK], state[effects.PARTS], state[effects.SEATS] = 9, 2, 4, 1
    room = kernel._room(kernel._binding.words([came, count, locks]), state, 0)
    kernel._function(room.at_words, room.at_state, kernel._scratch(), room.job.tables)
    assert came.tolist() == list(expected)


def test_a_kernel_without_blocks_runs_once() -> None:
    b = Builder(array(dt.i32, 3))
    b.store(b.params[0], (0,), b.const(4, dt.i32, 3))
    agree(b.func(), [np.zeros(3, np.int32)])


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_scalars(dtype: DType) -> None:
    b = Builder(array(dtype, 2), scalar(dtype))
    b.store(b.params[0], (0,), b(shape.Broadcast(b.params[1], (2,))))
    for value in (1, 0, dtype.max):
        agree(b.func(), [stored(dtype, 2), value])
    assert scalar_code(1, dtype) == int(codec.encode(codec.round_to(1, dtype), dtype))


def asserting(message: str) -> Any:
    b = Builder(array(dt.i32, 60), array(dt.i32, 60))
    x = b.load(b.params[0], (0,), 60)
    b(sync.Assert(b(arith.Compare("lt", x, b.const(50, dt.i32, 60))), message, loc=Loc("kernel.py", 12)))
    b(
        sync.Assert(
            b(arith.Compare("lt", b(arith.Add(b.const(1, dt.i32), b.const(1, dt.i32))), b.const(3, dt.i32))),
            "sums",
        )
    )
    b.store(b.params[1], (0,), x)
    return b.func()


def test_assertions() -> None:
    func = asserting("values stay below 50")
    values, out = np.arange(60, dtype=np.int32) % 50, np.zeros(60, np.int32)
    agree(func, [values, out])
    values[57] = 51
    with pytest.raises(TilecError, match=r"kernel\.py:12: assertion failed in block 0: values stay below 50"):
        cpu.compile(func).launch([values, out], 1)
    assert not out.any(), "what follows a failed assertion does not run"


def test_assertions_name_the_block() -> None:
    b = Builder(array(dt.i32, 40))
    block = b(sync.BlockIndex((b.const(40, dt.i32),), 0))
    b(sync.Assert(b(arith.Compare("ne", block, b.const(23, dt.i32))), "no block is 23"))
    kernel = cpu.compile(b.func())
    for threads in (1, 3):
        with pytest.raises(TilecError, match="in block 23: no block is 23"):
            kernel.launch([np.zeros(40, np.int32)], 40, threads)


def test_requirements_are_checked_on_the_host() -> None:
    b = Builder(array(dt.i32, Dim("n")))
    small = b(arith.Compare("lt", b(memory.Size(b.params[0], 0)), b.const(10, dt.i32)))
    b(sync.Require(small, "n < 10"))
    b.store(b.params[0], (0,), b.const(1, dt.i32, 4))
    agree(b.func(), [np.zeros(9, np.int32)])
    with pytest.raises(TilecError, match="the kernel requires n < 10"):
        cpu.grid(b.func(), [np.zeros(10, np.int32)])


@pytest.mark.parametrize("dtype", [dt.f32, dt.i4, dt.bf16, dt.bool, dt.f4e2m1, dt.u64], ids=str)
def test_prints(dtype: DType, capsys: pytest.CaptureFixture[str]) -> None:
    """What the reference says, block after block."""
    b = Builder(array(dtype, 4, 6))
    block = b(sync.BlockIndex((b.const(3, dt.i32),), 0))
    x = b.load(b.params[0], (block, 2), 2, 4)
    b(sync.Print("x = ", b(shape.Permute(x, (1, 0)))))
    b(sync.Print("block ", block))
    b(sync.Breakpoint((), ()))
    func, args = b.func(), [stored(dtype, 4, 6)]
    cpu.compile(func).launch(args, 3)
    said = capsys.readouterr().out
    lines: list[str] = []
    run.run(without_breakpoints(func), [run.Memory(args[0], dtype)], run.State(output=lines.append))
    assert said == "\n".join([*lines, ""])


def without_breakpoints(func: Any) -> Any:
    """The function as a reference without a debugger can run it."""
    body = tuple(inst for inst in func.body.body if not isinstance(inst, sync.Breakpoint))
    return replace(func, body=replace(func.body, body=body))


def test_what_a_kernel_shows() -> None:
    kernel = cpu.compile(grid_kernel())
    assert "define void @blocks" in kernel.text
    assert "@blocks" in kernel.llvm
    assert "blocks:" in kernel.asm


def test_kernels_run_from_several_threads_at_once() -> None:
    """Every thread has an arena of its own."""
    func = grid_kernel()
    kernel = cpu.compile(func)
    arrays = [np.zeros((5, 6, 7), np.int32) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(kernel.launch, [a], 210, 2) for a in arrays]:
            done.result()
    expected = copied(arrays[:1])
    reference(func, expected)
    for a in arrays:
        np.testing.assert_array_equal(a, expected[0])
