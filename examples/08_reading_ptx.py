"""Reading the PTX: what the compiler made of a kernel, without a GPU.

`compile` takes specifications in place of arrays: types, and extents that are numbers or names. "m" may be
anything; tc.dim("k", multiple=8) is known to be a multiple of 8, and that decides how wide loads may be.
Every stage is text: .ir, .llvm, .ptx, and with an assembler on this machine .sass and .resources.
"""

import re
from collections import Counter

import tilec as tc
from tilec.backends.ptx.assemble import find

KEY = r"(ld\.global|ld\.shared|st\.shared|cp\.async|ldmatrix|mma\.sync|wgmma\.mma_async|bar\.sync)[^\s;]*"


@tc.kernel
def matmul(a: tc.Array, b: tc.Array, c: tc.Array, *, bm=64, bn=64, bk=32, stages=3, warps=4):
    (m, k), n = a.shape, b.shape[1]
    tc.require(b.shape[0] == k, c.shape == (m, n))
    A, B, C = a.tiles((bm, bk)), b.tiles((bk, bn)), c.tiles((bm, bn))
    i, j = tc.blocks(*C.shape)
    acc = tc.zeros((bm, bn), tc.f32)
    for s in tc.range(A.shape[1], stages=stages):
        acc = tc.dot(A[i, s], B[s, j], acc)
    C[i, j] = acc.to(c.dtype)


def loop_of(ptx: str) -> list[str]:
    """The lines of the loop with most matrix instructions: from a label to a jump back to it."""
    lines = ptx.splitlines()
    starts = {line.rstrip(":"): n for n, line in enumerate(lines) if re.fullmatch(r"\$?\w+:", line)}
    jumps = ((n, re.search(r"\bbra(?:\.uni)?\s+(\$?\w+);", line)) for n, line in enumerate(lines))
    loops = [lines[starts[to[1]] : n] for n, to in jumps if to and starts.get(to[1], n) < n]
    return max(loops, key=lambda loop: sum("mma" in line for line in loop))


def main() -> None:
    for multiple in (8, 1):
        k, n = tc.dim("k", multiple=multiple), tc.dim("n", multiple=multiple)
        specs = tc.Spec("f16", ("m", k)), tc.Spec("f16", (k, n)), tc.Spec("f16", ("m", n))
        done = matmul.compile(*specs, target="sm_90a")
        loop = loop_of(done.ptx)
        print(f"\nk and n are multiples of {multiple}: {len(done.ptx.splitlines())} lines of PTX, "
              f"{len(loop)} in the loop, among them")  # fmt: skip
        for word, count in Counter(found[0] for line in loop if (found := re.search(KEY, line))).items():
            print(f"{count:5} x {word}")
        if multiple == 8 and not any("mma" in line for line in loop):
            raise SystemExit("wrong: a product of f16 should use matrix instructions")
        if find("ptxas"):
            used = done.resources
            print(f"{used.registers:5} registers a thread, {used.spill_bytes} bytes spilled")


if __name__ == "__main__":
    main()
