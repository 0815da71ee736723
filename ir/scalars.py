"""What each instruction on integer scalars does to forms: the rules that tilec.ir.facts looks up.

A rule gets the facts, the instruction, and the forms of its integer operands; it gives the form of the
result.
    add: f + g where that cannot wrap
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tilec.ir.func import Item, Value
from tilec.ir.inequalities import Bound
from tilec.ir.inst import arith
from tilec.ir.linear import Form, lift

if TYPE_CHECKING:
    from tilec.ir.facts import Facts

Rule = Callable[["Facts", Any, list[Form]], Form]


def _full(facts: Facts, v: Any, known: list[Form]) -> Form:
    return lift(int(v.value))


def _add(facts: Facts, v: Any, known: list[Form]) -> Form:
    return facts.exactly(v, known[0] + known[1])


def _sub(facts: Facts, v: Any, known: list[Form]) -> Form:
    return facts.exactly(v, known[0] - known[1])


def _mul(facts: Facts, v: Any, known: list[Form]) -> Form:
    return facts.exactly(v, known[0] * known[1])


def _neg(facts: Facts, v: Any, known: list[Form]) -> Form:
    return facts.exactly(v, -known[0])


def _same(facts: Facts, v: Any, known: list[Form]) -> Form:
    """Casts between integers; from bool and floats nothing is known but the dtype."""
    return facts.exactly(v, known[0]) if known else facts.unknown(v)


def _floordiv(facts: Facts, v: Any, known: list[Form]) -> Form:
    """Exact for divisors that are at least 1. x // 0 is 0, so a divisor of 0 still leaves 0 <= x //
    y <= x.
    """
    a, b = known
    if facts.atoms.range(b)[0] >= 1:
        return facts.divided(a, b)
    if facts.atoms.range(b)[0] >= 0 and facts.atoms.range(a)[0] >= 0:
        return facts.unknown(v, "quotient", lower=(Bound(Form()),), upper=(Bound(a),))
    return facts.unknown(v, "quotient")


def _mod(facts: Facts, v: Any, known: list[Form]) -> Form:
    a, b = known
    return facts.remainder(a, b) if facts.atoms.range(b)[0] >= 1 else facts.unknown(v, "remainder")


def _shl(facts: Facts, v: Any, known: list[Form]) -> Form:
    by = known[1].constant
    if by is None or not 0 <= by < v.tile.dtype.bits:
        return facts.unknown(v)
    return facts.exactly(v, known[0] * (1 << by))


def _shr(facts: Facts, v: Any, known: list[Form]) -> Form:
    by = known[1].constant
    if by is None or not 0 <= by < v.tile.dtype.bits:
        return facts.unknown(v)
    return facts.divided(known[0], lift(1 << by))


def _and(facts: Facts, v: Any, known: list[Form]) -> Form:
    """x & (2^k - 1) is x % 2^k; x & c lies in 0 .. c for any constant c that is not negative."""
    for x, mask in (known, known[::-1]):
        most = mask.constant
        if most is None or most < 0:
            continue
        if most & (most + 1) == 0:
            return facts.remainder(x, lift(most + 1))
        return facts.unknown(v, "masked", lower=(Bound(Form()),), upper=(Bound(lift(most)),))
    return facts.unknown(v)


def _minimum(facts: Facts, v: Any, known: list[Form]) -> Form:
    a, b = known
    for x, y in ((a, b), (b, a)):
        if facts.atoms.never_negative(y - x):
            return x
    return facts.unknown(v, "minimum", upper=(Bound(a), Bound(b)), cases=(a, b))


def _maximum(facts: Facts, v: Any, known: list[Form]) -> Form:
    a, b = known
    for x, y in ((a, b), (b, a)):
        if facts.atoms.never_negative(x - y):
            return x
    return facts.unknown(v, "maximum", lower=(Bound(a), Bound(b)), cases=(a, b))


def _abs(facts: Facts, v: Any, known: list[Form]) -> Form:
    """The least integer stays itself."""
    if facts.atoms.never_negative(known[0]):
        return known[0]
    if not facts.atoms.never_negative(known[0] - int(v.tile.dtype.min) - 1):
        return facts.unknown(v)
    cases = (known[0], -known[0])
    return facts.unknown(v, "magnitude", lower=(Bound(Form()), *map(Bound, cases)), cases=cases)


def _either(facts: Facts, v: Any, known: list[Form]) -> Form:
    """One of two values, by a condition that nobody knows."""
    if len(known) != 2:
        return facts.unknown(v)
    return known[0] if known[0] == known[1] else facts.unknown(v, "either", cases=tuple(known))


RULES: dict[type[Value], Rule] = {
    arith.Full: _full, arith.Add: _add, arith.Sub: _sub, arith.Mul: _mul, arith.Neg: _neg, arith.Cast: _same,
    arith.FloorDiv: _floordiv, arith.Mod: _mod, arith.Shl: _shl, arith.Shr: _shr, arith.And: _and,
    arith.Minimum: _minimum, arith.Maximum: _maximum, arith.Abs: _abs, arith.Where: _either, Item: _either,
}  # fmt: skip
