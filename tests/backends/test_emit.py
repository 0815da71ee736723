"""Every elementwise instruction, on every dtype that it takes, against its meaning: bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.backends.native import GPU, assert_same, loop, run_native
from tilec.backends import llvm
from tilec.backends.emit import EMITTERS, elementwise
from tilec.backends.writer import Writer, held
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import ALL, DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Arg, Inst, field_names, mnemonic
from tilec.ir.inst import arith
from tilec.ir.run import State
from tilec.ir.target import target
from tilec.ir.tile import TileType

Array = np.ndarray[Any, Any]
STATE = State()


def samples(dtype: DType, count: int, seed: int) -> Array:
    """Values of a dtype: all codes where there are few, else the ends, powers of two, and random codes."""
    random = np.random.default_rng(seed)
    if dtype.is_bool:
        return random.integers(0, 2, count).astype(bool)
    codes = random.integers(0, 2**64 - 1, count, np.uint64)
    ones = codec.encode(np.arange(-4, 5).astype(np.float64 if dtype.is_float else np.int64), dtype)
    around = [c + i for c in (0, dtype.code_mask, dtype.max_code, dtype.sign_code) for i in (-1, 0, 1, 2)]
    edges = [*ones.tolist(), *around, *(1 << bit for bit in range(dtype.bits))]
    chosen = random.random(count) < 0.4
    codes[chosen] = random.choice(np.array([e & dtype.code_mask for e in edges], np.uint64), count)[chosen]
    small = random.random(count) < 0.2
    if dtype.is_integer:
        codes[small] = random.integers(-9, 10, count)[small].astype(np.uint64)
    return codec.decode((codes & np.uint64(dtype.code_mask)).astype(dtype.code), dtype)


def near(dtype: DType, a: Array, seed: int) -> Array:
    """Second operands: any values, and some that are `a` scaled, so that sums cancel and tie."""
    random = np.random.default_rng(seed)
    b = samples(dtype, len(a), seed)
    if not dtype.is_float:
        return b
    some = random.random(len(a)) < 0.3
    scale = 2.0 ** random.integers(-14, 15, len(a)) * random.choice([-1, 1], len(a))
    with np.errstate(all="ignore"):
        return np.where(some, codec.round_to(a.astype(np.float64) * scale, dtype), b)


def cases() -> list[Any]:
    found = []
    for kind in EMITTERS:
        if kind in (arith.Cast, arith.Compare, arith.Bitcast):
            continue
        for dtype in ALL:
            if (inst := built(kind, dtype)) is not None:
                found.append(pytest.param(inst, id=f"{mnemonic(kind)}-{dtype}"))
    for dtype in ALL:
        x = Arg(TileType(dtype, (1,)))
        compared = [arith.Compare(op, x, Arg(x.type)) for op in arith.COMPARISONS]
        found += [pytest.param(inst, id=f"{inst.op}-{dtype}") for inst in compared]
        same_width = [to for to in ALL if to.bits == dtype.bits]
        found += [pytest.param(arith.Bitcast(x, to), id=f"bitcast-{dtype}-{to}") for to in same_width[:9]]
    return found


def built(kind: type[Inst], dtype: DType) -> Inst | None:
    """The instruction over fresh operands, if the dtype is one that it takes."""
    condition = [Arg(TileType(dt.bool, (1,)))] if kind is arith.Where else []
    operands = [Arg(TileType(dtype, (1,))) for _ in range(len(field_names(kind)) - len(condition))]
    try:
        return kind(*condition, *operands)
    except TilecError:
        return None


def operand_values(inst: Inst, count: int) -> list[Array]:
    values: list[Array] = []
    for i, operand in enumerate(inst.operands):
        dtype = operand.tile.dtype
        alike = [v for v, o in zip(values, inst.operands, strict=False) if o.tile.dtype == dtype]
        values.append(near(dtype, alike[0], i + 7) if alike else samples(dtype, count, i + 1))
    if isinstance(inst, arith.Bitcast) and inst.x.tile.dtype.unused:
        values = [np.nan_to_num(values[0])]  # which NaN a rounded NaN is, is nobody's promise
    if isinstance(inst, arith.Fma) and not inst.a.tile.dtype.bits <= 8:
        values[2] = cancelling(inst.a.tile.dtype, *values)
    return values


def cancelling(dtype: DType, a: Array, b: Array, c: Array) -> Array:
    """Addends near -a * b for a third of the elements."""
    some = np.random.default_rng(5).random(len(a)) < 0.3
    with np.errstate(all="ignore"):
        return np.where(some, codec.round_to(-(a.astype(np.float64) * b.astype(np.float64)), dtype), c)


@pytest.mark.parametrize("inst", cases())
def test_every_instruction_is_its_meaning(inst: Inst) -> None:
    values = operand_values(inst, 6000)
    expected = inst.meaning(STATE, *values)
    takes = [operand.tile.dtype for operand in inst.operands]
    for width in (1, 16):
        found = run_native(lambda w, args: elementwise(w, inst, args), takes, inst.tile.dtype, values, width)
        assert_same(found, np.asarray(expected), *values)


@pytest.mark.parametrize("name", ["sm_80", "sm_90a"])
def test_the_same_text_compiles_for_gpus(name: str) -> None:
    for param in cases():
        (inst,) = param.values
        w = Writer("ptx")
        takes = [operand.tile.dtype for operand in inst.operands]
        body = partial(_elementwise, inst)
        text = loop(w, "f", body, takes, inst.tile.dtype, GPU)
        assert ".visible .entry f" in llvm.to_ptx(text, target(name))


def _elementwise(inst: Inst, w: Writer, args: Sequence[str]) -> str:
    return elementwise(w, inst, args)


def test_what_ptx_uses_for_16_bit_floats() -> None:
    """Native f16 and bf16 arithmetic, rounded once each; nothing for ptxas to fuse."""
    x = Arg(TileType(dt.bf16, ()))
    w = Writer("ptx")
    text = loop(w, "f", partial(_elementwise, arith.Mul(x, x)), [dt.bf16, dt.bf16], dt.bf16, GPU)
    assert "fma.rn.bf16" in llvm.to_ptx(text, target("sm_80"))
    w = Writer("ptx")
    y = Arg(TileType(dt.f32, ()))
    product, total = arith.Mul(y, y), arith.Add(y, y)

    def body(w: Writer, args: Sequence[str]) -> str:
        return elementwise(w, total, [elementwise(w, product, args), args[0]])

    text = loop(w, "f", body, [dt.f32, dt.f32], dt.f32, GPU)
    ptx = llvm.to_ptx(text, target("sm_90a"))
    assert "mul.rn.f32" in ptx and "add.rn.f32" in ptx and "fma" not in ptx


def test_registers() -> None:
    dtypes = (dt.bool, dt.i3, dt.u16, dt.f4e2m1, dt.e8m0, dt.f16, dt.bf16, dt.tf32, dt.f64)
    assert [held(d) for d in dtypes] == ["i1", "i8", "i16", "i8", "i8", "half", "bfloat", "float", "double"]
