"""The table of `tilec bench fftconv`: ours is in it, and a peer that is wrong is not timed."""

from typing import Any

import numpy as np
import pytest

from tilec import ops
from tilec.ops import beside, fftconv_bench
from tilec.ops.fftconv_bench import Problem, compare


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "REPEATS", 1)
    monkeypatch.setattr(beside, "WARMING", 0)


def test_without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fftconv_bench, "_peers", lambda *given: [])
    head, kept, ours, none = compare(Problem(3, 3, 61), 1)
    assert head.startswith("B=3, H=3, L=61, causal")
    assert kept.split()[:3] == ["tilec,", "spectrum", "kept"] and kept.split()[-1] == "1.0"
    assert ours.split()[0] == "tilec" and "no peer in this run" in none


def test_wrong_peers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def peers(u: Any, k: Any) -> Any:
        yield "right", lambda: ops.fft_conv(u, k)
        yield "zeros", lambda: np.zeros_like(u)

    monkeypatch.setattr(fftconv_bench, "_peers", peers)
    lines = list(compare(Problem(3, 3, 61), 1))
    assert "zeros: its result is off" in lines[1]
    assert [line.split()[0] for line in lines[2:]] == ["tilec,", "tilec", "right"]


def test_torch_and_scipy_are_beside_us() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("scipy")
    lines = list(compare(Problem(3, 3, 61), 1))
    assert [line.split()[0] for line in lines[1:]] == ["tilec,", "tilec", "torch", "torch", "scipy"]
