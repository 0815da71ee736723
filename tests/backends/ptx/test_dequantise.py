"""Small types to 16-bit floats: every code, side by side and placed for it, and what it costs."""

import re

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import check, out
from tilec import ops
from tilec.backends.ptx.assemble import find
from tilec.ir import dtype as dt
from tilec.ir import packing
from tilec.ir.layout import Layout
from tilec.ir.layouts import mma_b
from tilec.ops import loops_bench

SMALL = ["u1", "i1", "u2", "u3", "i3", "u4", "i4", "i5", "u6", "u7", "u8", "i8",
         *[d.name for d in dt.ALL if d.kind == "float" and d.bits <= 8]]  # fmt: skip


@tc.kernel
def cast(x: tc.Array, y: tc.Array, *, source, less, fragment, placed, warps=1):
    tile = tc.view(x.load(0, fragment.nbytes(source)), source, fragment, placed=placed).to(y.dtype)
    y.store((0, 0), tile - less if less else tile)


def fragment(kind: dt.DType) -> Layout:
    return mma_b(tc.f16, (64, 32), 1) if kind.bits < 8 else mma_b(tc.f16, (32, 32), 1)


@pytest.mark.parametrize("into", ["f16", "bf16"])
@pytest.mark.parametrize("name", SMALL)
def test_every_code_is_cast_exactly(name: str, into: str) -> None:
    kind, wide = dt.dtype(name), dt.dtype(into)
    shape = fragment(kind)
    codes = np.resize(np.arange(1 << kind.bits), shape.size)
    for placed in (None, wide):
        data = packing.pack_codes(codes, kind.bits)
        for less in (0, 3, 0.5) if kind.is_integer and kind.bits < wide.mantissa else (0,):
            args = [data, out(shape.shape, wide)]
            func = cast.compile(*args[:1], tc.Spec(wide, shape.shape), target="reference", source=kind,
                                less=less, fragment=shape, placed=placed).traced  # fmt: skip
            check(func, args)


@tc.kernel
def times(x: tc.Array, y: tc.Array, *, source, factor, fragment, placed, warps=1):
    tile = tc.view(x.load(0, fragment.nbytes(source)), source, fragment, placed=placed)
    y.store((0, 0), tile.to(y.dtype) * factor)


@pytest.mark.parametrize(("name", "into", "factor", "free"), [
    ("f4e2m1", "f16", 2.0**-14, True), ("f6e3m2", "f16", 2.0**-12, True), ("f8e4m3all", "f16", 2.0**-8, True),
    ("f4e2m1", "f16", 2.0**-3, False), ("f8e4m3", "f16", 2.0**-8, False), ("f8e4m3", "f16", 2.0**-9, False),
    ("f8e4m3all", "f16", 2.0**-20, False), ("f4e2m1", "f16", 3.0, False), ("f6e2m3", "bf16", 2.0**-126, True),
    ("f8e4m3", "bf16", 2.0**-120, False), ("f8e5m2", "f16", 0.5, False), ("f8e3m4", "f16", 2.0**-12, True),
])  # fmt: skip
def test_a_power_of_two_goes_with_the_cast(name: str, into: str, factor: float, free: bool) -> None:
    """The bits where the wider float has them are the number times just that power: nothing multiplies."""
    kind, wide = dt.dtype(name), dt.dtype(into)
    shape = fragment(kind)
    data = packing.pack_codes(np.resize(np.arange(1 << kind.bits), shape.size), kind.bits)
    for placed in (None, wide):
        args = [data, out(shape.shape, wide)]
        held = tc.Spec("u8", data.shape), tc.Spec(wide, shape.shape)
        given = dict(source=kind, factor=factor, fragment=shape, placed=placed)
        check(times.compile(*held, target="reference", **given).traced, args)
        ptx = times.compile(*held, target="sm_90a", **given).ptx
        assert bool(re.search(r"(mul|fma)(\.rn)?\.b?f16x2", ptx)) != free


LOOP = re.compile(r"^(\$L__BB\w+):(?:(?!^\$L__BB).)*?bra(?:\.uni)?\s+\1;", re.MULTILINE | re.DOTALL)


def loop_of(ptx: str) -> str:
    """The innermost loop with the matrix products."""
    return max((m.group(0) for m in LOOP.finditer(ptx)), key=lambda text: text.count("mma.sync"))


@pytest.mark.parametrize(("name", "integer"), [
    ("u1", 0.57), ("u2", 0.57), ("u3", 0.66), ("i3", 0.66), ("u4", 0.63), ("i4", 0.63), ("u5", 0.79),
    ("i5", 0.79), ("u6", 0.94), ("i6", 0.94), ("u7", 1.07), ("u8", 0.5), ("i8", 0.75),
])  # fmt: skip
def test_the_loop_of_quantised_weights_converts_nothing_one_by_one(name: str, integer: float) -> None:
    """An addition or fma for two weights, so many integer instructions a weight, no conversion at all."""
    done = ops.linear.compile(m=16, n=4096, k=4096, x="f16", weight=name, group_size=128, target="sm_80")
    loop = loop_of(done.ptx)
    assert len(re.findall(r"(add|sub|fma)(\.rn)?\.f16x2", loop)) == 64
    taken = re.findall(r"\b(lop3\.b32|prmt\.b32|shr\.u32|xor\.b32)", loop)
    assert 64 <= len(taken) <= 128 * integer
    assert not re.search(r"cvt\.rn\.f16\.[us]\d", loop)
    if find("ptxas"):
        assert done.resources.spill_bytes == 0


@pytest.mark.skipif(not find("ptxas"), reason="there is no ptxas")
def test_loops_are_short() -> None:
    """`tilec bench loops` prints all; these are what docs/speed.md states."""
    limits = {"u1": 256, "u2": 256, "u3": 272, "u4": 260, "u5": 292, "u6": 308, "u7": 332, "u8": 260}
    floats = {"f4e2m1": 260, "f6e3m2": 292, "f6e2m3": 324, "f8e4m3": 288, "f8e5m2": 194, "f4e3m0": 260}
    for case in loops_bench.tiles():
        name = case.name.split()[2].strip(",")
        if name not in limits | floats:
            continue
        most, done = (limits | floats)[name], case.compile("sm_80")
        loop, used = done.hot_loop, done.resources
        assert loop is not None and loop.products == loop.counts["HMMA"] == 32
        assert loop.instructions <= most and used.spill_bytes == 0
        assert used.registers <= 128 and used.shared_bytes <= 65536
