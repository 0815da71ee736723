"""Layouts are given to every tile, the same every time; what moves, and what need not."""

from __future__ import annotations

from typing import Any

import pytest

import tilec as tc
from tests.backends.ptx.programs import program
from tests.backends.ptx.runner import check_kernel, emulate, out, seeds, values
from tilec.ir.conversion import conversion
from tilec.ir.func import Func, Inst, Value
from tilec.ir.inst.arith import Full, Iota
from tilec.ir.inst.control import For
from tilec.ir.inst.memory import Alloc, Copy, Store
from tilec.ir.inst.mma import Dot
from tilec.ir.inst.shape import Convert
from tilec.ir.layouts import mma_c
from tilec.ir.passes.order import lower
from tilec.ir.target import target
from tilec.ir.tile import TileType

SM_80 = target("sm_80")


def stages(func: Func) -> dict[str, Func]:
    """The function after each pass, the last one of each name."""
    found: dict[str, Func] = {}
    lower(func, SM_80, lambda name, seen: found.update({name: seen}))
    return found


def traced(kernel: tc.Kernel, *specs: Any, **constants: Any) -> Func:
    return kernel.compile(*specs, target="reference", **constants).traced


def tiles(func: Func) -> list[Value]:
    made: list[Value] = list(func.walk())
    made += [arg for inst in func.walk() for block in inst.blocks for arg in block.args]
    return [v for v in made if isinstance(v.type, TileType) and v.tile.rank]


def count(func: Func, kind: type[Inst]) -> int:
    return sum(isinstance(inst, kind) for inst in func.walk())


@pytest.mark.parametrize("seed", seeds(10, 200))
def test_every_tile_has_a_layout(seed: int) -> None:
    """Of its shape, for the kernel's threads, with every element held; no conversion crosses warps later."""
    func = program(seed)[0]
    found = stages(func)
    for value in tiles(found["assign_layouts"]):
        layout = value.tile.layout
        assert layout is not None and layout.shape == value.tile.shape and layout.covers()
        assert layout.threads == 32 * func.warps
    for inst in found["exchange"].walk():
        if isinstance(inst, Convert):
            assert inst.x.tile.layout is not None
            assert conversion(inst.x.tile.layout, inst.layout).kind != "shared"


@pytest.mark.parametrize("seed", seeds(4, 40))
def test_the_choice_is_deterministic(seed: int) -> None:
    once, again = (stages(program(seed)[0])["assign_layouts"] for _ in range(2))
    assert [v.tile.layout for v in tiles(once)] == [v.tile.layout for v in tiles(again)]


N = tc.dim("n", multiple=16)


@tc.kernel
def softmax(x: tc.Array, y: tc.Array, *, bm=4, bn=256, warps=4):
    i = tc.blocks(tc.cdiv(x.shape[0], bm))
    t = x.load((i * bm, 0), (bm, bn), other=-float("inf"))
    t = t - t.max(1)[:, None]
    y.store((i * bm, 0), t / t.sum(1)[:, None])


def test_rows_that_fit_a_warp_do_not_travel() -> None:
    """One component, loaded as it is reduced and stored; row sums are where they are used."""
    specs = tc.Spec("f32", ("m", N)), tc.Spec("f32", ("m", N))
    found = stages(traced(softmax, *specs))["assign_layouts"]
    assert count(found, Convert) == 0 and count(found, Alloc) == 0


@tc.kernel
def attention(q: tc.Array, k: tc.Array, v: tc.Array, o: tc.Array, *, bm=64, bn=64, d=64, warps=4):
    i = tc.blocks(tc.cdiv(q.shape[0], bm))
    acc, rows = tc.zeros((bm, d), tc.f32), q.load((i * bm, 0), (bm, d))
    for j in tc.range(tc.cdiv(k.shape[0], bn)):
        s = tc.dot(rows, k.load((j * bn, 0), (bn, d)).T)
        s = s - s.max(1)[:, None]
        acc = tc.dot(s.to(tc.f16), v.load((j * bn, 0), (bn, d)), acc)
    o.store((i * bm, 0), acc.to(o.dtype))


def test_products_that_follow_each_other_share_registers() -> None:
    """The scores become the next product's fragments under other names at most: nothing moves in the loop."""
    specs = [tc.Spec("f16", (tc.dim("n", multiple=8), 64))] * 4
    found = stages(traced(attention, *specs))
    dots = [inst for inst in found["exchange"].walk() if isinstance(inst, Dot)]
    assert [dot.atom for dot in dots] == [(16, 8, 16)] * 2
    loop = next(inst for inst in found["exchange"].walk() if isinstance(inst, For))
    for inst in loop.body.walk():
        assert not isinstance(inst, Store)
        if isinstance(inst, Convert):
            assert inst.x.tile.layout is not None
            assert conversion(inst.x.tile.layout, inst.layout).kind in ("nothing", "rename")


