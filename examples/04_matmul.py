"""Matrix product: a grid of two axes, tensor cores, and a pipelined loop.

`tc.dot(a, b, acc)` is a @ b + acc, accumulated in acc's type; on a GPU it becomes matrix instructions where
the types have them. `stages=3` lets three iterations' loads be under way at once: when copies start and who
waits for them is the compiler's business, and never changes the result. `tc.require` is checked at each call,
and is a fact for the compiler.
"""

import numpy as np

import tilec as tc


@tc.kernel
def matmul(a: tc.Array, b: tc.Array, c: tc.Array, *, bm=64, bn=64, bk=32, stages=3, warps=4):
    """c = a @ b, accumulated in f32; any sizes, any strides"""
    (m, k), n = a.shape, b.shape[1]
    tc.require(b.shape[0] == k, c.shape == (m, n))
    A, B, C = a.tiles((bm, bk)), b.tiles((bk, bn)), c.tiles((bm, bn))
    i, j = tc.blocks(*C.shape)
    acc = tc.zeros((bm, bn), tc.f32)
    for s in tc.range(A.shape[1], stages=stages):
        acc = tc.dot(A[i, s], B[s, j], acc)
    C[i, j] = acc.to(c.dtype)


def main() -> None:
    rng = np.random.default_rng(0)
    for m, n, k, dtype in ((256, 256, 256, np.float16), (70, 129, 333, np.float32)):
        a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
        c = np.empty((m, n), dtype)
        matmul(a, b, c)
        want = a.astype(np.float64) @ b.astype(np.float64)
        error = np.linalg.norm(c - want) / np.linalg.norm(want)
        if not error < (1.5e-3 if dtype is np.float16 else 1e-5):
            raise SystemExit(f"wrong: relative error {error:.1e}")
        print(f"{m}x{k} times {k}x{n} in {dtype.__name__}: relative error {error:.1e}")

        matmul(b.T, a.T, c.T)  # the same product, transposed: strides are part of an array
        assert np.linalg.norm(c - want) <= 2 * error * np.linalg.norm(want)

    try:
        matmul(a, b.T, c)
    except tc.TilecError as mistake:
        print(f"a mistake is told where it was made:\n{mistake}")


if __name__ == "__main__":
    main()
