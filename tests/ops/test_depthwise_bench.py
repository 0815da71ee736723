"""The table of `tilec bench depthwise`: ours is in it, and a peer that is wrong is not timed."""

import numpy as np
import pytest

from tilec import ops
from tilec.ops import beside, depthwise_bench
from tilec.ops.depthwise_bench import Problem, compare


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "REPEATS", 1)
    monkeypatch.setattr(beside, "WARMING", 0)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_without_peers(layout, gradient, monkeypatch):
    monkeypatch.setattr(depthwise_bench, "_peers", lambda *given: [])
    head, ours, none = compare(Problem((1, 3, 6, 7), 3, layout, gradient), 1)
    assert head.startswith(f"(1, 3, 6, 7), 3x3 {layout} {'d_weight' if gradient else 'forward'}")
    assert ours.split()[0] == "tilec" and ours.split()[-1] == "1.0" and "no peer in this run" in none


def test_wrong_peers_are_told(monkeypatch):
    def peers(problem, arrays, pad):
        x, w, _ = arrays
        yield "right", lambda: ops.depthwise_conv(x, w, padding=pad)
        yield "zeros", lambda: np.zeros_like(x)

    monkeypatch.setattr(depthwise_bench, "_peers", peers)
    lines = list(compare(Problem((1, 2, 6, 7), 3, "NCHW"), 1))
    assert "zeros: its result is off" in lines[1]
    assert [line.split()[0] for line in lines[2:]] == ["tilec", "right"]


@pytest.mark.parametrize("gradient", [False, True])
def test_torch_is_beside_us(gradient):
    pytest.importorskip("torch")
    lines = list(compare(Problem((1, 2, 6, 7), 3, "NHWC", gradient), 1))
    assert [line.split()[0] for line in lines[1:]] == ["tilec", "torch"]
