# ruff: noqa: E501 - one case a line
"""What the language's operations mean, one by one, against numpy on the reference runner."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import tilec as tc
from tests.frontend.test_errors import build

Array = np.ndarray[Any, Any]
X = np.random.default_rng(3).standard_normal((4, 8)).astype(np.float32)
Y = np.random.default_rng(4).standard_normal((4, 8)).astype(np.float32)


def value_of(body: str, x: Array = X, y: Array = Y, dtype: Any = None, **names: Any) -> Array:
    """What `r` is after these lines, given tiles x and y (and arrays xs and ys)."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    source = (
        "@tc.kernel\ndef probe(xs: tc.Array, ys: tc.Array, n: tc.i32):\n"
        "    x, y = xs.load((0, 0), (4, 8)), ys.load((0, 0), (4, 8))\n"
        f"{lines}\n    found.append((r.shape, r.dtype))\n"
    )
    found: list[Any] = []
    build(source + "f = probe\n", found=found, **names).compile(x, y, target="reference")
    shape, kind = found[-1]
    source = source.replace("ys: tc.Array, n", "ys: tc.Array, out: tc.Array, n")
    out = np.full(shape or (1,), 99, kind.storage if dtype is None else dtype)
    store = f"    out.store({(0,) * out.ndim}, r)\n"
    build(source + store + "f = probe\n", found=found, **names).meaning(x, y, out, 5)
    return out if shape else out[0]


def same(body: str, want: Any, **names: Any) -> None:
    np.testing.assert_allclose(value_of(body, **names), want, rtol=1e-6, atol=1e-6)


