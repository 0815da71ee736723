"""Tables on GPUs are read where they are used; an annotated accumulator says how warps share a product."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tilec as tc
from tilec.ir.inst.mma import Dot
from tilec.ir.layouts import mma_c


@tc.kernel
def mixed(x: tc.Array, y: tc.Array, *, n: int = 32, beside: bool = False, warps: int = 2):
    """y[i] = table @ x[i], by warps below each other or side by side."""
    table = tc.from_function((n, n), lambda i, j: np.cos(i * j)).to(tc.f16)
    asked = mma_c(tc.f32, (n, n), (1, warps) if beside else (warps, 1))
    for i in tc.range(x.shape[0]):
        acc = tc.annotate(tc.zeros((n, n), tc.f32), asked)
        y.store((i, 0, 0), tc.dot(table, x.load((i, 0, 0), (1, n, n)).reshape(n, n), acc).reshape(1, n, n))


def compiled(beside: bool) -> tc.Compiled:
    specs = tc.Spec("f16", ("b", 32, 32)), tc.Spec("f32", ("b", 32, 32))
    return mixed.compile(*specs, beside=beside, target="sm_80")


def test_tables_are_read_in_the_loop() -> None:
    """Not before it, where they would take registers from then on."""
    before, loop = re.split(r"^\$L__BB\d+_\d+:", compiled(False).ptx, maxsplit=1, flags=re.MULTILINE)
    table = "rows_of_each_(thread|lane)"
    assert re.search(table, compiled(False).ptx)
    assert "ld.global.nc.v4.b32" in loop and "ld.global.nc.v4.b32" not in before
    assert "mma.sync" in loop


@pytest.mark.parametrize("beside", [False, True])
def test_annotated_accumulators(beside: bool) -> None:
    (dot,) = (inst for inst in compiled(beside).func.walk() if isinstance(inst, Dot))
    assert dot.tile.layout == mma_c(tc.f32, (32, 32), (1, 2) if beside else (2, 1))


def test_annotated_accumulators_stay_in_registers() -> None:
    """Where warpgroups would put an operand into shared memory for the sake of it."""
    specs = tc.Spec("f16", ("b", 64, 64)), tc.Spec("f32", ("b", 64, 64))
    text = mixed.compile(*specs, n=64, warps=4, beside=True, target="sm_90a").ptx
    assert "mma.sync" in text and "wgmma" not in text


@pytest.mark.parametrize("beside", [False, True])
def test_emulated(beside: bool) -> None:
    x = np.random.default_rng(0).standard_normal((3, 32, 32)).astype(np.float16)
    table = np.cos(np.arange(32)[:, None] * np.arange(32)).astype(np.float16)
    y = np.full(x.shape, np.nan, np.float32)
    mixed.on("emulator:sm_80")(x, y, beside=beside)
    wanted = table.astype(np.float64) @ x.astype(np.float64)
    np.testing.assert_allclose(y, wanted, atol=1e-4)
