"""Kernels that benches compile and call: a vector add, a matmul, and copies of eight elements.

compiled("matmul", "sm_80").cubin
"""

from __future__ import annotations

import tilec as tc


@tc.kernel
def add(x: tc.Array, y: tc.Array, out: tc.Array, *, block: int = 1024) -> None:
    """out = x + y"""
    X, Y, OUT = x.tiles((block,)), y.tiles((block,)), out.tiles((block,))
    i = tc.blocks(*OUT.shape)
    OUT[i] = X[i] + Y[i]


@tc.kernel
def matmul(a: tc.Array, b: tc.Array, c: tc.Array, *, bm: int = 128, bn: int = 128, bk: int = 32) -> None:
    """c = a @ b, accumulated in f32"""
    (m, k), n = a.shape, b.shape[1]
    tc.require(b.shape[0] == k, c.shape == (m, n))
    A, B, C = a.tiles((bm, bk)), b.tiles((bk, bn)), c.tiles((bm, bn))
    i, j = tc.blocks(*C.shape)
    acc = tc.zeros((bm, bn), tc.f32)
    for s in tc.range(A.shape[1], stages=3):
        acc = tc.dot(A[i, s], B[s, j], acc)
    C[i, j] = acc.to(c.dtype)


@tc.kernel
def copy2(a: tc.Array, out: tc.Array) -> None:
    """out[:8] = a[:8]"""
    out.store(0, a.load(0, 8))


@tc.kernel
def copy8(a: tc.Array, b: tc.Array, c: tc.Array, d: tc.Array, e: tc.Array, f: tc.Array, g: tc.Array,
          out: tc.Array) -> None:  # fmt: skip
    """out[:8] = a[:8], and six more arguments"""
    out.store(0, a.load(0, 8))


def compiled(name: str, target: str) -> tc.Compiled:
    """`add` for f32 of any length, or `matmul` for f16 of extents that are multiples of 8."""
    if name == "add":
        return add.compile(*[tc.Spec("f32", ("n",))] * 3, target=target)
    k, n = tc.dim("k", multiple=8), tc.dim("n", multiple=8)
    a, b, c = (tc.Spec("f16", shape) for shape in (("m", k), (k, n), ("m", n)))
    return matmul.compile(a, b, c, target=target)
