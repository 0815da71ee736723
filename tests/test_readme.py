"""Every snippet and every command of README.md runs."""

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
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_snippets_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other, in one file: a later one may use what an earlier one made."""
    script = tmp_path / "readme.py"
    texts = [text for kind, text in BLOCKS if kind == "python"]
    if find_spec("torch") is None:
        texts = [text for text in texts if not re.search(r"\b(torch|tt)\.", text)]
    script.write_text("\n".join(texts))
    runpy.run_path(str(script))
    assert "readme.py" in capsys.readouterr().out, "the finding names the line of the kernel"


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


def test_all_kinds_of_blocks_are_known() -> None:
    assert {kind for kind, _ in BLOCKS} == {"python", "sh"}
    assert README.count("```") == 2 * len(BLOCKS)


def test_names_exist() -> None:
    """Files, commands and targets that the text names."""
    for name in re.findall(r"`((?:tests|examples)/[\w./]*)`", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r'`"(sm_\w+)"`', README):
        assert name in TARGETS
    assert {n for n in TARGETS if n.startswith("sm_")} == set(re.findall(r'`"(sm_\w+)"`', README))
    there, missing = README.split("## What is not there yet")
    for room, module in (("tc", tc), ("ops", ops)):
        for name in re.findall(rf"`{room}\.(\w+)", there):
            assert hasattr(module, name), name
        for name in re.findall(rf"`{room}\.(\w+)", missing):
            assert not hasattr(module, name), f"{name} is there by now: say so"
