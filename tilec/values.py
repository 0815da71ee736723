"""Tiles as the user holds them: Python operators that emit instructions.

    y = x * 2 + bias[None, :]       Mul and Add on broadcast operands; the literal takes x's dtype
A scalar is a tile of rank 0: the same in every thread, and the only thing that `if` and loops take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from tilec import known
from tilec.indexing import extract
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Inst, Value, mnemonic
from tilec.ir.inst import arith, mma, reduce
from tilec.ir.inst import shape as shapes
from tilec.ir.tile import TileType
from tilec.literals import NUMBERS, Number, constant_shape, number
from tilec.run_time import RunTimeValue
from tilec.tracing import Scope, current

Operand = Any  # a Tile or a Python number
_ENDED = "this tile was made inside a {what} that has ended: give it to a name that exists before the {what}"


def _operator(kind: type[Inst], swapped: bool = False) -> Callable[[Tile, Operand], Tile]:
    def apply(self: Tile, other: Operand) -> Tile:
        if not isinstance(other, OPERANDS):
            return NotImplemented  # type: ignore[no-any-return]
        return elementwise(kind, other, self) if swapped else elementwise(kind, self, other)

    return apply


def _comparison(op: str) -> Callable[[Tile, Operand], Tile]:
    def apply(self: Tile, other: Operand) -> Tile:
        return compare(op, self, other) if isinstance(other, OPERANDS) else NotImplemented

    return apply


class Tile(RunTimeValue):
    """A small array of one dtype, held by the threads of a block. Shape () is a scalar."""

    __slots__ = ("_scope", "_value")
    __array_ufunc__: ClassVar[None] = None  # numpy's scalars leave the operation to us
    __hash__ = object.__hash__

    def __init__(self, value: Value, scope: Scope) -> None:
        self._value, self._scope = value, scope

    @property
    def value(self) -> Value:
        """The IR value; TilecError after the block that made it has ended."""
        if not self._scope.open:
            raise TilecError(_ENDED.format(what=self._scope.what))
        return self._value

    @property
    def type(self) -> TileType:
        """Its dtype and shape, as messages print it: f32[16, 8]."""
        return self._value.tile

    @property
    def dtype(self) -> DType:
        """The type of its elements."""
        return self._value.tile.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents, constants; () of a scalar."""
        return self._value.tile.shape

    @property
    def rank(self) -> int:
        """How many axes it has; 0 of a scalar."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    def __repr__(self) -> str:
        return f"{'tile' if self.shape else 'scalar'} {self.type}"

    # Moving elements.

    def to(self, dtype: DType | str) -> Tile:
        """Every element in another dtype: rounded to nearest even, 8 bits or fewer saturate."""
        wanted = dt.dtype(dtype)
        return self if wanted == self.dtype else emit(arith.Cast, self.value, wanted)

    def bitcast(self, dtype: DType | str) -> Tile:
        """The same bits as another dtype of the same width."""
        return emit(arith.Bitcast, self.value, dt.dtype(dtype))

    def reshape(self, *shape: Any) -> Tile:
        """The same elements in row-major order; one extent may be -1."""
        given = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
        if given.count(-1) == 1:
            rest = prod(constant_shape([n for n in given if n != -1], "reshape"))
            given = tuple(self.size // max(1, rest) if n == -1 else n for n in given)
        return reshape(self, constant_shape(given, "reshape"))

    def permute(self, *axes: Any) -> Tile:
        """Axis i of the result is axis axes[i]."""
        given = tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], Sequence) else axes
        places = tuple(axis + self.rank if axis < 0 else axis for axis in given)
        return emit(shapes.Permute, self.value, places)

    @property
    def T(self) -> Tile:
        """A matrix with its axes exchanged."""
        if self.rank != 2:
            raise TilecError(f".T turns a tile of rank 2, not {self.type}; use .permute")
        return self.permute(1, 0)

    def __getitem__(self, index: Any) -> Tile:
        """x[:, None], x[2:10], x[0], x[..., 3]: all constants, steps of 1."""
        start, extents, result = extract(index, self.type)
        whole = self if extents == self.shape else emit(shapes.Extract, self.value, start, extents)
        return reshape(whole, result)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TilecError("a tile's elements are not assigned to: make a new one, tc.where(condition, a, b)")

    # Reductions: axis None means all axes, to a scalar.

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tile:
        """The sum along an axis, or some, or (None) all: in what order is left open."""
        return self._reduce("sum", axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Tile:
        """The largest element, NaN if any is; axis as for sum."""
        return self._reduce("max", axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Tile:
        """The smallest element, NaN if any is; axis as for sum."""
        return self._reduce("min", axis, keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> Tile:
        """Whether any element of a bool tile holds; axis as for sum."""
        return self._reduce("any", axis, keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> Tile:
        """Whether every element of a bool tile holds; axis as for sum."""
        return self._reduce("all", axis, keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tile:
        """Index (i32) of the first largest element, NaN above all; axis None counts in row-major order."""
        return self._arg("max", axis, keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tile:
        """Index (i32) of the first smallest element, NaN below all; axis None counts in row-major order."""
        return self._arg("min", axis, keepdims)

    def _reduce(self, op: str, axis: Any, keepdims: bool) -> Tile:
        axes, result = self._axes(axis, op), self
        for each in sorted(axes, reverse=True):
            result = emit(reduce.Reduce, op, result.value, each)
        return reshape(result, self._kept(axes)) if keepdims else result

    def _arg(self, op: str, axis: int | None, keepdims: bool) -> Tile:
        if axis is None:
            flat = emit(reduce.ArgReduce, op, reshape(self, (self.size,)).value, 0)
            return reshape(flat, (1,) * self.rank) if keepdims else flat
        (at,) = self._axes(axis, f"arg{op}")
        result = emit(reduce.ArgReduce, op, self.value, at)
        return reshape(result, self._kept((at,))) if keepdims else result

    def _kept(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(1 if axis in axes else n for axis, n in enumerate(self.shape))

    def _axes(self, axis: Any, what: str) -> tuple[int, ...]:
        if axis is None:
            return tuple(range(self.rank))
        given = axis if isinstance(axis, tuple) else (axis,)
        for each in given:
            if not isinstance(each, int) or not -self.rank <= each < self.rank:
                raise TilecError(f"{what} along axis {each!r}: {self.type} has axes 0 to {self.rank - 1}")
        return tuple(sorted({each % self.rank for each in given}))

    def __matmul__(self, other: Tile) -> Tile:
        return dot(self, other) if isinstance(other, Tile) else NotImplemented

    def __truediv__(self, other: Operand) -> Tile:
        return _divide(self, other)

    def __rtruediv__(self, other: Operand) -> Tile:
        return _divide(other, self)

    def __pow__(self, power: Operand) -> Tile:
        """Constant powers: small whole ones by multiplication, 0.5 by sqrt."""
        if isinstance(power, float) and power == 0.5:
            return emit(arith.Sqrt, self.value)
        if not isinstance(power, int) or not 1 <= power <= 8:
            why = f"not {power!r}: write tc.exp2(y * tc.log2(x))"
            raise TilecError(f"** takes the constants 1 to 8 and 0.5, {why}")
        return prod([self] * (power - 1), start=self)

    def __neg__(self) -> Tile:
        return emit(arith.Neg, self.value)

    def __pos__(self) -> Tile:
        return self

    def __invert__(self) -> Tile:
        return emit(arith.Not, self.value)

    def __abs__(self) -> Tile:
        return emit(arith.Abs, self.value)

    def __round__(self) -> Tile:
        return emit(arith.Round, self.value)

    __add__, __radd__ = _operator(arith.Add), _operator(arith.Add, True)
    __sub__, __rsub__ = _operator(arith.Sub), _operator(arith.Sub, True)
    __mul__, __rmul__ = _operator(arith.Mul), _operator(arith.Mul, True)
    __floordiv__, __rfloordiv__ = _operator(arith.FloorDiv), _operator(arith.FloorDiv, True)
    __mod__, __rmod__ = _operator(arith.Mod), _operator(arith.Mod, True)
    __and__, __rand__ = _operator(arith.And), _operator(arith.And, True)
    __or__, __ror__ = _operator(arith.Or), _operator(arith.Or, True)
    __xor__, __rxor__ = _operator(arith.Xor), _operator(arith.Xor, True)
    __lshift__, __rlshift__ = _operator(arith.Shl), _operator(arith.Shl, True)
    __rshift__, __rrshift__ = _operator(arith.Shr), _operator(arith.Shr, True)
    __eq__ = _comparison("eq")  # type: ignore[assignment]
    __ne__ = _comparison("ne")  # type: ignore[assignment]
    __lt__, __le__ = _comparison("lt"), _comparison("le")
    __gt__, __ge__ = _comparison("gt"), _comparison("ge")


OPERANDS = (Tile, np.ndarray, *NUMBERS)


class BlockPlace(Tile):
    """A block's number on a grid of one axis: both `i = tc.blocks(n)` and `i, = tc.blocks(n)` are right."""

    __slots__ = ()

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Tile]:
        yield self

    def __getitem__(self, index: Any) -> Tile:
        if index not in (0, -1):
            raise TilecError(f"this grid has one axis: there is no block number {index}")
        return self


