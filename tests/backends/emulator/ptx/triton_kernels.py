"""Kernels for Triton (3.9), whose PTX lies beside this file; compiled without a GPU by

python triton_kernels.py
"""

import re
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def matmul(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c = a @ b, row-major fp16, ragged shapes by masks."""
    i, j = tl.program_id(0), tl.program_id(1)
    rows, columns, depth = i * BM + tl.arange(0, BM), j * BN + tl.arange(0, BN), tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for s in range(0, k, BK):
        x = tl.load(
            a + rows[:, None] * k + (s + depth)[None, :],
            mask=(rows < m)[:, None] & (s + depth < k)[None, :],
            other=0.0,
        )
        y = tl.load(
            b + (s + depth)[:, None] * n + columns[None, :],
            mask=(s + depth < k)[:, None] & (columns < n)[None, :],
            other=0.0,
        )
        total = tl.dot(x, y, total)
    mask = (rows < m)[:, None] & (columns < n)[None, :]
    tl.store(c + rows[:, None] * n + columns[None, :], total.to(tl.float16), mask=mask)


@triton.jit
def softmax(x, y, n, BLOCK: tl.constexpr):
    """One row per program."""
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    values = tl.load(x + row * n + at, mask=at < n, other=-float("inf"))
    values = tl.exp(values - tl.max(values, 0))
    tl.store(y + row * n + at, values / tl.sum(values, 0), mask=at < n)


@triton.jit
def attention(q, k, v, out, n, scale, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):
    """Flash attention of one head, n a multiple of the blocks."""
    i, d = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, D)
    x = tl.load(q + i[:, None] * D + d[None, :])
    top, total = tl.full((BM,), -float("inf"), tl.float32), tl.zeros((BM,), tl.float32)
    sums = tl.zeros((BM, D), tl.float32)
    for s in range(0, n, BN):
        j = s + tl.arange(0, BN)
        y = tl.load(k + j[None, :] * D + d[:, None])
        scores = tl.dot(x, y) * scale
        new = tl.maximum(top, tl.max(scores, 1))
        p, fix = tl.exp2(scores - new[:, None]), tl.exp2(top - new)
        total, top = total * fix + tl.sum(p, 1), new
        z = tl.load(v + j[:, None] * D + d[None, :])
        sums = tl.dot(p.to(tl.float16), z, sums * fix[:, None])
    tl.store(out + i[:, None] * D + d[None, :], (sums / total[:, None]).to(tl.float16))


@triton.jit
def boxes(a, b, c, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c = a @ b of tensor descriptors: TMA by warps of their own, wgmma, and TMA again."""
    i, j = tl.program_id(0) * BM, tl.program_id(1) * BN
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for s in tl.range(0, tl.cdiv(k, BK), warp_specialize=True):
        total = tl.dot(a.load([i, s * BK]), b.load([s * BK, j]), total)
    c.store([i, j], total.to(tl.float16))


HALF = ("*fp16", "*fp16", "*fp16", "i32", "i32", "i32")
KERNELS = {
    "matmul": (matmul, dict(zip("abcmnk", HALF, strict=True)), {"BM": 64, "BN": 64, "BK": 32}),
    "softmax": (softmax, {"x": "*fp32", "y": "*fp32", "n": "i32"}, {"BLOCK": 1024}),
    "attention": (
        attention,
        {"q": "*fp16", "k": "*fp16", "v": "*fp16", "out": "*fp16", "n": "i32", "scale": "fp32"},
        {"BM": 64, "BN": 64, "D": 64},
    ),
    "boxes": (
        boxes,
        {
            "a": "tensordesc<fp16[64,32]>",
            "b": "tensordesc<fp16[32,64]>",
            "c": "tensordesc<fp16[64,64]>",
            "k": "i32",
        },
        {"BM": 64, "BN": 64, "BK": 32},
    ),
}


def main():
    for name, (function, types, constants) in KERNELS.items():
        for arch in (80, 90)[name == "boxes" :]:
            aligned = {(n,): [["tt.divisibility", 16]] for n, t in enumerate(types.values())
                       if t != "fp32" and "desc" not in t}  # fmt: skip
            source = ASTSource(function, signature={**types, **dict.fromkeys(constants, "constexpr")},
                               constexprs=constants, attrs=aligned)  # fmt: skip
            found = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4})
            text = re.sub(r"(\.file\s+\d+ )\".*/([^/\"]+)\"", r'\1"\2"', found.asm["ptx"])
            text = re.sub(r"\t\.section\s+\.debug.*", "", text, flags=re.S)
            header = (
                f"// triton: {found.metadata.num_warps} warps, {found.metadata.shared} bytes of "
                f"shared memory\n"
            )
            Path(__file__).with_name(f"triton_{name}_sm{arch}.ptx").write_text(header + text)


if __name__ == "__main__":
    main()
