"""Every elementwise instruction on every dtype that it takes has the meaning's bits in PTX."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.backends.ptx.runner import FULL, check, out
from tests.backends.test_emit import samples
from tests.ir.kernels import Body, array
from tilec.ir import codec
from tilec.ir.dtype import ALL, DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Arg, Block, Func, Inst, Value
from tilec.ir.inst import arith
from tilec.ir.inst.memory import Store
from tilec.ir.tile import TileType

N = 96  # on 64 threads: a slot and a half
BINARY = (arith.Add, arith.Sub, arith.Mul, arith.Div, arith.FloorDiv, arith.Mod, arith.Minimum, arith.Maximum,
          arith.And, arith.Or, arith.Xor, arith.Shl, arith.Shr)  # fmt: skip
UNARY = (arith.Neg, arith.Abs, arith.Not, arith.Sqrt, arith.Floor, arith.Round)
SAMPLE = {"bool", "i1", "u3", "i4", "i8", "u16", "i32", "u64", "f3e1m1", "f6e3m2", "f8e4m3", "e8m0",
          "f16", "bf16", "tf32", "f32", "f64"}  # fmt: skip
CHOSEN = [dtype for dtype in ALL if FULL or dtype.name in SAMPLE]


def instructions(dtype: DType) -> Iterator[Callable[[Value, Value, Value], Inst]]:
    """Every elementwise instruction that takes the dtype."""
    for kind in BINARY:
        yield lambda a, b, c, kind=kind: kind(a, b)
    for kind in UNARY:
        yield lambda a, b, c, kind=kind: kind(a)
    for op in arith.COMPARISONS:
        yield lambda a, b, c, op=op: arith.Compare(op, a, b)
    yield lambda a, b, c: arith.Fma(a, b, c)
    yield lambda a, b, c: arith.Where(arith.Compare("lt", a, b), b, c)


def takes(make: Callable[[Value, Value, Value], Inst], dtype: DType) -> bool:
    x = Arg(TileType(dtype, (N,)))
    try:
        make(x, x, x)
    except TilecError:
        return False
    return True


def every_instruction(dtype: DType) -> Func:
    """Arrays a, b, c and one output for each instruction."""
    body = Body()
    params = [array(name, dtype, N) for name in "abc"]
    at = (body.i32(0),)
    a, b, c = (body.load(p, at, (N,)) for p in params)
    for i, make in enumerate(m for m in instructions(dtype) if takes(m, dtype)):
        made = make(a, b, c)
        for operand in made.operands:
            if operand not in (a, b, c):
                body(operand)  # type: ignore[type-var]
        body(made)
        params.append(array(f"out{i}_{type(made).__name__}", made.tile.dtype, N))
        body(Store(params[-1], at, made))
    return Func("every", tuple(params), Block((), tuple(body)), {"warps": 2})


def stored(dtype: DType, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    return codec.to_storage(samples(dtype, N, seed), dtype)


@pytest.mark.parametrize("dtype", CHOSEN, ids=str)
def test_every_instruction(dtype: DType) -> None:
    func = every_instruction(dtype)
    inputs = [stored(dtype, seed) for seed in range(3)]
    outputs = [out(N, p.array_type.dtype) for p in func.params[3:]]
    check(func, [*inputs, *outputs])


def casts(source: DType, targets: list[DType]) -> Func:
    body = Body()
    params = [array("x", source, N)]
    at = (body.i32(0),)
    x = body.load(params[0], at, (N,))
    for target in targets:
        params.append(array(f"to_{target}", target, N))
        body(Store(params[-1], at, body(arith.Cast(x, target))))
        if target.bits == source.bits and not {target.is_bool, source.is_bool} & {True}:
            params.append(array(f"bits_{target}", target, N))
            body(Store(params[-1], at, body(arith.Bitcast(x, target))))
    return Func("casts", tuple(params), Block((), tuple(body)), {"warps": 1})


@pytest.mark.parametrize("source", CHOSEN, ids=str)
def test_casts(source: DType) -> None:
    """From every dtype to every other (a sample of pairs in make test), and the bits read as another."""
    func = casts(source, [*(ALL if FULL else ALL[ALL.index(source) % 16 :: 16])])
    outputs = [out(N, p.array_type.dtype) for p in func.params[1:]]
    check(func, [stored(source, 7), *outputs])


@pytest.mark.parametrize("dtype", CHOSEN, ids=str)
def test_counts(dtype: DType) -> None:
    """0, 1, 2, ... in every dtype: wrapped, rounded or saturated as casts do it."""
    body, places = Body(), array("places", dtype, N)
    body(Store(places, (body.i32(0),), body(arith.Iota((N,), 0, dtype))))
    check(Func("counts", (places,), Block((), tuple(body)), {"warps": 1}), [out(N, dtype)])


@pytest.mark.parametrize("dtype", CHOSEN, ids=str)
def test_tables(dtype: DType) -> None:
    """Given elements, some of them the same in all threads, on full and on padded layouts."""
    body, params = Body(), []
    for i, shape in enumerate([(16, 32), (5, 33), (2, 300), (1, 3), (257,)]):
        values = samples(dtype, int(np.prod(shape)), i).reshape(shape)
        values[..., :2] = values[(0,) * len(shape)]
        params.append(array(f"out{i}", dtype, *shape))
        body(Store(params[-1], (body.i32(0),) * len(shape), body(arith.Table.of(values, dtype))))
    func = Func("tables", tuple(params), Block((), tuple(body)), {"warps": 2})
    check(func, [out(p.array_type.shape, p.array_type.dtype) for p in params])
