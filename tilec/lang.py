"""The functions of the language: what a kernel calls as tc.something.

acc = tc.zeros((bm, bn), tc.f32)
for s in tc.range(n, stages=3):
    acc = tc.dot(a.load((0, s * bk), (bm, bk)), b.load((s * bk, 0), (bk, bn)), acc)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tilec import arrays, values
from tilec.arrays import Array
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Inst, Value
from tilec.ir.inst import arith, inline, reduce, sync
from tilec.ir.inst import shape as shapes
from tilec.ir.inst import turn as turns
from tilec.ir.inst.memory import Size
from tilec.ir.layout import Layout
from tilec.literals import NUMBERS, constant_shape, plain
from tilec.tiles import cdiv as cdiv
from tilec.tracing import Respecialise, current
from tilec.values import BlockPlace, Operand, Tile, emit

F = TypeVar("F", bound=Callable[..., Any])
_range = range


@dataclass(frozen=True)
class Site:
    """Where a language function was called: the text of its arguments and the names around it."""

    texts: tuple[str, ...] = ()
    names: tuple[tuple[str, Any], ...] = ()

    def text(self, i: int) -> str:
        return self.texts[i] if i < len(self.texts) else "its condition"


def reads_source(function: F) -> F:
    """Marks a language function that the front end hands its call site to, as `site=`."""
    function.reads_source = True  # type: ignore[attr-defined]
    return function


# Where the block is.


def blocks(*counts: Any) -> Any:
    """Sets the grid, one extent per axis, and gives this block's number along each. Once per kernel."""
    tracer = current()
    if tracer.grid is not None:
        raise TilecError("tc.blocks was called before: a kernel has one grid")
    if tracer.scope is not tracer.root:
        raise TilecError("tc.blocks stands outside loops and branches")
    if not counts:
        raise TilecError("tc.blocks takes one extent per axis of the grid, found none")
    if isinstance(counts[0], tuple | list):
        raise TilecError(f"tc.blocks takes one extent per axis, found {counts[0]!r}: write tc.blocks(*shape)")
    tracer.grid = tuple(arrays.offset(count, "tc.blocks") for count in counts)
    for extent in tracer.grid:
        _on_host(extent, "the grid")
    places = [tracer.emit(sync.BlockIndex, tracer.grid, axis) for axis in _range(len(counts))]
    if len(places) == 1:
        return BlockPlace(places[0], tracer.scope)
    return tuple(Tile(x, tracer.scope) for x in places)


@reads_source
def require(*conditions: Any, site: Site | None = None) -> None:
    """Conditions on shapes and scalar parameters: checked at launch, facts for the compiler from here on."""
    tracer = current()
    if tracer.scope is not tracer.root:
        raise TilecError("tc.require stands outside loops and branches: it is checked at launch")
    for i, condition in enumerate(conditions):
        text = (site or Site()).text(i)
        if isinstance(condition, Tile):
            _on_host(values.scalar_bool(condition, "tc.require"), "tc.require")
            tracer.emit(sync.Require, condition.value, text)
        elif not condition:
            raise TilecError(f"the kernel requires {text}")


def _on_host(value: Value, what: str) -> None:
    """The host computes grids and requirements: from shapes and scalar parameters alone."""
    if not _at_launch(value):
        raise TilecError(f"{what} is computed at launch, from shapes and scalar parameters only")


def _at_launch(value: Value) -> bool:
    if not isinstance(value, Inst) or isinstance(value, Size):
        return True
    return value.pure and not isinstance(value, sync.BlockIndex) and all(map(_at_launch, value.operands))


def static(extent: Any) -> int:
    """The value of an array's extent as a constant; the kernel is compiled anew for each value."""
    extent = plain(extent)
    if isinstance(extent, int):
        return extent
    size = extent.value if isinstance(extent, Tile) else None
    param = current().params.get(size.array) if isinstance(size, Size) else None
    if not isinstance(size, Size) or param is None:
        raise TilecError(f"tc.static takes an extent of a kernel's array, x.shape[axis], found {extent!r}")
    raise Respecialise(param, size.axis)


