"""Software pipelining: every number of stages and rounds gives the same sums; copies run ahead."""

from dataclasses import replace

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import build, check
from tilec.ir import debug
from tilec.ir.func import Func
from tilec.ir.inst.memory import Copy, Wait
from tilec.ir.inst.sync import Barrier

RANDOM = np.random.default_rng(0)


@tc.kernel
def matmul(a: tc.Array, b: tc.Array, c: tc.Array, *, bm=32, bn=32, bk=16, stages=3, warps=2):
    A, B, C = a.tiles((bm, bk)), b.tiles((bk, bn)), c.tiles((bm, bn))
    i, j = tc.blocks(*C.shape)
    acc = tc.zeros((bm, bn), tc.f32)
    for s in tc.range(A.shape[1], stages=stages):
        acc = tc.dot(A[i, s], B[s, j], acc)
    C[i, j] = acc


@tc.kernel
def chosen(x: tc.Array, order: tc.Array, y: tc.Array, *, stages=3, warps=1):
    acc = tc.zeros((16, 16), tc.f32)
    for s in tc.range(order.shape[0], stages=stages):
        row = order.at(s)
        tile = x.load((row * 16, 0), (16, 16))
        acc = tc.dot(tile, tile.T, acc)
    y.store((0, 0), acc)


@tc.kernel
def powers(x: tc.Array, *, stages=2, warps=1):
    for s in tc.range(3, stages=stages):
        tile = x.load((s * 16, 0), (16, 16))
        square = tc.dot(tile, tile, tc.zeros((16, 16), tc.f32))
        x.store((s * 16 + 16, 0), square.to(tc.f16))


def traced(kernel, *args, **constants) -> Func:
    func: Func = kernel.compile(*args, target="reference", **constants).traced
    return func


def half(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float16)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("depth", [0, 8, 16, 40, 64])
def test_every_number_of_stages_and_rounds_gives_the_same_sums(stages: int, depth: int) -> None:
    args = [half(40, depth), half(depth, 24), np.full((40, 24), 7, np.float32)]
    if depth == 0:  # an empty array has no first element to point to
        args[:2] = [np.zeros((40, 0), np.float16), np.zeros((0, 24), np.float16)]
    check(traced(matmul, *args, stages=stages), args, bound=1e-4)


def test_a_pipelined_round_meets_one_barrier_and_waits_for_the_oldest_copies() -> None:
    args = [half(64, 64), half(64, 64), np.zeros((64, 64), np.float32)]
    stages, _ = build(traced(matmul, *args, stages=4), "sm_80")
    loop = next(inst for inst in stages[-1][1].walk() if inst.blocks)
    body = loop.blocks[0].body
    assert sum(isinstance(inst, Barrier) for inst in body) == 1
    assert [inst.pending for inst in body if isinstance(inst, Wait)] == [4]
    assert [inst.when is not None for inst in body if isinstance(inst, Copy)] == [True, True]


def test_a_copy_whose_address_is_loaded_stays_in_place(capsys: pytest.CaptureFixture[str]) -> None:
    args = [half(64, 16), np.array([3, 0, 2], np.int32), np.zeros((16, 16), np.float32)]
    func = traced(chosen, *args)
    check(func, args, bound=1e-4)
    with debug.at(1):
        build(replace(func), "sm_80")
    assert "not pipelined: its address depends on what the loop loads or carries" in capsys.readouterr().out


def test_a_copy_from_an_array_that_the_loop_writes_stays_in_place(capsys: pytest.CaptureFixture[str]) -> None:
    args = [(half(64, 16) / 4).astype(np.float16)]
    func = traced(powers, *args)
    check(func, args, bound=2e-2)
    with debug.at(1):
        build(replace(func), "sm_80")
    assert "not pipelined: the loop writes the array" in capsys.readouterr().out
