"""A product with weights of 3 bits: quantise, pack, view.

`tc.layouts.mma_b` says which thread feeds which weights to the matrix units. `q.packed(fragment)` stores the
weights in just that order, so that a thread loads its own bytes in one piece, and `tc.view` reads them as u3
where they are: it costs no instruction. Nothing here knows that a weight is 3 bits wide: pass weight=tc.i5 or
tc.f6e3m2 with a weight quantised to it, and it is that.
"""

import numpy as np

import tilec as tc
from tilec import ops


@tc.kernel
def linear(x: tc.Array, codes: tc.Array, scales: tc.Array, y: tc.Array,
           *, weight, zero, fragment, bm=16, stages=4, warps=4):  # fmt: skip
    """y = x @ w.T for x [m, k] and w [n, k], quantised in groups of one step's depth"""
    bk, bn = fragment.shape
    X, W, Y = x.tiles((bm, bk)), codes.tiles((1, 1, fragment.nbytes(weight))), y.tiles((bm, bn))
    i, j = tc.blocks(*Y.shape)
    acc = tc.zeros((bm, bn), tc.f32)
    for s in tc.range(X.shape[1], stages=stages):
        w = tc.view(W[j, s, 0], weight, fragment)  # (bk, bn), still packed
        group = X[i, s] @ (w.to(x.dtype) - zero)
        scale = scales.load((s, j * bn), (1, bn)).to(tc.f32)  # a group is a step, so its sum is scaled
        acc = tc.fma(group, scale, acc)
    Y[i, j] = acc.to(y.dtype)


def main() -> None:
    rng = np.random.default_rng(0)
    m, n, k = 20, 256, 512
    x, w = rng.standard_normal((m, k)).astype(np.float16), rng.standard_normal((n, k)).astype(np.float32)
    fragment = tc.layouts.mma_b(tc.f16, (128, 128), warps=4)
    for weight in (tc.u3, tc.i5, tc.f6e3m2):
        q = ops.quantize(w, weight, group_size=128)
        y = np.empty((m, n), np.float16)
        linear(x, q.packed(fragment), q.scales.T, y, weight=weight, zero=q.zero, fragment=fragment)

        want = x.astype(np.float64) @ q.dequantize().T.astype(np.float64)
        error = np.linalg.norm(y - want) / np.linalg.norm(want)
        if not error < 1.5e-3:
            raise SystemExit(f"wrong: relative error {error:.1e}")
        lost = np.linalg.norm(want - x @ w.T) / np.linalg.norm(x @ w.T)
        print(f"{weight.name:7} {q.nbytes:6} bytes instead of {w.nbytes}, relative error {error:.1e}; "
              f"quantising cost {lost:.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
