"""Casts to f8e4m3 and back by instructions for two: what they are elsewhere, bit for bit."""

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import check_kernel, out
from tilec import ops
from tilec.backends.ptx.assemble import find
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ops.reference import linear_reference, relative_error
from tilec.ops.tiling import linear_tiling

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


@tc.kernel
def seen(x: tc.Array, y: tc.Array, *, layout, warps=1):
    """Bytes, in the order that threads have them, as floats."""
    codes = tc.view(x.load((0,), layout.nbytes(tc.f8e4m3)), tc.f8e4m3, layout)
    y.store((0, 0), codes.to(y.dtype))


@pytest.mark.parametrize("columns", [1, 2, 8])
@pytest.mark.parametrize("kind", [dt.f16, dt.bf16], ids=str)
def test_every_code_is_widened(kind: dt.DType, columns: int) -> None:
    """From memory, and from a view; zeros, subnormals and NaN of both signs among them."""
    codes = np.arange(256, dtype=np.uint8)
    shape = (256 // columns, columns)
    done = check_kernel(
        cast, (dt.f8e4m3, codes.reshape(shape)), (kind, out(shape, kind)), shape=shape, name="sm_89"
    )
    assert ("cvt.rn.f16x2.e4m3x2" in done.ptx) == (kind == dt.f16)
    layout = tc.layouts.spatial(32, 1) * tc.layouts.local(1, 8)
    made = check_kernel(
        seen, (dt.u8, codes), (kind, out(layout.shape, kind)), layout=layout, name="sm_90a"
    )
    assert ("cvt.rn.f16x2.e4m3x2" in made.ptx) == (kind == dt.f16)


@pytest.mark.skipif(find("ptxas") is None, reason="no ptxas")
@pytest.mark.parametrize("target", ["sm_89", "sm_90a"])
def test_weights_take_one_instruction_for_two(target: str) -> None:
    done = ops.linear.compile(m=16, n=4096, k=4096, weight="f8e4m3", target=target)
    loop, slots = done.hot_loop, linear_tiling(16, dt.f16, 128, target, 8, 4096, 4096).fragment.slots
    assert loop is not None and loop.counts["F2FP"] * 2 == slots and loop.counts.get("PRMT", 0) < 8


@pytest.mark.parametrize("zero_point", [False, True])
def test_layers_with_such_weights(zero_point: bool) -> None:
    draw = np.random.default_rng(1).standard_normal((96, 256), np.float32)
    q, x = ops.quantize(draw, "f8e4m3", group_size=64, zero_point=zero_point), draw[:20].astype(np.float16)
    with tc.target("emulator:sm_89"):
        y = ops.linear(x, q)
    assert relative_error(y, linear_reference(x, q)) < 1.5e-3
