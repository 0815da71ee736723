"""Every barrier that the pass puts is needed: without it the emulator finds a race, or numbers are wrong."""

from dataclasses import replace

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import build, copies, emulate, meaning
from tests.backends.ptx.test_several_products import sliced
from tests.ir.passes.test_pipeline import half, matmul, traced
from tilec.backends.ptx.kernel import compile as compile_ptx
from tilec.ir.func import Func, Inst
from tilec.ir.inst.sync import Barrier
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.target import target

SM_80 = target("sm_80")


@tc.kernel
def column_sums(x: tc.Array, y: tc.Array, *, warps=4):
    tile = x.load((0, 0), (64, 32))
    y.store((0,), tile.sum(0))


@tc.kernel
def neighbours(x: tc.Array, y: tc.Array, *, warps=4):
    row = tc.shared((256,), tc.f32)
    row.store((0,), x.load((0,), (256,)))
    for _ in tc.range(2):
        row.store((0,), row.load((1,), (256,)) + row.load((0,), (256,)))
    y.store((0,), row.load((0,), (256,)))


@tc.kernel
def shifted_sums(x: tc.Array, y: tc.Array, *, warps=4):
    """Rounds that only read what was written before them."""
    row = tc.shared((256,), tc.f32)
    row.store((0,), x.load((0,), (256,)))
    total = tc.zeros((128,), tc.f32)
    for i in tc.range(5):
        total = total + row.load((i,), (128,))
    y.store((0,), total)


def _single(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


CASES = {
    "column_sums": (column_sums, [_single(64, 32), np.zeros(32, np.float32)]),
    "neighbours": (neighbours, [_single(256), np.zeros(256, np.float32)]),
    "shifted_sums": (shifted_sums, [_single(256), np.zeros(128, np.float32)]),
    "slices": (sliced, [half(16, 128), half(128, 32), np.zeros((16, 32), np.float32)]),
    "matmul": (matmul, [half(32, 48), half(48, 32), np.zeros((32, 32), np.float32)]),
}


def _without(func: Func, chosen: Inst) -> Func:
    def visit(inst: Inst, emit: Emit) -> Rewritten:
        return () if emit.old is chosen else None

    return rebuild(func, visit)


@pytest.mark.parametrize("name", CASES)
def test_no_barrier_can_go(name: str) -> None:
    kernel, args = CASES[name]
    func = traced(kernel, *args)
    done = build(func, "sm_80")[0][-1][1]
    barriers = [inst for inst in done.walk() if isinstance(inst, Barrier)]
    assert barriers, "this kernel exchanges through shared memory"
    wanted = meaning(func, args)[-1]
    for barrier in barriers:
        mutant = compile_ptx(_without(done, barrier), SM_80)
        given = copies(args)
        report = emulate(mutant, given)
        wrong = not np.allclose(given[-1], wanted, atol=1e-3)
        assert report.findings or wrong, f"nobody misses {barrier.loc or barrier} in {name}"


def test_rounds_that_only_read_wait_once() -> None:
    """The barrier stands before the loop."""
    kernel, args = CASES["shifted_sums"]
    done = build(traced(kernel, *args), "sm_80")[0][-1][1]
    assert sum(isinstance(inst, Barrier) for inst in done.walk()) == 1
    assert any(isinstance(inst, Barrier) for inst in done.body.body)


def test_the_kernels_are_clean_with_their_barriers() -> None:
    for kernel, args in CASES.values():
        done = build(traced(kernel, *args), "sm_80")[1]
        report = emulate(replace(done), copies(args))
        assert report.completed and not report.findings
