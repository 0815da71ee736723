"""The hardware's own approximations, where a kernel asks for them: approx=True.

Bounds are the PTX ISA's: ex2 and lg2 2^-22, sin and cos 2^-20.5 within [-pi, pi], tanh 2^-11 relative, rsqrt
2^-22.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilec.backends import emit
from tilec.backends.ptx.emitter import Fragment
from tilec.ir import dtype as dt
from tilec.ir.inst.arith import Math

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

LOG2_E, LN_2 = 1.4426950408889634, 0.6931471805599453
# name -> (factor before, instruction, factor after)
INSTRUCTIONS = {
    "exp2": (1.0, "ex2.approx.ftz.f32", 1.0),
    "exp": (LOG2_E, "ex2.approx.ftz.f32", 1.0),
    "log2": (1.0, "lg2.approx.ftz.f32", 1.0),
    "log": (1.0, "lg2.approx.ftz.f32", LN_2),
    "sin": (1.0, "sin.approx.ftz.f32", 1.0),
    "cos": (1.0, "cos.approx.ftz.f32", 1.0),
    "tanh": (1.0, "tanh.approx.f32", 1.0),
    "rsqrt": (1.0, "rsqrt.approx.ftz.f32", 1.0),
}


def math(e: Emitter, inst: Math) -> Any:
    """One element at a time, in f32."""
    assert inst.approx and inst.function in INSTRUCTIONS, "exact functions are programs by now"
    before, name, after = INSTRUCTIONS[inst.function]
    dtype, x = inst.tile.dtype, e.held(inst.x)

    def one(value: str) -> str:
        wide = _scaled(e, emit.cast(e.writer, value, dtype, dt.f32), before)
        found = e.let(f'call float asm "{name} $0, $1;", "=f,f"(float {wide})')
        return emit.cast(e.writer, _scaled(e, found, after), dt.f32, dtype)

    return Fragment(dtype, x.layout, [one(s) for s in x.slots]) if isinstance(x, Fragment) else one(x)


def _scaled(e: Emitter, x: str, factor: float) -> str:
    return x if factor == 1.0 else e.writer.op("fmul", "float", x, e.writer.constant(factor, dt.f32))
