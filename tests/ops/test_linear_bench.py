"""The table of `tilec bench linear`: every class and width is in it, and peers where they are installed."""

import importlib.util

import numpy as np

from tilec.ops import linear_bench
from tilec.ops.linear_bench import WIDTHS, Problem, _onnxruntime, compare, one_core, square, weight
from tilec.ops.reference import linear_reference, relative_error


def test_every_class_and_width_is_timed() -> None:
    with one_core():
        lines = list(compare(Problem(1, 256), 1))
    assert "M=1, N=K=256" in lines[0]
    for width in ("u4", *WIDTHS):
        assert sum(f"tilec {width}" in line for line in lines) == 2
    assert any("numpy" in line for line in lines)


def test_products_of_square_matrices_are_timed_beside_numpy() -> None:
    title, *lines = square(32, 1)
    assert "M=N=K=32" in title and [line.split()[0] for line in lines] == ["dense", "tilec", "numpy"]


def test_without_peers(monkeypatch) -> None:
    monkeypatch.setattr(linear_bench, "find_spec", lambda name: None)
    lines = list(compare(Problem(1, 128), 1))
    assert sum("no peer in this run" in line for line in lines) == 2


def test_the_peer_multiplies_the_same_weights() -> None:
    held, x = weight("u4", 256), np.random.default_rng(0).standard_normal((3, 256), np.float32)
    for call in _onnxruntime(held, x, 0):
        assert relative_error(call()[0], linear_reference(x, held)) < 1e-5
    assert importlib.util.find_spec("onnxruntime") is None or list(_onnxruntime(held, x, 4))
