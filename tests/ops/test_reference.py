"""The float64 definitions: against values worked out by hand, and their own error measure."""

import math

import numpy as np
import pytest

from tilec.ir.errors import TilecError
from tilec.ops.quantize import quantize
from tilec.ops.reference import activation_reference, linear_reference, matmul_reference, relative_error

NUMBERS = np.array([-1000.0, -2.0, -0.5, 0.0, 0.5, 2.0, 1000.0])


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        (None, lambda x: x),
        ("relu", lambda x: max(x, 0.0)),
        ("gelu", lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2))),
        ("silu", lambda x: x / (1 + math.exp(-x)) if x > -500 else 0.0),
    ],
)
def test_activations(name, by_hand):
    assert np.allclose(activation_reference(NUMBERS, name), [by_hand(x) for x in NUMBERS], atol=1e-15)


def test_unknown_activation():
    with pytest.raises(TilecError, match="expected activation None, 'relu', 'gelu' or 'silu', found 'swish'"):
        activation_reference(NUMBERS, "swish")


def test_linear_is_written_out():
    x, w = np.array([[1.0, 2.0], [3.0, -4.0]]), np.array([[1.0, 1.0], [0.5, 0.0], [0.0, 2.0]])
    assert np.array_equal(linear_reference(x, w), [[3, 0.5, 4], [-1, 1.5, -8]])
    y = linear_reference(x, w, np.array([0, 1, 2]), activation="relu", residual=np.full((2, 3), 10))
    assert np.array_equal(y, [[13, 11.5, 16], [10, 12.5, 10]])


def test_linear_reads_a_quantised_weight_as_what_it_stands_for():
    w = np.arange(-8.0, 8.0).reshape(2, 8)  # exact in i4 with scale 1
    assert np.array_equal(linear_reference(np.eye(8), quantize(w, "i4", group_size=None)), w.T)


def test_matmul_keeps_leading_axes():
    a, b = np.ones((2, 3, 4, 5)), np.ones((5, 6))
    assert np.array_equal(matmul_reference(a, b), np.full((2, 3, 4, 6), 5.0))


def test_relative_error():
    ones = np.ones(4)
    assert relative_error(ones * 1.5, ones) == 0.5
    assert relative_error(ones, ones) == 0
    assert relative_error(np.zeros(4), np.zeros(4)) == 0
    for wrong in (np.zeros(4), np.full(4, np.nan), np.ones(3)):
        assert relative_error(wrong, ones) == math.inf
    assert relative_error(ones, np.zeros(4)) == math.inf
