"""Tiles that change shape: chains of reshapes, permutations, broadcasts, slices and stacks; fragments seen as
other dtypes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import check_kernel, out, seeds, values
from tilec.ir import codec, layouts
from tilec.ir import dtype as dt
from tilec.ir.conversion import conversion
from tilec.ir.dtype import ALL, DType
from tilec.ir.layout import Layout
from tilec.ir.swaps import Swap, swapped, travelling

Shape = tuple[int, ...]
MOST = 3000


@tc.kernel
def chain(x: tc.Array, y: tc.Array, *, shape=(8, 8), steps=(), warps=2):
    t = x.load((0,) * len(shape), shape, other=0)
    for name, how in steps:
        if name == "reshape":
            t = t.reshape(how)
        elif name == "permute":
            t = t.permute(how)
        elif name == "double":
            t = t + t
        elif name == "broadcast":
            t = t.reshape(how[0]) + tc.zeros(how[1], t.dtype)
        elif name == "slice":
            t = t[tuple(slice(a, b) for a, b in how)]
        elif name == "stack":
            t = tc.stack([t, t + t], how)
        elif name == "count":
            t = t + tc.arange(how, dtype=t.dtype)
        elif name == "max":
            t = t.max(how)
    y.store((0,) * t.rank, t)


class Chain:
    """Random steps, and the shape after them."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng([seed, 10])
        rank = int(self.draw.integers(1, 4))
        extents = self.draw.choice([1, 2, 3, 4, 6, 7, 8, 16, 32, 33, 40], rank)
        self.start = self.shape = tuple(min(int(n), {1: 300, 2: 40, 3: 12}[rank]) for n in extents)
        self.steps: list[tuple[str, Any]] = []
        makers = (self.reshape, self.permute, self.broadcast, self.slice, self.stack, self.others)
        for _ in range(int(self.draw.integers(1, 6))):
            makers[int(self.draw.integers(len(makers)))]()

    def add(self, name: str, how: Any, shape: Shape) -> None:
        self.steps.append((name, how))
        self.shape = shape

    def reshape(self) -> None:
        size, found = math.prod(self.shape), []
        while size > 1 and len(found) < 3:
            found.append(int(self.draw.choice([n for n in range(2, size + 1) if size % n == 0])))
            size //= found[-1]
        found += [size] * (size > 1 or not found)
        if self.draw.random() < 0.3:
            found.insert(int(self.draw.integers(len(found) + 1)), 1)
        self.add("reshape", tuple(found), tuple(found))

    def permute(self) -> None:
        axes = tuple(self.draw.permutation(len(self.shape)).tolist())
        self.add("permute", axes, tuple(self.shape[a] for a in axes))

    def broadcast(self) -> None:
        s, axis, times = (
            self.shape,
            int(self.draw.integers(len(self.shape) + 1)),
            int(self.draw.integers(1, 5)),
        )
        if math.prod(s) * times <= MOST:
            grown = (*s[:axis], times, *s[axis:])
            self.add("broadcast", ((*s[:axis], 1, *s[axis:]), grown), grown)

    def slice(self) -> None:
        starts = [int(self.draw.integers(n)) for n in self.shape]
        ends = [int(self.draw.integers(a, n)) + 1 for a, n in zip(starts, self.shape, strict=True)]
        parts = tuple(zip(starts, ends, strict=True))
        self.add("slice", parts, tuple(b - a for a, b in parts))

    def stack(self) -> None:
        s, axis = self.shape, int(self.draw.integers(len(self.shape) + 1))
        if math.prod(s) * 2 <= MOST:
            self.add("stack", axis, (*s[:axis], 2, *s[axis:]))

    def others(self) -> None:
        s, axis = self.shape, int(self.draw.integers(len(self.shape)))
        match int(self.draw.integers(3)):
            case 0:
                self.add("double", None, s)
            case 1:
                self.add("count", s[-1], s)
            case 2 if len(s) > 1:
                self.add("max", axis, s[:axis] + s[axis + 1 :])