def block_ticket() -> Tile:
    """This block's number in the order in which blocks start: an earlier block has a lower one."""
    tracer = current()
    if tracer.grid is None:
        raise TilecError("tc.block_ticket: the grid is not known yet, call tc.blocks first")
    with tracer.inside(tracer.root):
        places = [tracer.emit(sync.BlockIndex, tracer.grid, axis) for axis in _range(len(tracer.grid))]
        ticket = Tile(places[0], tracer.root)
        for extent, place in zip(tracer.grid[1:], places[1:], strict=True):
            ticket = ticket * Tile(extent, tracer.root) + Tile(place, tracer.root)
    return ticket


@contextmanager
def turn(locks: Array, key: Operand, part: Operand, parts: Operand = None) -> Iterator[None]:
    """What stands inside is done by one block of a key at a time, in the order 0, 1, ... of `part`.

        with tc.turn(locks, tile, part, parts):      # split-K: sums are added in the same order every time
            total.store(at, total.load(at, shape) + acc)

    `locks` is i32 [keys], zeros at the launch; `key` and `part` are scalars. A block may wait for earlier
    ones only (see tc.block_ticket): part p + 1 of a key belongs to a later block than part p. After the last
    of `parts` a lock is 0 again, so that the next launch finds it so; without `parts` it counts on.
    TilecError (an assertion of the kernel) where `key` is no place in `locks`.
    """
    tracer = current()
    at, turn_ = (arrays.offset(x, "tc.turn") for x in (key, part))
    inside = (Tile(at, tracer.scope) >= 0) & (Tile(at, tracer.scope) < locks.shape[0])
    assert_(inside, "tc.turn: the key is no place in its locks")
    tracer.emit(turns.TakeTurn, locks.value, at, turn_)
    yield
    following = Tile(turn_, tracer.scope) + 1
    if parts is not None:
        count = Tile(arrays.offset(parts, "tc.turn"), tracer.scope)
        following = values.where(following == count, 0, following)
    current().emit(turns.PassTurn, locks.value, at, following.value)


# Loops.


@dataclass(frozen=True)
class Range:
    """What a run-time loop counts through; `stages`: how many iterations' loads may be under way."""

    start: Any
    stop: Any
    step: Any
    stages: int = 1

    def __iter__(self) -> Iterator[Any]:
        raise TilecError(
            "tc.range is for the for loops of a kernel; in Python code that only builds a kernel, "
            "or where the count is a constant, use range or tc.static_range"
        )


def range(start: Any, stop: Any = None, step: Any = 1, *, stages: int = 1) -> Range:  # noqa: A001
    """A loop of the running kernel: like Python's range, with run-time bounds and a positive step.

    `stages`: how many iterations' loads may be under way. A loop that a run-time `break` may end has them one
    after another.
    """
    if stop is None:
        start, stop = 0, start
    step = plain(step)
    if isinstance(step, int) and step < 1:
        raise TilecError(f"tc.range counts up: its step is 1 or more, found {step}; count up and subtract")
    if not isinstance(plain(stages), int) or stages < 1:
        raise TilecError(f"stages is a constant of 1 or more, found {stages!r}")
    return Range(plain(start), plain(stop), step, int(stages))


def counts_up(step: Tile) -> None:
    """A step that is known at run time only is 1 or more: checked at launch, or by the block."""
    tracer, positive = current(), step > 0
    if tracer.scope is tracer.root and _at_launch(positive.value):
        tracer.emit(sync.Require, positive.value, "a step of 1 or more in tc.range")
    else:
        tracer.emit(sync.Assert, positive.value, "tc.range takes a step of 1 or more")


def static_range(*bounds: Any) -> _range:
    """A loop that is unrolled while the kernel is compiled: constants only."""
    for bound in bounds:
        if not isinstance(plain(bound), int):
            raise TilecError(
                f"tc.static_range is unrolled and takes constants, found {bound!r}; use tc.range"
            )
    return _range(*map(plain, bounds))


# Making tiles.


def zeros(shape: Any, dtype: DType | str) -> Tile:
    """A tile of zeros. Shape () is a scalar."""
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: DType | str) -> Tile:
    """A tile of ones. Shape () is a scalar."""
    return full(shape, 1, dtype)


