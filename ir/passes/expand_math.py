"""Elementary functions become the programs that they are (tilec.ir.elementary).

    exp(x): f16     cast(mul(mul(fma(...), ...), ...), f16)
With `approx`, targets that have an instruction for a function keep it: of f32 only, casts around it do the
rest, and of the functions in HARDWARE only, from which exp and log are made. Elsewhere `approx` changes
nothing.
"""

from __future__ import annotations

import math

from tilec.ir import dtype as dt
from tilec.ir.elementary import program
from tilec.ir.func import Func, Inst, Value
from tilec.ir.inst.arith import Math
from tilec.ir.inst.inline import InlinePtx
from tilec.ir.rewrite import Emit, Rewritten, rebuild
from tilec.ir.spell import cast, mul
from tilec.ir.target import Target

HARDWARE = frozenset({"exp2", "log2", "sin", "cos", "tanh", "rsqrt"})  # PTX's .approx.f32
MADE = {"exp": ("exp2", math.log2(math.e), 1.0), "log": ("log2", 1.0, math.log(2))}  # scaled before and after


def expand_math(func: Func, target: Target) -> Func:
    """Every Math as a program; those with `approx` as hardware instructions on f32 where the target
    is PTX. Inline PTX as what it means where it is not.
    """

    def visit(inst: Inst, emit: Emit) -> Rewritten:
        if isinstance(inst, InlinePtx):
            return None if target.kind == "ptx" else inst.meant
        if not isinstance(inst, Math):
            return None
        approx = inst.approx and target.kind == "ptx" and inst.tile.dtype != dt.f64
        return _approximate(inst) if approx else program(inst.function, inst.tile.dtype)(inst.x)

    return rebuild(func, visit)


def _approximate(inst: Math) -> Value | None:
    name, before, after = MADE.get(inst.function, (inst.function, 1.0, 1.0))
    if name not in HARDWARE:
        return program(name, inst.tile.dtype)(inst.x)
    if name == inst.function and inst.tile.dtype == dt.f32:
        return None
    x = cast(inst.x, dt.f32)
    y: Value = Math(name, x if before == 1 else mul(x, before), approx=True)
    return cast(y if after == 1 else mul(y, after), inst.tile.dtype)