TILES: dict[str, Callable[[Array, Array], Any]] = {
    "x + y": lambda x, y: x + y,
    "x - 2 * y": lambda x, y: x - 2 * y,
    "1 / x": lambda x, y: 1 / x,
    "-x": lambda x, y: -x,
    "+x": lambda x, y: x,
    "abs(x)": lambda x, y: np.abs(x),
    "tc.abs(x)": lambda x, y: np.abs(x),
    "x ** 2": lambda x, y: x * x,
    "abs(x) ** 0.5": lambda x, y: np.sqrt(np.abs(x)),
    "tc.sqrt(x * x)": lambda x, y: np.abs(x),
    "tc.rsqrt(x * x)": lambda x, y: 1 / np.abs(x),
    "tc.floor(x) + tc.ceil(x) + tc.round(x) + round(x)": lambda x, y: (
        np.floor(x) + np.ceil(x) + 2 * np.rint(x)
    ),
    "tc.exp(x) + tc.exp2(x)": lambda x, y: np.exp(x) + np.exp2(x),
    "tc.log(x * x) + tc.log2(x * x)": lambda x, y: np.log(x * x) + np.log2(x * x),
    "tc.sin(x) + tc.cos(x)": lambda x, y: np.sin(x) + np.cos(x),
    "tc.tanh(x)": lambda x, y: np.tanh(x),
    "tc.sigmoid(x)": lambda x, y: 1 / (1 + np.exp(-x)),
    "tc.minimum(x, 0) + tc.maximum(y, x)": lambda x, y: np.minimum(x, 0) + np.maximum(x, y),
    "tc.fma(x, y, 1)": lambda x, y: x * y + 1,
    "tc.where(x > 0, x, 0.0)": lambda x, y: np.maximum(x, 0),
    "tc.where((x > 0) & ~(y <= 0) | (x == y), 1, 2)": lambda x, y: np.where((x > 0) & (y > 0), 1, 2),
    "tc.where(x != y, x, -float('inf'))": lambda x, y: x,
    "x.to(tc.f16)": lambda x, y: x.astype(np.float16),
    "x.to('f16').to(tc.f64)": lambda x, y: x.astype(np.float16).astype(np.float64),
    "x.bitcast(tc.i32)": lambda x, y: x.view(np.int32),
    "x @ y.T": lambda x, y: x @ y.T,
    "tc.dot(x, y.T, tc.ones((4, 4), tc.f32))": lambda x, y: x @ y.T + 1,
    "(x[None] @ y.T[None]).reshape((4, 4))": lambda x, y: x @ y.T,
    "x.sum(1)": lambda x, y: x.sum(1),
    "x.sum()": lambda x, y: x.sum(),
    "x.sum((0, 1))": lambda x, y: x.sum(),
    "x.max(0, keepdims=True)": lambda x, y: x.max(0, keepdims=True),
    "x.min(-1)": lambda x, y: x.min(-1),
    "x.argmax(1)": lambda x, y: x.argmax(1),
    "x.argmin()": lambda x, y: x.argmin(),
    "x.argmin(0, keepdims=True)": lambda x, y: x.argmin(0, keepdims=True),
    "x.argmax(keepdims=True)": lambda x, y: x.argmax(keepdims=True),
    "(x > 0).any(1)": lambda x, y: (x > 0).any(1),
    "(x > -99).all()": lambda x, y: True,
    "tc.scan(x, 'max')": lambda x, y: np.maximum.accumulate(x, 1),
    "tc.scan(x, axis=0)": lambda x, y: np.cumsum(x, 0),
    "x - x.max(1)[:, None]": lambda x, y: x - x.max(1, keepdims=True),
    "x * y[0]": lambda x, y: x * y[0],
    "x * y[:, 3:4]": lambda x, y: x * y[:, 3:4],
    "x[1:3, 2:]": lambda x, y: x[1:3, 2:],
    "x[..., -1]": lambda x, y: x[..., -1],
    "x[:, -4:-1]": lambda x, y: x[:, -4:-1],
    "x[None, 2]": lambda x, y: x[None, 2],
    "x[2, 3]": lambda x, y: x[2, 3],
    "x.T": lambda x, y: x.T,
    "x.reshape(-1)": lambda x, y: x.reshape(-1),
    "x.reshape((2, -1))": lambda x, y: x.reshape(2, -1),
    "x.reshape(2, 2, 8).permute(1, -1, 0)": lambda x, y: x.reshape(2, 2, 8).transpose(1, 2, 0),
    "tc.stack([x, y], -1)": lambda x, y: np.stack([x, y], -1),
    "tc.arange(5)": lambda x, y: np.arange(5),
    "tc.arange(2, 11, 3, dtype=tc.u8)": lambda x, y: np.arange(2, 11, 3),
    "tc.full((2, 3), 7, tc.i16)": lambda x, y: np.full((2, 3), 7),
    "tc.full((2, 3), x.sum(), tc.f32)": lambda x, y: np.full((2, 3), x.sum()),
    "tc.full((2,), True, tc.bool)": lambda x, y: np.array([True, True]),
    "tc.arange(8) // 3 + tc.arange(8) % 3": lambda x, y: np.arange(8) // 3 + np.arange(8) % 3,
    "20 // (tc.arange(8) + 1)": lambda x, y: 20 // (np.arange(8) + 1),
    "20 % (tc.arange(8) + 1)": lambda x, y: 20 % (np.arange(8) + 1),
    "(1 << tc.arange(8)) | (tc.arange(8) >> 1) ^ 3": lambda x, y: (
        (1 << np.arange(8)) | (np.arange(8) >> 1) ^ 3
    ),
    "~tc.arange(8)": lambda x, y: ~np.arange(8),
    "np.float32(2) * x + np.float64(1)": lambda x, y: 2 * x + 1,
}


@pytest.mark.parametrize("text", TILES)
def test_tiles(text: str) -> None:
    same(f"r = {text}", TILES[text](X, Y))


