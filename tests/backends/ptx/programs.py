"""Random kernels: tiles of i32 through instructions of every kind, loops, branches and shared memory.

    func, args = program(seed)
Integers wrap and floats are small whole numbers: sums are exact in any order, all runners have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tests.ir.kernels import Body, array
from tilec.ir import dtype as dt
from tilec.ir.func import Arg, Block, Func, Item, Value
from tilec.ir.inst import arith, memory, reduce, shape
from tilec.ir.inst.control import For, If, While
from tilec.ir.inst.mma import Dot
from tilec.ir.layouts import blocked
from tilec.ir.tile import TileType

BLOCKS, WIDE = 2, (37, 45)  # blocks of the grid; extents of the input
MOST = 2048  # elements of a tile
Shape = tuple[int, ...]


class Program:
    """Grows one kernel: `values` are the tiles and scalars that may be used now."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.warps = int(self.draw.choice([1, 2, 4]))
        self.body = Body()
        self.input = array("x", dt.i32, *WIDE)
        self.outputs: list[tuple[Arg, Value]] = []
        self.values: list[Value] = []
        self.depth = 0

    # -- drawing ----------------------------------------------------------------------------------

    def pick(self, items: Any) -> Any:
        return items[int(self.draw.integers(len(items)))]

    def extent(self) -> int:
        return int(self.pick((1, 2, 3, 4, 7, 8, 16, 17, 32, 33)))

    def tile(self, rank: int | None = None) -> Value:
        """Some tile of the rank; a new one where there is none."""
        found = [v for v in self.values if v.tile.rank and (rank is None or v.tile.rank == rank)]
        if found and self.draw.random() < 0.9:
            return found[max(0, len(found) - 1 - int(self.draw.exponential(2)))]
        return self.load(tuple(self.extent() for _ in range(rank or 2)))

    def scalar(self, below: int) -> Value:
        """A run-time scalar in 0 .. below - 1."""
        found = [v for v in self.values if not v.tile.rank]
        chosen = self.pick(found)
        return self.body(arith.Mod(chosen, self.body.i32(below)))

    def keep(self, value: Any) -> Any:
        self.values.append(value)
        return value

    def number(self, value: int, like: Value) -> Value:
        return self.body(arith.Full(value, like.tile.dtype, like.tile.shape))

    # -- steps: each adds instructions and keeps what they give -------------------------------------

    def load(self, sizes: Shape) -> Value:
        b = self.body
        flat = (1,) * (2 - len(sizes)) + sizes if len(sizes) < 3 else (prod(sizes[:-1]), sizes[-1])
        at = tuple(self.pick((b.i32(int(self.draw.integers(-3, 9))), self.scalar(11))) for _ in range(2))
        found = b.load(self.input, at, flat, 5)
        return self.keep(found if flat == sizes else b(shape.Reshape(found, sizes)))

    def elementwise(self) -> None:
        b, x = self.body, self.tile()
        y = self.pick([v for v in self.values if v.type == x.type])
        match int(self.draw.integers(5)):
            case 0:
                self.keep(b(self.pick((arith.Add, arith.Sub, arith.Mul, arith.Maximum, arith.Xor))(x, y)))
            case 1:
                condition = b(arith.Compare(self.pick(("lt", "ge", "eq")), x, y))
                self.keep(b(arith.Where(condition, b(arith.Not(x)), y)))
            case 2:
                small = b(arith.And(x, self.number(1023, x)))
                wide = b(arith.Cast(small, dt.f32))
                self.keep(b(arith.Cast(b(arith.Fma(wide, wide, wide)), dt.i32)))
            case 3:
                iota = b(arith.Iota(x.tile.shape, int(self.draw.integers(x.tile.rank)), dt.i32))
                self.keep(b(arith.Add(b(arith.Mul(iota, self.number(7, x))), x)))
            case _:
                spread = b(shape.Broadcast(self.scalar(1000), x.tile.shape))
                self.keep(b(arith.Sub(x, spread)))

    def narrow(self) -> None:
        b, x = self.body, self.tile()
        dtype = self.pick((dt.i8, dt.u8, dt.i16, dt.i64, dt.u4))
        small = b(arith.Cast(x, dtype))
        self.keep(b(arith.Cast(b(arith.Add(small, small)), dt.i32)))

    def reduction(self) -> None:
        b, x = self.body, self.tile()
        axis = int(self.draw.integers(x.tile.rank))
        kind = self.pick(("sum", "max", "min", "argmax", "scan"))
        if kind == "scan":
            self.keep(b(reduce.Scan("sum", x, axis)))
        elif kind == "argmax":
            self.keep(b(reduce.ArgReduce("max", x, axis)))
        else:
            self.keep(b(reduce.Reduce(kind, x, axis)))

    def move(self) -> None:
        b, x = self.body, self.tile()
        sizes, rank = x.tile.shape, x.tile.rank
        match int(self.draw.integers(6)):
            case 0:
                self.keep(b(shape.Permute(x, tuple(self.draw.permutation(rank).tolist()))))
            case 1:
                self.keep(b(shape.Reshape(x, self.factors(x.tile.size))))
            case 2:
                start = tuple(int(self.draw.integers(n)) for n in sizes)
                room = (n - at for n, at in zip(sizes, start, strict=True))
                self.keep(b(shape.Extract(x, start, tuple(int(self.draw.integers(n)) + 1 for n in room))))
            case 3 if x.tile.size * 2 <= MOST and rank < 3:
                self.keep(b(shape.Stack((x, b(arith.Neg(x))), int(self.draw.integers(rank + 1)))))
            case 4 if x.tile.size * 4 <= MOST and rank < 3:
                axis, times = int(self.draw.integers(rank + 1)), int(self.draw.integers(1, 5))
                grown = b(shape.Reshape(x, (*sizes[:axis], 1, *sizes[axis:])))
                self.keep(b(shape.Broadcast(grown, (*sizes[:axis], times, *sizes[axis:]))))
            case _:
                layout = blocked(sizes, 32 * self.warps, int(self.pick((1, 2, 4))))
                self.keep(b(shape.Convert(x, layout)))

    def factors(self, size: int) -> Shape:
        found: list[int] = []
        while size > 1 and len(found) < 2:
            found.append(int(self.pick([n for n in range(2, size + 1) if size % n == 0])))
            size //= found[-1]
        return (*found, size) if size > 1 or not found else tuple(found)

    def product(self) -> None:
        b, x = self.body, self.tile(2)
        fits = [v for v in self.values if v.tile.rank == 2 and v.tile.shape[0] == x.tile.shape[1]]
        y = self.pick(fits or [b(shape.Permute(x, (1, 0)))])
        if x.tile.shape[0] * y.tile.shape[1] > MOST or x.tile.size * y.tile.shape[1] > 40000:
            return
        operand, sums = self.pick(((dt.f16, dt.f32), (dt.i8, dt.i32), (dt.f32, dt.f32), (dt.bf16, dt.f32)))
        left, right = (b(arith.Cast(b(arith.And(v, self.number(7, v))), operand)) for v in (x, y))
        start = b(arith.Full(0, sums, (x.tile.shape[0], y.tile.shape[1])))
        found = b(Dot(left, right, start))
        self.keep(found if sums == dt.i32 else b(arith.Cast(found, dt.i32)))

    def gather(self) -> None:
        b, x = self.body, self.tile()
        row, column = (b(arith.And(x, self.number(n, x))) for n in (63, 31))
        column = b(arith.Sub(column, self.number(2, x)))
        self.keep(b(memory.Gather(self.input, (row, column), b.i32(-1), True)))

    def shared(self) -> None:
        """A tile through shared memory: a window of it, sums into places of it."""
        b, x = self.body, self.tile(2)
        buffer = b(memory.Alloc(dt.i32, x.tile.shape))
        zero = b.i32(0)
        b(memory.Store(buffer, (zero, zero), x))
        if self.draw.random() < 0.5:
            places = tuple(b(arith.And(x, self.number(n, x))) for n in (15, 7))
            b(memory.Atomic("add", buffer, places, x))
        at = (self.scalar(5), b.i32(int(self.draw.integers(-2, 3))))
        self.keep(b.load(buffer, at, tuple(self.extent() for _ in range(2)), 3))

    # -- control flow -------------------------------------------------------------------------------

    def inside(self, args: tuple[Arg, ...], make: Callable[[], tuple[Value, ...]]) -> Block:
        """A block: what it makes is known inside it only."""
        outer, values, self.body = self.body, self.values, Body()
        self.values, self.depth = [*values, *args], self.depth + 1
        results = make()
        made = Block(args, tuple(self.body), results)
        self.body, self.values, self.depth = outer, values, self.depth - 1
        return made

    def again(self, types: list[TileType]) -> tuple[Value, ...]:
        """Some steps, then a value of each type: of the newest of its shape, added to something."""
        self.steps(int(self.draw.integers(1, 4)))
        found = []
        for kind in types:
            same = [v for v in self.values if v.type == kind]
            found.append(self.body(arith.Add(same[-1], self.pick(same))))
        return tuple(found)

    def carried(self) -> tuple[Value, ...]:
        tiles = dict.fromkeys(self.tile() for _ in range(int(self.draw.integers(1, 3))))
        return (*tiles, self.scalar(9)) if self.draw.random() < 0.6 else tuple(tiles)

    def loop(self) -> None:
        b, init = self.body, self.carried()
        args = (Arg(TileType(dt.i32), "i"), *(Arg(v.type) for v in init))
        block = self.inside(args, lambda: self.again([v.tile for v in init]))
        made = b(For(b.i32(0), self.scalar(4), b.i32(1), init, block))
        for i in range(len(init)):
            self.keep(b(Item(made, i)))

    def branch(self) -> None:
        b, types = self.body, [v.tile for v in self.carried()]
        condition = b(arith.Compare("lt", self.scalar(10), b.i32(int(self.draw.integers(11)))))
        then, orelse = (self.inside((), lambda: self.again(types)) for _ in range(2))
        made = b(If(condition, then, orelse))
        for i in range(len(types)):
            self.keep(b(Item(made, i)))

    def repeat(self) -> None:
        """While a counter, which is carried first, is above 0."""
        b, init = self.body, (self.scalar(4), *self.carried())
        args, more = (tuple(Arg(v.type) for v in init) for _ in range(2))
        condition = Body()
        test = condition(arith.Compare("gt", more[0], condition.i32(0)))

        def make() -> tuple[Value, ...]:
            rest = self.again([v.tile for v in init[1:]])
            return (self.body(arith.Sub(args[0], self.body.i32(1))), *rest)

        block = self.inside(args, make)
        made = b(While(init, Block(more, tuple(condition), (test,)), block))
        for i in range(1, len(init)):
            self.keep(b(Item(made, i)))

    def steps(self, count: int) -> None:
        plain = [self.elementwise] * 3 + [self.move] * 3 + [self.reduction] * 2
        plain += [self.narrow, self.product, self.gather, self.shared]
        nested = [self.loop, self.branch, self.repeat] if self.depth < 2 else []
        for _ in range(count):
            self.pick(plain + nested)()

    # -- the whole ------------------------------------------------------------------------------------

    def func(self, length: int) -> tuple[Func, list[Any]]:
        b = self.body
        (block,) = b.blocks(b.i32(BLOCKS))
        self.values = [block, b(memory.Gather(self.input, (block, b.i32(3)), b.i32(0)))]
        self.load((self.extent(), self.extent()))
        self.steps(length)
        params, args = [self.input], [self.draw.integers(-99, 100, WIDE).astype(np.int32)]
        for i, value in enumerate(self.values[2:][-6:]):
            sizes = value.tile.shape
            out = array(f"out{i}", dt.i32, BLOCKS, *sizes)
            whole = b(shape.Reshape(value, (1, *sizes)))
            b(memory.Store(out, (block, *(b.i32(0),) * len(sizes)), whole))
            params.append(out)
            args.append(np.full((BLOCKS, *sizes), -77, np.int32))
        return Func("program", tuple(params), Block((), tuple(b)), {"warps": self.warps}), args


def program(seed: int, length: int = 6) -> tuple[Func, list[Any]]:
    """A kernel of `length` steps, with more inside its loops and branches, and its arguments."""
    return Program(seed).func(length)
