"""Messages: where, then what; the innermost place wins."""

import pickle

import pytest

from tilec.ir.errors import Loc, TilecError

HERE = Loc("kernel.py", 31, "    acc = tc.dot(a, b, acc)")


def test_message_alone() -> None:
    error = TilecError("expected this, found that")
    assert str(error) == error.message == "expected this, found that"
    assert error.loc is None and error.report is None


def test_place_and_source_line() -> None:
    error = TilecError("expected this", HERE)
    assert str(error) == "kernel.py:31: expected this\n    acc = tc.dot(a, b, acc)"
    assert str(TilecError("expected this", Loc("kernel.py", 31))) == "kernel.py:31: expected this"
    assert str(HERE) == "kernel.py:31"


def test_at_fills_in_a_place_once() -> None:
    error = TilecError("expected this")
    assert error.at(None) is error and error.loc is None
    assert error.at(HERE) is error
    assert error.at(Loc("outer.py", 1)).loc == HERE


def test_it_can_be_raised_and_matched() -> None:
    with pytest.raises(TilecError, match=r"kernel\.py:31: expected this"):
        raise TilecError("expected this").at(HERE)


def test_it_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(TilecError("expected this", HERE, report={"findings": 2})))
    assert (error.message, error.loc, error.report) == ("expected this", HERE, {"findings": 2})
