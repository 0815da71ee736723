"""What is known of atoms, and proofs that a form of them is never negative.

An atom has a numeric range, and bounds that are forms of atoms known before it:  divisor * atom <= form.
    i <= g - 1,  128*g <= m + 127,  m = 128*b      prove  m - 128*i - 128 >= 0
A proof replaces one atom after another, the latest first, by the bound that makes the form smallest, and
ends where ranges alone decide. Divisions need no rounding: over the integers, F >= 0 if d*F > -d.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd

from tilec.ir.linear import Form, atom_form, lift

STEPS = 100  # of one proof; those that succeed take fewer than ten
Range = tuple[int, int]


@dataclass(frozen=True)
class Bound:
    """divisor * atom <= form (or >= form), where the divisor is at least 1."""

    form: Form
    divisor: Form = field(default_factory=lambda: lift(1))


@dataclass
class Atom:
    """An unknown integer: its name, range and bounds. `cases`: it equals one of these forms."""

    name: str
    low: int
    high: int
    lower: tuple[Bound, ...] = ()
    upper: tuple[Bound, ...] = ()
    cases: tuple[Form, ...] = ()


class Atoms:
    """All unknowns of a function, with everything that is known of them. Facts are only ever added."""

    def __init__(self) -> None:
        self.table: list[Atom] = []
        self.equal: dict[int, Form] = {}
        self._proofs: dict[Form, bool] = {}

    def new(self, atom: Atom, scale: int = 1) -> Form:
        """scale * a new atom, whose range its bounds may narrow; a number if only one is left."""
        for bound in atom.lower:
            atom.low = max(atom.low, _quotient(self.range(bound.form), self.range(bound.divisor))[0])
        for bound in atom.upper:
            atom.high = min(atom.high, _quotient(self.range(bound.form), self.range(bound.divisor))[1])
        if atom.cases:
            ranges = [self.range(case) for case in atom.cases]
            atom.low = max(atom.low, min(low for low, _ in ranges))
            atom.high = min(atom.high, max(high for _, high in ranges))
        if atom.low == atom.high:
            return lift(atom.low * scale)
        self.table.append(atom)
        return atom_form(len(self.table) - 1, scale)

    def name(self, number: int) -> str:
        return self.table[number].name

    def resolve(self, form: Form) -> Form:
        """The form with what is known to be equal in its place."""
        while self.equal and (known := [atom for atom in form.atoms if atom in self.equal]):
            form = form.with_atom(known[0], self.equal[known[0]])
        return form

    def range(self, form: Form) -> Range:
        """The least and the largest value that the ranges of its atoms allow."""
        low = high = 0
        for monomial, coefficient in self.resolve(form).terms:
            at = (coefficient, coefficient)
            for atom in monomial:
                at = times(at, (self.table[atom].low, self.table[atom].high))
            low, high = low + at[0], high + at[1]
        return low, high

    # Proofs.

    def never_negative(self, form: Form) -> bool:
        """Whether form >= 0 is proven. False says nothing."""
        if form not in self._proofs:
            self._proofs[form] = self._prove(form, [STEPS])
        return self._proofs[form]

    def _prove(self, form: Form, steps: list[int]) -> bool:
        form = _reduced(self.resolve(form))
        if self.range(form)[0] >= 0:
            return True
        for number in form.atoms:
            if steps[0] <= 0:
                return False
            ways = self._without(form, number)
            if ways is not None:
                steps[0] -= 1
                return any(all(self._prove(goal, steps) for goal in way) for way in ways)
        return False

    def _without(self, form: Form, number: int) -> list[list[Form]] | None:
        """Ways to prove the form without this atom, each a list of goals; None where no bound fits."""
        atom, parts = self.table[number], form.split(number)
        if parts is None:
            return None
        factor, rest = parts
        low, high = self.range(factor)
        if low < 0 < high:
            return None
        bounds = atom.lower if low >= 0 else atom.upper
        if bounds:
            return [[_smallest(factor, rest, bound)] for bound in bounds]
        return [[form.with_atom(number, case) for case in atom.cases]] if atom.cases else None

    # Facts.

    def assume(self, form: Form) -> None:
        """form >= 0 is true: a bound for its latest atom, and ranges for all."""
        form = self.resolve(form)
        for place, number in enumerate(form.atoms):
            parts = form.split(number)
            factor = parts and parts[0].constant
            if parts and factor:
                self._bound(number, factor, parts[1], keep=place == 0)
        self._proofs.clear()

    def _bound(self, number: int, factor: int, rest: Form, keep: bool) -> None:
        """factor * atom + rest >= 0."""
        atom, most = self.table[number], self.range(rest)[1]
        if factor > 0:
            atom.low = max(atom.low, -(most // factor))
            atom.lower += (Bound(-rest, lift(factor)),) if keep else ()
        else:
            atom.high = min(atom.high, most // -factor)
            atom.upper += (Bound(rest, lift(-factor)),) if keep else ()

    def assume_positive(self, form: Form) -> None:
        """form >= 1 is true: so is every factor of a product of what is never negative, and so are upper
        bounds.
        """
        form = self.resolve(form)
        unknown = [(monomial, c) for monomial, c in form.terms if monomial]
        if len(unknown) != 1:
            self.assume(form - 1)
            return
        ((monomial, factor),) = unknown
        if len(monomial) == 1:
            self._at_least(monomial[0], factor, 1 - form.offset)
        elif factor > 0 and form.offset <= 0 and all(self.table[a].low >= 0 for a in monomial):
            for atom in monomial:
                self._at_least(atom, 1, 1)
        self._proofs.clear()

    def _at_least(self, number: int, factor: int, value: int) -> None:
        """factor * atom >= value."""
        atom = self.table[number]
        if factor < 0:
            atom.high = min(atom.high, -value // -factor)
            return
        least = -(-value // factor)
        if least > atom.low:
            atom.low = least
            for bound in atom.upper:
                self.assume_positive(bound.form - bound.divisor * least + 1)

    def assume_equal(self, a: Form, b: Form) -> None:
        """a == b is true: one atom becomes a form of the others, or two become multiples of a new one."""
        difference = _reduced_equation(self.resolve(a - b))
        singles = [(m[0], c) for m, c in difference.terms if len(m) == 1]
        if len(singles) == len(difference.terms) == 2 and singles[0][1] * singles[1][1] < 0:
            self._multiples(singles)
            return
        for number in difference.atoms:
            parts = difference.split(number)
            factor = parts and parts[0].constant
            if parts and factor in (1, -1):
                self._replace(number, parts[1] * -factor)
                return
        self.assume(difference)
        self.assume(-difference)

    def _multiples(self, singles: list[tuple[int, int]]) -> None:
        """c*x == d*y with coprime c and d: x = d*t, y = c*t."""
        (x, c), (y, d) = singles
        c, d = abs(c), abs(d)
        low = max(-(-self.table[x].low // d), -(-self.table[y].low // c))
        high = min(self.table[x].high // d, self.table[y].high // c)
        shorter = min(self.table[x].name, self.table[y].name, key=len)
        t = self.new(Atom(shorter if c == d == 1 else f"{shorter}/", low, high))
        self._replace(x, t * d)
        self._replace(y, t * c)

    def _replace(self, number: int, form: Form) -> None:
        atom = self.table[number]
        self.equal[number] = form
        self.assume(form - atom.low)
        self.assume(lift(atom.high) - form)


def times(a: Range, b: Range) -> Range:
    """The range of a product."""
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)


def _quotient(a: Range, b: Range) -> Range:
    """The range of ceil(a / b) to floor(a / b), b at least 1."""
    corners = [(-(-x // y), x // y) for x in a for y in (max(1, b[0]), max(1, b[1]))]
    return min(low for low, _ in corners), max(high for _, high in corners)


def _reduced(form: Form) -> Form:
    """g*F + c >= 0 is F + floor(c / g) >= 0."""
    divisor = gcd(*(c for monomial, c in form.terms if monomial))
    if divisor <= 1:
        return form
    whole = Form(tuple((m, c // divisor) for m, c in form.terms if m))
    return whole + form.offset // divisor


def _reduced_equation(form: Form) -> Form:
    divisor = form.divisor
    return Form(tuple((m, c // divisor) for m, c in form.terms)) if divisor > 1 else form


def _smallest(factor: Form, rest: Form, bound: Bound) -> Form:
    """A form that is never negative only where factor * atom + rest is not, the atom standing at
    its bound.
    """
    share = factor.over(bound.divisor)
    if share is not None:
        return share * bound.form + rest
    return factor * bound.form + bound.divisor * rest + bound.divisor - 1
