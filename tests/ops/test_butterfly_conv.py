"""Convolutions with learned transforms, tame kernels, and kernels of low frequencies, against numpy."""

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tilec import ops
from tilec.ops.reference import relative_error

F32, F64 = np.float32, np.float64


def normal(*shape: int, dtype: Any = F64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def blocks(sizes: tuple[int, ...], *heads: int, dtype: Any = F64, seed: int = 0) -> list[np.ndarray]:
    return [normal(*heads, n, n, 2, dtype=dtype, seed=seed + i) for i, n in enumerate(sizes)]


def learned(x: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    """Cooley and Tukey's recursion, frequencies in natural order: x [..., H, n], matrices [H, n_i, n_i]."""
    first, rest = matrices[0], matrices[1:]
    n = first.shape[-1]
    y = np.einsum("hkr,...hrm->...hkm", first, x.reshape(*x.shape[:-1], n, -1))
    if not rest:
        return y.reshape(x.shape)
    m = y.shape[-1]
    y = y * np.exp(-2j * np.pi * np.arange(n)[:, None] * np.arange(m) / (n * m))
    parts = [learned(y[..., k, :], rest) for k in range(n)]
    return np.stack(parts, axis=-1).reshape(x.shape)


def reference(u: Any, k: Any, ours: Any, theirs: Any, additive: bool = False) -> np.ndarray:
    def padded(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((*x.shape[:-1], period - x.shape[-1]))], axis=-1).astype(complex)

    def matrices(held: list[np.ndarray]) -> list[np.ndarray]:
        found = [np.broadcast_to(b[..., 0] + 1j * b[..., 1], (len(k), *b.shape[-3:-1])) for b in held]
        return [b + np.fft.fft(np.eye(b.shape[-1])) for b in found] if additive else found

    period = int(np.prod([b.shape[-2] for b in ours]))
    spectrum = learned(padded(u), matrices(ours)) * learned(padded(k), matrices(theirs))
    return np.fft.ifft(spectrum).real[..., : u.shape[-1]]


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(("sizes", "additive"), [((4, 2, 3), False), ((16, 5), True)])
def test_against_the_recursion(sizes: tuple[int, ...], additive: bool, dtype: Any) -> None:
    u, k = normal(3, 3, 11, dtype=dtype), normal(3, 9, dtype=dtype)
    for ours, theirs in (
        (blocks(sizes, 3), blocks(sizes, 3, seed=9)),
        (blocks(sizes), blocks(sizes, 3, seed=9)),
    ):
        given = [[b.astype(dtype) for b in each] for each in (ours, theirs)]
        y = ops.butterfly_conv(u, k, *given, additive=additive)
        assert relative_error(y, reference(u, k, *given, additive)) < (1e-13 if dtype == F64 else 3e-6)


@pytest.mark.parametrize("sizes", [(8, 8), (2, 16, 2)])
def test_true_transforms_convolve(sizes: tuple[int, ...], full: bool) -> None:
    if not full and sizes != (8, 8):
        pytest.skip("make check-all runs it")
    u, k = normal(3, 3, 31, dtype=F32), normal(3, 31, dtype=F32)
    zeros = [np.zeros((n, n, 2), F32) for n in sizes]
    assert relative_error(ops.butterfly_conv(u, k, zeros, additive=True), ops.fft_conv(u, k)) < 2e-6


@pytest.mark.parametrize("shared", [False, True])
def test_gradients(shared: bool) -> None:
    """Against differences of the reference, along random directions; one set of blocks for both too."""
    sizes, step = (4, 2, 3), 1e-6
    u, k, dy = normal(3, 3, 11), normal(3, 11), normal(3, 3, 11, seed=1)
    given: dict[str, Any] = {"u": u, "k": k, "ours": blocks(sizes) if shared else blocks(sizes, 3)}
    if not shared:
        given["theirs"] = blocks(sizes, 3, seed=9)
    found = ops.butterfly_conv_backward(dy, u, k, given["ours"], given.get("theirs"), additive=True)
    assert (found.blocks_k is None) == shared

    def loss(**changed: Any) -> float:
        at = {"theirs": (given | changed)["ours"]} | given | changed
        return float(np.vdot(dy, reference(at["u"], at["k"], at["ours"], at["theirs"], True)))

    for name, gradient in (("u", found.u), ("k", found.k)):
        d = normal(*gradient.shape, seed=2)
        up, low = (loss(**{name: given[name] + sign * step * d}) for sign in (1, -1))
        assert (up - low) / (2 * step) == pytest.approx(np.vdot(gradient, d), rel=1e-5)
    for name, gradients in (("ours", found.blocks), ("theirs", found.blocks_k or ())):
        for i, gradient in enumerate(gradients):
            d = normal(*gradient.shape, seed=3)
            moved = [
                [*given[name][:i], given[name][i] + s * step * d, *given[name][i + 1 :]] for s in (1, -1)
            ]
            up, low = (loss(**{name: each}) for each in moved)
            assert (up - low) / (2 * step) == pytest.approx(np.vdot(gradient, d), rel=1e-5, abs=1e-6)


def test_emulated() -> None:
    u, k, held = normal(3, 2, 15, dtype=F32), normal(2, 15, dtype=F32), blocks((4, 8), 2, dtype=F32)
    with tc.target("emulator:sm_80"):
        y = ops.butterfly_conv(u, k, held)
    assert relative_error(y, reference(u, k, held, held)) < 3e-6


def tamed(k: np.ndarray, squash: float, smooth: int) -> np.ndarray:
    padded = np.pad(k.astype(F64), ((0, 0), (smooth // 2, smooth // 2)))
    s = np.lib.stride_tricks.sliding_window_view(padded, smooth, axis=1).mean(axis=2)
    return np.sign(s) * np.maximum(np.abs(s) - squash, 0)


@pytest.mark.parametrize(("squash", "smooth"), [(0.0, 7), (0.3, 1), (0.1, 7)])
def test_tame_kernels(squash: float, smooth: int) -> None:
    k, g, step = normal(3, 601), normal(3, 601, seed=1), 1e-7
    assert relative_error(ops.tame_kernel(k, squash=squash, smooth=smooth), tamed(k, squash, smooth)) < 1e-13
    dk, d = ops.tame_kernel_backward(g, k, squash=squash, smooth=smooth), normal(3, 601, seed=2)
    up, low = (np.vdot(g, tamed(k + sign * step * d, squash, smooth)) for sign in (1, -1))
    assert (up - low) / (2 * step) == pytest.approx(np.vdot(dk, d), rel=1e-5)


@pytest.mark.parametrize("target", ["cpu", "emulator:sm_80"])
@pytest.mark.parametrize("dtype", [F32, np.float16])
def test_low_frequencies(dtype: Any, target: str, full: bool) -> None:
    if not full and (dtype != F32 or target != "cpu"):
        pytest.skip("make check-all runs it")
    u, k = normal(3, 3, 61, dtype=dtype), normal(3, 61, dtype=dtype)
    with tc.target(target):
        spectrum = ops.fft_conv_spectrum(k, 61, frequencies=0.25)
        y = ops.fft_conv(u, spectrum)
    period = spectrum.plan.period
    wanted = np.fft.rfft(k.astype(F64), period)
    wanted[:, -(-(period // 2 + 1) // 4) :] = 0
    wanted = np.fft.irfft(np.fft.rfft(u.astype(F64), period) * wanted, period)[..., :61]
    assert relative_error(y, wanted) < (3e-6 if dtype == F32 else 1.5e-3)


def test_partial_kernels_slide_over_longer_sequences() -> None:
    """With n taps kept, what a window sees does not depend on how long the sequence is."""
    u, k = normal(3, 3, 61, dtype=F32), normal(3, 61, dtype=F32)[:, :15]
    whole, part = ops.fft_conv(u, k), ops.fft_conv(u[..., 12:], k)
    assert relative_error(part[..., 14:], whole[..., 26:]) < 3e-6


U, K, B = normal(2, 3, 30), normal(3, 30), blocks((8, 8), 3)
MISTAKES = [
    (
        lambda: ops.butterfly_conv(U[0], K, B),
        r"takes u \[B, H, L\] and k \[H, taps\] of one dtype: u is f64\[3, 3",
    ),
    (lambda: ops.butterfly_conv(U, K[:2], B), r"u is f64\[2, 3, 30\], k f64\[2, 30\]"),
    (
        lambda: ops.butterfly_conv(U, K, blocks((17, 8), 3)),
        r"complex matrices of 2 to 16 rows, \[3, n, n, 2\]",
    ),
    (lambda: ops.butterfly_conv(U, K, blocks((8, 8), 2)), r"or \[n, n, 2\]: found f64\[2, 8, 8, 2\]"),
    (lambda: ops.butterfly_conv(U, K, B, blocks((16, 4), 3)), "blocks_k has other sizes than blocks"),
    (
        lambda: ops.butterfly_conv(U, K, blocks((4, 4), 3)),
        "make a period of 16: expected 30, the length of u",
    ),
    (
        lambda: ops.butterfly_conv_backward(K, U, K, B),
        r"dy is f64\[3, 30\], expected the shape of u, \[2, 3, 30\]",
    ),
    (lambda: ops.tame_kernel(U), r"k is f64\[2, 3, 30\], expected \[H, taps\]"),
    (lambda: ops.tame_kernel(K, smooth=4), "smooth is an odd number of taps, 1 or more: found 4"),
    (lambda: ops.tame_kernel(K, squash=-1), "squash is a number of 0 or more: found -1"),
    (lambda: ops.tame_kernel_backward(U, K), r"d_out is f64\[2, 3, 30\], expected the shape of k, \[3, 30\]"),
    (
        lambda: ops.fft_conv_spectrum(K, 30, frequencies=0),
        "the share that is kept, above 0 and up to 1: found 0",
    ),
]


@pytest.mark.parametrize(("call", "message"), MISTAKES)
def test_mistakes(call: Any, message: str) -> None:
    with pytest.raises(tc.TilecError, match=message):
        call()


def test_compiled_for_problems() -> None:
    sizes = {"batch": 2, "channels": 3, "length": 15, "factors": (4, 4)}
    assert ops.butterfly_conv.compile(**sizes, target="cpu").asm
    assert ops.butterfly_conv_backward.compile(**sizes, target="cpu").asm
    assert ops.tame_kernel.compile(channels=3, taps=30, target="sm_80").ptx
    assert ops.tame_kernel_backward.compile(channels=3, taps=30, smooth=7, target="cpu").asm
