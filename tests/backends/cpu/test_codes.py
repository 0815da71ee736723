"""Codes that stay packed until they are used: every type against the reference, bit for bit."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.cpu.machines import without_avx512
from tilec.backends import cpu
from tilec.backends.cpu.codes import codes
from tilec.backends.cpu.places import Ref
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.inst.shape import View
from tilec.ir.layout import Layout, local
from tilec.ops.tiling import columns

Array = np.ndarray[Any, Any]
TYPES = [d for d in dt.ALL if d.bits <= 8 and not d.is_bool]
MACHINES = {"native": nullcontext, "avx2": without_avx512}
WAYS = [(m, t, z) for m in MACHINES for t, z in ((np.float32, 0.0), (np.float32, 3.0), (np.float16, 0.5))]

PRODUCTS = [("native", 1), ("native", 3), ("native", 16), ("native", 40), ("avx2", 3), ("avx2", 17)]


@tc.kernel
def unpack(codes: tc.Array, y: tc.Array, *, dtype: DType, fragment: Layout, zero: float = 0.0) -> None:
    """y = the codes as numbers, but for a zero."""
    i = tc.blocks(y.shape[0] // fragment.shape[0])
    w = tc.view(codes.load(i * fragment.nbytes(dtype), fragment.nbytes(dtype)), dtype, fragment)
    y.store((i * fragment.shape[0], 0), w.to(y.dtype) - zero)


@tc.kernel
def multiply(
    x: tc.Array, codes: tc.Array, zeros: tc.Array, y: tc.Array, *, dtype: DType, fragment: Layout
) -> None:
    """y = x @ (codes - zeros): one block."""
    (k, n), m = fragment.shape, tc.static(x.shape[0])
    w = tc.view(codes.load(0, fragment.nbytes(dtype)), dtype, fragment).to(x.dtype)
    tile = x.load((0, 0), (m, k))
    y.store((0, 0), tc.dot(tile, w - zeros.load(0, n)[None, :], tc.zeros((m, n), tc.f32)))


@tc.kernel
def branches(codes: tc.Array, y: tc.Array, *, dtype: DType, fragment: Layout) -> None:
    """The codes are read in a branch, in the other one, and after both."""
    n = fragment.nbytes(dtype)
    w = tc.view(codes.load(0, n), dtype, fragment)
    if codes.at(0) > tc.full((), 100, tc.u8):
        y.store((0, 0), w.to(tc.f32) + 1.0)
    else:
        y.store((0, 0), w.to(tc.f32) - 1.0)
    y.store((fragment.shape[0], 0), w.to(tc.f32))


def bytes_for(dtype: DType, fragment: Layout, blocks: int = 1, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, blocks * fragment.nbytes(dtype)).astype(np.uint8)


def on_machine(machine: str, kernel: Any, *args: Array, **constants: Any) -> None:
    """Compiled for a machine, outside of all caches, and run."""
    func = kernel.compile(*args, target="cpu", **constants).func
    with MACHINES[machine]():
        native = cpu.compile(func)
        native.launch(args, cpu.grid(func, args))


def same(machine: str, kernel: Any, *args: Array, **constants: Any) -> None:
    """The last argument is written as the reference does."""
    found, wanted = (np.full(args[-1].shape, np.nan, args[-1].dtype) for _ in range(2))
    on_machine(machine, kernel, *args[:-1], found, **constants)
    kernel.on("reference")(*args[:-1], wanted, **constants)
    real = ~np.isnan(wanted)
    assert np.array_equal(real, ~np.isnan(found)) and real.any()
    assert np.array_equal(found[real].view(np.uint8), wanted[real].view(np.uint8))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_code_of_every_type(dtype: DType, full: bool) -> None:
    fragment = columns((64, 24), dtype.bits)
    data, first = bytes_for(dtype, fragment, 2), TYPES.index(dtype) % len(WAYS)
    for machine, kind, zero in WAYS if full else WAYS[first : first + 1]:
        y = np.empty((128, 24), kind)
        same(machine, unpack, data, y, dtype=dtype, fragment=fragment, zero=zero)


@pytest.mark.parametrize("shape", [(32, 16), (64, 24), (32, 7), (96, 1), (8, 33)])
@pytest.mark.parametrize("dtype", [dt.u1, dt.i3, dt.u4, dt.f6e3m2], ids=str)
def test_shapes(dtype: DType, shape: tuple[int, int]) -> None:
    fragment = columns(shape, dtype.bits)
    data = bytes_for(dtype, fragment)
    same("native", unpack, data, np.empty(shape, np.float32), dtype=dtype, fragment=fragment)


@pytest.mark.parametrize(("machine", "m"), PRODUCTS)
@pytest.mark.parametrize("dtype", [dt.u4, dt.i5, dt.u7, dt.f4e2m1, dt.f8e4m3], ids=str)
def test_products(dtype: DType, m: int, machine: str) -> None:
    """Integers in f32, and zeros per column: every order of sums gives the same."""
    fragment, r = columns((64, 80), dtype.bits), np.random.default_rng(1)
    x, zeros = (r.integers(-2, 3, s).astype(np.float32) for s in ((m, 64), (80,)))
    data = bytes_for(dtype, fragment) & np.uint8(0xBB if dtype == dt.f8e4m3 else 0xFF)
    same(machine, multiply, x, data, zeros, np.empty((m, 80), np.float32), dtype=dtype, fragment=fragment)


@pytest.mark.parametrize("first", [50, 200])
def test_read_in_branches(first: int) -> None:
    fragment = columns((32, 16), 3)
    data = bytes_for(dt.u3, fragment)
    data[0] = first
    same("native", branches, data, np.empty((64, 16), np.float32), dtype=dt.u3, fragment=fragment)


def view(dtype: DType, fragment: Layout) -> View:
    func = unpack.compile(
        bytes_for(dtype, fragment), np.empty(fragment.shape, np.float32), dtype=dtype, fragment=fragment,
        target="reference",
    ).func  # fmt: skip
    return next(inst for inst in func.walk() if isinstance(inst, View))


def test_where_fields_are() -> None:
    """Words of neighbouring columns lie side by side, the next ones of a column a whole row of words on."""
    inst = view(dt.u3, columns((64, 16), 3))
    source = Ref("%p", dt.u8, (inst.x.tile.size,), (1,))
    found = codes(inst, source)
    assert found and found.period == 32 and found.step == 16
    fields = [(0, 27, None), (0, 30, 32), (32, 1, None)]
    assert [(f.first, f.shift, f.second) for f in found.fields[9:12]] == fields
    assert codes(view(dt.u4, local(16, 16)), source) is None
    assert codes(view(dt.u5, columns((8, 16), 5)), source) is None
