"""UniRepLKNet's branches, merged: what they compute together stays the same."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tests.ops.test_inception import filtered, normal
from tilec import ops
from tilec.ops.reference import relative_error
from tilec.ops.reparam import BatchNorm, Branch

# Beside a kernel of this size: those of the dilated branches, and their dilations.
SETS = {
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    5: ((3, 1), (3, 2)),
}


def norm_of(channels: int, seed: int) -> BatchNorm:
    mean, weight, bias = (normal(channels, seed=10 * seed + i) for i in range(3))
    return BatchNorm(mean, normal(channels, seed=seed) ** 2, weight, bias, eps=1e-3)


def dilated(weight: np.ndarray, d: tuple[int, int]) -> np.ndarray:
    """The kernel with zeros between, element by element."""
    kh, kw = weight.shape[2:]
    wide = np.zeros((*weight.shape[:2], (kh - 1) * d[0] + 1, (kw - 1) * d[1] + 1))
    for i, j in np.ndindex(kh, kw):
        wide[:, :, i * d[0], j * d[1]] = weight[:, :, i, j]
    return wide


def summed(x: np.ndarray, branches: list[Branch]) -> np.ndarray:
    """Each branch by itself: convolution, bias, batch norm."""
    total = np.zeros(x.shape)
    for each in branches:
        d = each.dilation if isinstance(each.dilation, tuple) else (each.dilation, each.dilation)
        y = filtered(x, dilated(each.weight, d))
        y += 0 if each.bias is None else each.bias[:, None, None]
        if each.norm is not None:
            mean, variance, weight, bias = (np.asarray(p, float)[:, None, None] for p in each.norm[:4])
            y = (y - mean) / np.sqrt(variance + each.norm.eps) * weight + bias
        total += y
    return total


@pytest.mark.parametrize("size", SETS)
def test_sets_of_the_paper(size: int) -> None:
    large = Branch(normal(6, 1, size, size), norm_of(6, 1))
    more = [Branch(normal(6, 1, k, k, seed=d), norm_of(6, d), d) for k, d in SETS[size]]
    merged, x = ops.merge_reparam(large, more), normal(2, 6, 20, 23)
    assert merged.weight.shape == (6, 1, size, size) and merged.weight.dtype == np.float32
    y = ops.depthwise_conv(x, *merged, padding="same")
    assert y.any() and relative_error(y, summed(x, [large, *more])) < 1e-5


def test_odd_ones() -> None:
    """No batch norms, biases, kernels that are not square, two dilations, none but the large one."""
    large = Branch(normal(3, 1, 7, 11), bias=normal(3))
    more = [
        Branch(normal(3, 1, 3, 5, seed=1), None, (3, 2)),
        Branch(normal(3, 1, 1, 3), norm_of(3, 2), bias=normal(3)),
    ]
    x = normal(1, 3, 15, 16)
    for branches in ([large, *more], [large]):
        weight, bias = ops.merge_reparam(branches[0], branches[1:])
        y = filtered(x, weight) + bias[:, None, None]
        assert relative_error(y, summed(x, branches)) < 1e-6


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_rounded_once(dtype: Any) -> None:
    """To the large weight's dtype, from sums in f64."""
    wide = [Branch(normal(4, 1, 5, 5).astype(dtype)), Branch(normal(4, 1, 3, 3).astype(dtype), None, 2)]
    found = ops.merge_reparam(wide[0], wide[1:])
    exact = wide[0].weight.astype(np.float64) + dilated(wide[1].weight.astype(np.float64), (2, 2))
    np.testing.assert_array_equal(found.weight, exact.astype(dtype))
    assert found.bias.dtype == dtype and not found.bias.any()


def test_parameters_of_torch() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.randn(4, 1, 5, 5))
    norm = torch.nn.BatchNorm2d(4)
    merged = ops.merge_reparam(
        Branch(weight, BatchNorm(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps))
    )
    np.testing.assert_allclose(merged.weight, weight.detach().numpy() / np.sqrt(1 + 1e-5), rtol=1e-6)
    half = ops.merge_reparam(Branch(weight.detach().bfloat16()))
    np.testing.assert_array_equal(half.weight.astype(np.float32), weight.detach().bfloat16().float())


W = normal(4, 1, 5, 5)
MISTAKES: list[tuple[Branch, list[Branch], str]] = [
    (Branch(W[0]), [], r"of the large branch is float32\[1, 5, 5\]: expected floats \[C, 1, kh, kw\]"),
    (Branch(W[..., :4]), [], r"float32\[4, 1, 5, 4\].*of odd extents, which alone have a middle"),
    (Branch([1.0]), [], "merge_reparam takes arrays, found list"),
    (Branch(W.astype(int)), [], r"the weight of the large branch is int64\[4, 1, 5, 5\]: expected floats"),
    (Branch(W, dilation=2), [], "the large branch is not dilated: found dilation 2"),
    (Branch(W), [Branch(W, dilation=2)], "branch 1 spans 4 kernels of 9 x 9: expected 4, of at most 5 x 5"),
    (Branch(W), [Branch(W[:3])], "branch 1 spans 3 kernels of 5 x 5: expected 4"),
    (Branch(W), [Branch(W, dilation=0)], r"the dilation of branch 1 is 0, expected 1 or more, or \(rows"),
    (Branch(W, bias=normal(3)), [], r"the bias of the large branch is of shape \[3\], expected \[4\]"),
    (Branch(W, BatchNorm(normal(5), normal(4))), [], r"mean of the large branch is of shape \[5\]"),
    (Branch(W, BatchNorm(W[:, 0, 0, 0], -np.ones(4))), [], "the variance of the large branch is negative"),
]  # fmt: skip


@pytest.mark.parametrize(("large", "more", "message"), MISTAKES)
def test_mistakes(large: Branch, more: list[Branch], message: str) -> None:
    with pytest.raises(tc.TilecError, match=message):
        ops.merge_reparam(large, more)