def emit(kind: type[Inst], *fields: Any, **attributes: Any) -> Tile:
    """An instruction that gives a tile."""
    tracer = current()
    return Tile(tracer.emit(kind, *fields, **attributes), tracer.scope)


def scalar(x: Operand, dtype: DType, what: str) -> Value:
    """A number or scalar as a scalar value of this dtype."""
    if not isinstance(x, Tile):
        if not isinstance(x, NUMBERS):
            raise TilecError(f"{what} takes a number or a scalar, found {type(x).__name__}")
        return current().constant(number(x, dtype), dtype)
    if x.shape or x.dtype != dtype:
        raise TilecError(f"{what} takes a scalar of dtype {dtype.name}, found {x.type}")
    return x.value


def scalar_bool(x: Tile, what: str) -> Value:
    """A condition: one bool for the whole block."""
    if x.shape:
        raise TilecError(
            f"{what} takes a scalar condition, found {x.type}, a tile: choose between elements with "
            "tc.where, combine with & | ~, or reduce with .any() or .all()"
        )
    if not x.dtype.is_bool:
        raise TilecError(f"{what} takes a bool, found {x.type}: compare it, as in x != 0")
    return x.value


def elementwise(kind: type[Inst], *operands: Operand) -> Tile:
    """One instruction over operands brought to one dtype (literals only) and one shape (broadcasting)."""
    return emit(kind, *unify(mnemonic(kind), operands))


