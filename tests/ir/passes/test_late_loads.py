"""Late loads: fragments load where a product uses them, also in pipelined loops and past branches."""

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import check
from tilec.ir.inst.control import For, If
from tilec.ir.inst.memory import Load
from tilec.ir.inst.mma import Dot
from tilec.ir.inst.reduce import Reduce
from tilec.ir.passes.order import lower
from tilec.ir.target import target


@tc.kernel
def chained(a: tc.Array, b: tc.Array, c: tc.Array, out: tc.Array, *, stages=2, warps=1):
    """out = sum over steps of clipped(a @ b) @ c: the second product's operand is wanted late."""
    acc, rows = tc.zeros((16, 16), tc.f32), a.load((0, 0), (16, 16))
    for s in tc.range(tc.cdiv(b.shape[0], 16), stages=stages):
        first = tc.dot(rows, b.load((s * 16, 0), (16, 16)).T, tc.zeros((16, 16), tc.f32))
        second = c.load((s * 16, 0), (16, 16))
        if s * 16 + 16 > b.shape[0]:
            first = tc.where((s * 16 + tc.arange(16) < b.shape[0])[None, :], first, -1.0)
        acc = tc.dot((first - first.max(1)[:, None]).to(tc.f16), second, acc)
    out.store((0, 0), acc)


def half(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float16)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_second_operand_loads_after_the_branch(stages: int) -> None:
    args = [half(16, 16), half(40, 16), half(40, 16), np.zeros((16, 16), np.float32)]
    func = chained.compile(*args, target="reference", stages=stages).traced
    loop = next(inst for inst in lower(func, target("sm_80")).body.walk() if isinstance(inst, For))
    order = [type(inst) for inst in loop.body.body if isinstance(inst, Load | Dot | If | Reduce)]
    assert order == [Load, Dot, If, Reduce, Load, Dot], order
    check(func, args, bound=0.05)


