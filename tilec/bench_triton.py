"""Triton's compiles of the kernels of bench_kernels, for `tilec bench compile`: a process of its own each.

python -m tilec.bench_triton matmul sm_80
"""

from __future__ import annotations

import json
import os
import sys
from time import perf_counter
from typing import Any

start = perf_counter()
import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

IMPORTS = perf_counter() - start


@triton.jit  # type: ignore[untyped-decorator]
def add(x, y, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """out = x + y"""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n), mask=at < n)


@triton.jit  # type: ignore[untyped-decorator]
def matmul(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]
    """c = a @ b, accumulated in f32"""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), tl.float32)
    for s in range(0, tl.cdiv(k, BK)):
        inner = s * BK + tl.arange(0, BK)
        left = tl.load(a + rows[:, None] * k + inner, mask=(rows[:, None] < m) & (inner < k), other=0.0)
        inside = (inner[:, None] < k) & (columns < n)
        acc = tl.dot(left, tl.load(b + inner[:, None] * n + columns, mask=inside, other=0.0), acc)
    inside = (rows[:, None] < m) & (columns < n)
    tl.store(c + rows[:, None] * n + columns, acc.to(tl.float16), mask=inside)


def source(name: str) -> Any:
    """A kernel with pointers and extents that are multiples of 16."""
    if name == "add":
        signature = {"x": "*fp32", "y": "*fp32", "out": "*fp32", "n": "i32", "BLOCK": "constexpr"}
        return ASTSource(add, signature, {"BLOCK": 1024}, {(i,): [["tt.divisibility", 16]] for i in range(4)})
    signature = {"a": "*fp16", "b": "*fp16", "c": "*fp16", "m": "i32", "n": "i32", "k": "i32"}
    sizes = {"BM": 128, "BN": 128, "BK": 32}
    signature |= dict.fromkeys(sizes, "constexpr")
    return ASTSource(matmul, signature, sizes, {(i,): [["tt.divisibility", 16]] for i in range(6)})


def measured(name: str, target: str) -> dict[str, float]:
    """Seconds of the import, and of a compile down to the cubin."""
    begin, spent = perf_counter(), sum(os.times()[:4])
    number = int(target.removeprefix("sm_").rstrip("a"))
    triton.compile(source(name), target=GPUTarget("cuda", number, 32), options={"num_stages": 3})
    return {"imports": IMPORTS, "sum": perf_counter() - begin, "cpu": sum(os.times()[:4]) - spent}


if __name__ == "__main__":
    print(json.dumps(measured(*sys.argv[1:])))