def compare(op: str, a: Operand, b: Operand) -> Tile:
    """a <op> b as bool."""
    if {x.dtype for x in (a, b) if isinstance(x, Tile)} == {dt.bool} and {type(a), type(b)} & {int, float}:
        raise TilecError("a bool tile is a condition already: write x or ~x, instead of comparing it")
    return emit(arith.Compare, op, *unify(op, (a, b)))


def where(condition: Operand, a: Operand, b: Operand) -> Tile:
    """a where the bool tile holds, b elsewhere."""
    condition = table(condition) if isinstance(condition, np.ndarray) else condition
    if not isinstance(condition, Tile):
        raise TilecError(f"tc.where takes a bool tile, found {condition!r}: on constants write a if c else b")
    dtype = next((x.dtype for x in (a, b) if isinstance(x, Tile)), None)
    a, b = (table(x, dtype) if isinstance(x, np.ndarray) else x for x in (a, b))
    choices = [x for x in (a, b) if isinstance(x, Tile)]
    kind = choices[0].dtype if choices else dt.f32 if float in (type(a), type(b)) else dt.i32
    shape = broadcast_shape("where", [condition, *choices])
    return emit(arith.Where, expand(condition, shape), place(a, kind, shape), place(b, kind, shape))


def unify(name: str, operands: Sequence[Operand]) -> list[Value]:
    """Operands of one dtype (literals take the tiles') and one shape."""
    dtype = next((x.dtype for x in operands if isinstance(x, Tile)), None)
    if dtype is None:
        raise TilecError(f"{name} works on tiles, found constants: use Python's own {name} or math.{name}")
    operands = [table(x, dtype) if isinstance(x, np.ndarray) else x for x in operands]
    shape = broadcast_shape(name, [x for x in operands if isinstance(x, Tile)])
    return [place(x, dtype, shape) for x in operands]


