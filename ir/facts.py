"""What is known of integer scalars before a kernel runs: divisors, ranges, accesses that stay inside.

    facts = analyse(func);  facts.multiple(v);  facts.range(v);  facts.inside(array, axis, at, extent)
Extents, block numbers and loop indices are atoms, arithmetic on them makes forms (tilec.ir.linear), and
questions are inequalities between forms (tilec.ir.inequalities).

Sound for every launch that gets as far as a block: `Require`s at the top of the kernel hold, extents lie in
0 .. 2^31 - 1, and no extent of the grid is 0. Nothing is assumed about wrapping: where a sum or product may
leave its dtype, the wrapped value is an atom that is at most the exact value (if that cannot fall below the
dtype's least) and at least the exact value (if that cannot exceed the largest). Hence cdiv(m, c) * c >= m is
not believed for m near 2^31, while i < cdiv(m, c), and c * i < m from it, always hold.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd, lcm

from tilec.ir.func import Arg, Func, Inst, Item, Value
from tilec.ir.inequalities import Atom, Atoms, Bound, Range
from tilec.ir.inst.arith import And, Compare, Mod
from tilec.ir.inst.control import For, If
from tilec.ir.inst.memory import ArraySlice, Size
from tilec.ir.inst.sync import BlockIndex, Require
from tilec.ir.linear import Form, lift
from tilec.ir.scalars import RULES
from tilec.ir.tile import ArrayType, Dim, TileType, multiple_of

LARGEST_EXTENT = 2**31 - 1


def analyse(func: Func) -> Facts:
    """The facts of a function, computed as they are asked for."""
    return Facts(func)


class Facts:
    """Answers about one function. False and small divisors say only that nothing better is known."""

    def __init__(self, func: Func) -> None:
        self.atoms = Atoms()
        self.loops: dict[Value, For] = {i.body.args[0]: i for i in func.walk() if isinstance(i, For)}
        self._forms: dict[Value, Form] = {}
        self._extents: dict[tuple[Value, int], Form] = {}
        self._shared: dict[tuple[object, ...], Form] = {}
        self._dims(func)
        for inst in func.body.body:
            if isinstance(inst, Require):
                self._require(inst.condition)
        self._forms.clear()  # what stood for equal things is now written alike
        for extent in func.grid:
            self.atoms.assume_positive(self.linear(extent))

    # Questions.

    def linear(self, v: Value) -> Form:
        """The exact value of an integer scalar as a form of atoms."""
        if v not in self._forms:
            self._compute(v)
        return self.atoms.resolve(self._forms[v])

    def multiple(self, v: Value) -> int:
        """A divisor of an integer scalar; 0 for the constant 0."""
        return self.linear(v).divisor

    def range(self, v: Value) -> Range:
        """(low, high), both inclusive."""
        return self.atoms.range(self.linear(v))

    def constant(self, v: Value) -> int | None:
        """The value of an integer scalar that is the same in every launch."""
        return self.linear(v).constant if is_integer(v) else None

    def proves_le(self, a: Value | int, b: Value | int) -> bool:
        """Whether a <= b always."""
        return self.atoms.never_negative(self._lift(b) - self._lift(a))

    def inside(self, array: Value, axis: int, at: Value | int, extent: int) -> bool:
        """Whether at .. at + extent - 1 lies within the array's axis: 0 <= at and at + extent <=
        its extent.
        """
        start = self._lift(at)
        last = self.extent(array, axis) - start - extent
        return self.atoms.never_negative(last) and self.atoms.never_negative(start)

    def align(self, array: Value) -> int:
        """Bytes that divide the address of the array's first element; 0 if it may lie within a byte."""
        bits = self._align_bits(array)
        return bits // 8 if bits % 8 == 0 else 0

    def stride_multiple(self, array: Value, axis: int) -> int:
        """A divisor of the stride (elements) of one axis."""
        return multiple_of(array.array_type.strides[axis])

    def extent_multiple(self, array: Value, axis: int) -> int:
        """A divisor of the extent of one axis."""
        return self.extent(array, axis).divisor

    def show(self, form: Form) -> str:
        """A form with the names of its atoms."""
        return form.show(self.atoms.name)

    # Arrays.

    def extent(self, array: Value, axis: int) -> Form:
        """The extent of an array or view along one axis, as a form."""
        if (array, axis) not in self._extents:
            view = isinstance(array, ArraySlice)
            found = self._view_extent(array, axis) if view else self._root_extent(array, axis)  # type: ignore[arg-type]
            self._extents[array, axis] = found
        return self.atoms.resolve(self._extents[array, axis])

    def _dims(self, func: Func) -> None:
        """One atom per name of an extent, whose multiples become coefficients."""
        arrays = [p.type for p in func.params if isinstance(p.type, ArrayType)]
        multiples: dict[str, int] = {}
        for dim in (n for array in arrays for n in array.shape if isinstance(n, Dim)):
            multiples[dim.name] = lcm(multiples.get(dim.name, 1), dim.multiple)
        for name, by in multiples.items():
            shown = name if by == 1 else f"{name}/{by}"
            self._shared["dim", name] = self.atoms.new(Atom(shown, 0, LARGEST_EXTENT // by), by)

    def _root_extent(self, array: Value, axis: int) -> Form:
        extent = array.array_type.shape[axis]
        if isinstance(extent, int):
            return lift(extent)
        if ("dim", extent.name) in self._shared:
            return self._shared["dim", extent.name]
        return self.atoms.new(Atom(extent.name, 0, LARGEST_EXTENT // extent.multiple), extent.multiple)

    def _view_extent(self, view: ArraySlice, kept: int) -> Form:
        """ceil((stop - start) / step) where start and stop lie inside, at least that where a bound is
        proven. Clipped, both stay multiples of what divides them and the whole.
        """
        axis = [a for a in range(view.array.array_type.rank) if a not in view.dropped][kept]
        whole, step = self.extent(view.array, axis), view.steps[axis]
        start, stop = self._slice(view, axis, whole)
        shown = f"extent({view.array_type.shape[kept]})"
        length, negative = stop - start, self.atoms.never_negative
        starts, stops = negative(start), negative(whole - stop)
        by = (gcd(start.divisor, stop.divisor, whole.divisor) if step == 1 else 1) or 1
        most = self.atoms.range(whole)[1] // by
        if not all(self._picks(view, dropped) for dropped in view.dropped):
            return self.atoms.new(Atom(shown, 0, most), by)
        if starts and stops and negative(length):
            return self.divided(length + (step - 1), lift(step))
        lower = (Bound(length, lift(step * by)),) if starts and stops else ()
        return self.atoms.new(Atom(shown, 0, most, lower), by)

    def _slice(self, view: ArraySlice, axis: int, whole: Form) -> tuple[Form, Form]:
        start, stop = view.starts[axis], view.stops[axis]
        return (lift(0) if start is None else self.linear(start)), (
            whole if stop is None else self.linear(stop)
        )

    def _picks(self, view: ArraySlice, axis: int) -> bool:
        """Whether the index of a dropped axis lies inside, so that the view is not empty."""
        whole = self.extent(view.array, axis)
        start, stop = self._slice(view, axis, whole)
        return all(self.atoms.never_negative(f) for f in (start, whole - start - 1, stop - start - 1))

    def _align_bits(self, array: Value) -> int:
        kind = array.array_type
        if not isinstance(array, ArraySlice):
            return kind.align * 8
        bits, parent = self._align_bits(array.array), array.array.array_type
        width = kind.dtype.bits if kind.packed else -(-kind.dtype.bits // 8) * 8
        for start, stride in zip(array.starts, parent.strides, strict=True):
            if start is not None:  # clipped to 0, or beyond the end, where nothing is read
                bits = gcd(bits, self.multiple(start) * multiple_of(stride) * width)
        return bits

    # Values.

    def divided(self, a: Form, b: Form) -> Form:
        """floor(a / b) for b at least 1; the quotient of the same forms is the same atom."""
        by = b.constant
        if by is None and (exact := a.over(b)) is not None:
            return exact
        whole, rest = _multiples_of(a, by) if by is not None else (lift(0), a)
        low, high = self.atoms.range(rest)
        if low >= 0 and high < self.atoms.range(b)[0]:
            return whole
        key = ("div", rest, b)
        if key not in self._shared:
            lower, upper = (Bound(rest - b + 1, b),), (Bound(rest, b),)
            name = f"({self.show(rest)} // {self.show(b)})"
            self._shared[key] = self.atoms.new(Atom(name, min(low, 0), max(high, 0), lower, upper))
        return whole + self._shared[key]

    def remainder(self, a: Form, b: Form) -> Form:
        """a - b * floor(a / b) for b at least 1: an atom that also knows its range."""
        exact = a - b * self.divided(a, b)
        low, high = self.atoms.range(exact)
        if low >= 0 and high < self.atoms.range(b)[0]:
            return exact
        key = ("mod", exact, b)
        if key not in self._shared:
            by = exact.divisor or 1
            lower, upper = (
                tuple(Bound(f, lift(by)) for f in pair) for pair in ((lift(0), exact), (b - 1, exact))
            )
            name = f"({self.show(a)} % {self.show(b)})"
            highest = (self.atoms.range(b)[1] - 1) // by
            self._shared[key] = self.atoms.new(Atom(name, 0, highest, lower, upper), by)
        return self._shared[key]

    def exactly(self, v: Value, form: Form) -> Form:
        """The value of an instruction whose exact result is `form`: the form, or an atom where it
        may wrap.
        """
        dtype = v.tile.dtype
        least, most = int(dtype.min), int(dtype.max)
        low, high = self.atoms.range(form)
        above = low >= least or self.atoms.never_negative(form - least)
        below = high <= most or self.atoms.never_negative(lift(most) - form)
        if above and below:
            return form
        by = gcd(form.divisor, 1 << dtype.bits)  # wrapping keeps divisors that are powers of two
        lower = (Bound(form, lift(by)),) if below else ()
        upper = (Bound(form, lift(by)),) if above else ()
        return self.atoms.new(Atom(f"wrap({self.show(form)})", -(-least // by), most // by, lower, upper), by)

    def unknown(self, v: Value, name: str = "v", **known: tuple[object, ...]) -> Form:
        """An atom of its dtype's range."""
        dtype = v.tile.dtype
        low, high = (0, 1) if dtype.is_bool else (int(dtype.min), int(dtype.max))
        return self.atoms.new(Atom(name, low, high, **known))  # type: ignore[arg-type]

    def _compute(self, v: Value) -> None:
        """Forms of a value and of what it is made of, operands first (chains are long)."""
        assert is_integer(v), f"facts are about integer scalars, not {v.type}"
        todo = [v]
        while todo:
            top = todo[-1]
            missing = [] if top in self._forms else [o for o in self._inputs(top) if o not in self._forms]
            if missing:
                todo += missing
            else:
                todo.pop()
                self._forms.setdefault(top, Form())
                self._forms[top] = self._form(top)

    def _inputs(self, v: Value) -> list[Value]:
        if v in self.loops:
            loop = self.loops[v]
            return [loop.start, loop.stop, loop.step]
        if isinstance(v, Item) and isinstance(v.source, If):
            return [v.source.then.results[v.index], v.source.orelse.results[v.index]]
        return [o for o in v.operands if is_integer(o)] if isinstance(v, Inst) else []

    def _form(self, v: Value) -> Form:
        rule: Callable[[Facts, Value, list[Form]], Form] | None = RULES.get(type(v))
        known = [self._forms[o] for o in self._inputs(v)]
        if v in self.loops:
            return self._index(v, *known)
        if isinstance(v, Size):
            return self.extent(v.array, v.axis)
        if isinstance(v, BlockIndex):
            return self._block(v, known)
        return rule(self, v, known) if rule else self.unknown(v, v.name if isinstance(v, Arg) else "v")

    def _block(self, v: BlockIndex, grid: list[Form]) -> Form:
        key = ("block", v.axis)
        if key not in self._shared:
            upper = (Bound(grid[v.axis] - 1),)
            self._shared[key] = self.atoms.new(Atom(f"block{v.axis}", 0, LARGEST_EXTENT, upper=upper))
        return self._shared[key]

    def _index(self, v: Value, start: Form, stop: Form, step: Form) -> Form:
        """start + step * t, where t counts rounds: step * t <= stop - 1 - start."""
        if self.atoms.range(step)[0] < 1:
            return self.unknown(v, "index")
        upper = (Bound(stop - 1 - start, step),)
        return start + step * self.atoms.new(Atom("round", 0, 2**64, upper=upper))

    def _lift(self, v: Value | int) -> Form:
        return lift(v) if isinstance(v, int) else self.linear(v)

    # Requirements.

    def _require(self, condition: Value) -> None:
        match condition:
            case And(a, b):
                self._require(a)
                self._require(b)
            case Compare("eq", Mod(a, b), c) if is_integer(a) and (self.constant(b) or 0) > 0:
                by = self.linear(b)
                self.atoms.assume_equal(
                    self.linear(a) - by * self.divided(self.linear(a), by), self.linear(c)
                )
            case Compare(op, a, b) if is_integer(a):
                self._compare(op, self.linear(a), self.linear(b))

    def _compare(self, op: str, a: Form, b: Form) -> None:
        match op:
            case "eq":
                self.atoms.assume_equal(a, b)
            case "le" | "lt":
                self.atoms.assume(b - a - (op == "lt"))
            case "ge" | "gt":
                self.atoms.assume(a - b - (op == "gt"))


def is_integer(v: Value) -> bool:
    """Whether facts speak of a value: integers of rank 0."""
    return isinstance(v.type, TileType) and v.type.rank == 0 and v.type.dtype.is_integer


def _multiples_of(a: Form, by: int) -> tuple[Form, Form]:
    """a as by * whole + rest, with an offset of rest in 0 .. by - 1."""
    whole = Form(tuple((m, c // by) for m, c in a.terms if m and c % by == 0)) + a.offset // by
    return whole, a - whole * by
