"""Elementary functions as programs of our own instructions, so that every runner gives the same bits.

    program("exp", f32)(x)      a Value made of fma, shl, bitcast ... for the Value x
    evaluate("exp", x, f32)     the same program on numpy: what Math("exp", x) means
f32 and f64 have programs of their own; everything smaller is computed in f32 and rounded once at the end.
`ULP` is how far a result may lie from the true one, in units of the last place; tests measure it on every
f16, on samples of f32 and f64, and on all special values. NaN gives NaN, and zeros keep their sign where the
function is odd.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.func import Arg, Inst, Value
from tilec.ir.inst.arith import Sqrt
from tilec.ir.math_exp import erf, exp, exp2, sigmoid, tanh
from tilec.ir.math_log import log, log2
from tilec.ir.math_trig import cos, sin
from tilec.ir.run import State
from tilec.ir.spell import cast, div
from tilec.ir.tile import TileType

Array = np.ndarray[Any, Any]
CHUNK = 1 << 14  # elements evaluated at once: intermediate results stay in the cache


def rsqrt(x: Value) -> Value:
    """1 / sqrt(x), rounded twice; inf at 0, -inf at -0, NaN below; at most 2 ulp."""
    return div(1.0, Sqrt(x))


FUNCTIONS: dict[str, Callable[[Value], Value]] = {
    f.__name__: f for f in (exp, exp2, log, log2, sin, cos, tanh, erf, sigmoid, rsqrt)
}
ULP: dict[str, float] = {
    "exp": 1.0, "exp2": 1.0, "log": 1.0, "log2": 1.0, "sin": 2.0, "cos": 2.0,
    "tanh": 2.0, "erf": 2.0, "sigmoid": 3.0, "rsqrt": 2.0,
}  # fmt: skip


def program(name: str, dtype: DType) -> Callable[[Value], Value]:
    """What computes a function: from a tile of the dtype to a tile of the same type."""
    function, inner = FUNCTIONS[name], dtype if dtype == dt.f64 else dt.f32

    def write(x: Value) -> Value:
        assert x.tile.dtype == dtype, f"{name} of {dtype} does not take {x.type}"
        return cast(function(cast(x, inner)), dtype)

    return write


def evaluate(name: str, x: Array, dtype: DType) -> Array:
    """The function of each element, in numpy: its program, one instruction after another."""
    x = np.asarray(x)
    flat = x.reshape(-1)
    parts = [_evaluate(name, flat[at : at + CHUNK], dtype) for at in range(0, max(1, flat.size), CHUNK)]
    return np.concatenate(parts).reshape(x.shape)


def _evaluate(name: str, x: Array, dtype: DType) -> Array:
    argument, steps = _steps(name, dtype)
    env: dict[Value, Any] = {argument: x}
    state = State()
    for inst in steps:
        env[inst] = inst.meaning(state, *(env[v] for v in inst.operands))
    return np.broadcast_to(env[steps[-1]], x.shape).astype(dtype.reference)


@cache
def _steps(name: str, dtype: DType) -> tuple[Arg, tuple[Inst, ...]]:
    """A program's instructions in order, operands first."""
    argument = Arg(TileType(dtype), "x")
    found: dict[Value, None] = {}
    todo = [(program(name, dtype)(argument), False)]
    while todo:
        value, ready = todo.pop()
        if not isinstance(value, Inst) or value in found:
            continue
        if ready:
            found[value] = None
        else:
            todo += [(value, True), *((operand, False) for operand in value.operands)]
    return argument, tuple(inst for inst in found if isinstance(inst, Inst))
