"""The reference pages say what the docstrings say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tilec import reference
from tilec.__main__ import main

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "reference"
TOLD = reference.pages()


def test_the_pages_are_up_to_date() -> None:
    there = {path.name: path.read_text() for path in PAGES.glob("*.md")}
    stale = sorted(name for name in there.keys() | TOLD.keys() if there.get(name) != TOLD.get(name))
    assert not stale, f"run `tilec docs docs/reference`: {stale} differ from the docstrings"


@pytest.mark.parametrize("name", TOLD)
def test_a_page(name: str) -> None:
    """Python that parses, links that lead somewhere, something said."""
    text = TOLD[name]
    signatures = r"(^#+ .*\n\n```python\n)(?:tc\.|ops\.)?(\w+\(.*)$"
    defined = re.sub(signatures, r"\1def \2: ...", text, flags=re.MULTILINE)
    for code in re.findall(r"```python\n(.*?)```", defined, re.DOTALL):
        ast.parse(code)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert link in TOLD or (PAGES / link).resolve().is_file(), f"{name} leads to {link}"
    if name != "README.md":
        bare = re.search(r"^```\n\n+(?=#|In \[|\Z)", text, re.MULTILINE)
        assert not bare, f"{name}: nothing is said of {text[: bare.start()].splitlines()[-1]}"


def test_every_page_is_in_the_index() -> None:
    assert set(re.findall(r"\]\((\w+\.md)\)", TOLD["README.md"])) == TOLD.keys() - {"README.md"}
    assert len({name.lower() for name in TOLD}) == len(TOLD), "told apart also where case is not"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gone.md").write_text("of a function that was removed")
    assert main(["docs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{len(TOLD)} pages in {tmp_path}\n"
    assert {path.name for path in tmp_path.iterdir()} == TOLD.keys()


def test_docstrings_become_markdown() -> None:
    text = "What it is.\n\n    code(1)\n    code(2)\n\nMore:\n    code(3)\n"
    first, second = ["```python", "code(1)", "code(2)", "```", ""], ["```python", "code(3)", "```", ""]
    assert reference._prose(text) == ["What it is.", "", *first, "More:", "", *second]
