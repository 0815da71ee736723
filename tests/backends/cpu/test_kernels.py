"""Whole kernels in the language: the CPU against the reference and against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec as tc

Array = np.ndarray[Any, Any]
BOUND = {"float32": 1e-5, "float16": 1.5e-3}


@tc.kernel
def matmul(a: tc.Array, b: tc.Array, c: tc.Array, *, bm: int = 32, bn: int = 48, bk: int = 16) -> None:
    """c = a @ b"""
    A, B, C = a.tiles((bm, bk)), b.tiles((bk, bn)), c.tiles((bm, bn))
    i, j = tc.blocks(*C.shape)
    acc = tc.zeros((bm, bn), tc.f32)
    for s in tc.range(A.shape[1]):
        acc = tc.dot(A[i, s], B[s, j], acc)
    C[i, j] = acc.to(c.dtype)


@tc.kernel
def softmax(x: tc.Array, y: tc.Array, *, bn: int = 256) -> None:
    """Rows of up to bn elements."""
    i = tc.blocks(x.shape[0])
    row = x.load((i, 0), (1, bn), other=-float("inf")).to(tc.f32)
    e = tc.exp(row - row.max(1)[:, None])
    y.store((i, 0), (e / e.sum(1)[:, None]).to(y.dtype))


@tc.kernel
def attend(q: tc.Array, k: tc.Array, v: tc.Array, o: tc.Array, *, bm: int = 32, bn: int = 16) -> None:
    """Attention with a running maximum; keys past the end count as -inf."""
    d = tc.static(q.shape[-1])
    keys = k.shape[0]
    i = tc.blocks(tc.cdiv(q.shape[0], bm))
    rows = q.load((i * bm, 0), (bm, d))
    top, total = tc.full((bm,), -1e30, tc.f32), tc.zeros((bm,), tc.f32)
    acc = tc.zeros((bm, d), tc.f32)
    for j in tc.range(tc.cdiv(keys, bn)):
        kt, vt = k.load((j * bn, 0), (bn, d)), v.load((j * bn, 0), (bn, d))
        there = (j * bn + tc.arange(bn) < keys)[None, :]
        logits = tc.where(there, rows @ kt.T, -1e30)
        new = tc.maximum(top, logits.max(1))
        p, scale = tc.exp(logits - new[:, None]), tc.exp(top - new)
        total = total * scale + p.sum(1)
        acc = tc.dot(p.to(q.dtype), vt, acc * scale[:, None])
        top = new
    o.store((i * bm, 0), (acc / total[:, None]).to(o.dtype))


def normal(kind: str, *shape: int, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.5).astype(kind)


def poisoned(kind: str, *shape: int) -> Array:
    return np.full(shape, np.nan, kind)


def close(found: Array, want: Array) -> None:
    error = np.linalg.norm(found.astype(np.float64) - want) / np.linalg.norm(want)
    assert error < BOUND[str(found.dtype)], f"relative error {error:.1e}"


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (31, 33, 127), (64, 48, 96), (7, 129, 50)])
@pytest.mark.parametrize("order", ["nn", "nt", "tn"])
def test_matmul(kind: str, m: int, k: int, n: int, order: str) -> None:
    a = normal(kind, m, k) if order[0] == "n" else normal(kind, k, m).T
    b = normal(kind, k, n, seed=1) if order[1] == "n" else normal(kind, n, k, seed=1).T
    found = poisoned(kind, m, n)
    matmul.on("cpu")(a, b, found)
    close(found, a.astype(np.float64) @ b.astype(np.float64))


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("columns", [1, 31, 200, 256])
def test_softmax(kind: str, columns: int) -> None:
    x, found, said = normal(kind, 5, columns), poisoned(kind, 5, columns), poisoned(kind, 5, columns)
    softmax.on("cpu")(x, found)
    softmax.on("reference")(x, said)
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    close(found, e / e.sum(1, keepdims=True))
    close(found, said.astype(np.float64))


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("queries, keys, d", [(1, 1, 16), (33, 50, 32), (64, 127, 24)])
def test_attention(kind: str, queries: int, keys: int, d: int) -> None:
    q, k, v = (normal(kind, n, d, seed=i) for i, n in enumerate((queries, keys, keys)))
    found, said = poisoned(kind, queries, d), poisoned(kind, queries, d)
    attend.on("cpu")(q, k, v, found)
    attend.on("reference")(q, k, v, said)
    logits = q.astype(np.float64) @ k.astype(np.float64).T
    e = np.exp(logits - logits.max(1, keepdims=True))
    close(found, e / e.sum(1, keepdims=True) @ v.astype(np.float64))
    close(found, said.astype(np.float64))
