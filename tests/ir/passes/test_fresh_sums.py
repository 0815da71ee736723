"""Sums that start anew in a loop: a predicate of the next product, wherever nobody else sees the zeros."""

from __future__ import annotations

from typing import Any

import pytest

import tilec as tc
from tests.backends.ptx.runner import build, check_kernel, out, trace, values
from tilec.ir import dtype as dt
from tilec.ir.func import Func
from tilec.ir.inst.arith import Not
from tilec.ir.inst.mma import GroupDot, HeldDot


@tc.kernel
def grouped(a: tc.Array, b: tc.Array, c: tc.Array, *, group=2, held=False, otherwise=False, seen=False,
            start=0.0, warps=4):  # fmt: skip
    """Each group of steps is scaled by its number."""
    acc = tc.zeros((64, 64), tc.f32)
    part = tc.full((64, 64), start, tc.f32)
    for s in tc.range(a.shape[1] // 16, stages=3):
        x, y = a.load((0, s * 16), (64, 16)), b.load((s * 16, 0), (16, 64))
        part = tc.dot(x + x if held else x, y, part)
        if seen:
            acc = acc + part
        if otherwise:
            if (s + 1) % group != 0:
                acc = acc + 0.0
            else:
                acc = tc.fma(part, tc.full((64, 64), 0.5, tc.f32), acc)
                part = tc.zeros((64, 64), tc.f32)
        elif (s + 1) % group == 0:
            acc = tc.fma(part, tc.full((64, 64), 0.5, tc.f32), acc)
            part = tc.zeros((64, 64), tc.f32)
    c.store((0, 0), acc)


@tc.kernel
def left_over(a: tc.Array, b: tc.Array, c: tc.Array, *, warps=4):
    """What the last group has is looked at after the loop: its zeros count."""
    part = tc.zeros((64, 64), tc.f32)
    for s in tc.range(a.shape[1] // 16, stages=3):
        part = tc.dot(a.load((0, s * 16), (64, 16)), b.load((s * 16, 0), (16, 64)), part)
        if s % 2 == 1:
            part = tc.zeros((64, 64), tc.f32)
    c.store((0, 0), part)


def operands(depth: int) -> list[Any]:
    a, b = values(dt.f16, (64, depth), 1, small=True), values(dt.f16, (depth, 64), 2, small=True)
    return [(dt.f16, a), (dt.f16, b), (dt.f32, out((64, 64), dt.f32))]


def predicated(func: Func) -> list[bool]:
    """Of each product of warpgroups, whether a predicate says if it adds."""
    done = build(func, "sm_90a")[0][-1][1]
    return [inst.keep is not None for inst in done.walk() if isinstance(inst, GroupDot | HeldDot)]


@pytest.mark.parametrize("options", [{}, {"held": True}, {"otherwise": True}, {"group": 3}], ids=str)
@pytest.mark.parametrize("depth", [0, 16, 80])
def test_the_next_product_overwrites_them(options: dict[str, Any], depth: int) -> None:
    given = operands(depth)
    if depth:
        func = trace(grouped, *given, **options)
        assert predicated(func) == [True]
        done = build(func, "sm_90a")[0][-1][1]
        assert any(isinstance(inst, Not) for inst in done.walk()) != options.get("otherwise", False)
    check_kernel(grouped, *given, name="sm_90a", bound=1e-3, **options)


@pytest.mark.parametrize("options", [{"start": 1.0}], ids=str)
def test_sums_that_start_elsewhere_stay(options: dict[str, Any]) -> None:
    assert predicated(trace(grouped, *operands(80), **options)) == [False]
    check_kernel(grouped, *operands(80), name="sm_90a", bound=1e-3, **options)


def test_sums_that_are_seen_may_be_overwritten_too() -> None:
    """What is read in the round is the product, not the zeros."""
    assert predicated(trace(grouped, *operands(80), seen=True)) == [True]
    check_kernel(grouped, *operands(80), name="sm_90a", bound=1e-3, seen=True)


def test_zeros_that_are_looked_at_are_made() -> None:
    assert predicated(trace(left_over, *operands(64))) == [False]
    check_kernel(left_over, *operands(64), name="sm_90a", bound=1e-3)
    check_kernel(left_over, *operands(80), name="sm_90a", bound=1e-3)
