"""Layouts as text, formulas and pictures."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ir.layout_cases import layouts
from tilec.ir import dtype as dt
from tilec.ir.draw import draw, formula, parse
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout, local, register, spatial
from tilec.ir.layouts import blocked, mma_b
from tilec.ir.memory_layout import row_major
from tilec.ir.swizzle import Swizzle


@given(layouts())
def test_text_reads_back(layout: Layout) -> None:
    assert parse(str(layout)) == layout


def test_text_by_hand() -> None:
    c = spatial(8, 4) * local(1, 2)
    assert str(c) == "{[8, 8] thread 8:1,0 4:0,2; slot 2:0,1}"
    swizzled = row_major((8, 64), Swizzle(3, 4, 3))
    assert str(swizzled) == "{[512] 0 8:64; 1 64:1 ^ 3,4,3}"
    for layout in (c, swizzled, blocked((), 128), local(), mma_b(dt.f16, (64, 64), 4).bytes(dt.u3)):
        assert parse(str(layout)) == layout


@pytest.mark.parametrize(
    "text", ["", "spatial(8, 4)", "{[8] thread 8:1; slot", "[8] thread 8:1", "{[8] thread 8:1 ^ 3}"]
)
def test_other_text_is_no_layout(text: str) -> None:
    with pytest.raises(TilecError, match=r"no layout: .*; one looks like"):
        parse(text)


@given(layouts(), st.data())
def test_formulas_are_the_function(layout: Layout, data: st.DataObject) -> None:
    thread = data.draw(st.integers(0, layout.threads - 1))
    slot = data.draw(st.integers(0, layout.slots - 1))
    at = {str(s): s for expression in layout.formula() for s in expression.free_symbols}
    known = {symbol: {"thread": thread, "slot": slot}[name] for name, symbol in at.items()}
    assert tuple(int(e.subs(known)) for e in layout.formula()) == layout.at(thread, slot)


def test_formulas_by_hand() -> None:
    c = spatial(8, 4) * local(1, 2)
    assert [str(e) for e in formula(c)] == ["floor(thread/4)", "slot + 2*(Mod(thread, 4))"]
    assert str(formula(row_major((8, 64), Swizzle(3, 4, 3)))[0]) == "swizzle_3_4_3(64*x0 + x1)"
    assert str(formula(row_major((8, 64)))[0]) == "64*x0 + x1"
    assert formula(local()) == ()


def cells(layout: Layout) -> list[tuple[str, str, str]]:
    """(label, colour, holders) of every cell, in the order of the picture."""
    root = ET.fromstring(draw(layout))
    space = "{http://www.w3.org/2000/svg}"
    found = []
    for group in root.iter(f"{space}g"):
        parts = {part.tag.removeprefix(space): part for part in group}
        if "rect" in parts:
            found.append((parts["text"].text or "", parts["rect"].get("fill", ""), parts["title"].text or ""))
    return found


@given(layouts())
def test_pictures_show_the_owner_of_every_element(layout: Layout) -> None:
    if layout.size > 256:
        return
    labels = [label for label, _, _ in cells(layout)]
    owners = layout.section().ravel().tolist()
    assert labels == [f"{o // layout.slots}:{o % layout.slots}" if o >= 0 else "" for o in owners]


def test_pictures_by_hand() -> None:
    shown = cells(register((6,), spatial(2).replicated(2).digits("thread"), local(2).digits("slot")))
    assert [label for label, _, _ in shown] == ["0:0", "0:1", "1:1", "", "", ""]
    assert shown[1][2] == "0:1 1:0 2:1 3:0", "all holders"
    assert shown[3][1] == "#ccc" and shown[0][1] == shown[1][1] != shown[2][1], "a colour for each thread"
    assert len(cells(local())) == 1 and len(cells(local(2, 3, 4))) == 24
    assert 'width="176"' in draw(local(2, 3, 4)) and local(2, 3, 4).draw() == draw(local(2, 3, 4))
