"""Every example runs, checks itself, prints something, and stays short."""

import runpy
from pathlib import Path

import pytest

from tilec.checking import check

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


@each
def test_the_emulator_finds_nothing(path: Path, full: bool) -> None:
    """Compiled for sm_80, and run with every check on; the product's takes seconds."""
    if path.stem == "04_matmul" and not full:
        pytest.skip("make check-all runs it")
    outcome = check(path, "emulator:sm_80")
    assert not outcome.error and not outcome.findings
    assert outcome.launches or path.stem == "08_reading_ptx", "it launches something"
