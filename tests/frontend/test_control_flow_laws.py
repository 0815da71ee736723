"""A law: a kernel of scalars does what Python does. Random programs of loops, branches and assignments run
twice, as a kernel on the reference and by Python itself, with Python's own loops for those of run time.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import tilec as tc
from tests.frontend.test_errors import build

NAMES = ("a", "b", "c", "d")
names = st.sampled_from(NAMES)
operands = st.one_of(names, st.integers(-3, 5).map(str), st.just("n"))
sums = st.tuples(operands, st.sampled_from(["+", "-", "*"]), operands).map(" ".join)
values = sums.map(lambda text: f"({text}) % 97")
conditions = st.one_of(
    st.tuples(operands, st.sampled_from(["<", ">", "==", "!=", "<="]), operands).map(" ".join),
    st.tuples(operands, operands, operands).map(lambda t: f"{t[0]} < {t[1]} <= {t[2]}"),
    st.tuples(operands, operands).map(lambda t: f"not {t[0]} > 1 or {t[1]} < 2"),
)
assignments = st.one_of(
    st.tuples(names, values).map(lambda t: f"{t[0]} = {t[1]}"),
    st.tuples(names, operands).map(lambda t: f"{t[0]} += {t[1]}"),
    st.tuples(names, names).map(lambda t: f"{t[0]}, {t[1]} = {t[1]}, {t[0]}"),
    st.tuples(names, operands, conditions, operands).map(lambda t: f"{t[0]} = {t[1]} if {t[2]} else {t[3]}"),
    st.tuples(names, operands).map(lambda t: f"{t[0]} = mixed({t[1]}, n)"),
)


def indented(lines: list[str]) -> str:
    return textwrap.indent("\n".join(lines), "    ")


def counted_while(condition: str, body: str) -> str:
    """A while loop that ends: its counter is none of the loops inside."""
    left = f"left{body.count('while')}"
    return f"{left} = 3\nwhile {left} > 0 and ({condition}):\n    {left} = {left} - 1\n{body}"


def passes(bodies: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Bodies of loops: they may be left in their middle, from a branch or from one in a branch."""
    ways = st.sampled_from(["break", "continue"])
    return st.one_of(
        bodies,
        st.tuples(bodies, conditions, ways, bodies).map(lambda t: f"{t[0]}\n    if {t[1]}: {t[2]}\n{t[3]}"),
        st.tuples(conditions, bodies, ways, conditions, ways, bodies).map(
            lambda t: f"    if {t[0]}:\n{indented([t[1]])}\n        {t[2]}\n    elif {t[3]}: {t[4]}\n{t[5]}"
        ),
        st.tuples(conditions, conditions, ways, bodies, bodies).map(
            lambda t: f"    if {t[0]}:\n        if {t[1]}: {t[2]}\n{indented([t[3]])}\n{t[4]}"
        ),
    )


def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    bodies = st.lists(inner, min_size=1, max_size=3).map(indented)
    turns = passes(bodies)
    return st.one_of(
        st.tuples(conditions, bodies).map(lambda t: f"if {t[0]}:\n{t[1]}"),
        st.tuples(conditions, bodies, bodies).map(lambda t: f"if {t[0]}:\n{t[1]}\nelse:\n{t[2]}"),
        st.tuples(st.integers(0, 3), turns).map(lambda t: f"for s in run_time({t[0]}):\n{t[1]}"),
        st.tuples(names, turns).map(lambda t: f"for {t[0]} in run_time(1, n, 2):\n{t[1]}"),
        st.tuples(st.integers(0, 3), names, turns).map(
            lambda t: f"for u in range({t[0]}):\n    if u == 2: continue\n    {t[1]} += u\n{t[2]}"
        ),
        st.tuples(conditions, turns).map(lambda t: counted_while(*t)),
    )


statements = st.recursive(assignments, compound, max_leaves=8)
ends = conditions.map(lambda text: f"if {text}: return")
programs = st.lists(st.one_of(statements, statements, ends), min_size=1, max_size=4)


def mixed(x: Any, n: Any) -> Any:
    """A helper with branches of its own."""
    result = x
    if n > x:
        result = x + 1
    if result == n + 1:
        return n
    if x > 4:
        if n > 2:
            return x * n
        result = result - n
    return result


@given(body=programs, n=st.integers(0, 6))
def test_kernels_do_what_python_does(body: list[str], n: int) -> None:
    text = indented(["a, b, c, d = 0, 1, n, 2", *body])
    head = "@tc.kernel\ndef f(out: tc.Array, n: tc.i32):"
    tail = "    for i, x in enumerate((a, b, c, d)): out.store(i, x)"
    kernel = build(f"{head}\n{text}\n{tail}", mixed=mixed, run_time=tc.range)
    python = build(f"def f(n):\n{text}\n    return a, b, c, d", mixed=mixed, run_time=range)
    out = np.full(4, 99, np.int32)
    kernel.meaning(out, n)
    assert tuple(out) == (python(n) or (99, 99, 99, 99)), text
