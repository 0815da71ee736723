"""Elementary functions expand to the same bits; `approx` leaves hardware instructions on f32."""

from __future__ import annotations

import pytest

from tests.ir.kernels import KERNELS, Body, Case, array, same, values
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.elementary import FUNCTIONS
from tilec.ir.func import Block, Func
from tilec.ir.inst.arith import Math
from tilec.ir.inst.memory import Store
from tilec.ir.passes.expand_math import HARDWARE, expand_math
from tilec.ir.target import target


def kernel(function: str, dtype: DType, approx: bool = False) -> Case:
    x, b = array("x", dtype, 64), Body()
    at = (b.i32(0),)
    b(Store(x, at, b(Math(function, b.load(x, at, (64,)), approx))))
    return Case(Func("math", (x,), Block((), tuple(b))), (values(dtype, 64),))


@pytest.mark.parametrize("name", ["softmax", "arithmetic", "matmul"])
@pytest.mark.parametrize("where", ["cpu", "sm_90a"])
def test_kernels_mean_the_same(name: str, where: str) -> None:
    case = KERNELS[name]()
    after = expand_math(case.func, target(where))
    assert not any(isinstance(i, Math) for i in after.walk())
    assert same(case.run(), case.run(after))


@pytest.mark.parametrize("dtype", [dt.f64, dt.f32, dt.f16, dt.bf16, dt.f8e4m3], ids=str)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_expands_to_the_same_bits(function: str, dtype: DType) -> None:
    case = kernel(function, dtype)
    after = expand_math(case.func, target("sm_80"))
    assert not any(isinstance(i, Math) for i in after.walk())
    assert same(case.run(), case.run(after))


@pytest.mark.parametrize("dtype", [dt.f64, dt.f32, dt.f16], ids=str)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_approximate_functions_are_hardware_instructions_on_f32(function: str, dtype: DType) -> None:
    case = kernel(function, dtype, approx=True)
    after = expand_math(case.func, target("sm_80"))
    kept = [i for i in after.walk() if isinstance(i, Math)]
    assert all(i.approx and i.function in HARDWARE and i.tile.dtype == dt.f32 for i in kept)
    assert len(kept) == (dtype != dt.f64 and function not in ("erf", "sigmoid"))
    assert not any(isinstance(i, Math) for i in expand_math(case.func, target("cpu")).walk())
