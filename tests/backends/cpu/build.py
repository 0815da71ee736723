"""Small kernels by hand, run on the reference and on the CPU, and compared.

b = Builder(array(dt.f32, 4), array(dt.f32, 4))
x = b(Load(b.params[0], b.at(0), (4,), b.const(0, dt.f32)))
b(Store(b.params[1], b.at(0), x))
agree(b.func(), [a, out])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tests.backends.native import assert_same
from tilec.backends import cpu
from tilec.ir import codec, run
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.func import Arg, Block, Func, Inst, Item, Value
from tilec.ir.inst.arith import Full
from tilec.ir.inst.control import For, If, While
from tilec.ir.inst.memory import Load, Store
from tilec.ir.packing import PackedArray
from tilec.ir.run import Memory
from tilec.ir.tile import ArrayType, Dim, Extent, TileType, dense_strides

Array = np.ndarray[Any, Any]


def array(
    dtype: DType, *shape: Extent, strides: tuple[Extent, ...] | None = None, packed: bool = False
) -> ArrayType:
    """An array type; strides default to row-major where the extents are known, else to run-time ones."""
    if strides is None:
        known = [n for n in shape if isinstance(n, int)]
        plain = dense_strides(tuple(known)) if len(known) == len(shape) else None
        strides = plain or (*(Dim(f"s{i}") for i in range(len(shape) - 1)), 1)
    return ArrayType(dtype, shape, strides, packed=packed)


def scalar(dtype: DType) -> TileType:
    return TileType(dtype)


class Builder:
    """Appends instructions to the block that is open."""

    def __init__(self, *params: ArrayType | TileType) -> None:
        self.params = [Arg(kind, f"p{i}") for i, kind in enumerate(params)]
        self.bodies: list[list[Inst]] = [[]]

    def __call__(self, inst: Inst) -> Any:
        self.bodies[-1].append(inst)
        return inst

    def const(self, value: float, dtype: DType, *shape: int) -> Inst:
        return self(Full(value, dtype, shape))

    def at(self, *values: int) -> tuple[Value, ...]:
        return tuple(self.const(v, dt.i32) for v in values)

    def load(self, array: Value, at: Sequence[Value | int], *shape: int, other: float = 0) -> Any:
        at = tuple(self.const(v, dt.i32) if isinstance(v, int) else v for v in at)
        return self(Load(array, at, shape, self.const(other, array.array_type.dtype)))

    def store(self, array: Value, at: Sequence[Value | int], tile: Value) -> None:
        self(Store(array, tuple(self.const(v, dt.i32) if isinstance(v, int) else v for v in at), tile))

    def block(self, kinds: Sequence[Any], body: Callable[..., Any]) -> Block:
        """A block whose body gets its arguments and gives its results."""
        args = tuple(Arg(kind, f"a{i}") for i, kind in enumerate(kinds))
        self.bodies.append([])
        results = body(*args)
        results = () if results is None else results if isinstance(results, tuple) else (results,)
        return Block(args, tuple(self.bodies.pop()), results)

    def items(self, inst: Inst, count: int) -> tuple[Any, ...]:
        return (
            tuple(self(Item(self(inst) if i == 0 else inst, i)) for i in range(count))
            if count
            else (self(inst),)
        )

    def loop(
        self, start: Any, stop: Any, init: Sequence[Value], body: Callable[..., Any], step: Any = 1
    ) -> Any:
        """The values after the loop."""
        ends = [self.const(v, dt.i32) if isinstance(v, int) else v for v in (start, stop, step)]
        inner = self.block([ends[0].type, *(v.type for v in init)], body)
        return self.items(For(ends[0], ends[1], ends[2], tuple(init), inner), len(init))

    def repeat(self, init: Sequence[Value], condition: Callable[..., Any], body: Callable[..., Any]) -> Any:
        kinds = [v.type for v in init]
        inst = While(tuple(init), self.block(kinds, condition), self.block(kinds, body))
        return self.items(inst, len(init))

    def branch(self, condition: Value, then: Callable[[], Any], orelse: Callable[[], Any]) -> Any:
        inst = If(condition, self.block([], then), self.block([], orelse))
        return self.items(inst, len(inst.then.results))

    def func(self, **schedule: Any) -> Func:
        return Func("test", tuple(self.params), Block((), tuple(self.bodies[0])), schedule)


def reference(func: Func, args: Sequence[Any]) -> None:
    """Runs the meaning; arrays are written in place."""
    memories = []
    for param, arg in zip(func.params, args, strict=True):
        kind = param.type
        if isinstance(arg, PackedArray):
            memories.append(Memory(arg.codes().astype(arg.dtype.storage), arg.dtype))
        elif isinstance(kind, ArrayType):
            memories.append(Memory(arg, kind.dtype))
        else:
            memories.append(codec.round_to(arg, param.tile.dtype)[()])
    run.run(func, memories, run.State(output=lambda text: None))


def copied(args: Sequence[Any]) -> list[Any]:
    """Copies that keep strides."""
    return [_like(arg) if isinstance(arg, np.ndarray) else arg for arg in args]


def _like(arg: Array) -> Array:
    base = arg
    while isinstance(base.base, np.ndarray):
        base = base.base
    fresh = base.copy()
    offset = arg.ctypes.data - base.ctypes.data
    return np.ndarray(
        arg.shape, arg.dtype, fresh.data if base.flags.c_contiguous else fresh, offset, arg.strides
    )


@lru_cache(4)
def compiled(func: Func) -> cpu.CpuKernel:
    """One compilation for several calls."""
    return cpu.compile(func)


def agree(
    func: Func, args: Sequence[Any], bound: float | None = None, threads: int | None = None
) -> list[Any]:
    """Runs both, compares every array: bit for bit, or within a bound relative to the largest value."""
    expected, found = copied(args), copied(args)
    reference(func, expected)
    kernel = compiled(func)
    kernel.launch(found, cpu.grid(func, found), threads)
    for param, a, b in zip(func.params, expected, found, strict=True):
        if isinstance(a, np.ndarray) and isinstance(param.type, ArrayType):
            values = [codec.from_storage(x, param.type.dtype) for x in (b, a)]
            _close(values[0], values[1], bound) if bound is not None else assert_same(
                *(v.reshape(-1) for v in values)
            )
    return found


def _close(found: Array, expected: Array, bound: float) -> None:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    scale = np.abs(b[np.isfinite(b)]).max(initial=1e-30)
    np.testing.assert_allclose(a / scale, b / scale, rtol=bound, atol=bound)
