"""Forms are polynomials: whatever is done to them is done to their values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tilec.ir.inequalities import Atom, Atoms, Bound
from tilec.ir.linear import Form, atom_form, form, lift

monomials = st.lists(st.integers(0, 3), max_size=3).map(lambda atoms: tuple(sorted(atoms)))
forms = st.lists(st.tuples(monomials, st.integers(-9, 9)), max_size=5).map(form)
points = st.lists(st.integers(-7, 7), min_size=4, max_size=4)


def value(f: Form, point: list[int]) -> int:
    total = 0
    for monomial, coefficient in f.terms:
        for atom in monomial:
            coefficient *= point[atom]
        total += coefficient
    return total


@given(forms, forms, points)
def test_sums_and_products(f: Form, g: Form, point: list[int]) -> None:
    a, b = value(f, point), value(g, point)
    assert value(f + g, point) == a + b and value(f - g, point) == a - b
    assert value(f * g, point) == a * b and value(f * 3 - 2, point) == 3 * a - 2
    assert f - f == Form() and f + g == g + f and f * g == g * f


@given(forms, forms, points)
def test_substitution(f: Form, g: Form, point: list[int]) -> None:
    replaced = [*point[:2], value(g, point), point[3]]
    assert value(f.with_atom(2, g), point) == value(f, replaced)


@given(forms, st.integers(0, 3), points)
def test_split_is_a_factor_and_a_rest(f: Form, atom: int, point: list[int]) -> None:
    parts = f.split(atom)
    squared = any(monomial.count(atom) > 1 for monomial, _ in f.terms)
    assert (parts is None) == squared
    if parts is not None:
        factor, rest = parts
        assert f == factor * atom_form(atom) + rest and atom not in rest.atoms


@given(forms, forms)
def test_over_undoes_products_of_one_term(f: Form, g: Form) -> None:
    if len(g.terms) == 1:
        assert (f * g).over(g) == f
    quotient = f.over(g)
    assert quotient is None or quotient * g == f


@given(forms, points)
def test_the_divisor_divides(f: Form, point: list[int]) -> None:
    found = value(f, point)
    assert found % f.divisor == 0 if f.divisor else found == 0
    assert (f.constant is None) == bool(f.atoms)


@given(forms, st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 5)), min_size=4, max_size=4), st.data())
def test_ranges_and_proofs_hold_everywhere(
    f: Form, boxes: list[tuple[int, int]], data: st.DataObject
) -> None:
    atoms = Atoms()
    for low, extent in boxes:
        atoms.new(Atom("x", low, low + extent))
    low, high = atoms.range(f)
    point = [data.draw(st.integers(a, a + n)) for a, n in boxes]
    assert low <= value(f, point) <= high
    assert not atoms.never_negative(f) or value(f, point) >= 0


def test_a_bound_by_a_later_sum() -> None:
    """8 * i <= n - 1 and n = 8 * b: then i <= b - 1."""
    atoms = Atoms()
    b = atoms.new(Atom("b", 0, 100))
    i = atoms.new(Atom("i", 0, 1000, upper=(Bound(b * 8 - 1, lift(8)),)))
    assert atoms.never_negative(b - i - 1) and not atoms.never_negative(b - i - 2)
    assert atoms.range(i) == (0, 99)
    assert atoms.new(Atom("one", 1, 5, upper=(Bound(lift(1)),)), 3) == lift(3)


def test_equal_atoms_become_one() -> None:
    atoms = Atoms()
    x, y, z = (atoms.new(Atom(name, 0, 1000)) for name in "xyz")
    atoms.assume_equal(x * 4, y * 6)
    assert atoms.resolve(x * 4 - y * 6) == Form() and atoms.resolve(x).divisor == 3
    atoms.assume_equal(z, x + 1)
    assert atoms.never_negative(z - x - 1) and atoms.never_negative(x + 1 - z)


def test_text() -> None:
    f = form([((), -3), ((0,), 1), ((0, 1), 8)])
    assert f.show("ab".__getitem__) == "-3 + a + 8*a*b" and Form().show(str) == "0"
