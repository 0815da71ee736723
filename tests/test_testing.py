"""The fixture that tests of users take."""

import subprocess
import sys
from pathlib import Path

TESTS = '''
import numpy as np
import pytest
import tilec as tc
from tilec.places import current_target


@tc.kernel
def crowd(x: tc.Array, y: tc.Array):
    i = tc.blocks(x.shape[0])
    y.store(0, x.load(i, 1))


def call(n):
    crowd(np.ones(n, np.float32), np.zeros(1, np.float32))


def test_one_block(emulator):
    assert emulator == current_target() == "emulator:sm_80"
    call(1)


def test_race(emulator):
    with pytest.raises(tc.TilecError, match="global-race") as caught:
        call(2)
    assert caught.value.report.findings


@pytest.mark.parametrize("emulator", ["sm_90a"], indirect=True)
def test_fails(emulator):
    assert emulator == "emulator:sm_90a"
    call(2)


def test_elsewhere():
    assert current_target() == "cpu"
'''


def test_fixture(tmp_path: Path) -> None:
    """In a process of its own: its conftest.py names the plugin, as a user's would."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tilec.testing"]\n')
    (tmp_path / "test_crowd.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert "1 failed, 3 passed" in done.stdout, done.stdout + done.stderr
    assert "FAILED" in done.stdout and "test_fails" in done.stdout and "global-race" in done.stdout
