"""Polynomials with integer coefficients over numbered unknowns, "atoms": what index arithmetic is made of.

    Form: ((), 3), ((0,), 8), ((0, 1), -1)      is 3 + 8*x0 - x0*x1
Almost all forms are linear; products come from grids such as batch * heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import gcd

Monomial = tuple[int, ...]  # the numbers of its atoms, sorted; () is the constant


@dataclass(frozen=True)
class Form:
    """A sum of coefficient * product of atoms; `terms` are sorted, none has the coefficient 0."""

    terms: tuple[tuple[Monomial, int], ...] = ()

    @property
    def constant(self) -> int | None:
        """The value of a form without atoms, else None."""
        if not self.terms:
            return 0
        monomial, coefficient = self.terms[0]
        return coefficient if not monomial and len(self.terms) == 1 else None

    @property
    def offset(self) -> int:
        """The term without atoms."""
        return self.terms[0][1] if self.terms and not self.terms[0][0] else 0

    @property
    def atoms(self) -> list[int]:
        """Its atoms, the latest first."""
        return sorted({atom for monomial, _ in self.terms for atom in monomial}, reverse=True)

    @property
    def divisor(self) -> int:
        """The largest number that divides it whatever its atoms are; 0 for the form 0."""
        return gcd(*(coefficient for _, coefficient in self.terms))

    def __add__(self, other: Form | int) -> Form:
        return form([*self.terms, *lift(other).terms])

    def __neg__(self) -> Form:
        return Form(tuple((monomial, -coefficient) for monomial, coefficient in self.terms))

    def __sub__(self, other: Form | int) -> Form:
        return self + -lift(other)

    def __mul__(self, other: Form | int) -> Form:
        if isinstance(other, int):
            return Form(tuple((m, c * other) for m, c in self.terms)) if other else Form()
        return form((tuple(sorted(m + n)), c * d) for m, c in self.terms for n, d in other.terms)

    def split(self, atom: int) -> tuple[Form, Form] | None:
        """(k, rest) with self == k * atom + rest; None where the atom is squared."""
        inside, rest = [], []
        for monomial, coefficient in self.terms:
            count = monomial.count(atom)
            if count > 1:
                return None
            if count:
                place = monomial.index(atom)
                inside.append((monomial[:place] + monomial[place + 1 :], coefficient))
            else:
                rest.append((monomial, coefficient))
        return form(inside), Form(tuple(rest))

    def with_atom(self, atom: int, value: Form) -> Form:
        """The form with another form in an atom's place."""
        total = Form()
        for monomial, coefficient in self.terms:
            term = form([(tuple(a for a in monomial if a != atom), coefficient)])
            for _ in range(monomial.count(atom)):
                term = term * value
            total = total + term
        return total

    def over(self, divisor: Form) -> Form | None:
        """The form that times `divisor`, a single term, gives this one; None where there is none."""
        if len(divisor.terms) != 1:
            return lift(1) if self == divisor else lift(-1) if self == -divisor else None
        ((by, number),) = divisor.terms
        found = []
        for monomial, coefficient in self.terms:
            rest = _without(monomial, by)
            if rest is None or coefficient % number:
                return None
            found.append((rest, coefficient // number))
        return form(found)

    def show(self, name: Callable[[int], str]) -> str:
        """Text, with the names of the atoms."""
        words = ["*".join([*([str(c)] if c != 1 or not m else []), *map(name, m)]) for m, c in self.terms]
        return " + ".join(words) or "0"


def _without(monomial: Monomial, by: Monomial) -> Monomial | None:
    left = list(monomial)
    for atom in by:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


def form(terms: Iterable[tuple[Monomial, int]]) -> Form:
    """The sum of any terms."""
    total: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, 0) + coefficient
    return Form(tuple(sorted((m, c) for m, c in total.items() if c)))


def lift(value: Form | int) -> Form:
    """An integer as a form."""
    return value if isinstance(value, Form) else Form((((), value),) if value else ())


def atom_form(number: int, coefficient: int = 1) -> Form:
    """coefficient * atom."""
    return Form((((number,), coefficient),))