ARRAYS: dict[str, Any] = {
    "r = xs.load((1, 2), (2, 3))": X[1:3, 2:5],
    "r = xs.load((3, 7), (2, 2), other=9)": [[X[3, 7], 9], [9, 9]],
    "r = xs.load((-1, 0), (2, 8))[0]": np.zeros(8),
    "r = xs.at(1, n)": X[1, 5],
    "r = xs.at(1, 100, other=7)": 7,
    "r = xs.gather(tc.arange(4), n)": X[:, 5],
    "r = xs.gather(tc.arange(5)[:, None], tc.arange(2), other=-1)": [*X[:, :2], [-1, -1]],
    "r = xs.tiles((2, 4))[1, 1]": X[2:, 4:],
    "r = xs[1].load(0, 8)": X[1],
    "r = xs[n - 3, 1::2].load(0, 4)": X[2, 1::2],
    "r = xs[1:3, -2:].load((0, 0), (2, 2))": X[1:3, -2:],
    "r = xs[1:3].load((0, 0), (4, 8), other=5)": [X[1], X[2], [5] * 8, [5] * 8],
    "r = xs[..., 3].load(0, 4)": X[:, 3],
    "r = xs[:, n:][2].at(0)": X[2, 5],
    "r = xs[0:2, 0:n].shape[1] * xs.shape[0]": 20,
    "a, b = xs.shape\nr = tc.where(a < b, a, b) + tc.cdiv(b, 3)": 7,
    "r = (1 if xs.shape == (4, 8) else 0) * tc.full((), 1, tc.i32)": 1,
    "r = (1 if xs.shape != (4, n) else 0) * tc.full((), 1, tc.i32)": 1,
    "s = tc.shared((4, 8), tc.f32)\ns.store((0, 0), x)\ns.store((1, 0), y[2])\nr = s.load((0, 0), (4, 8))": [
        X[0], Y[2], X[2], X[3]],
    "s = tc.shared((4,), tc.f32)\ns.store(0, 1.5)\nr = s.at(0)": 1.5,
    "s = tc.shared((4,), tc.i32)\ns.store(0, tc.zeros(4, tc.i32))\n"
    "s.scatter((tc.arange(2) * 2,), 5)\ns.atomic_add((tc.arange(8) % 4,), 1)\nr = s.load(0, 4)": [7, 2, 7, 2],
    "s = tc.shared((1,), tc.i32)\ns.store(0, 12)\ns.atomic_max(0, 13)\ns.atomic_min((0,), 14)\ns.atomic_and(0, 7)\n"
    "s.atomic_or(0, 8)\ns.atomic_xor(0, 1)\nr = s.at(0)": 12,
}  # fmt: skip


@pytest.mark.parametrize("body", ARRAYS)
def test_arrays(body: str) -> None:
    same(body, ARRAYS[body])


class Pair(NamedTuple):
    low: Any
    high: Any

    def swapped(self) -> Pair:
        return Pair(self.high, self.low) if self.low is not None else self

    def __add__(self, other: Any) -> Any:
        return Pair(self.low + other, self.high + other)

    def __matmul__(self, other: Any) -> Any:
        if not isinstance(other, Pair):
            return NotImplemented
        return Pair(self.low @ other.low, self.high @ other.high)


@dataclasses.dataclass(frozen=True)
class Box:
    content: Any
    label: str = "box"

    def __call__(self, x: Any) -> Any:
        return Box(self.content + x)


