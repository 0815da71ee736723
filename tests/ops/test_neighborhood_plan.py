"""Plans: counts against masks written out, and the table."""

from itertools import product

import numpy as np
import pytest

from tilec import ops
from tilec.ir.errors import TilecError
from tilec.ops.attention_windows import Axis
from tilec.ops.neighborhood_plan import count
from tilec.ops.neighborhood_reference import Window

AXES = [
    (Axis(5, box=4, span=4), 13),
    (Axis(5, stride=3, dilation=2, causal=True, box=4, span=3), 13),
    (Axis(3, dilation=4, box=2, span=5), 14),
    (Axis(7, stride=2, shifts=False, box=8, span=4), 20),
    (Axis(6, causal=True, shifts=False, box=4, span=4), 11),
]


@pytest.mark.parametrize(("axis", "tokens"), AXES)
def test_counts(axis: Axis, tokens: int):
    """Every box of every group: from its first key on, spans until the last key that it sees."""
    window = Window(axis.window, axis.stride, axis.dilation, axis.causal, "shift" if axis.shifts else "zero")
    boxes = visited = whole = pairs = 0
    for group, start in product(range(axis.dilation), range(0, -(-tokens // axis.dilation), axis.box)):
        n = len(range(group, tokens, axis.dilation))
        queries = [p for p in range(start, start + axis.box) if p < n]
        seen = [set(window.positions(p, n)) for p in queries]
        boxes, pairs = boxes + 1, pairs + sum(map(len, seen))
        spans = range(min(map(min, seen)), max(map(max, seen)) + 1, axis.span)
        visited += len(spans)
        whole += sum(all(set(range(u, u + axis.span)) <= each for each in seen) for u in spans)
    found = count(axis, tokens)
    assert (found.boxes, found.visited, found.whole, found.pairs) == (boxes, visited, whole, pairs)


def test_a_plan_multiplies_axes():
    plan = ops.na2d.plan((20, 24), (5, 8), dilation=(2, 1), batch=2, heads=3, dim=16, value_dim=24)
    x, y = plan.axes
    assert plan.blocks == x.boxes * y.boxes * 6 and plan.pairs == 20 * 5 * 24 * 8 * 6
    assert plan.flops == 2 * 40 * plan.pairs and plan.bytes == 2 * 480 * 2 * 6 * 40
    assert plan.computed == plan.tiles * np.prod([a.axis.box * a.axis.span for a in plan.axes])
    assert 0 < plan.useful <= 1 and 0 <= plan.masked <= plan.tiles


def test_the_table():
    shown = str(ops.na2d.plan((256, 256), 80, heads=24, dim=128, dtype="bf16", target="sm_90a"))
    assert "256 x 256 tokens, batch 1, 24 heads of 128, bf16, for sm_90a" in shown
    assert "24576 blocks of 64 queries walk over 2807136 spans of 64 keys" in shown
    assert "floors on H100 SXM, in microseconds:" in shown and "5153.96 GFLOP wanted" in shown
    plain = ops.na1d.plan(4096, 255, target="cpu")
    assert "floors" not in str(plain) and plain.floors == {}


def test_bad_plans():
    with pytest.raises(TilecError, match="axis 1: kernel_size 80 x dilation 1 = 80 is over its 56 tokens"):
        ops.na2d.plan((256, 56), 80)
    with pytest.raises(TilecError, match="no target 'sm_91'"):
        ops.na2d.plan((256, 256), 80, target="sm_91")
    for wrong in ({"shape": (0, 56)}, {"batch": 0}, {"heads": 0}):
        with pytest.raises(TilecError, match="a plan is of one or more of each: found batch"):
            ops.na2d.plan(**{"shape": (56, 56), "kernel_size": 1, **wrong})
