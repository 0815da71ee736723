"""The table of `tilec bench neighborhood`: ours is in it, and a peer that is wrong is not timed."""

import numpy as np
import pytest

from tilec import ops
from tilec.ops import beside, neighborhood_bench
from tilec.ops.neighborhood_bench import Problem, compare


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "REPEATS", 1)
    monkeypatch.setattr(beside, "WARMING", 0)


def test_without_peers(monkeypatch):
    monkeypatch.setattr(neighborhood_bench, "_peers", lambda *given: [])
    head, ours, none = compare(Problem((6, 7), 3, heads=2, dim=8), 1)
    assert head.startswith("6x7, window 3, 2 heads of 8") and ours.split()[0] == "tilec"
    assert ours.split()[-1] == "1.0" and "no peer in this run" in none


def test_wrong_peers_are_told(monkeypatch):
    def peers(problem, q, k, v):
        yield "right", lambda: ops.neighborhood_attention(q, k, v, 3)
        yield "zeros", lambda: np.zeros_like(q)

    monkeypatch.setattr(neighborhood_bench, "_peers", peers)
    lines = list(compare(Problem((9,), 3, heads=1, dim=8), 1))
    assert [line.split()[0] for line in lines[2:]] == [
        "tilec",
        "right",
    ] and "zeros: its result is off" in lines[1]
