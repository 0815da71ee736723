"""Whole kernels: against numpy on the reference runner, over ragged sizes, then on every other runner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import tilec as tc

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(7)
SIZES = (1, 7, 31, 33, 64, 129)


def normal(*shape: int, dtype: Any = np.float32) -> Array:
    return RNG.standard_normal(shape).astype(dtype)


def poisoned(*shape: int, dtype: Any = np.float32) -> Array:
    return np.full(shape, np.nan, dtype)


@tc.kernel
def softmax(x: tc.Array, y: tc.Array, *, block=64):
    """Softmax over rows, whatever their length: one block a row."""
    n = x.shape[1]
    row = tc.blocks(x.shape[0])
    X, Y = x.tiles((1, block)), y.tiles((1, block))
    top = tc.full((1, block), -float("inf"), tc.f32)
    for s in tc.range(X.shape[1]):
        at = s * block + tc.arange(block)[None, :]
        top = tc.maximum(top, tc.where(at < n, X[row, s], -float("inf")))
    largest = top.max()
    total = tc.zeros((1, block), tc.f32)
    for s in tc.range(X.shape[1]):
        at = s * block + tc.arange(block)[None, :]
        total = total + tc.where(at < n, tc.exp(X[row, s] - largest), 0.0)
    denominator = total.sum()
    for s in tc.range(X.shape[1]):
        Y[row, s] = tc.exp(X[row, s] - largest) / denominator


@pytest.mark.parametrize("n", SIZES)
def test_softmax(n: int) -> None:
    x, y = normal(5, n), poisoned(5, n)
    softmax.meaning(x, y)
    e = np.exp(x - x.max(1, keepdims=True), dtype=np.float64)
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=1e-5)


@tc.kernel
def layer_norm(x: tc.Array, weight: tc.Array, bias: tc.Array, y: tc.Array, eps: tc.f32):
    """Layer norm over rows of a static length."""
    n = tc.static(x.shape[1])
    row = tc.blocks(x.shape[0])
    v = x.load((row, 0), (1, n)).reshape(-1)
    mean = v.sum() / float(n)
    centred = v - mean
    variance = (centred * centred).sum() / n
    scaled = centred * tc.rsqrt(variance + eps)
    y.store((row, 0), scaled * weight.load(0, n) + bias.load((0,), (n,)))


@pytest.mark.parametrize("n", SIZES)
def test_layer_norm(n: int) -> None:
    x, w, b, y = normal(4, n), normal(n), normal(n), poisoned(4, n)
    layer_norm.meaning(x, w, b, y, 1e-5)
    want = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * w + b
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


@tc.kernel
def matmul(a: tc.Array, b: tc.Array, c: tc.Array, *, bm=32, bn=32, bk=16, stages=3, warps=4):
    """c = a @ b, accumulated in f32."""
    (m, k), n = a.shape, b.shape[1]
    tc.require(b.shape[0] == k, c.shape == (m, n))
    A, B, C = a.tiles((bm, bk)), b.tiles((bk, bn)), c.tiles((bm, bn))
    i, j = tc.blocks(*C.shape)
    acc = tc.zeros((bm, bn), tc.f32)
    for s in tc.range(A.shape[1], stages=stages):
        acc = tc.dot(A[i, s], B[s, j], acc)
    C[i, j] = acc.to(c.dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (33, 7, 31), (64, 64, 64), (70, 129, 50)])
def test_matmul(m: int, n: int, k: int, dtype: Any) -> None:
    a, b, c = normal(m, k, dtype=dtype), normal(k, n, dtype=dtype), poisoned(m, n, dtype=dtype)
    matmul.meaning(a, b, c)
    want = a.astype(np.float64) @ b.astype(np.float64)
    error = np.linalg.norm(c - want) / np.linalg.norm(want)
    assert error < (1.5e-3 if dtype is np.float16 else 1e-5)


def test_matmul_of_transposed_views() -> None:
    a, b, c = normal(40, 20).T, normal(50, 40).T, poisoned(50, 20).T
    matmul.meaning(a, b, c)
    np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-4)


class Softmax(NamedTuple):
    """The running state of a softmax-weighted sum: it merges, block of keys by block of keys."""

    maximum: tc.Tile
    total: tc.Tile
    acc: tc.Tile

    @classmethod
    def empty(cls, rows: int, columns: int) -> Softmax:
        bottom = tc.full((rows,), -float("inf"), tc.f32)
        return cls(bottom, tc.zeros((rows,), tc.f32), tc.zeros((rows, columns), tc.f32))

    def add(self, logits: tc.Tile, values: tc.Tile) -> Softmax:
        maximum = tc.maximum(self.maximum, logits.max(1))
        old = tc.exp(self.maximum - maximum)
        p = tc.exp(logits - maximum[:, None])
        acc = tc.dot(p.to(values.dtype), values, self.acc * old[:, None])
        return Softmax(maximum, self.total * old + p.sum(1), acc)

    def result(self) -> tc.Tile:
        return self.acc / self.total[:, None]


@tc.kernel
def attention(
    q: tc.Array, k: tc.Array, v: tc.Array, out: tc.Array, scale: tc.f32, *, causal=False, bq=16, bk=32
):
    """softmax(q kT scale) v per head, without ever holding all logits; q, k, v [heads, length, d]."""
    d = tc.static(q.shape[2])
    length = q.shape[1]
    h, i = tc.blocks(q.shape[0], tc.cdiv(length, bq))
    q1, k1, v1, out1 = (t[h] for t in (q, k, v, out))
    state = Softmax.empty(bq, d)
    qt = q1.load((i * bq, 0), (bq, d))
    row = i * bq + tc.arange(bq)
    last = min((i + 1) * bq, length) if causal else length
    for start in tc.range(0, last, bk, stages=2):
        kt, vt = k1.load((start, 0), (bk, d)), v1.load((start, 0), (bk, d))
        column = start + tc.arange(bk)
        seen = (column < length)[None, :]
        if causal:
            seen = seen & (column[None, :] <= row[:, None])
        logits = tc.where(seen, (qt @ kt.T) * scale, -1e30)
        state = state.add(logits, vt)
    out1.store((i * bq, 0), state.result().to(out.dtype))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 31, 64, 70])
def test_attention(length: int, causal: bool) -> None:
    q, k, v = (normal(2, length, 16) for _ in range(3))
    out = poisoned(2, length, 16)
    attention.meaning(q, k, v, out, 0.25, causal=causal)
    logits = np.einsum("hid,hjd->hij", q, k) * 0.25
    if causal:
        logits = np.where(np.tril(np.ones((length, length), bool)), logits, -np.inf)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(out, p / p.sum(-1, keepdims=True) @ v, rtol=1e-4, atol=1e-5)


@tc.kernel
def histogram(x: tc.Array, counts: tc.Array, *, block=128):
    i = tc.blocks(tc.cdiv(x.shape[0], block))
    at = i * block + tc.arange(block)
    bins = x.load(i * block, block, other=-1)
    counts.atomic_add(bins, tc.where(at < x.shape[0], 1, 0))


@pytest.mark.parametrize("n", [1, 128, 1000])
def test_histogram(n: int) -> None:
    x = RNG.integers(0, 10, n).astype(np.int32)
    counts = np.zeros(10, np.int32)
    histogram.meaning(x, counts)
    np.testing.assert_array_equal(counts, np.bincount(x, minlength=10))


@tc.kernel
def depthwise(x: tc.Array, weight: tc.Array, y: tc.Array, *, bh=8, bw=16):
    """The halo sketch: one plane of a depthwise convolution, from shared memory, by slices of a row."""
    kh, kw = tc.static(weight.shape[0]), tc.static(weight.shape[1])
    i, j = tc.blocks(tc.cdiv(y.shape[0], bh), tc.cdiv(y.shape[1], bw))
    xs = tc.shared((bh + kh - 1, bw + kw - 1), x.dtype)
    xs.store((0, 0), x.load((i * bh - kh // 2, j * bw - kw // 2), xs.shape))
    acc = tc.zeros((bh, bw), tc.f32)
    for r in tc.static_range(kh):
        row = xs.load((r, 0), (bh, bw + kw - 1)).to(tc.f32)
        for c in tc.static_range(kw):
            acc = tc.fma(row[:, c : c + bw], weight.at(r, c).to(tc.f32), acc)
    y.store((i * bh, j * bw), acc.to(y.dtype))


@pytest.mark.parametrize(("h", "w", "k"), [(1, 1, 3), (9, 17, 3), (20, 33, 5)])
def test_depthwise(h: int, w: int, k: int) -> None:
    x, weight, y = normal(h, w), normal(k, k), poisoned(h, w)
    depthwise.meaning(x, weight, y)
    padded = np.pad(x, k // 2)
    want = sum(weight[r, c] * padded[r : r + h, c : c + w] for r in range(k) for c in range(k))
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


@tc.kernel
def scale_groups(x: tc.Array, y: tc.Array, *, dilation=3, block=8):
    """The strided-view sketch: each dilation group of a sequence is an array of its own."""
    b, g = tc.blocks(x.shape[0], dilation)
    xs, ys = x[b, g::dilation], y[b, g::dilation]
    for s in tc.range(tc.cdiv(xs.shape[0], block)):
        tile = xs.load(s * block, block)
        ys.store(s * block, tile * 10 + g.to(x.dtype))


@pytest.mark.parametrize("n", SIZES)
def test_strided_views(n: int) -> None:
    x, y = normal(2, n), poisoned(2, n)
    scale_groups.meaning(x, y)
    np.testing.assert_allclose(y, x * 10 + np.arange(n) % 3, rtol=1e-6)


@tc.kernel
def sum_until(x: tc.Array, out: tc.Array, limit: tc.f32):
    """while, if, and numbers that turn into scalars: how many elements it takes to reach a limit."""
    tc.blocks(1)
    total, count = 0.0, 0
    while (total < limit) and (count < x.shape[0]):
        total += x.at(count)
        count += 1
    if total < limit:
        count = -1
    out.store(0, count)


def test_sum_until() -> None:
    x, out = np.arange(10, dtype=np.float32), np.zeros(1, np.int32)
    for limit, want in ((5.0, 4), (0.0, 0), (1000.0, -1)):
        sum_until.meaning(x, out, limit)
        assert out[0] == want


@tc.kernel
def negate(x: tc.Array, y: tc.Array, *, f: Callable[..., Any] = lambda t: -t):
    X, Y = x.tiles((4, 4)), y.tiles((4, 4))
    i, j = tc.blocks(*X.shape)
    Y[i, j] = f(X[i, j])


def test_functions_are_constants_too() -> None:
    x, y = normal(6, 5), poisoned(6, 5)
    negate.meaning(x, y)
    np.testing.assert_array_equal(y, -x)
    negate.meaning(x, y, f=lambda t: t * t + 1)
    np.testing.assert_allclose(y, x * x + 1, rtol=1e-6)


def runs() -> dict[str, tuple[tc.Kernel, tuple[Any, ...], dict[str, Any], float]]:
    """A call of each kernel, and how far its result may be from the meaning: 0 where nothing is summed."""
    q, k, v = (normal(2, 40, 16) for _ in range(3))
    places = RNG.integers(0, 10, 300).astype(np.int32)
    half = [normal(m, n, dtype=np.float16) for m, n in ((33, 40), (40, 48))]
    return {
        "softmax": (softmax, (normal(3, 100), poisoned(3, 100)), {}, 1e-6),
        "layer_norm": (layer_norm, (normal(3, 33), normal(33), normal(33), poisoned(3, 33), 1e-5), {}, 1e-5),
        "matmul_f32": (matmul, (normal(33, 31), normal(31, 7), poisoned(33, 7)), {}, 1e-5),
        "matmul_f16": (matmul, (*half, poisoned(33, 48, dtype=np.float16)), {}, 1.5e-3),
        "attention": (attention, (q, k, v, poisoned(2, 40, 16), 0.25), {}, 1e-5),
        "causal": (attention, (q, k, v, poisoned(2, 40, 16), 0.25), {"causal": True}, 1e-5),
        "histogram": (histogram, (places, np.zeros(10, np.int32)), {}, 0),
        "depthwise": (depthwise, (normal(9, 17), normal(3, 3), poisoned(9, 17)), {}, 0),
        "scale_groups": (scale_groups, (normal(2, 31), poisoned(2, 31)), {}, 0),
        "sum_until": (sum_until, (np.arange(10, dtype=np.float32), np.zeros(1, np.int32), 5.0), {}, 0),
        "negate": (negate, (normal(6, 5), poisoned(6, 5)), {}, 0),
    }


@pytest.mark.parametrize("name", list(runs()))
@pytest.mark.parametrize("target", ["cpu", "emulator:sm_80"])
def test_every_runner(name: str, target: str) -> None:
    kernel, args, constants, bound = runs()[name]
    results = []
    for run in (kernel.meaning, kernel.on(target)):
        mine = [x.copy() if isinstance(x, np.ndarray) else x for x in args]
        run(*mine, **constants)
        results.append([x for x in mine if isinstance(x, np.ndarray)][-1].astype(np.float64))
    want, found = results
    assert np.isfinite(want).all() and want.any()
    assert np.linalg.norm(found - want) <= bound * np.linalg.norm(want)
