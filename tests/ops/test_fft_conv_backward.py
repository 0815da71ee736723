"""Gradients of long convolutions against float64, and against differences of the operator itself."""

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.ops.fft_conv_cases import BACKWARD, F16, F32, Family, bound, some
from tilec import ops
from tilec.ops import fft_conv_choice, fft_conv_run
from tilec.ops.fft_conv_reference import fft_conv_backward_reference
from tilec.ops.reference import relative_error


def normal(*shape: int, dtype: Any = F32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def agrees(dy: np.ndarray, u: np.ndarray, k: np.ndarray, **options: Any) -> None:
    found = ops.fft_conv_backward(dy, u, k, **options)
    wanted = fft_conv_backward_reference(dy, u, k, **options)
    for name, ours, theirs in zip(found._fields, found, wanted, strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            given = {"u": u, "k": k, **options}[name]
            assert ours.dtype == given.dtype and ours.shape == given.shape
            assert relative_error(ours, theirs) < bound(u.dtype, u.shape[-1]), (name, u.shape, k.shape)


@pytest.mark.parametrize("family", BACKWARD, ids=lambda family: family.name)
def test_random_problems(family: Family, full: bool) -> None:
    for seed in range(200 if full else 25):
        u, k, options = some(family, seed)
        agrees(normal(*u.shape, dtype=u.dtype, seed=seed), u, k, **options)


def test_three_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients between passes, some channels at a time."""
    monkeypatch.setattr(fft_conv_run, "SCRATCH", 1 << 12)
    monkeypatch.setattr(fft_conv_choice, "ON_CPU", 5)
    u, k = normal(3, 3, 61), normal(3, 61)
    agrees(normal(*u.shape, seed=1), u, k, mode="circular", skip=normal(3), pregate=normal(*u.shape, seed=2))


def test_differences(full: bool) -> None:
    """<dy, conv(u + e) - conv(u - e)> = 2 <du, e>, and so for k."""
    if not full:
        pytest.skip("make check-all runs it")
    u, k, dy = normal(3, 3, 61), normal(3, 61), normal(3, 3, 61, seed=1)
    found = ops.fft_conv_backward(dy, u, k)
    for name, at in (("u", u), ("k", k)):
        e = normal(*at.shape, seed=2)
        up, low = (ops.fft_conv(**({"u": u, "k": k} | {name: at + sign * e})) for sign in (1, -1))
        change = np.vdot(dy, up.astype(np.float64) - low)
        assert change == pytest.approx(2 * np.vdot(getattr(found, name), e), rel=1e-4)


def test_a_kernel_in_f32() -> None:
    u, k = normal(3, 3, 61, dtype=F16), normal(3, 61)
    found = ops.fft_conv_backward(u, u, k)
    assert found.u.dtype == F16 and found.k.dtype == F32


def test_mistakes() -> None:
    u, k = normal(2, 3, 40), normal(3, 40)
    with pytest.raises(tc.TilecError, match=r"dy is f32\[2, 3, 39\], expected the shape of u, \[2, 3, 40\]"):
        ops.fft_conv_backward(u[..., 1:], u, k)
    with pytest.raises(tc.TilecError, match=r"takes the kernel \[H, taps\] itself, found its spectrum"):
        ops.fft_conv_backward(u, u, ops.fft_conv_spectrum(k, 40))
