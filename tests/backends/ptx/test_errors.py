"""What the PTX backend refuses, and what it says."""

from __future__ import annotations

import pytest

import tilec as tc
from tests.backends.ptx.runner import build, trace
from tilec.ir.errors import TilecError


@tc.kernel
def large(x: tc.Array, *, n=30000, warps=4):
    s = tc.shared((n,), tc.f64)
    x.store((0,), s.load((0,), (4,)))


@tc.kernel
def adds(x: tc.Array, *, warps=1):
    x.atomic_add((tc.arange(32),), tc.ones((32,), x.dtype))


@tc.kernel
def packed_rows(x: tc.Array, *, n=3, warps=1):
    x.store((0, 0), tc.zeros((4, n), x.dtype))


@tc.kernel
def packed_places(x: tc.Array, *, warps=1):
    x.scatter((tc.arange(32), 0), tc.zeros((32,), x.dtype))


@tc.kernel
def annotated(x: tc.Array, *, warps=1):
    tile = x.load((0,), (64,))
    x.store((0,), tc.annotate(tile, tc.spatial(64)) + tile)


CASES = {
    "shared memory": (large, tc.Spec("f64", ("n",)), {},
                      "large needs 240000 bytes of shared memory, sm_80 has 166912 for a block"),
    "warps": (adds, tc.Spec("i32", ("n",)), {"warps": 64}, "adds asks for 64 warps, sm_80 runs at most 32"),
    "atomics": (adds, tc.Spec("bf16", ("n",)), {},
                "sm_80 has no atomic_add on bf16, only on f16, f32, f64, i32, i64, u32, u64: add up in f32"),
    "part of a byte": (packed_rows, tc.Spec("u4", ("m", tc.dim("n", multiple=2))), {},
                       "a store to packed u4 needs each thread to write whole bytes: 2 nei"),
    "shared bytes": (packed_rows, tc.Spec("u4", ("m", "n")), {"n": 4},
                     "a store to packed u4 needs each thread to write whole bytes: 2 nei"),
    "packed places": (packed_places, tc.Spec("u4", (32, 1)), {},
                      "scatter cannot write to packed u4: elements of different threads share a byte"),
    "threads": (annotated, tc.Spec("f32", ("n",)), {"warps": 1},
                r"this layout is for 64 threads, the kernel has 32 \(warps=1\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    kernel, spec, constants, message = CASES[case]
    with pytest.raises(TilecError, match=message):
        build(trace(kernel, spec, **constants), "sm_80")


def test_errors_name_the_line() -> None:
    with pytest.raises(TilecError, match=r"test_errors\.py:\d+: sm_80 has no atomic_add(.|\n)*x\.atomic_add"):
        build(trace(adds, tc.Spec("bf16", ("n",))), "sm_80")
