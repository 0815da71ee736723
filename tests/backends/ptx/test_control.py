"""Loops, branches, shared memory, global memory that a block reads back, grids, scalars of every dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import build, check_kernel, emulate, out, seeds, trace, values
from tilec.ir import dtype as dt

EXTENTS = (1, 7, 33, 64, 100)


def ints(shape: int | tuple[int, ...], seed: int) -> tuple[Any, Any]:
    return dt.i32, np.random.default_rng(seed).integers(-99, 100, shape).astype(np.int32)


@tc.kernel
def nested(x: tc.Array, y: tc.Array, a: tc.i32, b: tc.i32, *, step=1, n=16, warps=2):
    """Tiles that change places, scalars that decide loops and branches."""
    t = x.load((0,), (n,))
    u, k, f = t * 0, tc.full((), 0, tc.i32), t.to(tc.f32)
    for i in tc.range(a, b, step):
        t, u = t + i, t - k
        k = k + i
        for j in tc.range(0, k % 3):
            f = f + 1.0
            u, t = t, u
            if j > 0:
                k = k - 1
            else:
                f = f - 2.0
    y.store((0,), t)
    y.store((n,), u)
    y.store((2 * n,), f.to(tc.i32))
    y.store((3 * n,), tc.full((1,), k, tc.i32))


@pytest.mark.parametrize("seed", seeds(8, 80))
def test_nested_loops(seed: int) -> None:
    """Bounds of any sign, no rounds at all, steps."""
    draw, n = np.random.default_rng([seed, 16]), EXTENTS[seed % 4]
    bounds = [np.int32(b) for b in draw.integers(-4, 6, 2)]
    options = {"step": int(draw.integers(1, 4)), "n": n, "warps": 1 << seed % 4}
    check_kernel(nested, ints(n, seed), (dt.i32, out(3 * n + 1, dt.i32)), *bounds, **options)


# -- shared memory: every one of these races without its barriers -------------------------------------


@tc.kernel
def stencil(x: tc.Array, y: tc.Array, rounds: tc.i32, *, n=64, warps=2):
    s = tc.shared((n,), tc.i32)
    s.store((0,), x.load((0,), (n,)))
    for _ in tc.range(rounds):
        left, middle, right = s.load((-1,), (n,)), s.load((0,), (n,)), s.load((1,), (n,))
        s.store((0,), left + right - middle)
    y.store((0,), s.load((0,), (n,)))


@tc.kernel
def ping_pong(x: tc.Array, y: tc.Array, rounds: tc.i32, *, n=64, warps=2):
    s = tc.shared((2, n), tc.i32)
    row = x.load((0,), (n,)).reshape((1, n))
    s.store((0, 0), row)
    s.store((1, 0), row)
    for i in tc.range(rounds):
        s.store(((i + 1) % 2, 0), s.load((i % 2, -1), (1, n)) + 1)
    y.store((0,), s.load((rounds % 2, 0), (1, n)).reshape((n,)))


@tc.kernel
def in_branches(x: tc.Array, y: tc.Array, rounds: tc.i32, *, n=48, warps=2):
    s = tc.shared((n,), tc.i32)
    s.store((0,), x.load((0,), (n,)))
    total = tc.zeros((n,), tc.i32)
    for i in tc.range(4):
        if i < rounds:
            s.store((0,), s.load((1,), (n,)) + i)
        else:
            total = total + s.load((i,), (n,))
        j = tc.full((), 0, tc.i32)
        while j < i:
            s.atomic_add((tc.arange(n) * 7 % n,), tc.arange(n))
            j = j + 1
        if i == 2:
            total = total + s.load((0,), (n,)).sum()
    y.store((0,), total)


@tc.kernel
def read_back(x: tc.Array, y: tc.Array, rounds: tc.i32, *, n=64, warps=2):
    """What other threads of the block wrote to global memory."""
    y.store((0,), x.load((0,), (n,)))
    y.store((0,), y.load((1,), (n,)) * 2)
    for i in tc.range(rounds):
        y.store((i,), y.load((i + 1,), (n,)) + i)


@pytest.mark.parametrize(
    "kernel", [stencil, ping_pong, in_branches, read_back], ids=lambda k: k.definition.name
)
@pytest.mark.parametrize("seed", seeds(3, 30))
def test_memory_of_a_block(kernel: tc.Kernel, seed: int) -> None:
    draw, n = np.random.default_rng([seed, 17]), EXTENTS[seed % 5]
    y = (dt.i32, np.full(2 * n, -5, np.int32))
    check_kernel(kernel, ints(n + 9, seed), y, np.int32(draw.integers(6)), n=n, warps=(2, 8, 4, 1)[seed % 4])


@pytest.mark.parametrize(
    "kernel", [stencil, ping_pong, in_branches, read_back], ids=lambda k: k.definition.name
)
def test_any_order_of_warps(kernel: tc.Kernel) -> None:
    """Warps scheduled at random give the same bits."""
    n, rounds = 100, np.int32(3)
    args = [ints(n + 9, 0)[1], np.zeros(2 * n, np.int32), rounds]
    func = trace(kernel, *((dt.i32, a) for a in args[:2]), rounds, n=n, warps=4)
    _, code = build(func, "sm_80")
    found = []
    for seed in range(3):
        y = args[1].copy()
        assert not emulate(code, [args[0], y, rounds], seed).findings
        found.append(y.tolist())
    assert found[0] == found[1] == found[2]


@tc.kernel
def many_buffers(x: tc.Array, y: tc.Array, *, n=40, warps=4):
    """Conversions one after the other, whose buffers lie in the same bytes."""
    t = u = x.load((0, 0), (n, n))
    for i in tc.static_range(5):
        t = t.T.reshape((n * n,)).reshape((n, n)) + u
        u = t.reshape((n // 4, 4 * n)).T.reshape((n, n))
        if i % 2:
            low, high = (t & 3).to(tc.f16), (u & 3).to(tc.f16)
            u = u + tc.dot(low, high).to(tc.i32)
    y.store((0, 0), u)


@pytest.mark.parametrize(("n", "warps"), [(4, 4), (20, 1), (40, 2), (40, 8)])
def test_buffers_share_bytes(n: int, warps: int) -> None:
    x = np.random.default_rng(n).integers(-9, 10, (n, n)).astype(np.int32)
    kernel = check_kernel(many_buffers, (dt.i32, x), (dt.i32, out((n, n), dt.i32)), n=n, warps=warps)
    buffers = kernel.ptx.count("bar.sync")
    assert buffers < 4 or kernel.shared_bytes <= 3 * n * n * 4 + 1024


@tc.kernel
def overwrites(x: tc.Array, y: tc.Array, *, n=32, warps=2, stages=1):
    """A product's operand is overwritten in memory after it was read."""
    acc = tc.zeros((n, n), tc.f32)
    for i in tc.range(3, stages=stages):
        a, b = y.load((0, 0), (n, n)), x.load((0, i), (n, n))
        y.store((0, 0), b)
        acc = tc.dot(a, b, acc)
    y.store((0, n), acc.to(tc.f16))


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("n", [16, 33])
def test_operands_that_are_overwritten(n: int, stages: int) -> None:
    x, y = ((dt.f16, values(dt.f16, (n, m), m, small=True)) for m in (n + 4, 2 * n))
    check_kernel(overwrites, x, y, n=n, stages=stages, warps=4, bound=0.5)