def full(shape: Any, value: Operand, dtype: DType | str) -> Tile:
    """A tile of one value: a constant, or a scalar of this dtype. Shape () is a scalar."""
    kind = dt.dtype(dtype)
    given = bool(value) if kind.is_bool and isinstance(value, int) else value
    return values.full(given, constant_shape(shape, "a tile"), kind)


def arange(start: int, stop: int | None = None, step: int = 1, *, dtype: DType | str = "i32") -> Tile:
    """start, start + step, ... up to stop: constants, like Python's range."""
    given = [0, start, step] if stop is None else [start, stop, step]
    count = len(static_range(*given))
    if count < 1:
        raise TilecError(f"tc.arange({given[0]}, {given[1]}, {given[2]}) has no elements")
    counts = emit(arith.Iota, (count,), 0, dt.dtype(dtype))
    scaled = counts if given[2] == 1 else counts * given[2]
    return scaled if given[0] == 0 else scaled + given[0]


def from_function(shape: Any, f: Callable[..., Any]) -> Tile:
    """The tile of f(i, j, ...) at each place (i, j, ...) of a shape: a DFT matrix, twiddles, a Toeplitz band.

        tc.from_function((n, n), lambda i, j: tc.cos(2 * pi * (i * j % n) / n)).to(tc.f16)
        tc.from_function((depth, 8), lambda p, n: weight.at(r, p - n, other=0))

    f gets numpy arrays of int64, one per axis, and may use numpy and the language. What depends on constants
    alone is computed in float64 while compiling: the tile is f64 (i32, bool) until `.to` rounds it, which
    costs nothing when the kernel runs. 1 / 0 is inf there as in kernels, and 0 / 0 NaN, without a warning.
    Array elements at such places are gathered.
    """
    extents = constant_shape(shape, "tc.from_function")
    current()
    with np.errstate(all="ignore"):
        made = f(*np.ogrid[tuple(slice(n) for n in extents)])
    if isinstance(made, NUMBERS):
        made = np.asarray(made)
    if not isinstance(made, Tile | np.ndarray):
        raise TilecError(f"tc.from_function takes a function that gives a number or a tile, found {made!r}")
    try:
        placed = values.table(np.broadcast_to(made, extents)) if isinstance(made, np.ndarray) else made
    except ValueError:
        given = list(made.shape)
        raise TilecError(f"the function gives shape {given} for a tile of shape {list(extents)}") from None
    return Tile(values.expand(placed, extents), current().scope)


def stack(tiles: Sequence[Tile], axis: int = 0) -> Tile:
    """Tiles of one type side by side along a new axis."""
    if not tiles or not all(isinstance(x, Tile) for x in tiles):
        raise TilecError(f"tc.stack takes one tile or more, found {list(tiles)!r}")
    rank = tiles[0].rank + 1
    if not -rank <= axis < rank:
        raise TilecError(f"tc.stack along axis {axis}: the result has axes 0 to {rank - 1}")
    return emit(shapes.Stack, tuple(x.value for x in tiles), axis % rank)


def shared(shape: Any, dtype: DType | str) -> Array:
    """Shared memory of this block, with an array's face; uninitialised."""
    return arrays.allocate(shape, dt.dtype(dtype))


# Layouts.


def view(
    x: Tile,
    dtype: DType | str,
    layout: Layout,
    source: Layout | None = None,
    *,
    placed: DType | str | None = None,
) -> Tile:
    """For each thread, the bits of its slots in order, read as another dtype and layout; no instruction.

    `source` says who holds x; it defaults to layout.bytes(dtype), which x may have with leading axes of 1.
    `placed`: a dtype; the bits of the new codes (of 1 to 8 bits) lie where a GPU casts them to it with fewest
    instructions, as `QuantizedWeight.packed(layout, placed)` puts them (tilec.ir.placement).
    """
    kind = dt.dtype(dtype)
    held = layout.bytes(kind) if source is None else source
    given = values.reshape(x, held.shape) if x.shape[-len(held.shape) :] == held.shape else x
    return emit(shapes.View, given.value, kind, layout, held, None if placed is None else dt.dtype(placed))


