"""Histogram: many blocks add to one array.

Blocks run in no order, and may not write the same element, except with atomics. `atomic_add` takes a tile of
places, and adds to each; places outside the array are left out. So reading past the end of x as -1 is all
that the last block needs.
"""

import numpy as np

import tilec as tc


@tc.kernel
def histogram(x: tc.Array, counts: tc.Array, *, block=1024):
    """counts[b] += how often b is in x; what is no bin is not counted"""
    i = tc.blocks(tc.cdiv(x.shape[0], block))
    bins = x.load(i * block, block, other=-1)
    counts.atomic_add(bins, 1)


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.binomial(30, 0.4, 100_001).astype(np.int32)
    counts = np.zeros(24, np.int32)
    histogram(x, counts)
    np.testing.assert_array_equal(counts, np.bincount(x[x < 24], minlength=24))
    for b, count in enumerate(counts):
        print(f"{b:3} {count:6} {'#' * (count // 250)}")


if __name__ == "__main__":
    main()