@pytest.mark.parametrize("seed", seeds(40, 600))
def test_chains(seed: int) -> None:
    """Whatever layouts the steps have, elements arrive where they belong."""
    made = Chain(seed)
    dtype, warps = (dt.u8, dt.f16, dt.f32, dt.i64)[seed % 4], (1, 2, 4, 8, 3)[seed % 5]
    x, y = (dtype, values(dtype, made.start, seed)), (dtype, out(made.shape, dtype))
    check_kernel(chain, x, y, shape=made.start, steps=tuple(made.steps), warps=warps)


# -- views ------------------------------------------------------------------------------------------


@tc.kernel
def seen(x: tc.Array, y: tc.Array, *, dtype=tc.u4, layout=None, source=None, to=tc.f32, warps=1):
    """Memory read as `dtype` through a layout."""
    tile = x.load((0,) * len(source.shape), source.shape)
    y.store((0,) * len(layout.shape), tc.view(tile, dtype, layout, source).to(to))


@tc.kernel
def packs(x: tc.Array, y: tc.Array, *, dtype=tc.u4, layout=None, into=tc.u8, held=None, warps=1):
    """Elements of `dtype` written as the bits of others."""
    tile = x.load((0,) * len(layout.shape), layout.shape).to(dtype)
    y.store((0,) * len(held.shape), tc.view(tile, into, held, layout))


WIDE = (dt.f16, dt.bf16, dt.f32, dt.tf32, dt.i16, dt.i32, dt.u64, dt.f64)
NARROW = tuple(d for d in ALL if d.bits <= 8 and not d.is_bool)


def fragments(warps: int) -> list[Layout]:
    return [
        layouts.mma_b(dt.f16, (64, 24 * warps), warps),
        layouts.mma_b(dt.i8, (64, 8 * warps), warps),
        layouts.mma_c(dt.f32, (16 * warps, 32), (warps, 1)),
        tc.local(1, 8) * tc.spatial(32 * warps, 1),
        tc.spatial(8 * warps, 4) * tc.local(4, 6),
        tc.local(2, 1) * tc.spatial(4, 8 * warps) * tc.local(4, 1),
    ]


def exact(dtype: DType) -> DType:
    """A dtype of memory that holds every value of another."""
    if dtype.bits > 16:
        return dt.f32 if dtype == dt.tf32 else dtype
    return dt.f32