@tc.kernel(alias=("x", "y"))
def in_place(x: tc.Array, y: tc.Array, *, n=64, warps=2):
    y.store((0,), x.load((1,), (n,)) * 2)


@pytest.mark.parametrize("n", [1, 64, 100])
def test_one_array_as_both(n: int) -> None:
    """A kernel that may be given one array twice does not take it for read-only, and waits to write."""
    x = np.arange(n + 1, dtype=np.int32)
    func = trace(in_place, (dt.i32, x), (dt.i32, x), n=n)
    _, code = build(func, "sm_80")
    assert ".nc" not in code.ptx and code.ptx.count("bar.sync") == 1
    wanted = np.append(x[1:] * 2, x[-1])
    assert not emulate(code, [x, x]).findings
    assert x.tolist() == wanted.tolist()


# -- grids and scalars --------------------------------------------------------------------------------


@tc.kernel
def numbered(y: tc.Array, n: tc.i32, *, warps=1):
    i, j, k = tc.blocks(n, 2, n + 1)
    y.store((i, j, k), tc.full((1, 1, 1), i * 100 + j * 10 + k, tc.i32))


@tc.kernel
def one_block(x: tc.Array, y: tc.Array, *, warps=1):
    y.store((0,), x.load((0,), (8,)))


@pytest.mark.parametrize("n", [1, 3])
def test_grids(n: int) -> None:
    check_kernel(numbered, (dt.i32, np.full((n, 2, n + 1), -1, np.int32)), np.int32(n))
    check_kernel(one_block, ints(8, 0), (dt.i32, out(8, dt.i32)))


