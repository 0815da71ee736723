"""Elementwise instructions as LLVM IR text, the same for every machine: so their results are the same bits.

    w = Writer("ptx");  elementwise(w, Add(x, y), ("%x", "%y"))     # gives the result's register

One table, by instruction type. An entry takes the instruction, a Writer whose width says how many elements a
register holds, and the operands' registers. Meanings are those of tilec.ir.inst.arith.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tilec.backends import floating, integer
from tilec.backends.convert import cast, from_code, to_code
from tilec.backends.writer import Writer, held, is_code
from tilec.ir.dtype import DType
from tilec.ir.func import Inst
from tilec.ir.inst import arith

__all__ = ["EMITTERS", "Writer", "cast", "elementwise", "held", "is_code"]

Emitter = Callable[..., str]


def elementwise(w: Writer, inst: Inst, args: Sequence[str]) -> str:
    """The register with the result of an elementwise instruction over registers `args`."""
    return EMITTERS[type(inst)](w, inst, *args)


def _by_kind(integers: Any, floats: Any, bools: Any = None) -> Emitter:
    """The same operator on several kinds of dtype; `inst.operands[0]` says which."""

    def emit(w: Writer, inst: Inst, *args: str) -> str:
        dtype = inst.operands[0].tile.dtype
        chosen = bools if dtype.is_bool else integers if dtype.is_integer else floats
        assert chosen, f"{type(inst).__name__} is not for {dtype}: its type rule should have said so"
        return str(chosen(w, dtype, *args))

    return emit


def _compare(w: Writer, inst: arith.Compare, a: str, b: str) -> str:
    dtype = inst.a.tile.dtype
    compare = floating.comparison if dtype.is_float else integer.comparison
    return compare(w, inst.op, dtype, a, b)


def _where(w: Writer, inst: arith.Where, condition: str, a: str, b: str) -> str:
    return w.select(condition, w.held(inst.tile.dtype), a, b)


def _cast(w: Writer, inst: arith.Cast, x: str) -> str:
    return cast(w, x, inst.x.tile.dtype, inst.dtype)


def _bitcast(w: Writer, inst: arith.Bitcast, x: str) -> str:
    return from_code(w, to_code(w, x, inst.x.tile.dtype)[0], inst.dtype)


def _not(w: Writer, dtype: DType, x: str) -> str:
    return w.op("xor", "i1", x, w.integer(1, "i1"))


EMITTERS: dict[type[Inst], Emitter] = {
    arith.Add: _by_kind(integer.arithmetic("add"), floating.arithmetic("fadd")),
    arith.Sub: _by_kind(integer.arithmetic("sub"), floating.arithmetic("fsub")),
    arith.Mul: _by_kind(integer.arithmetic("mul"), floating.arithmetic("fmul")),
    arith.Div: _by_kind(None, floating.arithmetic("fdiv")),
    arith.FloorDiv: _by_kind(integer.floor_div, None),
    arith.Mod: _by_kind(integer.mod, None),
    arith.Minimum: _by_kind(integer.extreme("min"), floating.extreme("llvm.minimum")),
    arith.Maximum: _by_kind(integer.extreme("max"), floating.extreme("llvm.maximum")),
    arith.And: _by_kind(integer.bitwise("and"), None, integer.bitwise("and")),
    arith.Or: _by_kind(integer.bitwise("or"), None, integer.bitwise("or")),
    arith.Xor: _by_kind(integer.bitwise("xor"), None, integer.bitwise("xor")),
    arith.Shl: _by_kind(integer.shl, None),
    arith.Shr: _by_kind(integer.shr, None),
    arith.Neg: _by_kind(integer.neg, floating.neg),
    arith.Abs: _by_kind(integer.absolute, floating.absolute),
    arith.Not: _by_kind(integer.invert, None, _not),
    arith.Sqrt: _by_kind(None, floating.unary("llvm.sqrt")),
    arith.Floor: _by_kind(None, floating.unary("llvm.floor")),
    arith.Round: _by_kind(None, floating.unary("llvm.roundeven")),
    arith.Fma: _by_kind(None, floating.fma),
    arith.Compare: _compare,
    arith.Where: _where,
    arith.Cast: _cast,
    arith.Bitcast: _bitcast,
}
