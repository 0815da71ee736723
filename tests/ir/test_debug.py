"""TILEC_DEBUG, TILEC_CHECK and their `with` form."""

from __future__ import annotations

import pytest

from tilec.ir import debug


def test_the_level_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TILEC_DEBUG", raising=False)
    assert debug.level() == 0
    monkeypatch.setenv("TILEC_DEBUG", "3")
    assert debug.level() == 3
    monkeypatch.setenv("TILEC_DEBUG", "loud")
    assert debug.level() == 0


def test_with_sets_the_level_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEC_DEBUG", "1")
    with debug.at(4):
        assert debug.level() == 4
        with debug.at(0):
            assert debug.level() == 0
        assert debug.level() == 4
    assert debug.level() == 1


def test_the_level_is_restored_after_an_error() -> None:
    before = debug.level()
    with pytest.raises(ValueError, match="inside"), debug.at(5):
        raise ValueError("inside")
    assert debug.level() == before


def test_stages_tell_their_times(capsys: pytest.CaptureFixture[str]) -> None:
    with debug.at(1), debug.stage("simplify"):
        pass
    name, time, unit = capsys.readouterr().out.split()
    assert name == "simplify" and float(time) >= 0 and unit == "ms"
    with debug.at(0), debug.stage("simplify"):
        pass
    assert capsys.readouterr().out == ""


def test_checking(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, wanted in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("TILEC_CHECK", text)
        assert debug.checking() is wanted
