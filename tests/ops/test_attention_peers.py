"""Attention beside those who defined it: NATTEN's masks and outputs, torch's gradients, where they are."""

from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest

from tests.ops.attention_cases import hash_of, mask_of, normal, recorded_masks, tensors
from tilec import ops
from tilec.ops.attention_windows import Axis
from tilec.ops.neighborhood_reference import Window
from tilec.ops.reference import relative_error

pytestmark = pytest.mark.filterwarnings("ignore")
torch = pytest.importorskip("torch")
Setting = tuple[tuple[int, ...], tuple[Axis, ...]]


def settings(count: int, most: int = 260) -> list[Setting]:
    """Extents with an Axis for each, drawn at random."""
    rng, found = np.random.default_rng(5), []
    while len(found) < count:
        rank = int(rng.integers(1, 4))
        extents = tuple(int(n) for n in rng.integers(2, (0, 60, 16, 8)[rank], rank))
        if prod(extents) > most:
            continue
        sizes = [int(rng.integers(2, n + 1)) for n in extents]  # NATTEN has no windows of 1
        found.append((extents, tuple(
            Axis(w, int(rng.integers(1, w + 1)), int(rng.integers(1, n // w + 1)), bool(rng.integers(0, 2)))
            for w, n in zip(sizes, extents, strict=True)
        )))  # fmt: skip
    return found


def per_axis(axes: tuple[Axis, ...], name: str) -> tuple:
    return tuple(getattr(axis, name) for axis in axes)


def natten_mask(flex: Any, extents: tuple[int, ...], axes: tuple[Axis, ...]) -> np.ndarray:
    theirs = flex.get_na_flex_mask(
        "cpu", len(axes), extents, per_axis(axes, "window"), per_axis(axes, "stride"),
        per_axis(axes, "dilation"), per_axis(axes, "causal"),
    )  # fmt: skip
    tokens, zero = torch.arange(prod(extents)), torch.tensor(0)
    return theirs.mask_mod(zero, zero, tokens[:, None], tokens[None, :]).numpy()


def test_masks_are_nattens():
    """That those in natten_masks.txt are, which test_attention_windows.py holds ours against."""
    flex = pytest.importorskip("natten.backends.flex")
    for extents, axes, wanted in recorded_masks():
        expected = natten_mask(flex, extents, axes)
        assert np.array_equal(mask_of(extents, axes), expected), (extents, axes)
        assert hash_of(expected) == wanted


def test_outputs_are_nattens(full):
    natten = pytest.importorskip("natten")
    compared = 0
    for extents, axes in settings(40 if full else 4):
        q, k, v = tensors(extents, batch=1, dim=32)
        options = {
            "kernel_size": per_axis(axes, "window"), "stride": per_axis(axes, "stride"),
            "dilation": per_axis(axes, "dilation"), "is_causal": per_axis(axes, "causal"),
        }  # fmt: skip
        theirs = getattr(natten, f"na{len(axes)}d")
        try:
            expected, lse = theirs(*map(torch.from_numpy, (q, k, v)), return_lse=True, **options)
        except NotImplementedError:  # causal with a window as long as the axis, which NATTEN lacks on a CPU
            continue
        out, own_lse = ops.neighborhood_attention(q, k, v, return_lse=True, **options)
        assert relative_error(out, expected.numpy()) < 1e-5
        assert np.abs(own_lse - lse.numpy()).max() < 1e-5 * (1 + np.abs(own_lse).max())
        compared += 1
    assert compared


def test_gradients_are_torchs(full):
    """Of outputs and lse both, through a softmax over a dense mask."""
    for extents, axes in settings(40 if full else 3):
        given = [normal(1, *extents, heads, 8, seed=i) for i, heads in enumerate((4, 2, 2))]
        leaves = [torch.from_numpy(x.astype(np.float64)).requires_grad_() for x in given]
        q, k, v = (x.reshape(prod(extents), -1, 8).transpose(0, 1) for x in leaves)
        scores = q @ k.repeat_interleave(2, 0).transpose(1, 2) * 8**-0.5
        scores = scores.masked_fill(~torch.from_numpy(mask_of(extents, axes)), -torch.inf)
        result = torch.softmax(scores, -1) @ v.repeat_interleave(2, 0)
        d_out, d_lse = normal(1, *extents, 4, 8, seed=7), normal(1, *extents, 4, seed=8)
        wanted = torch.from_numpy(d_out.astype(np.float64)).reshape(prod(extents), 4, 8).transpose(0, 1)
        wanted_lse = torch.from_numpy(d_lse.astype(np.float64)).reshape(prod(extents), 4).T
        ((result * wanted).sum() + (torch.logsumexp(scores, -1) * wanted_lse).sum()).backward()
        options = {
            "kernel_size": per_axis(axes, "window"), "stride": per_axis(axes, "stride"),
            "dilation": per_axis(axes, "dilation"), "is_causal": per_axis(axes, "causal"),
        }  # fmt: skip
        out, lse = ops.neighborhood_attention(*given, return_lse=True, **options)
        found = ops.neighborhood_attention_backward(*given, out, lse, d_out, d_lse=d_lse, **options)
        for x, leaf in zip(found[:3], leaves, strict=True):
            assert relative_error(x, leaf.grad.numpy()) < 2e-5


def test_the_definition_has_these_masks():
    for extents, axes in settings(30):
        for (n, axis), i in product(zip(extents, axes, strict=True), (0, 1, -1)):
            window = Window(axis.window, axis.stride, axis.dilation, axis.causal)
            assert np.flatnonzero(mask_of((n,), (axis,))[i]).tolist() == window.tokens(i % n, n)
