"""Every snippet and every command of README.md and docs/ runs, and what they name is there."""

import re
import runpy
import shlex
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import tilec as tc
from tilec import ops
from tilec.__main__ import main
from tilec.ir.target import TARGETS

ROOT = Path(__file__).parents[1]
TEXTS = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
README = TEXTS["README.md"]
BLOCKS = {
    name: re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) for name, text in TEXTS.items()
}
SHELL = [text for blocks in BLOCKS.values() for kind, text in blocks if kind == "sh"]
COMMANDS = sorted({line for text in SHELL for line in text.splitlines()})
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("name", TEXTS)
def test_snippets_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other, in one file: a later one may use what an earlier one of the same page made."""
    script = tmp_path / f"{name}.py"
    texts = [text for kind, text in BLOCKS[name] if kind == "python"]
    if find_spec("torch") is None:
        texts = [text for text in texts if not re.search(r"\b(torch|tt|cube\w*)\b", text)]
    script.write_text("\n".join(texts))
    runpy.run_path(str(script))
    said = capsys.readouterr().out
    assert name != "README.md" or script.name in said, "the finding names the line of the kernel"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    match shlex.split(command):
        case ["make", target]:
            dry = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
            assert dry.returncode == 0, dry.stderr
        case [python, "-m", "tilec", *arguments] if python.endswith("python"):
            assert main(arguments) == 0
        case [_, "-m", "pip", "install", "-e", extra]:
            assert set(re.findall(r"\w+", extra)) <= set(EXTRAS)
        case ["python3", "-m", "venv", ".venv"]:
            pass
        case _:
            pytest.fail(f"{command!r} is not tested: say how")


@pytest.mark.parametrize("name", TEXTS)
def test_all_kinds_of_blocks_are_known(name: str) -> None:
    assert {kind for kind, _ in BLOCKS[name]} <= {"python", "sh"}
    assert TEXTS[name].count("```") == 2 * len(BLOCKS[name])


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    folder = ROOT if name == "README.md" else ROOT / "docs"
    prose = re.sub(r"```.*?```|`[^`]*`", "", TEXTS[name], flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", prose):
        assert (folder / link).exists(), link


def test_names_exist() -> None:
    """Files, commands and targets that the text names."""
    everything = "\n".join(TEXTS.values())
    for name in re.findall(r"`((?:tests|examples)/[\w./]*)`", everything):
        assert (ROOT / name).exists(), name
    for name in re.findall(r'`"(sm_\w+)"`', README):
        assert name in TARGETS
    assert {n for n in TARGETS if n.startswith("sm_")} == set(re.findall(r'`"(sm_\w+)"`', README))
    missing = README.split("## What is not there yet")[1]
    there = everything.replace(missing, "")
    for room, module in (("tc", tc), ("ops", ops)):
        for name in re.findall(rf"`{room}\.(\w+)", there):
            assert hasattr(module, name), name
        for name in re.findall(rf"`{room}\.(\w+)", missing):
            assert not hasattr(module, name), f"{name} is there by now: say so"
