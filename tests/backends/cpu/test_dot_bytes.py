"""Products of bytes: exact, so the CPU gives what the reference does, whatever instructions it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.cpu.test_codes import MACHINES, bytes_for, on_machine, view
from tilec.backends import llvm
from tilec.backends.cpu.codes import codes
from tilec.backends.cpu.places import Ref
from tilec.backends.cpu.quads import IN_BYTES, NEEDS, Quad, quads
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.layout import Layout
from tilec.ops.tiling import columns

Array = np.ndarray[Any, Any]
TYPES = [d for d in dt.ALL if d.is_integer and d.bits <= 8]
SHAPES = [(1, 16, 64), (9, 7, 12), (2, 1, 8), (3, 33, 4), (17, 130, 100), (40, 64, 128), (5, 8, 6)]
SIGNS = [("int8", "int8"), ("int8", "uint8"), ("uint8", "int8"), ("uint8", "uint8")]
by_bytes = pytest.mark.skipif(
    not {f"+{name}" for name in NEEDS} <= set(llvm.host().features.split(",")), reason="no vpdpbusd"
)


@tc.kernel
def product(a: tc.Array, b: tc.Array, c: tc.Array, *, m: int, n: int, k: int, start: int = 0) -> None:
    """c = start + a @ b, a block of it."""
    acc = tc.full((m, n), start, tc.i32)
    c.store((0, 0), tc.dot(a.load((0, 0), (m, k)), b.load((0, 0), (k, n)), acc))


@tc.kernel
def weighted(
    x: tc.Array, codes: tc.Array, zeros: tc.Array, y: tc.Array, *, dtype: DType, fragment: Layout
) -> None:
    """y = x @ (codes - zeros), in two steps of the same."""
    (k, n), m = fragment.shape, tc.static(x.shape[0])
    acc = tc.zeros((m, n), tc.i32)
    for s in tc.range(2):
        w = tc.view(codes.load(s * fragment.nbytes(dtype), fragment.nbytes(dtype)), dtype, fragment)
        zero = zeros.load((s, 0), (1, n))
        acc = tc.dot(x.load((0, s * k), (m, k)), w.to(tc.i8) - zero, acc)
    y.store((0, 0), acc)


def numbers(kind: str, *shape: int, seed: int = 0) -> Array:
    info = np.iinfo(kind)
    return np.random.default_rng((seed, *shape)).integers(info.min, info.max + 1, shape).astype(kind)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
@pytest.mark.parametrize(("a", "b"), SIGNS)
def test_from_memory(a: str, b: str, m: int, n: int, k: int, machine: str) -> None:
    x, y = numbers(a, m, k), numbers(b, k, n, seed=1)
    wanted = x.astype(np.int32) @ y.astype(np.int32)
    for right in (y, np.asfortranarray(y)):
        found = np.full((m, n), -1, np.int32)
        on_machine(machine, product, x, right, found, m=m, n=n, k=k, start=7)
        assert np.array_equal(found, wanted + 7)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("m", [1, 7, 20])
def test_weights_of_every_type(dtype: DType, m: int) -> None:
    """Differences wrap where they are no bytes, on every runner alike."""
    fragment = columns((32, 48), dtype.bits if m != 7 else 1)  # 1: rows of a quad may lie anywhere
    x, zeros = numbers("int8", m, 64), numbers("int8", 2, 48) >> 2
    found, wanted = np.full((m, 48), -1, np.int32), np.full((m, 48), -2, np.int32)
    data = bytes_for(dtype, fragment, 2)
    for machine in MACHINES if m == 1 else ("native",):
        on_machine(machine, weighted, x, data, zeros, found, dtype=dtype, fragment=fragment)
        weighted.on("reference")(x, data, zeros, wanted, dtype=dtype, fragment=fragment)
        assert np.array_equal(found, wanted)


@by_bytes
def test_three_instructions_unpack_any_width() -> None:
    fragment = columns((64, 64), 3)
    asm = weighted.compile(
        tc.Spec("i8", (1, 128)), tc.Spec("u8", (2 * fragment.nbytes(dt.u3),)), tc.Spec("i8", (2, 64)),
        tc.Spec("i32", (1, 64)), dtype=dt.u3, fragment=fragment, target="cpu",
    ).asm  # fmt: skip
    shifted, masked, summed = (asm.count(f"\t{name}") for name in ("vpmultishiftqb", "vpand", "vpdpbusd"))
    assert 0 < shifted <= summed <= shifted + 2 and masked >= shifted


def test_where_quads_are() -> None:
    """In one word or in two put together; where words hold codes whole, in bytes already."""
    found = {}
    for dtype in (dt.u3, dt.u4):
        inst = view(dtype, columns((64, 16), dtype.bits))
        place = codes(inst, Ref("%p", dt.u8, (inst.x.tile.size,), (1,)))
        found[dtype] = quads(place) if place else None
    assert found[dt.u4] == [Quad((0,), 0, IN_BYTES), Quad((0,), 4, IN_BYTES)]
    odd = [Quad((0,), 0, (0, 3, 6, 9)), Quad((0,), 0, (12, 15, 18, 21)), Quad((0, 32), 24, (0, 3, 6, 9))]
    assert (found[dt.u3] or [])[:3] == odd and len(found[dt.u3] or []) == 8


def test_rows_of_a_quad_that_lie_apart() -> None:
    inst = view(dt.u5, columns((64, 16), 1))
    place = codes(inst, Ref("%p", dt.u8, (inst.x.tile.size,), (1,)))
    assert place and quads(place) is None
