"""Loops in registers and memory that is filled at once: results, and code that was hoped for."""

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.cpu.build import Builder, agree, array
from tests.backends.cpu.test_tiles import normal
from tilec.ir import dtype as dt
from tilec.ir.func import Value
from tilec.ir.inst import arith
from tilec.ir.tile import TileType


@tc.kernel
def sliding(x: tc.Array, w: tc.Array, y: tc.Array, *, columns: int, taps: int):
    """y[i] = sum over q of x[i, q - 1 : q - 1 + columns] * w[q]; x is copied, with a border."""
    i = tc.blocks(y.shape[0])
    halo = tc.shared((1, columns + taps), x.dtype)
    halo.store((0, 0), x.load((i, -1), halo.shape))
    acc = tc.zeros((1, columns), x.dtype)
    for q in tc.range(taps):
        acc = tc.fma(halo.load((0, q), (1, columns)), w.load(q, 1).reshape((1, 1)), acc)
    y.store((i, 0), acc)


@pytest.mark.parametrize(("columns", "taps"), [(1, 3), (5, 2), (16, 4), (24, 1), (56, 7), (70, 3)])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_windows_that_move(columns: int, taps: int, kind: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(kind) for shape in ((3, columns + taps - 3), (taps,)))
    y, wanted = (np.full((3, columns), np.nan, kind) for _ in range(2))
    sliding(x, w, y, columns=columns, taps=taps)
    sliding.meaning(x, w, wanted, columns=columns, taps=taps)
    np.testing.assert_array_equal(y, wanted)


def compiled(columns: int) -> tc.Compiled:
    arrays = [tc.Spec("f32", shape) for shape in ((3, columns), (3,), (3, columns))]
    return sliding.compile(*arrays, columns=columns, taps=3, target="cpu")


def test_a_border_is_read_once() -> None:
    """From the array to shared memory in one pass, without poison before it: stores there, and to y."""
    text = compiled(16).code.text
    assert "memset" not in text
    assert text.count("store <16 x float>") == 3  # into the border, of the sums, of the result


def test_the_carried_tile_stays_in_registers() -> None:
    """Nothing is written inside of the loop."""
    text = compiled(16).code.text
    start = text.index("= phi <16 x float>")
    rounds = text[start : text.index("br i1", start)]
    assert "@llvm.fma.v16f32" in rounds and "store" not in rounds


@tc.kernel
def twice(x: tc.Array, y: tc.Array):
    """Shared memory that is read between two stores, and a load from what is written in between."""
    held = tc.shared((16,), x.dtype)
    held.store(0, x.load(0, 16))
    first = held.load(0, 16)
    later = x.load(16, 16)
    y.store(0, first)
    held.store(0, later)
    y.store(16, held.load(0, 16))


def test_what_is_stored_twice() -> None:
    x, y = np.arange(32.0), np.zeros(32)
    twice(x, y)
    np.testing.assert_array_equal(y, x)


def test_a_loop_without_rounds_gives_what_it_was_given() -> None:
    b = Builder(array(dt.f32, 16), array(dt.f32, 16))

    def body(q: Value, acc: Value) -> Value:
        return b(arith.Add(acc, b.load(b.params[0], (0,), 16)))

    (acc,) = b.loop(3, 3, (b.const(2, dt.f32, 16),), body)
    assert acc.type == TileType(dt.f32, (16,))
    b.store(b.params[1], (0,), acc)
    agree(b.func(), [normal(dt.f32, 16), normal(dt.f32, 16)])
