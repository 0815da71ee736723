"""Vector add: a kernel, a grid, and a call.

A kernel is written for one block of threads, in tiles. `tiles` cuts an array into tiles; `tc.blocks` makes
one block for each and says which one this is. The last tile may stick out of the array: what is read there
is 0, and what is written there vanishes, so nothing has to be masked by hand.
"""

import numpy as np

import tilec as tc


@tc.kernel
def add(x: tc.Array, y: tc.Array, out: tc.Array, *, block=1024):
    """out = x + y"""
    X, Y, OUT = x.tiles((block,)), y.tiles((block,)), out.tiles((block,))
    i = tc.blocks(*OUT.shape)
    OUT[i] = X[i] + Y[i]


def main() -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(98_432).astype(np.float32) for _ in range(2))
    out = np.empty_like(x)
    add(x, y, out)  # numpy arrays: compiled for this CPU, at the first call
    np.testing.assert_array_equal(out, x + y)
    print(f"added {x.size} numbers in {-(-x.size // 1024)} blocks of 1024: {out[:3]} ...")

    half = out[: x.size // 2]
    add(x[1::2], y[::2], half, block=256)  # strided views are arrays like others; constants go by name
    np.testing.assert_array_equal(half, x[1::2] + y[::2])
    print(f"and every second one, in blocks of 256: {half[:3]} ...")


if __name__ == "__main__":
    main()
