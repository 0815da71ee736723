"""Random kernels on integers, where every order of operations gives the same bits: reference against CPU.

They mix everything whose interplay can go wrong: values read from arrays that are written later, buffers
reused while something still looks at them, carried values that swap places, windows that leave their
arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.backends.cpu.build import Builder, agree, array
from tilec.ir import dtype as dt
from tilec.ir.func import Value
from tilec.ir.inst import arith, memory, mma, reduce, shape
from tilec.ir.tile import Dim, TileType

SHAPES = ((12,), (4, 12), (12, 4), (5, 7), (7,), (5, 1), (1, 7), (3, 4, 2), (64,), (8, 33), (33, 8), ())
BINARY = (arith.Add, arith.Sub, arith.Mul, arith.Minimum, arith.Maximum, arith.Xor, arith.Mod, arith.Shr)


class Program:
    """One random kernel under construction; `pool` holds the tiles that may be used, by block."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        extents = [Dim(f"n{i}") for i in range(6)]
        self.b = Builder(
            array(dt.i32, extents[0], extents[1]),
            array(dt.i32, extents[2]),
            array(dt.i32, extents[3], extents[4], strides=(Dim("u"), Dim("v"))),
        )
        self.arrays: list[Value] = list(self.b.params)
        self.pool: list[Value] = [self.b.const(3, dt.i32, 12)]
        self.depth = 0

    def one(self, items: Any) -> Any:
        return items[int(self.random.integers(len(items)))]

    def small(self, low: int = -6, high: int = 30) -> Value:
        return self.b.const(int(self.random.integers(low, high)), dt.i32)

    def tile(self, wanted: tuple[int, ...]) -> Value:
        """A tile of a shape: one that is there, or a new one."""
        have = [v for v in self.pool if v.tile.shape == wanted]
        if have and self.random.random() < 0.8:
            return self.one(have)
        return self.fresh(wanted)

    def fresh(self, wanted: tuple[int, ...]) -> Value:
        b, kind = self.b, self.random.integers(4)
        fitting = [a for a in self.arrays if a.array_type.rank == len(wanted)]
        if kind == 0 and wanted:
            return b(arith.Iota(wanted, int(self.random.integers(len(wanted))), dt.i32))
        if kind == 1 or not fitting or not wanted:
            return b.const(int(self.random.integers(-99, 99)), dt.i32, *wanted)
        return b.load(self.one(fitting), [self.small() for _ in wanted], *wanted, other=7)

    def keep(self, value: Value) -> None:
        self.pool.append(value)

    def step(self) -> None:
        often = [self.binary] * 5 + [self.move] * 3 + [self.store] * 2
        actions = [*often, self.choose, self.reduce, self.gather, self.scatter, self.product, self.load]
        actions += [self.shared, self.scan]
        if self.depth < 2:
            actions += [self.loop, self.branch]
        self.one(actions)()

    def binary(self) -> None:
        wanted = self.one(SHAPES)
        self.keep(self.b(self.one(BINARY)(self.tile(wanted), self.tile(wanted))))

    def choose(self) -> None:
        wanted = self.one(SHAPES)
        condition = self.b(arith.Compare("lt", self.tile(wanted), self.tile(wanted)))
        self.keep(self.b(arith.Where(condition, self.tile(wanted), self.tile(wanted))))

    def load(self) -> None:
        self.keep(self.fresh(self.one(SHAPES)))

    def reduce(self) -> None:
        x = self.tile(self.one([s for s in SHAPES if s]))
        axis = int(self.random.integers(x.tile.rank))
        self.keep(self.b(reduce.Reduce(self.one(["sum", "max", "min"]), x, axis)))
        self.keep(self.b(reduce.ArgReduce(self.one(["max", "min"]), x, axis)))

    def scan(self) -> None:
        x = self.tile(self.one([s for s in SHAPES if s]))
        self.keep(self.b(reduce.Scan(self.one(["sum", "max"]), x, int(self.random.integers(x.tile.rank)))))

    def move(self) -> None:
        b, x = self.b, self.tile(self.one([s for s in SHAPES if s]))
        dims = x.tile.shape
        kind = self.random.integers(5)
        if kind == 0:
            self.keep(b(shape.Permute(x, tuple(int(i) for i in self.random.permutation(len(dims))))))
        elif kind == 1:
            self.keep(
                b(shape.Reshape(x, self.one([(x.tile.size,), (1, *dims), (*dims, 1), (x.tile.size, 1)])))
            )
        elif kind == 2:
            start = tuple(int(self.random.integers(0, n)) for n in dims)
            part = tuple(int(self.random.integers(1, n - at + 1)) for n, at in zip(dims, start, strict=True))
            self.keep(b(shape.Extract(x, start, part)))
        elif kind == 3:
            wider = tuple(5 if n == 1 else n for n in dims)
            self.keep(b(shape.Broadcast(x, wider)))
        else:
            axis = int(self.random.integers(len(dims) + 1))
            self.keep(b(shape.Stack((x, self.tile(dims)), axis)))

    def store(self) -> None:
        tile = self.tile(self.one([s for s in SHAPES if len(s) in (1, 2)]))
        fitting = [a for a in self.arrays if a.array_type.rank == tile.tile.rank]
        if fitting:
            self.b.store(self.one(fitting), [self.small() for _ in tile.tile.shape], tile)

    def shared(self) -> None:
        if self.depth == 0:
            self.arrays.append(self.b(memory.Alloc(dt.i32, self.one([(12,), (4, 12), (12, 8)]))))

    def gather(self) -> None:
        a = self.one(self.arrays)
        wanted = self.one(SHAPES)
        indices = tuple(self.tile(wanted) for _ in range(a.array_type.rank))
        self.keep(self.b(memory.Gather(a, indices, self.small())))

    def scatter(self) -> None:
        """Atomic additions, which no order changes."""
        a = self.one(self.arrays)
        wanted = self.one(SHAPES)
        indices = tuple(self.tile(wanted) for _ in range(a.array_type.rank))
        self.b(memory.Atomic("add", a, indices, self.tile(wanted)))

    def product(self) -> None:
        m, k = self.one([(4, 12), (12, 4), (5, 7), (8, 33), (33, 8)])
        right = (
            self.tile((k, m))
            if self.random.random() < 0.5
            else self.b(shape.Permute(self.tile((m, k)), (1, 0)))
        )
        self.keep(self.b(mma.Dot(self.tile((m, k)), right, self.tile((m, m)))))

    def some(self, count: int) -> tuple[Value, ...]:
        return tuple(self.tile(self.one(SHAPES)) for _ in range(count))

    def inner(self, kinds: list[TileType]) -> tuple[Value, ...]:
        """A few steps in an inner block, and values of the wanted types."""
        self.depth += 1
        for _ in range(int(self.random.integers(1, 6))):
            self.step()
        self.depth -= 1
        return tuple(self.tile(kind.shape) for kind in kinds)

    def loop(self) -> None:
        init = self.some(int(self.random.integers(0, 4)))
        outer, arrays = list(self.pool), list(self.arrays)

        def body(index: Value, *carried: Value) -> tuple[Value, ...]:
            self.pool += [index, *carried]
            return self.inner([v.tile for v in init])

        found = self.b.loop(0, self.small(0, 4), init, body)
        self.pool, self.arrays = outer, arrays
        self.pool += found if init else []

    def branch(self) -> None:
        wanted = [self.tile(self.one(SHAPES)).tile for _ in range(int(self.random.integers(0, 3)))]
        outer, arrays = list(self.pool), list(self.arrays)

        def body() -> tuple[Value, ...]:
            self.pool, self.arrays = list(outer), list(arrays)
            return self.inner(wanted)

        found = self.b.branch(self.b(arith.Compare("lt", self.tile(()), self.tile(()))), body, body)
        self.pool, self.arrays = outer, arrays
        self.pool += found if wanted else []

    def finish(self) -> None:
        """Some values at the end, so that they are alive all the way."""
        for tile in self.pool[:: max(1, len(self.pool) // 6)]:
            fitting = [a for a in self.arrays if a.array_type.rank == tile.tile.rank]
            if fitting and tile.tile.rank:
                self.b.store(self.one(fitting), [self.small(0, 3) for _ in tile.tile.shape], tile)


def arguments(seed: int) -> list[Any]:
    random = np.random.default_rng(seed)

    def some(*extents: int) -> Any:
        return random.integers(-50, 50, extents).astype(np.int32)

    strided = some(30, 40)[::-1, 1::3]
    return [
        some(int(random.integers(0, 40)), int(random.integers(0, 40))),
        some(int(random.integers(1, 60))),
        strided,
    ]


@pytest.mark.parametrize("seed", range(60))
def test_random_kernels(seed: int) -> None:
    program = Program(seed)
    for _ in range(14):
        program.step()
    program.finish()
    agree(program.b.func(), arguments(seed), threads=1)