def table(values: known.Numbers, dtype: DType | None = None) -> Tile:
    """Numbers known while compiling as a tile: of `dtype`, or of their own."""
    wanted = dtype or known.own_dtype(values)
    held = known.rounded(values, wanted)
    if held.size == 1:
        return full(held.item(), held.shape, wanted)
    return emit(arith.Table, arith.Table.of(held, wanted).codes, wanted, held.shape)


def place(x: Operand, dtype: DType, shape: tuple[int, ...]) -> Value:
    """A tile broadcast to a shape, or a literal of this dtype and shape."""
    if isinstance(x, Tile):
        return expand(x, shape)
    if isinstance(x, np.ndarray):
        return expand(table(x, dtype), shape)
    if not isinstance(x, NUMBERS):
        raise TilecError(f"expected a tile or a number, found {type(x).__name__}: {x!r}")
    tracer, value = current(), number(x, dtype)
    return tracer.emit(arith.Full, value, dtype, shape) if shape else tracer.constant(value, dtype)


def broadcast_shape(name: str, tiles: Sequence[Tile]) -> tuple[int, ...]:
    """numpy's rule: shapes meet at their last axes; extents are equal or 1."""
    if all(x.shape == tiles[0].shape for x in tiles):
        return tiles[0].shape
    rank = max(x.rank for x in tiles)
    padded = [(1,) * (rank - x.rank) + x.shape for x in tiles]
    shape = tuple(max(extents) for extents in zip(*padded, strict=True))
    if any(n not in (1, full) for each in padded for n, full in zip(each, shape, strict=True)):
        types = " and ".join(str(x.type) for x in tiles)
        raise TilecError(
            f"{name}: {types} do not broadcast: from the last axis on, extents must be equal or 1"
        )
    return shape


def expand(x: Tile, shape: tuple[int, ...]) -> Value:
    """x broadcast to a shape that it fits."""
    if x.shape == shape:
        return x.value
    if x.shape and x.rank < len(shape):
        x = reshape(x, (1,) * (len(shape) - x.rank) + x.shape)
    return x.value if x.shape == shape else current().emit(shapes.Broadcast, x.value, shape)


def reshape(x: Tile, shape: tuple[int, ...]) -> Tile:
    """The same elements under another shape; nothing where it is the same."""
    return x if x.shape == shape else emit(shapes.Reshape, x.value, shape)


def full(value: Number | Tile, shape: tuple[int, ...], dtype: DType) -> Tile:
    """A tile of one value."""
    if isinstance(value, Tile):
        return emit(shapes.Broadcast, scalar(value, dtype, "tc.full"), shape) if shape else value
    return emit(arith.Full, number(value, dtype), dtype, shape)


def dot(a: Tile, b: Tile, acc: Tile | None = None) -> Tile:
    """a @ b + acc; without an accumulator a zero one of f32 (i32 for integers, f64 for f64)."""
    for x in (a, b) if acc is None else (a, b, acc):
        if not isinstance(x, Tile):
            raise TilecError(f"dot takes tiles, found {type(x).__name__}: read a tile from the array first")
    if acc is None:
        wide = dt.i32 if a.dtype.is_integer else dt.f64 if a.dtype == dt.f64 else dt.f32
        shape = (*a.shape[:-1], b.shape[-1]) if a.rank == b.rank in (2, 3) else ()
        acc = full(0, shape, wide)
    return emit(mma.Dot, a.value, b.value, acc.value)


def _divide(a: Operand, b: Operand) -> Tile:
    if not (isinstance(a, OPERANDS) and isinstance(b, OPERANDS)):
        return NotImplemented  # type: ignore[no-any-return]
    integer = next((x.dtype for x in (a, b) if isinstance(x, Tile) and x.dtype.is_integer), None)
    if integer is not None:
        raise TilecError(
            f"/ divides floats, not {integer.name}: use // for whole numbers, or cast to a float first"
        )
    return elementwise(arith.Div, a, b)
