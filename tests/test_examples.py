"""Every example runs, checks itself, prints something, and stays short."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
each = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def test_examples_are_numbered() -> None:
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))


@each
def test_it_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the default target; `main` raises where its result is wrong."""
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


@each
def test_it_is_short(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) < 80
    assert lines[0].startswith('"""'), "it starts with what it shows"
