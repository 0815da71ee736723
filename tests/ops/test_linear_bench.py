"""The table of `tilec bench linear`: every class and width is in it, and peers where they are installed."""

import importlib.util

import numpy as np

from tilec.ops import linear_bench
from tilec.ops.linear_bench import Problem, _onnxruntime, compare, one_core, weight
from tilec.ops.reference import linear_reference, relative_error


def test_every_class_and_width_is_timed() -> None:
    with one_core():
        lines = list(compare(Problem(1, 256), 1))
    assert "M=1, N=K=256" in lines[0]
    assert sum("tilec u3" in line for line in lines) == 2 and sum("tilec u4" in line for line in lines) == 4
    assert any("numpy" in line for line in lines)


def test_without_peers(monkeypatch) -> None:
    monkeypatch.setattr(linear_bench, "find_spec", lambda name: None)
    lines = list(compare(Problem(1, 128), 1))
    assert sum("no peer in this run" in line for line in lines) == 2


def test_the_peer_multiplies_the_same_weights() -> None:
    held, x = weight("u4", 256), np.random.default_rng(0).standard_normal((3, 256), np.float32)
    for call in _onnxruntime(held, x, 0):
        assert relative_error(call()[0], linear_reference(x, held)) < 1e-5
    assert importlib.util.find_spec("onnxruntime") is None or list(_onnxruntime(held, x, 4))