@tc.kernel
def constants(x: tc.Array, y: tc.Array, *, warps=4):
    """An index and a constant are wanted in two layouts."""
    count = tc.arange(64)[None, :] * 3 + tc.full((64, 64), 7, tc.i32)
    y.store((0, 0), x.load((0, 0), (64, 64)) + count)
    y.store((64, 0), x.load((64, 0), (64, 64)).T + count)


def test_constants_are_made_again() -> None:
    found = stages(traced(constants, tc.Spec("i32", (128, 64)), tc.Spec("i32", (128, 64))))["assign_layouts"]
    for inst in found.walk():
        if isinstance(inst, Convert):
            assert not isinstance(inst.x, Full | Iota)
    assert count(found, Convert) <= 1  # the transposed tile alone


WISHED = mma_c(tc.f32, (64, 32), (4, 1))


@tc.kernel
def wished(x: tc.Array, y: tc.Array, *, warps=4):
    tile = tc.annotate(x.load((0, 0), (64, 32)) * 2.0, WISHED)
    y.store((0, 0), tile + 1.0)


@tc.kernel
def converted(x: tc.Array, y: tc.Array, *, warps=4):
    tile = tc.convert(x.load((0, 0), (64, 32)) * 2.0, WISHED)
    y.store((0, 0), tile + 1.0)


@pytest.mark.parametrize("kernel", [wished, converted], ids=lambda k: k.definition.name)
def test_wishes_are_kept(kernel: tc.Kernel) -> None:
    found = stages(traced(kernel, tc.Spec("f32", (64, 32)), tc.Spec("f32", (64, 32))))["assign_layouts"]
    assert WISHED in [v.tile.layout for v in tiles(found)]


@tc.kernel
def operands(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=4):
    left, right = a.load((0, 0), (32, 32)), b.load((0, 0), (32, 32))
    c.store((0, 0), tc.dot(left + left, right.T))


def test_what_products_read_from_memory_is_copied() -> None:
    """An operand that is loaded goes through shared memory; one that is computed stays in registers."""
    arrays = [tc.Spec("f16", (32, 32)), tc.Spec("f16", (32, 32)), tc.Spec("f32", (32, 32))]
    found = stages(traced(operands, *arrays))["places"]
    copies = [inst.array for inst in found.walk() if isinstance(inst, Copy)]
    assert copies == [found.params[1]]
    stores = [inst.array for inst in found.walk() if isinstance(inst, Store)]
    assert stores == [found.params[2]]


@tc.kernel
def parts_of_columns(x: tc.Array, y: tc.Array, *, n=64, radix=8, warps=4):
    """The sum of the parts of a tile that is loaded in columns, each part of as many rows."""
    tile, size = x.load((0, 0), (32, n)).T, n // radix
    total = tile[:size] * 2.0
    for r in range(1, radix):
        total = total + tile[r * size : (r + 1) * size]
    y.store((0, 0), total)


@pytest.mark.parametrize("n, radix", [(64, 8), (96, 3)])
def test_parts_lie_in_slots(n: int, radix: int) -> None:
    """One exchange turns the tile, then each thread has its places of every part; not one for each part."""
    x, y = (tc.f32, values(tc.f32, (32, n), 0)), (tc.f32, out((n // radix, 32), tc.f32))
    kernel = check_kernel(parts_of_columns, x, y, n=n, radix=radix)
    report = emulate(kernel, [x[1], y[1].copy()])
    assert count(kernel.func, Alloc) <= 1
    assert all(used.units == used.least for used in report.metrics.shared.values())


@tc.kernel
def exact(a: tc.Array, b: tc.Array, c: tc.Array, *, turned=False, warps=4):
    """a @ b in f32, by fused multiply-adds."""
    acc = tc.zeros((32, 64), tc.f32)
    for s in tc.range(2):
        y = b.load((0, s * 32), (64, 32)).T if turned else b.load((s * 32, 0), (32, 64))
        acc = tc.dot(a.load((0, s * 32), (32, 32)), y, acc)
    c.store((0, 0), acc)


@pytest.mark.parametrize("name", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("turned", [False, True])
def test_exact_products_meet_no_bank_twice(turned: bool, name: str) -> None:
    """Whether b's columns are columns of its buffer or rows, which neighbouring threads then read."""
    shapes = (32, 64), (64, 64), (32, 64)
    a, b, c = (values(tc.f32, shape, i, small=True) for i, shape in enumerate(shapes))
    kernel = check_kernel(exact, (tc.f32, a), (tc.f32, b), (tc.f32, c), name=name, turned=turned)
    used = emulate(kernel, [a, b, c.copy()]).metrics
    assert used.shared and all(t.units == t.least for t in (*used.shared.values(), *used.global_.values()))
