"""Small kernels built straight from IR classes, with arguments: what tests of passes run before and after.

`KERNELS` holds them by name.
    case = KERNELS["matmul"]();  before = case.run();  after = case.run(some_pass(case.func))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tilec.ir import codec, packing
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.errors import Loc
from tilec.ir.func import Arg, Block, Func, Inst, Item, Value
from tilec.ir.inst.arith import (
    Abs,
    Add,
    And,
    Bitcast,
    Cast,
    Compare,
    Div,
    FloorDiv,
    Fma,
    Full,
    Iota,
    Math,
    Maximum,
    Minimum,
    Mod,
    Mul,
    Neg,
    Not,
    Shl,
    Shr,
    Sqrt,
    Sub,
    Where,
    Xor,
)  # fmt: skip
from tilec.ir.inst.control import For, If, While
from tilec.ir.inst.memory import (
    Alloc,
    ArraySlice,
    Atomic,
    Copy,
    Gather,
    Load,
    Scatter,
    Size,
    Store,
    Wait,
)  # fmt: skip
from tilec.ir.inst.mma import Dot
from tilec.ir.inst.reduce import ArgReduce, Reduce, Scan
from tilec.ir.inst.shape import Broadcast, Extract, Permute, Reshape, Stack
from tilec.ir.inst.sync import Assert, Barrier, BlockIndex, Print, Require
from tilec.ir.run import Memory, State, run
from tilec.ir.tile import ArrayType, Dim, Extent, TileType, multiple_of

Array = np.ndarray[Any, Any]
Node = TypeVar("Node", bound=Inst)


class Body(list[Inst]):
    """Collects instructions: `x = body(Add(a, b))`. Each gets a line of its own."""

    def __call__(self, inst: Node) -> Node:
        object.__setattr__(inst, "loc", inst.loc or Loc("kernel.py", len(self) + 1))
        self.append(inst)
        return inst

    def i32(self, value: int) -> Value:
        return self(Full(value, dt.i32))

    def full(self, value: float, dtype: DType, *shape: int) -> Value:
        return self(Full(value, dtype, shape))

    def cdiv(self, a: Value, b: int) -> Value:
        return self(FloorDiv(self(Add(a, self.i32(b - 1))), self.i32(b)))

    def blocks(self, *grid: Value) -> tuple[Value, ...]:
        return tuple(self(BlockIndex(grid, axis)) for axis in range(len(grid)))

    def times(self, a: Value, b: int) -> Value:
        return self(Mul(a, self.i32(b)))

    def load(
        self, array: Value, at: tuple[Value, ...], shape: tuple[int, ...], other: float | None = None
    ) -> Value:
        fill = self.full(other or 0, array.array_type.dtype)
        return self(Load(array, at, shape, fill, written=other is not None))

    def loop(
        self, stop: Value, init: tuple[Value, ...], make: Callable[..., tuple[Value, ...]], **options: Any
    ) -> For:
        """for index in range(0, stop): `make(body, index, *carried)` gives the next carried values."""
        start, step = options.pop("start", None) or self.i32(0), options.pop("step", None) or self.i32(1)
        args = (Arg(TileType(dt.i32), "s"), *(Arg(v.type) for v in init))
        inner = Body()
        results = make(inner, *args)
        return self(For(start, stop, step, init, Block(args, tuple(inner), results), **options))

    def branch(self, condition: Value, then: Callable[[Body], tuple[Value, ...]],
               orelse: Callable[[Body], tuple[Value, ...]] = lambda body: ()) -> If:  # fmt: skip
        sides = []
        for make in (then, orelse):
            inner = Body()
            results = make(inner)
            sides.append(Block((), tuple(inner), results))
        return self(If(condition, sides[0], sides[1]))


def array(name: str, dtype: DType, *shape: Extent, align: int = 16, packed: bool = False) -> Arg:
    """A row-major array argument; inner strides are known where the extents are."""
    strides: list[Extent] = [1]
    for extent in reversed(shape[1:]):
        inner, multiple = strides[0], multiple_of(extent) * multiple_of(strides[0])
        both = isinstance(extent, int) and isinstance(inner, int)
        strides.insert(0, multiple if both else Dim(f"{name}.{len(strides)}", multiple))
    return Arg(ArrayType(dtype, shape, tuple(strides), align, packed=packed), name)


@dataclass(frozen=True)
class Case:
    """A kernel and the arguments of one launch: numpy arrays in storage form, or numpy scalars."""

    func: Func
    arguments: tuple[Any, ...]

    def run(self, func: Func | None = None, state: State | None = None) -> list[Array]:
        """Every array after the launch, as values."""
        func = func or self.func
        copies = [np.array(a) for a in self.arguments]
        args = [Memory(c, p.array_type.dtype) if isinstance(p.type, ArrayType) else c[()]
                for c, p in zip(copies, func.params, strict=True)]  # fmt: skip
        run(func, args, state)
        return copies


def same(before: list[Array], after: list[Array]) -> bool:
    """Equal bit by bit."""
    return all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))


def values(dtype: DType, *shape: int, seed: int = 0) -> Array:
    """Random elements in storage form."""
    draw = np.random.default_rng(seed)
    plain: Array = draw.standard_normal(shape) if dtype.is_float else draw.integers(-100, 100, shape)
    return codec.to_storage(codec.round_to(plain, dtype), dtype)


def vector_add(n: int = 2048, extent: Extent | None = None, block: int = 1024) -> Case:
    """z = x + y, a block of elements at a time."""
    extent = extent if extent is not None else Dim("n", 1024)
    x, y, z = (array(name, dt.f32, extent) for name in "xyz")
    b = Body()
    (i,) = b.blocks(b.cdiv(b(Size(x, 0)), block))
    at = (b.times(i, block),)
    b(Store(z, at, b(Add(b.load(x, at, (block,)), b.load(y, at, (block,))))))
    func = Func("vector_add", (x, y, z), Block((), tuple(b)), {"warps": 4})
    return Case(func, (values(dt.f32, n), values(dt.f32, n, seed=1), np.zeros(n, np.float32)))


def matmul(
    m: int = 64, n: int = 32, k: int = 48, dims: tuple[Extent, ...] | None = None, stages: int = 1
) -> Case:
    """c = a @ b with tiles of 32 x 16 x 16; dims: the extents as the compiler knows them."""
    dm, dn, dk = dims or (Dim("m", 32), Dim("n", 16), Dim("k", 16))
    dk2 = Dim("k2", dk.multiple) if isinstance(dk, Dim) else dk
    a, w, c = array("a", dt.f16, dm, dk), array("b", dt.f16, dk2, dn), array("c", dt.f16, dm, dn)
    b = Body()
    rows, depth, columns = b(Size(a, 0)), b(Size(a, 1)), b(Size(w, 1))
    depths, widths = b(Compare("eq", b(Size(w, 0)), depth)), b(Compare("eq", b(Size(c, 1)), columns))
    b(Require(b(And(depths, widths)), "shapes fit"))
    b(Require(b(Compare("eq", b(Size(c, 0)), rows)), "shapes fit"))
    i, j = b.blocks(b.cdiv(rows, 32), b.cdiv(columns, 16))
    top, left = b.times(i, 32), b.times(j, 16)

    def step(inner: Body, s: Value, acc: Value) -> tuple[Value, ...]:
        at = inner.times(s, 16)
        left_tile, right_tile = inner.load(a, (top, at), (32, 16)), inner.load(w, (at, left), (16, 16))
        return (inner(Dot(left_tile, right_tile, acc)),)

    loop = b.loop(b.cdiv(depth, 16), (b.full(0.0, dt.f32, 32, 16),), step, stages=stages)
    b(Store(c, (top, left), b(Cast(b(Item(loop, 0)), dt.f16))))
    func = Func("matmul", (a, w, c), Block((), tuple(b)), {"warps": 4})
    return Case(func, (values(dt.f16, m, k), values(dt.f16, k, n, seed=1), np.zeros((m, n), np.float16)))


def ragged_matmul() -> Case:
    """The same with extents that no tile divides."""
    return matmul(33, 17, 19, (Dim("m"), Dim("n"), Dim("k")))


def softmax(rows: int = 5, extent: Extent | None = None) -> Case:
    """y = softmax(x) along the rows of a [rows, 64] array, 4 at a time; what lies outside is -inf."""
    extent = extent if extent is not None else Dim("rows")
    x, y = array("x", dt.f32, extent, 64), array("y", dt.f32, extent, 64)
    b = Body()
    (i,) = b.blocks(b.cdiv(b(Size(x, 0)), 4))
    at = (b.times(i, 4), b.i32(0))
    tile = b.load(x, at, (4, 64), other=-np.inf)

    def column(v: Value) -> Value:
        return b(Broadcast(b(Reshape(v, (4, 1))), (4, 64)))

    e = b(Math("exp", b(Sub(tile, column(b(Reduce("max", tile, 1)))))))
    b(Store(y, at, b(Div(e, column(b(Reduce("sum", e, 1)))))))
    func = Func("softmax", (x, y), Block((), tuple(b)), {"warps": 1})
    return Case(func, (values(dt.f32, rows, 64), np.zeros((rows, 64), np.float32)))


def heads() -> Case:
    """out[b, :, h] = 2 * q[b, :, h] through views whose dropped axes come from one linear block number."""
    shape: tuple[Extent, ...] = (Dim("batch"), Dim("length", 8), Dim("heads"), 16)
    q, out = array("q", dt.f16, *shape), array("out", dt.f16, *shape)
    b = Body()
    batch, length, count = (b(Size(q, axis)) for axis in range(3))
    for axis, extent in enumerate((batch, length, count)):
        b(Require(b(Compare("eq", b(Size(out, axis)), extent)), "shapes fit"))
    i, j = b.blocks(b(Mul(batch, count)), b.cdiv(length, 8))
    place = (b(FloorDiv(i, count)), None, b(Mod(i, count)), None)
    views = [b(ArraySlice(v, place, (None,) * 4, (1,) * 4, (0, 2))) for v in (q, out)]
    at = (b.times(j, 8), b.i32(0))
    tile = b.load(views[0], at, (8, 16))
    b(Store(views[1], at, b(Add(tile, tile))))
    func = Func("heads", (q, out), Block((), tuple(b)), {"warps": 1})
    return Case(func, (values(dt.f16, 2, 16, 3, 16), np.zeros((2, 16, 3, 16), np.float16)))


def dilated() -> Case:
    """Every third row of x from a run-time start, through a view with a step and a stop; ragged."""
    x, y = array("x", dt.f32, Dim("n"), 8), array("y", dt.f32, Dim("m"), 8)
    g = Arg(TileType(dt.i32), "g")
    b = Body()
    view = b(ArraySlice(x, (g, None), (b(Sub(b(Size(x, 0)), b.i32(1))), None), (3, 1)))
    (i,) = b.blocks(b.cdiv(b(Size(view, 0)), 4))
    at = (b.times(i, 4), b.i32(0))
    b(Store(y, at, b.load(view, at, (4, 8))))
    func = Func("dilated", (x, y, g), Block((), tuple(b)), {"warps": 1})
    return Case(func, (values(dt.f32, 23, 8), np.zeros((7, 8), np.float32), np.int32(1)))


def control() -> Case:
    """Branches, a while, a loop that carries what never changes and what nobody uses; scalars only decide."""
    x, n = array("x", dt.i32, 64), Arg(TileType(dt.i32), "n")
    b = Body()
    (i,) = b.blocks(b.i32(4))
    at, ten = (b.times(i, 16),), b.i32(10)
    tile = b.load(x, at, (16,))

    def step(inner: Body, s: Value, acc: Value, fixed: Value, unused: Value) -> tuple[Value, ...]:
        more = inner(Broadcast(inner(Add(s, fixed)), (16,)))
        return inner(Add(acc, more)), fixed, inner(Mul(unused, s))

    loop = b.loop(n, (tile, ten, ten), step)
    acc, fixed = b(Item(loop, 0)), b(Item(loop, 1))
    odd = b(Compare("eq", b(Mod(i, b.i32(2))), b.i32(1)))
    either = b.branch(odd, lambda t: (t(Neg(acc)), fixed), lambda e: (acc, e.i32(3)))
    count = Arg(TileType(dt.i32), "count")
    test, halve = Body(), Body()
    more = test(Compare("gt", count, test.i32(1)))
    half = halve(Shr(count, halve.i32(1)))
    blocks = Block((count,), tuple(test), (more,)), Block((count,), tuple(halve), (half,))
    again = b(While((b(Item(either, 1)),), *blocks))
    b.branch(b(Compare("ge", n, b.i32(0))), lambda t: (t(Store(x, at, b_sum(t, either, again))), ())[1])
    func = Func("control", (x, n), Block((), tuple(b)), {"warps": 1})
    return Case(func, (values(dt.i32, 64), np.int32(3)))


def b_sum(t: Body, either: If, again: While) -> Value:
    return t(Add(t(Item(either, 0)), t(Broadcast(t(Item(again, 0)), (16,)))))


def staged() -> Case:
    """A tile copied to shared memory, waited for, and read transposed."""
    x, y = array("x", dt.f32, Dim("n", 8), 8), array("y", dt.f32, Dim("n", 8), 8)
    b = Body()
    (i,) = b.blocks(b.cdiv(b(Size(x, 0)), 8))
    at, zero = (b.times(i, 8), b.i32(0)), b.i32(0)
    buffer, _unused = b(Alloc(dt.f32, (8, 8))), b(Alloc(dt.f32, (4,)))
    b(Wait((b(Copy(x, at, buffer, b.full(0.0, dt.f32))),)))
    b(Barrier())
    b(Store(y, at, b(Permute(b.load(buffer, (zero, zero), (8, 8)), (1, 0)))))
    func = Func("staged", (x, y), Block((), tuple(b)), {"warps": 1})
    return Case(func, (values(dt.f32, 16, 8), np.zeros((16, 8), np.float32)))


def scattered() -> Case:
    """A histogram by gather, scatter and atomics; scans and argmax."""
    x, table, count = array("x", dt.i32, 32), array("table", dt.i32, 16), array("count", dt.i32, 16)
    b = Body()
    (i,) = b.blocks(b.i32(2))
    tile = b.load(x, (b.times(i, 16),), (16,), other=0)
    place = b(And(tile, b.full(15, dt.i32, 16)))
    found = b(Gather(table, (place,), b.i32(-1)))
    b(Atomic("add", count, (place,), b(Abs(found))))
    top = b(ArgReduce("max", tile, 0))
    running = b(Scan("sum", tile, 0))
    last = b(Reshape(b(Extract(running, (15,), (1,))), ()))
    b(Assert(b(Compare("lt", top, b.i32(16))), "argmax is an index"))
    ones = b(Stack((b(Broadcast(last, (8,))), b(Broadcast(top, (8,)))), 0))
    where = b(Add(b(Iota((16,), 0, dt.i32)), b(Broadcast(b.times(i, 16), (16,)))))
    b(Scatter(x, (where,), b(Reshape(ones, (16,)))))
    b(Print("top ", top))
    func = Func("scattered", (x, table, count), Block((), tuple(b)), {"warps": 1})
    return Case(func, (values(dt.i32, 32), np.arange(16, dtype=np.int32), np.zeros(16, np.int32)))


def arithmetic() -> Case:
    """Elementwise instructions on one dtype after another, with constants that fold."""
    x, y = array("x", dt.f32, Dim("n", 64)), array("y", dt.f32, Dim("n", 64))
    b = Body()
    (i,) = b.blocks(b.cdiv(b(Size(x, 0)), 64))
    at, one = (b.times(i, 64),), b.full(1.0, dt.f32, 64)
    v = b.load(x, at, (64,))
    v = b(Mul(b(Fma(v, one, b(Sqrt(b(Abs(v)))))), one))
    bits = b(Bitcast(v, dt.i32))
    zero, three = b.full(0, dt.i32, 64), b.full(3, dt.i32, 64)
    bits = b(Xor(b(Add(bits, zero)), b(Shl(b(Sub(three, b.full(2, dt.i32, 64))), three))))
    small = b(Cast(b(Cast(bits, dt.i4)), dt.f32))
    narrow = b(Cast(b(Cast(v, dt.bf16)), dt.f32))
    keep = b(Not(b(Compare("lt", narrow, small))))
    chosen = b(Where(keep, b(Maximum(narrow, small)), b(Minimum(narrow, b(Add(one, one))))))
    for name in ("exp", "log", "sin", "cos", "tanh", "erf"):
        chosen = b(Add(chosen, b(Math(name, b(Add(chosen, b.full(0.5, dt.f32, 64)))))))
    b(Store(y, at, b(Cast(chosen, dt.f32))))
    func = Func("arithmetic", (x, y), Block((), tuple(b)), {"warps": 2})
    return Case(func, (values(dt.f32, 128), np.zeros(128, np.float32)))


def packed() -> Case:
    """Codes of 4 bits in bytes, read as a tile of bytes and spread by arithmetic."""
    codes, y = array("codes", dt.u8, 64), array("y", dt.f16, 128)
    b = Body()
    tile = b.load(codes, (b.i32(0),), (64,))
    low = b(And(tile, b.full(15, dt.u8, 64)))
    high = b(Shr(tile, b.full(4, dt.u8, 64)))
    both = b(Reshape(b(Stack((low, high), 1)), (128,)))
    b(Store(y, (b.i32(0),), b(Cast(both, dt.f16))))
    func = Func("packed", (codes, y), Block((), tuple(b)), {"warps": 1})
    data = packing.pack(np.arange(128) % 16, dt.u4)
    return Case(func, (data, np.zeros(128, np.float16)))


KERNELS: dict[str, Callable[[], Case]] = {
    make.__name__: make
    for make in (
        vector_add, matmul, ragged_matmul, softmax, heads, dilated,
        control, staged, scattered, arithmetic, packed,
    )
}  # fmt: skip