def convert(x: Tile, layout: Layout) -> Tile:
    """The same tile, held by other threads and slots."""
    return emit(shapes.Convert, x.value, layout)


def annotate(x: Tile, layout: Layout) -> Tile:
    """Asks for this layout here."""
    return emit(shapes.Annotate, x.value, layout)


# Arithmetic.


def dot(a: Tile, b: Tile, acc: Tile | None = None) -> Tile:
    """a @ b + acc: a (m, k), b (k, n), acc (m, n), summed in acc's dtype: f32, i32 or wider.

    Several products at once have an axis in front, (s, m, k), (s, k, n) and (s, m, n): heads, or parts of a
    sum over k that warps share, `tc.dot(a, b).sum(0)`.
    """
    return values.dot(a, b, acc)


def scan(x: Tile, op: str = "sum", axis: int = -1) -> Tile:
    """Inclusive running sum, max or min along an axis."""
    return emit(reduce.Scan, op, x.value, x._axes(axis, "scan")[0])


def inline_ptx(template: str, *operands: Tile, meaning: Callable[..., Any]) -> Tile:
    """PTX of your own, once for each element: $0 is the result, $1 and on are the operands.

        fast = tc.inline_ptx("lg2.approx.f32 $0, $1;", x, meaning=lambda x: tc.log2(x))

    `meaning` says in the language what it gives, its dtype and shape too, and is what runs where there is no
    PTX: keep the two within the bound that you want. Operands are tiles of 16, 32 or 64 bits an element,
    broadcast to the result's shape; the text only computes, LLVM may move it or drop it.
    """
    if not isinstance(template, str) or "$0" not in template:
        raise TilecError(f"tc.inline_ptx takes PTX with $0 for its result, found {template!r}")
    if not all(isinstance(x, Tile) for x in operands):
        raise TilecError(f"tc.inline_ptx takes tiles, found {list(operands)!r}: write numbers into the text")
    _check_places(template, len(operands))
    meant = meaning(*operands)
    if not isinstance(meant, Tile):
        raise TilecError(f"the meaning of tc.inline_ptx gives a tile, found {meant!r}")
    given = tuple(values.expand(x, meant.shape) for x in operands)
    return emit(inline.InlinePtx, template, given, meant.value)


def _check_places(template: str, operands: int) -> None:
    """LLVM ends the process where a text names what is not there."""
    for name in re.findall(r"\$(\$|\w*)", template):
        if name != "$" and not (name.isdecimal() and int(name) <= operands):
            there = f"$0 and $1 to ${operands}" if operands else "$0"
            raise TilecError(f"the text of tc.inline_ptx has {there} (a $ itself is $$), found ${name}")


# Words to the developer.


@reads_source
def print(*items: Any, site: Site | None = None) -> None:  # noqa: A001
    """Prints tiles and scalars once per block; strings and constants between them are labels."""
    tracer, label, said = current(), "", False
    for i, item in enumerate(items):
        if isinstance(item, Tile):
            tracer.emit(sync.Print, label or f"{(site or Site()).text(i)} = ", item.value)
            label, said = "", True
        else:
            label += f"{item} "
    if not said:
        raise TilecError(
            "tc.print prints tiles and scalars, found none; Python's print shows constants while compiling"
        )


@reads_source
def assert_(condition: Any, message: str | None = None, *, site: Site | None = None) -> None:
    """Fails the launch where any element of the condition is false."""
    text = message if message is not None else (site or Site()).text(0)
    if not isinstance(condition, Tile):
        if not condition:
            raise TilecError(f"assertion failed: {text}")
        return
    current().emit(sync.Assert, condition.value, text)


@reads_source
def breakpoint(*, site: Site | None = None) -> None:  # noqa: A001
    """Stops the reference runner here, with the tiles that have names."""
    named = [(name, x) for name, x in (site or Site()).names if isinstance(x, Tile)]
    current().emit(sync.Breakpoint, tuple(x.value for _, x in named), tuple(name for name, _ in named))
