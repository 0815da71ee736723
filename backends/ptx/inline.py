"""inline_ptx: the user's text as inline assembly, once for each element.

call float asm "lg2.approx.f32 $0, $1;", "=f,f"(float %x)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tilec.backends.ptx.emitter import Fragment
from tilec.backends.writer import held
from tilec.ir.dtype import DType
from tilec.ir.inst.inline import InlinePtx

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

REGISTERS = {"float": "f", "double": "d", "i16": "h", "i32": "r", "i64": "l"}  # by LLVM's type


def inline_ptx(e: Emitter, inst: InlinePtx) -> Any:
    """The meaning is an operand that nobody reads: LLVM drops what it is made of."""
    dtypes = [v.tile.dtype for v in inst.given]
    if not inst.tile.rank:
        return _one(e, inst, [e.scalar(v) for v in inst.given], dtypes)
    parts = [e.fragment(v) for v in inst.given]
    layout = parts[0].layout if parts else e.fragment(inst.meant).layout
    rows = zip(*(part.slots for part in parts), strict=True) if parts else [()] * layout.slots
    return Fragment(inst.tile.dtype, layout, [_one(e, inst, row, dtypes) for row in rows])


def _one(e: Emitter, inst: InlinePtx, items: Sequence[str], dtypes: Sequence[DType]) -> str:
    kinds = [_register(dtype) for dtype in dtypes]
    given = [f"{kind} {_raw(e, x, dtype)}" for x, dtype, kind in zip(items, dtypes, kinds, strict=True)]
    result = _register(inst.tile.dtype)
    constraints = ",".join([f"={REGISTERS[result]}", *(REGISTERS[kind] for kind in kinds)])
    text = "".join(c if c not in '"\\\n' else f"\\{ord(c):02X}" for c in inst.template)
    raw = e.let(f'call {result} asm "{text}", "{constraints}"({", ".join(given)})')
    back = held(inst.tile.dtype)
    return raw if back == result else e.let(f"bitcast {result} {raw} to {back}")


def _register(dtype: DType) -> str:
    """The LLVM type that inline assembly takes; 16-bit floats go as their bits."""
    kind = held(dtype)
    return "i16" if kind in ("half", "bfloat") else kind


def _raw(e: Emitter, x: str, dtype: DType) -> str:
    kind = held(dtype)
    return e.let(f"bitcast {kind} {x} to i16") if kind in ("half", "bfloat") else x
