"""Reductions, arg-reductions and scans along every axis of odd shapes, on any number of warps."""

from __future__ import annotations

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import check_kernel, out, seeds, values
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType

DTYPES = (dt.u8, dt.i4, dt.i8, dt.f8e4m3, dt.f16, dt.bf16, dt.f32, dt.f64, dt.i64, dt.i32, dt.u32)
BOUND = {16: 0.5, 32: 1e-3, 64: 1e-9}  # of sums of floats


@tc.kernel
def reduced(
    x: tc.Array, y: tc.Array, whole: tc.Array, *, shape=(8, 8), dtype=tc.f32, axis=0, op="sum", warps=2
):
    """Along one axis, and what is left to a scalar."""
    t = x.load((0,) * len(shape), shape, other=0).to(dtype)
    r = getattr(t, op)(axis)
    y.store((0,) * (len(shape) - 1), r.to(y.dtype))
    whole.store((0,), tc.full((1,), r.max(), r.dtype).to(y.dtype))


@tc.kernel
def to_scalar(x: tc.Array, y: tc.Array, *, n=8, dtype=tc.f32, op="sum", warps=2):
    t = x.load((0,), (n,), other=0).to(dtype)
    r = getattr(t, op)()
    y.store((0,), tc.full((1,), r, r.dtype).to(y.dtype))


def special(dtype: DType, shape: tuple[int, ...], seed: int) -> np.ndarray:  # type: ignore[type-arg]
    """Values with many equal ones, and of floats NaNs and zeros of both signs."""
    draw = np.random.default_rng([seed, 8])
    if not dtype.is_float or dtype.bits < 16:
        return codec.to_storage(np.asarray(codec.round_to(draw.integers(0, 3, shape), dtype)), dtype)
    found = codec.from_storage(values(dtype, shape, seed), dtype).copy()
    for value, share in ((np.nan, 0.02), (-0.0, 0.2), (0.0, 0.2), (1.0, 0.2)):
        found[draw.random(shape) < share] = value
    return codec.to_storage(found, dtype)


def drawn(seed: int) -> tuple[np.random.Generator, tuple[int, ...], int, DType]:
    draw = np.random.default_rng([seed, 9])
    rank = int(draw.integers(1, 4))
    most = {1: 600, 2: 70, 3: 20}[rank]
    shape = tuple(int(min(most, n)) for n in draw.choice([1, 2, 3, 7, 8, 16, 32, 33, 64, 100, 600], rank))
    return draw, shape, int(draw.integers(rank)), DTYPES[int(draw.integers(len(DTYPES)))]


@pytest.mark.parametrize("seed", seeds(40, 600))
def test_reductions(seed: int) -> None:
    draw, shape, axis, dtype = drawn(seed)
    op, warps = ("sum", "max", "min", "argmax")[seed % 4], int(draw.choice([1, 2, 3, 4, 8]))
    outer = dtype if dtype.bits >= 8 else dt.f32  # memory has no unpacked elements of fewer bits
    data = values(dtype, shape, seed, small=True) if op == "sum" or seed % 3 else special(dtype, shape, seed)
    x = (outer, codec.to_storage(codec.cast(codec.from_storage(data, dtype), dtype, outer), outer))
    result = dt.i32 if op == "argmax" else outer
    bound = BOUND.get(dtype.bits) if op == "sum" and dtype.is_float else None
    options = {"dtype": dtype, "op": op, "warps": warps, "bound": bound}
    if len(shape) == 1:
        check_kernel(to_scalar, x, (result, out(1, result)), n=shape[0], **options)
        return
    rest = shape[:axis] + shape[axis + 1 :]
    outputs = ((result, out(n, result)) for n in (rest, 1))
    check_kernel(reduced, x, *outputs, shape=shape, axis=axis, **options)


@tc.kernel
def any_all(x: tc.Array, y: tc.Array, z: tc.Array, *, shape=(8, 8), axis=0, warps=2):
    t = x.load((0, 0), shape)
    y.store((0,), t.any(axis))
    z.store((0,), t.all(axis))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(7, 33), (64, 16), (1, 100)])
def test_any_and_all(shape: tuple[int, int], axis: int) -> None:
    x = np.random.default_rng(1).random(shape) < 0.5
    x[:, 0], x[0] = True, True
    outputs = ((dt.bool, out(shape[1 - axis], dt.bool)) for _ in range(2))
    check_kernel(any_all, (dt.bool, x), *outputs, shape=shape, axis=axis)


@tc.kernel
def scanned(x: tc.Array, y: tc.Array, *, shape=(8, 8), axis=0, op="sum", warps=2):
    y.store((0,) * len(shape), tc.scan(x.load((0,) * len(shape), shape, other=0), op, axis))


@pytest.mark.parametrize("seed", seeds(15, 200))
def test_scans(seed: int) -> None:
    """Running sums, maxima and minima; a scan of many elements goes over the lanes of a warp."""
    draw, shape, axis, dtype = drawn(seed + 1000)
    dtype = dtype if dtype.bits >= 8 else dt.i16
    op = ("sum", "max", "min")[seed % 3]
    data = values(dtype, shape, seed, small=True) if op == "sum" else special(dtype, shape, seed)
    options = {"axis": axis, "op": op, "warps": int(draw.choice([1, 2, 4])), "shape": shape}
    bound = BOUND.get(dtype.bits, 400.0) if op == "sum" and dtype.is_float else None
    check_kernel(scanned, (dtype, data), (dtype, out(shape, dtype)), bound=bound, **options)
