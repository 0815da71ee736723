"""A function that is not well formed is named, with the pass that made it so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.ir.kernels import KERNELS, Body, array, matmul
from tilec.ir import dtype as dt
from tilec.ir.func import Arg, Block, Func, Inst, Item, Value
from tilec.ir.inst.arith import Add, Compare, Full, Neg
from tilec.ir.inst.control import For, If, While
from tilec.ir.inst.memory import Alloc, Copy, Load, Size, Store, Wait
from tilec.ir.inst.sync import BlockIndex, Print
from tilec.ir.layout import local, spatial
from tilec.ir.passes.order import PASSES
from tilec.ir.target import target
from tilec.ir.tile import TileType, TokenType
from tilec.ir.verify import problems, verify

I32 = TileType(dt.i32)


@pytest.mark.parametrize("where", ["cpu", "sm_80", "sm_90a"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_well_formed_after_every_pass(name: str, where: str) -> None:
    func, machine = KERNELS[name]().func, target(where)
    verify(func)
    for step in PASSES:
        if machine.needs_layouts or not step.threads:
            func = step.run(func, machine)
            verify(func, step.name)


def made(make: Callable[[Body], object], *params: Arg) -> Func:
    body = Body()
    make(body)
    return Func("broken", params, Block((), tuple(body)))


X = array("x", dt.i32, 16)
N = Arg(I32, "n")


def mistyped(inst: Inst, kind: object) -> Inst:
    """An instruction whose type somebody overwrote."""
    object.__setattr__(inst, "type", kind)
    return inst


def entered(b: Body, *args: Arg) -> None:
    """A loop of one carried value whose block takes other arguments."""
    first = args[-1] if args else b.i32(0)
    b(For(b.i32(0), b.i32(1), b.i32(1), (b.i32(0),), Block(args, (), (first,))))


def scope(b: Body) -> None:
    inner: list[Value] = []
    flag = b(Compare("lt", N, N))
    b.branch(flag, lambda t: (inner.append(t.i32(1)), ())[1])
    b(Neg(inner[0]))


def twice(b: Body) -> None:
    one = b.i32(1)
    list.append(b, one)


def loop_carries(b: Body) -> Item:
    loop = b.loop(b.i32(2), (b.i32(0),), lambda i, s, v: (i(Add(v, s)),))
    return b(Item(loop, 0))


def index_out_of_range(b: Body) -> None:
    item = loop_carries(b)
    object.__setattr__(item, "index", 3)


def item_of_a_scalar(b: Body) -> None:
    item = loop_carries(b)
    object.__setattr__(item, "source", b[0])


def tuple_as_operand(b: Body) -> None:
    source = loop_carries(b).source
    b(Print("loop", source))


def grids(b: Body) -> None:
    b(BlockIndex((b.i32(2),), 0))
    b(BlockIndex((b.i32(3),), 0))


def inner_grid(b: Body) -> None:
    flag = b(Compare("lt", N, N))
    b.branch(flag, lambda t: (t(BlockIndex((t.i32(3),), 0)), ())[1])


def masks(b: Body) -> None:
    b(Load(X, (b.i32(0),), (4,), b.i32(0), inside=(0, 1)))


def positional(b: Body) -> None:
    """What was given for `inside` lands in `when`."""
    buffer = b(Alloc(dt.i32, (4,)))
    copy = b(Copy(X, (b.i32(0),), buffer, b.i32(0)))
    object.__setattr__(copy, "when", (0, 1))


def copies(b: Body) -> None:
    b(Copy(X, (b.i32(0),), X, b.i32(0)))


def waits(b: Body) -> None:
    b(Wait((b.i32(1),)))


def conditions(b: Body) -> None:
    tile = b(Compare("lt", four := b.full(1, dt.i32, 4), four))
    b(If(tile, Block((), ()), Block((), ())))


def whiles(b: Body) -> None:
    a, c = Arg(I32), Arg(I32)
    b(While((N,), Block((a,), (), (a,)), Block((c,), (), (c,))))


def writes(b: Body) -> None:
    store = b(Store(X, (b.i32(0),), b.full(1, dt.i32, 4)))
    mistyped(store, I32)


def effects(b: Body) -> None:
    store = b(Store(X, (b.i32(0),), b.full(1, dt.i32, 4)))
    object.__setattr__(store, "array", b[0])


BROKEN: dict[str, tuple[Callable[[Body], object], str]] = {
    "used before": (
        lambda b: b(Neg(Full(1, dt.i32))),
        r"a value is used where it is not known: %0 = full .* in %0 = neg",
    ),
    "used outside its block": (scope, "a value is used where it is not known: %0 = full"),
    "a foreign argument": (lambda b: b(Neg(Arg(I32, "q"))), "not known: argument 'q' of type i32 in"),
    "in two places": (twice, "an instruction stands in two places: %0 = full"),
    "another type": (
        lambda b: b(mistyped(Neg(b.i32(1)), TileType(dt.f32))),
        "the type is f32, the type rule gives i32: %0 = neg",
    ),
    "a type rule that fails": (effects, "the type rule fails: store .* an array is needed here, not i32"),
    "a scalar with a layout": (
        lambda b: b(mistyped(Full(1, dt.i32), TileType(dt.i32, (), local(1)))),
        "a scalar has no layout",
    ),
    "a layout of another shape": (
        lambda b: b(Full(1, dt.i32, (4,), spatial(8))),
        r"a layout of \[8\] does not hold i32\[4\]",
    ),
    "too few arguments": (lambda b: entered(b), r"a block is entered with \(i32, i32\) but takes \(\)"),
    "arguments of another type": (
        lambda b: entered(b, Arg(TileType(dt.i64), "s"), Arg(I32)),
        r"a block is entered with \(i32, i32\) but takes \(i64, i32\)",
    ),
    "a loop over floats": (
        lambda b: b.loop(b.full(1.0, dt.f32), (), lambda i, s: ()),
        r"a loop runs over integer scalars of one dtype, not \(i32, f32, i32\)",
    ),
    "a tile as condition": (conditions, r"a condition is one scalar bool, not \(bool\[4\]\)"),
    "a number as condition": (whiles, r"a condition is one scalar bool, not \(i32\)"),
    "an item too many": (index_out_of_range, "an item is one of what a loop or branch gives, here 1"),
    "an item of a scalar": (item_of_a_scalar, "an item is one of what a loop or branch gives, here 0"),
    "all items at once": (tuple_as_operand, "what a loop or branch gives is used through item only: print"),
    "two grids": (grids, "a kernel has one grid: %0 = block_index"),
    "an axis that the grid lacks": (lambda b: b(BlockIndex((b.i32(2),), 1)), "the grid has 1 axes"),
    "a grid from within": (
        inner_grid,
        "an extent of the grid is a pure scalar of the outermost block: %0 = full",
    ),
    "axes that are not there": (masks, "inside names axes of the array, 0 to 0: %0 = load"),
    "fields mixed up": (positional, r"the field when is for values, it holds \(0, 1\): %0 = copy"),
    "a copy to global memory": (copies, "a copy goes to shared memory: %0 = copy"),
    "a wait for a number": (waits, "wait takes tokens: wait"),
    "a store with a result": (writes, "what writes gives nothing but a token: %0 = store"),
    "an effect on no array": (effects, "the effect on array is on no array: store"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(name: str) -> None:
    make, said = BROKEN[name]
    with pytest.raises(AssertionError, match=said):
        verify(made(make, X, N))


def test_the_pass_is_named() -> None:
    func = made(lambda b: b(Neg(Full(1, dt.i32))))
    with pytest.raises(AssertionError, match=r"^after places: a value is used where it is not known"):
        verify(func, "places")
    assert len(list(problems(func))) == 1


def test_a_block_gives_only_what_it_knows() -> None:
    def unknown(b: Body) -> None:
        b.loop(b.i32(1), (b.i32(0),), lambda i, s, v: (Full(1, dt.i32),))

    with pytest.raises(AssertionError, match="a block gives what it does not know: %0 = full"):
        verify(made(unknown))


def test_the_outermost_block_takes_nothing() -> None:
    arg = Arg(I32, "n")
    with pytest.raises(AssertionError, match="the body of f takes and gives nothing"):
        verify(Func("f", (), Block((arg,), ())))


def test_tokens_and_views_are_well_formed() -> None:
    func = matmul().func
    verify(func)
    assert isinstance(next(i for i in KERNELS["staged"]().func.walk() if isinstance(i, Copy)).type, TokenType)
    assert any(isinstance(i, Size) for i in func.walk())
