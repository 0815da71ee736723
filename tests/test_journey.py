"""One kernel's way through the house: vector add at every station."""

import numpy as np

import tilec as tc


@tc.kernel
def add(x: tc.Array, y: tc.Array, out: tc.Array, *, block=128):
    """out = x + y"""
    X, Y, OUT = x.tiles((block,)), y.tiles((block,)), out.tiles((block,))
    i = tc.blocks(*OUT.shape)
    OUT[i] = X[i] + Y[i]


def test_reference() -> None:
    for n in (0, 1, 127, 128, 129, 1000):
        x = np.arange(n, dtype=np.float32)
        out = np.full(n, np.nan, np.float32)
        add.meaning(x, x * 2, out)
        np.testing.assert_array_equal(out, x * 3)
