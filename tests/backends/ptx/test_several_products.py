"""Several matrix products at once: warps share out the products before they share out one."""

from __future__ import annotations

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import check_kernel, out, seeds, values
from tests.backends.ptx.test_products import BOUND, PAIRS
from tilec.ir import dtype as dt

SHAPES = ((4, 16, 16, 32), (2, 17, 40, 8), (3, 5, 7, 9), (8, 1, 33, 16), (6, 16, 32, 24), (1, 32, 8, 16))


@tc.kernel
def products(a: tc.Array, b: tc.Array, c: tc.Array, *, shape, sums=tc.f32, turned=False, warps=4):
    """c = a @ b + a @ b; turned: a is stored (m, s, k), b (s, n, k)."""
    s, m, k, n = shape
    x = a.load((0, 0, 0), (m, s, k)).permute((1, 0, 2)) if turned else a.load((0, 0, 0), (s, m, k))
    y = b.load((0, 0, 0), (s, n, k)).permute((0, 2, 1)) if turned else b.load((0, 0, 0), (s, k, n))
    c.store((0, 0, 0), tc.dot(x, y, tc.dot(x, y, tc.zeros((s, m, n), sums))))


@pytest.mark.parametrize("seed", seeds(8, 96))
def test_several_products(seed: int) -> None:
    draw = np.random.default_rng([seed, 17])
    (dtype, sums), (s, m, k, n) = PAIRS[seed % len(PAIRS)], SHAPES[seed % len(SHAPES)]
    turned = bool(draw.integers(2))
    places = ((m, s, k), (s, n, k)) if turned else ((s, m, k), (s, k, n))
    a, b = (values(dtype, shape, [seed, i], small=True) for i, shape in enumerate(places))
    options = {"shape": (s, m, k, n), "sums": sums, "turned": turned, "warps": int(draw.choice([1, 4, 8]))}
    options |= {"name": ("sm_80", "sm_90a")[int(draw.integers(2))], "bound": BOUND.get(sums)}
    check_kernel(products, (dtype, a), (dtype, b), (sums, out((s, m, n), sums)), **options)


@tc.kernel
def sliced(a: tc.Array, b: tc.Array, c: tc.Array, *, tile=(16, 32, 64), slices=4, stages=2, warps=4):
    """c = a @ b: each group of warps has its slice of every step."""
    (bm, bn, bk), (m, k), n = tile, a.shape, b.shape[1]
    A, B = a.tiles((bm, bk)), b.tiles((bk, bn))
    i, j = tc.blocks(tc.cdiv(m, bm), tc.cdiv(n, bn))
    acc = tc.zeros((slices, bm, bn), tc.f32)
    for s in tc.range(tc.cdiv(k, bk), stages=stages):
        x = A[i, s].reshape((bm, slices, -1)).permute((1, 0, 2))
        acc = tc.dot(x, B[s, j].reshape((slices, -1, bn)), acc)
    c.store((i * bm, j * bn), acc.sum(0))


@pytest.mark.parametrize(("slices", "warps"), [(4, 4), (2, 4), (4, 8)])
def test_slices_of_k(slices: int, warps: int) -> None:
    """Fragments come by ldmatrix, each warp multiplies its slice alone, and sums are exchanged once."""
    a, b = ((dt.f16, values(dt.f16, shape, 1, small=True)) for shape in ((20, 136), (136, 40)))
    made = check_kernel(
        sliced, a, b, (dt.f32, out((20, 40), dt.f32)), slices=slices, warps=warps, bound=BOUND[dt.f32]
    )
    products = 64 // slices // 16 * max(1, 32 // 8 // (warps // slices))
    assert made.ptx.count("mma.sync") == products and "ldmatrix" in made.ptx
    after = made.ptx[made.ptx.rindex("mma.sync") :]
    assert after.count("st.shared") and after.count("ld.shared")