FLOW: dict[str, Any] = {
    # loops
    "r = x\nfor s in tc.range(3): r = r + y": X + 3 * Y,
    "r = x\nfor s in tc.range(n): r = r + s.to(tc.f32)": X + 10,
    "r = x\nfor s in tc.range(1, n, 2): r += s.to(tc.f32)": X + 4,
    "r = x\nfor s in tc.range(4, n - 4): r = r * 0": X,
    "r = x\nfor s in range(3): r = r * (s + 1)": 6 * X,
    "r = x\nfor s in tc.static_range(0, 4, 2): r = r + s": X + 2,
    "r = x\nfor a, (b, c) in zip((1, 2), ((3, 4), (5, 6))): r = r * a + b - c": (X - 1) * 2 - 1,
    "c = 0\nfor s in tc.range(n): c = c + 1\nr = c": 5,
    "c = 0\nfor s in tc.range(n): c = c + 0.5\nr = c": 2.5,
    "c = 0\nfor s in tc.range(n): c = x.sum()\nr = c": X.sum(),
    "c, d = 1, 1\nfor s in tc.range(n): c, d = d, c + d\nr = d": 13,
    "c = False\nfor s in tc.range(n): c = s == 3\nr = c": False,
    "c = 0\nfor s in tc.range(4):\n    for t in tc.range(s): c = c + t\nr = c": 4,
    "c = 3\nfor s in tc.range(n): c = 3\nr = x * c": 3 * X,
    "i = 7\nfor i in tc.range(n): pass\nr = i + 0": 4,
    "c = 0\nwhile c * c < n: c = c + 1\nr = c": 3,
    "c = n\nwhile c > 0:\n    c = c - 2\nr = c": -1,
    "k, r = 8, x\nwhile k > 1:\n    k //= 2\n    r = r + k": X + 7,
    "go, c = True, 0\nwhile go:\n    c = c + 1\n    go = c < n\nr = c": 5,
    "r = x\nfor s in (1, 2, 3, 4):\n    if s == 2: continue\n    if s == 4: break\n    r = r * s": 3 * X,
    # branches
    "if n > 3: r = x\nelse: r = y": X,
    "r = x\nif n > 9: r = y": X,
    "r = x\nif n > 3:\n    if n > 4:\n        r = r + y\n    else:\n        r = r - y": X + Y,
    "r = 1\nif n > 3: r = 2": 2,
    "r = 1\nif n > 3: r = 2.5": 2.5,
    "r = n\nif n > 3: r = 2": 2,
    "c = 0\nfor s in tc.range(n):\n    if s % 2 == 1: c = c + s\nr = c": 4,
    "c = 7\nif n > 3: c = 7\nr = x * c": 7 * X,
    "if n > 3:\n    t = x\n    r = t * 2\nelse:\n    t = n\n    r = y": 2 * X,
    "r = x if n > 3 else y": X,
    "r = 1 if n > 9 else 2": 2,
    "r = x if 3 > 4 else y": Y,
    "r = n if n > 3 and n < 9 and True else 0": 5,
    "r = 1 if n > 9 or n < 9 or False else 0": 1,
    "r = 1 if 0 < n < 4 < 5 else 0": 0,
    "r = 1 if 6 > n > 4 > 3 else 0": 1,
    "r = 0 if not n > 3 else 1": 1,
    "r = x if (None or 0) is None or n is None else y": Y,
    "c = 4 and 5\nr = x * c": 5 * X,
    "r = x if (False and n > 3) else y": Y,
    "r = min(n, 3, 4) + max(n, 7) + min(1, 2)": 11,
    # trees
    "p = Pair(x, y)\nfor s in tc.range(2): p = p + 1\nr = p.low - p.high": X - Y,
    "p = Pair(x, 0)\nfor s in tc.range(3): p = Pair(p.low, p.high + 1)\nr = p.low * p.high.to(tc.f32)": 3 * X,
    "p = Pair(x, y)\nif n > 3: p = p.swapped()\nr = p.low": Y,
    "p = Pair(x, y.T)\nq = p @ Pair(y.T, x)\nr = q.low": X @ Y.T,
    "p = [x, y]\nfor s in tc.range(2): p[0] = p[0] + p[1]\nr = p[0]": X + 2 * Y,
    "p = [x]\nif n > 3: p[0] = y\nr = p[0]": Y,
    "p = {'a': x, 'b': 2}\nfor s in tc.range(2): p['a'] = p['a'] * p['b']\nr = p['a']": 4 * X,
    "p = (x, (y, 1))\nfor s in tc.range(2): p = (p[0] + p[1][0], p[1])\nr = p[0]": X + 2 * Y,
    "b = Box(x)\nfor s in tc.range(3): b = b(1)\nr = b.content": X + 3,
    # Python
    "def twice(t, k=2): return t * k\nr = twice(x) + twice(y, k=3)": 2 * X + 3 * Y,
    "def pick(c):\n    if c > 3:\n        v = x\n    else:\n        v = y\n    return v\nr = pick(n)": X,
    "def early(k):\n    if k: return x\n    return y\nr = early(0)": Y,
    "g = lambda t, *a, k=1, **o: t * k + a[0] + o['z']\nr = g(x, 2, k=3, z=4)": 3 * X + 6,
    "r = [x, y][sorted([1, 0], key=lambda v: -v)[0]]": Y,
    "r = sum([x * s for s in range(4) if s % 2])": 4 * X,
    "r = sum({s: x * s for s in (1, 2)}.values())": 3 * X,
    "r = x * len({s % 3 for s in range(9)})": 3 * X,
    "r = x * (k := 3) + k": 3 * X + 3,
    "a, *b, c = range(5)\nr = x * (a + sum(b) + c)": 10 * X,
    "r = tc.stack([*(x, y)], **{'axis': 0})[1]": Y,
    "name = f'{3:>2}|{\"a\"!r}'\nr = x if name == \" 3|'a'\" else y": X,
    "r: tc.Tile = x": X,
    "t = x\ndel t\nr = x": X,
    "p = [1]\np += [2]\nr = x * p[1]": 2 * X,
    "r = x\nr += y\nr *= 2\nr -= 1\nr /= 4": ((X + Y) * 2 - 1) / 4,
    "r = tc.dtype('f16')\nr = x.to(r)": X.astype(np.float16),
    "r = x.to(tc.f64) if x.dtype == tc.f32 else y": X.astype(np.float64),
    "r = xs.shape[0].to(tc.f32) + (3).to(tc.f32) + tc.static(xs.shape[0])": 11,
    "with nothing(): r = x\n": X,
    "r = negated(x)": -X,
    "n = n + 1\nr = n": 6,
    "r = 1.5 if (n > 3) else 2": 1.5,
}  # fmt: skip


