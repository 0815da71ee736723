"""Casts to f8e4m3 by the instruction that makes two: what they are elsewhere, bit for bit."""

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import check_kernel, out
from tilec.ir import codec
from tilec.ir import dtype as dt

SPECIAL = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 448, 464, 465, -1e30, 2**-9, 2**-10, 3e-41]


@tc.kernel
def cast(x: tc.Array, y: tc.Array, *, shape, warps=1):
    y.store((0, 0), x.load((0, 0), shape).to(y.dtype))


@pytest.mark.parametrize("columns", [1, 2, 4, 6])
@pytest.mark.parametrize("source", [dt.f32, dt.f16, dt.bf16], ids=str)
def test_casts(source: dt.DType, columns: int, full: bool) -> None:
    """Ties and their neighbours among them; an odd number of elements goes one by one."""
    if not full and source != dt.f32 and columns != 4:
        pytest.skip("make check-all runs it")
    codes = codec.decode(np.arange(126, dtype=np.uint8), dt.f8e4m3)
    ties = (codes[1:] + codes[:-1]) / 2
    drawn = np.random.default_rng(columns).standard_normal(200) * 30
    near = [np.nextafter(ties.astype(np.float32), np.float32(way)) for way in (-1e9, 1e9)]
    values = np.resize(np.concatenate([SPECIAL, ties, -ties, *near, drawn]), (32 * 24 // columns, columns))
    held = codec.to_storage(codec.round_to(values, source), source)
    done = check_kernel(
        cast, (source, held), (dt.f8e4m3, out(values.shape, dt.f8e4m3)), shape=values.shape, name="sm_89"
    )
    assert "cvt.rn.satfinite.e4m3x2.f32" in done.ptx