@tc.kernel
def scalars(y: tc.Array, a: tc.i8, b: tc.u16, c: tc.i64, d: tc.f16, e: tc.f64, f: tc.bool, *, warps=1):
    total = a.to(tc.f64) + b.to(tc.f64) + c.to(tc.f64) + d.to(tc.f64) + e + f.to(tc.f64)
    y.store((0,), total)
    if f:
        y.store((1,), 1.0)
    if a < 0:
        y.store((2,), 2.0)


@pytest.mark.parametrize("seed", range(3))
def test_scalars(seed: int) -> None:
    draw = np.random.default_rng(seed)
    wide = np.int64(draw.integers(-(2**60), 2**60))
    given = [np.int8(draw.integers(-128, 128)), np.uint16(draw.integers(65536)), wide, np.float16(1.5)]
    check_kernel(
        scalars, (dt.f64, np.zeros(3)), *given, np.float64(draw.standard_normal()), np.bool_(seed % 2)
    )


@tc.kernel
def counted(y: tc.Array, start: tc.i32, stop: tc.i32, *, step=3, warps=1):
    rounds = tc.zeros((1,), tc.i32)
    for _ in tc.range(start, stop, step):
        rounds = rounds + 1
    y.store(0, rounds)


TOP, BOTTOM = 2**31 - 1, -(2**31)


@pytest.mark.parametrize(
    ("start", "stop", "rounds"),
    [(TOP - 7, TOP, 3), (TOP - 1, TOP, 1), (BOTTOM, BOTTOM + 8, 3), (5, 5, 0), (7, 2, 0)],
)
def test_a_loop_ends_at_the_top_of_its_type(start: int, stop: int, rounds: int) -> None:
    y = np.zeros(1, np.int32)
    for target in ("reference", "cpu", "emulator:sm_80"):
        y[:] = -1
        counted.on(target)(y, start, stop)
        assert y[0] == rounds, target


@tc.kernel
def views_of_shared(x: tc.Array, y: tc.Array, *, warps=1):
    s = tc.shared((4, 8, 16), tc.f32)
    s.store((0, 0, 0), x.load((0, 0, 0), (4, 8, 16)))
    y.store((0, 0), s[:, 3].load((0, 0), (4, 16)))
    y.store((4, 0), s[::2, 1:5, 5].load((0, 0), (2, 4)))
    y.store((6, 0), s[3].load((2, 0), (2, 16)))


def test_views_of_shared_memory_are_where_they_are() -> None:
    x = np.arange(512, dtype=np.float32).reshape(4, 8, 16)
    wanted = np.zeros((8, 16), np.float32)
    wanted[:4], wanted[4:6, :4], wanted[6:] = x[:, 3], x[::2, 1:5, 5], x[3, 2:4]
    for target in ("reference", "cpu", "emulator:sm_80"):
        y = np.zeros((8, 16), np.float32)
        views_of_shared.on(target)(x, y)
        np.testing.assert_array_equal(y, wanted, target)