def negated(x: Any) -> Any:
    """An outer function, with a nested one and a loop of its own."""

    def inner(t: Any) -> Any:
        return -t

    result = x
    for _ in tc.range(3):
        result = inner(result)
    return result


@pytest.mark.parametrize("body", FLOW)
def test_flow(body: str) -> None:
    from contextlib import nullcontext

    same(body, FLOW[body], Pair=Pair, Box=Box, negated=negated, nothing=nullcontext)


def test_print_and_assert(capsys: pytest.CaptureFixture[str]) -> None:
    value_of("tc.print('x is', 3, x[0, 0:2])\ntc.print(n)\ntc.assert_(x < 100)\ntc.assert_(3 > 2)\nr = x")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("x is 3 [") and lines[1] == "n = 5"


def test_breakpoint_sees_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilec.ir.run import State

    seen: list[Any] = []
    monkeypatch.setattr(State, "pause", lambda self, values, loc: seen.append((dict(values), loc)))
    value_of("total = x.sum()\ntc.breakpoint()\nr = x")
    values, loc = seen[-1]
    np.testing.assert_array_equal(values["x"], X)
    assert values["n"] == 5 and values["total"] == pytest.approx(X.sum())
    assert loc.text.strip() == "tc.breakpoint()"


def test_view_convert_annotate() -> None:
    """Bytes of a fragment, in the order of its layout, seen as what they are."""
    layout = tc.spatial(4, 8) * tc.local(2, 2)
    codes = np.arange(128).reshape(8, 16) % 16
    held = codes[tuple(np.moveaxis(layout.points(), -1, 0))]
    source = layout.bytes(tc.u4)
    flat = np.zeros(64, np.uint8)
    packed = np.stack([tc.pack(row, "u4") for row in held])
    flat[tuple(np.moveaxis(source.points(), -1, 0))] = packed

    @tc.kernel
    def f(x: tc.Array, out: tc.Array, *, layout: tc.Layout):
        w = tc.view(x.load((0, 0), (1, 64)), tc.u4, layout)
        w = tc.convert(tc.annotate(w.to(tc.u8), layout), layout)
        out.store((0, 0), w)

    out = np.zeros((8, 16), np.uint8)
    f.meaning(flat[None], out, layout=layout)
    np.testing.assert_array_equal(out, codes)


def test_packed_arrays() -> None:
    @tc.kernel
    def f(x: tc.Array, out: tc.Array):
        X, OUT = x.tiles((4, 8)), out.tiles((4, 8))
        i, j = tc.blocks(*X.shape)
        OUT[i, j] = 7 - X[i, j]

    values = np.arange(60).reshape(6, 10) % 8
    x = tc.packed(tc.pack(values, "u3"), "u3", (6, 10))
    out = tc.packed(np.zeros(x.nbytes, np.uint8), "u3", (6, 10))
    f.meaning(x, out)
    np.testing.assert_array_equal(tc.unpack(out.bytes, "u3", 60).reshape(6, 10), 7 - values)


def test_grids() -> None:
    @tc.kernel
    def f(out: tc.Array, n: tc.i32):
        i, j = tc.blocks(3, n + 1)
        out.store((i, j), i * 10 + j)

    out = np.full((3, 4), -1, np.int32)
    f.meaning(out, 3)
    np.testing.assert_array_equal(out, np.arange(3)[:, None] * 10 + np.arange(4))

    @tc.kernel
    def one_axis(out: tc.Array):
        (i,) = tc.blocks(out.shape[0])
        out.store(i, i[0] + i[-1])

    line = np.zeros(4, np.int32)
    one_axis.meaning(line)
    np.testing.assert_array_equal(line, 2 * np.arange(4))
    with pytest.raises(tc.TilecError, match="this grid has one axis: there is no block number 1"):
        build("@tc.kernel\ndef f(out: tc.Array):\n    i = tc.blocks(4)\n    out.store(i[1], 0)").meaning(line)
    with pytest.raises(tc.TilecError, match=r"tc\.blocks takes one extent per axis of the grid, found none"):
        build("@tc.kernel\ndef f(out: tc.Array):\n    i = tc.blocks()").meaning(line)
    with pytest.raises(tc.TilecError, match=r"tc\.blocks stands outside loops"):
        build("@tc.kernel\ndef f(out: tc.Array):\n    for i in tc.range(4): tc.blocks(2)").meaning(line)
