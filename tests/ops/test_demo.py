"""The demo's parts: the network learns, its gradients are those of the loss, the table and its check."""

import sys

import numpy as np
import pytest

import tilec as tc
from tilec.ir.errors import TilecError
from tilec.ops import demo

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def trained():
    x, labels, images, expected = demo.digits()
    return demo.train(x, labels, epochs=10), images, expected


def test_without_the_data(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        TilecError, match=r"the demo's data comes with scikit-learn: pip install 'tilec\[demo\]'"
    ):
        demo.digits()


def test_the_data():
    x, labels, images, expected = demo.digits()
    assert len(x) == 1200 and len(images) == 597 and x.shape[1] == 64
    assert x.min() >= 0 and x.max() == 1 and set(labels) == set(expected) == set(range(10))
    again = demo.digits()
    assert np.array_equal(x, again[0]) and np.array_equal(expected, again[3])


def test_gradients_are_those_of_the_loss():
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(s) for s in ((5, 4), (3, 5))]
    biases = [rng.standard_normal(5), rng.standard_normal(3)]
    x, labels = rng.standard_normal((6, 4)), np.array([0, 1, 2, 0, 1, 2])

    def loss() -> float:
        scores = np.maximum(x @ weights[0].T + biases[0], 0) @ weights[1].T + biases[1]
        return float((np.log(np.exp(scores).sum(1)) - scores[np.arange(6), labels]).mean())

    found = demo.gradients(weights, biases, x, labels)
    for p, gradient in zip([*weights, *biases], found, strict=True):
        at = tuple(0 for _ in p.shape)
        p[at] += 1e-5
        above = loss()
        p[at] -= 2e-5
        assert gradient[at] == pytest.approx((above - loss()) / 2e-5, abs=1e-6)
        p[at] += 1e-5


def test_a_quantised_network_reads_digits(trained):
    network, images, expected = trained
    dense = demo.measure("f32", network, images, expected)
    four = demo.measure("u4", network.quantised("u4"), images, expected)
    assert dense.accuracy > 95 and dense.nbytes > 6 * four.nbytes
    assert four.accuracy > dense.accuracy - 2
    demo.check([], dense)


def test_the_check_fails_where_accuracy_is_lost():
    dense = demo.Row("f32", 1, 99.0, 1.0)
    demo.check([demo.Row("u4", 1, 98.1, 1.0), demo.Row("u2", 1, 20.0, 1.0)], dense)
    with pytest.raises(
        TilecError, match=r"u4 reads 97.9 % of the digits, and f32 99.0 %: expected at most 1"
    ):
        demo.check([demo.Row("u4", 1, 97.9, 1.0)], dense)
    assert str(dense) == "f32         0.0 KB    99.0 %     1.00 ms"


def test_the_table_has_every_width():
    assert [int(names[0][1]) for names in demo.TYPES] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert all(tc.dtype(n).bits == 8 - i for i, names in enumerate(demo.TYPES) for n in names if n)


def test_ptx_is_shown_and_written(capsys):
    path = demo.show_ptx()
    assert ".target sm_90a" in path.read_text() and str(path) in capsys.readouterr().out