@pytest.mark.parametrize("seed", seeds(20, 300))
def test_views(seed: int) -> None:
    """Bytes, and wider elements, read as every dtype of 1 to 64 bits in every kind of fragment."""
    draw = np.random.default_rng([seed, 11])
    dtype = (*NARROW, *WIDE)[int(draw.integers(len(NARROW) + len(WIDE)))]
    warps = int(draw.choice([1, 2, 4]))
    layout = fragments(warps)[seed % 6]
    y = (exact(dtype), out(layout.shape, exact(dtype)))
    options = {"dtype": dtype, "layout": layout, "to": exact(dtype), "warps": warps}
    source = layout.bytes(dtype)
    check_kernel(seen, (dt.u8, values(dt.u8, source.shape, seed)), y, source=source, **options)
    other = (dt.f16, dt.u32, dt.i16, dt.f64)[int(draw.integers(4))]
    if layout.slots * dtype.bits % other.bits == 0:
        source = tc.spatial(32 * warps) * tc.local(layout.slots * dtype.bits // other.bits)
        check_kernel(seen, (other, values(other, source.shape, seed)), y, source=source, **options)


@pytest.mark.parametrize("seed", seeds(15, 200))
def test_packing_views(seed: int) -> None:
    """Elements of odd widths, quantised in the kernel, stored as whole ones."""
    draw = np.random.default_rng([seed, 12])
    dtype, into = NARROW[int(draw.integers(len(NARROW)))], (dt.u8, *WIDE)[seed % 9]
    warps, slots = int(draw.choice([1, 2, 4])), int(draw.choice([1, 3, 8, 16]))
    slots *= into.bits // math.gcd(into.bits, slots * dtype.bits)
    layout = tc.spatial(32 * warps) * tc.local(slots)
    held = tc.local(slots * dtype.bits // into.bits) * tc.spatial(32 * warps)
    x, y = (dt.f32, values(dt.f32, layout.shape, seed)), (into, out(held.shape, into))
    check_kernel(packs, x, y, dtype=dtype, layout=layout, into=into, held=held, warps=warps)


@tc.kernel
def dequantised(a: tc.Array, w: tc.Array, c: tc.Array, *, dtype=tc.u4, layout=None, m=16, warps=1):
    bits = layout.bytes(dtype).shape
    b = tc.view(w.load((0,), bits), dtype, layout).to(a.dtype)
    c.store((0, 0), tc.dot(a.load((0, 0), (m, layout.shape[0])), b))


@tc.kernel
def of_scalars(x: tc.Array, y: tc.Array, *, warps=1):
    a = x.at(0)
    y.store(0, tc.stack([a, a + 1, x.at(1) * 3]) + a)


@pytest.mark.parametrize("warps", [1, 4])
def test_a_stack_of_scalars(warps: int) -> None:
    check_kernel(of_scalars, (dt.f32, values(dt.f32, (2,), 0)), (dt.f32, out((3,), dt.f32)), warps=warps)


WEIGHTS = (dt.u1, dt.i2, dt.u3, dt.i4, dt.u5, dt.i6, dt.u7, dt.i8, dt.f3e1m1, dt.f4e2m1, dt.f6e3m2, dt.f8e4m3)


@pytest.mark.parametrize("dtype", WEIGHTS, ids=str)
def test_weights(dtype: DType) -> None:
    """Packed weights as the right operand of a product: no element moves between threads."""
    warps, m = (2, 16) if dtype.bits % 2 else (1, 17)
    layout = layouts.mma_b(dt.f16, (32, 24 * warps), warps)
    a = values(dt.f16, (m, 32), 3, small=True)
    w = values(dt.u8, layout.bytes(dtype).shape, 4)
    limit = float(np.abs(np.asarray(codec.decode(np.arange(1 << dtype.bits), dtype), np.float64)).max())
    c = (dt.f32, out((m, layout.shape[1]), dt.f32))
    kernel = check_kernel(
        dequantised, (dt.f16, a), (dt.u8, w), c, dtype=dtype, layout=layout, m=m, warps=warps, bound=limit / 8
    )
    assert "shfl" not in kernel.ptx and kernel.ptx.count("mma.sync") > 0


# -- swaps of slots' digits with lanes' ---------------------------------------------------------------


@tc.kernel
def converted(x: tc.Array, y: tc.Array, *, first: Layout, then: Layout, warps=2):
    y.store((0, 0), tc.convert(tc.annotate(x.load((0, 0), first.shape), first), then))


@pytest.mark.parametrize("dtype", [dt.u8, dt.f16, dt.f32, dt.i64, dt.bool], ids=str)
@pytest.mark.parametrize("swaps", [(Swap(4, 1),), (Swap(1, 4),), (Swap(1, 4), Swap(8, 16))])
def test_swaps(dtype: DType, swaps: tuple[Swap, ...]) -> None:
    """Elements arrive, and those of 8 and 16 bits share shuffles: two in a register, or four."""
    first = layouts.mma_c(dt.f32, (32, 64), 2)
    then = swapped(first, swaps)
    assert conversion(first, then, max(8, dtype.bits)).kind == "swap"
    x, y = (dtype, values(dtype, first.shape, 1)), (dtype, out(first.shape, dtype))
    check_kernel(converted, x, y, first=first, then=then)
    assert travelling(first, swaps, dtype.bits) == first.slots * min(dtype.bits, 32) // 32
