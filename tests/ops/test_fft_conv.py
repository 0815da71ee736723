"""Long convolutions against float64: hundreds of problems on the CPU, laws, limits and mistakes."""

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.ops.fft_conv_cases import BF16, F16, F32, F64, FORWARD, Family, bound, some
from tilec import ops
from tilec.ir.func import root
from tilec.ir.inst.memory import Load
from tilec.ops import fft_conv_run
from tilec.ops.fft_conv_reference import fft_conv_reference
from tilec.ops.reference import relative_error

MODES = ("causal", "circular", "bidirectional", "bidirectional_safari")


def normal(*shape: int, dtype: Any = F32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def agrees(u: np.ndarray, k: np.ndarray, algorithm: str | None = None, **options: Any) -> None:
    y = ops.fft_conv(u, k, algorithm=algorithm, **options)
    assert y.dtype == u.dtype and y.shape == u.shape
    error = relative_error(y, fft_conv_reference(u, k, **options))
    assert error < bound(u.dtype, u.shape[-1]), (u.shape, k.shape, algorithm, list(options))


@pytest.mark.parametrize("family", FORWARD, ids=lambda family: family.name)
def test_random_problems(family: Family, full: bool) -> None:
    for seed in range(200 if full else 25):
        u, k, options = some(family, seed)
        agrees(u, k, family.algorithm, **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [1, 2, 16, 32])
def test_small_lengths(mode: str, length: int, full: bool) -> None:
    """Batches and channels of 1, powers of two, one tap, and as many as there are elements."""
    if not full and length == 32 and mode != "circular":
        pytest.skip("make check-all runs it")
    options = {"k_reverse": normal(1, length, seed=3)} if mode.startswith("bi") else {}
    agrees(normal(1, 1, length), normal(1, length), mode=mode, **options)


@pytest.mark.parametrize("length", [1009, 2048, 3001])
def test_long_sequences(length: int, full: bool) -> None:
    if not full:
        pytest.skip("make check-all runs it")
    agrees(normal(2, 2, length), normal(2, length))


@pytest.mark.parametrize(("length", "mode"), [(70001, "circular"), (1 << 18, "causal")])
def test_three_passes(length: int, mode: str, full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a prime length too; and some channels at a time."""
    if not full and mode == "causal":
        pytest.skip("make check-all runs it")
    monkeypatch.setattr(fft_conv_run, "SCRATCH", 1 << 22)
    agrees(normal(1, 2, length), normal(2, length), mode=mode)


def test_the_longest(full: bool) -> None:
    if not full:
        pytest.skip("make check-all runs it")
    agrees(normal(1, 1, 1 << 22), normal(1, 1 << 22))


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_kernels_in_f32(dtype: Any) -> None:
    agrees(normal(3, 3, 61, dtype=dtype), normal(3, 61), skip=normal(3, seed=1))
    agrees(normal(3, 3, 61, dtype=dtype), normal(3, 61), "direct")


@pytest.mark.parametrize("length", [1000, 1 << 18])
def test_what_a_plan_knows_is_read_without_asking(length: int) -> None:
    for op in (ops.fft_conv, ops.fft_conv_backward):
        func = op.compile(batch=2, channels=3, length=length, dtype="f32", target="cpu").func
        for inst in func.walk():
            if isinstance(inst, Load) and root(inst.array).name in ("twiddle", "spectrum", "z"):
                assert len(inst.inside) == len(inst.shape), str(inst)


@pytest.mark.parametrize("mode", MODES)
def test_spectra_are_used_again(mode: str, full: bool) -> None:
    if not full and mode in ("circular", "bidirectional"):
        pytest.skip("make check-all runs it")
    k, u = normal(3, 45), normal(3, 3, 61)
    reverse = normal(3, 61, seed=3) if mode.startswith("bi") else None
    spectrum = ops.fft_conv_spectrum(k, 61, mode, k_reverse=reverse)
    for batch in (u, 2 * u[::-1], u[:, :, ::-1].copy()):
        wanted = fft_conv_reference(batch, k, mode=mode, k_reverse=reverse)
        assert relative_error(ops.fft_conv(batch, spectrum, mode=mode), wanted) < bound(F32, 61)
    half = u.astype(F16)
    wanted = fft_conv_reference(half, k, mode=mode, k_reverse=reverse)
    assert relative_error(ops.fft_conv(half, spectrum, mode=mode), wanted) < bound(F16, 61)


def test_views_are_read_where_they_are() -> None:
    u, k = normal(6, 6, 122)[::2, 1::2, ::2], normal(6, 61)[::2]
    agrees(u, k)


# Laws.


@pytest.mark.parametrize("algorithm", ["direct", "one pass", "three passes"])
def test_an_impulse_gives_the_kernel(algorithm: str) -> None:
    k, u = normal(3, 61), np.zeros((3, 3, 61), F32)
    u[1, :, 0] = 1
    y = ops.fft_conv(u, k, algorithm=algorithm)
    assert relative_error(y[1], k) < bound(F32, 61)
    assert abs(y[0]).max() < 1e-6 and abs(y[2]).max() < 1e-6


@pytest.mark.parametrize("shift", [0, 1, 31, 60])
def test_a_shift_shifts(shift: int) -> None:
    u, k = normal(3, 3, 61), np.zeros((3, 61), F32)
    k[:, shift] = 1
    moved = np.concatenate([np.zeros((3, 3, shift), F32), u], axis=2)[..., :61]
    assert relative_error(ops.fft_conv(u, k), moved) < bound(F32, 61)
    turned = ops.fft_conv(u, k, mode="circular")
    assert relative_error(turned, np.roll(u, shift, axis=2)) < bound(F32, 61)


def test_linearity() -> None:
    u, v, k = normal(3, 3, 61), normal(3, 3, 61, seed=1), normal(3, 61)
    both = ops.fft_conv(2 * u + v, k)
    assert relative_error(both, 2 * ops.fft_conv(u, k) + ops.fft_conv(v, k)) < 3e-6


def test_the_two_conventions_are_one_step_apart() -> None:
    u, k, reverse = normal(3, 3, 61), normal(3, 61), normal(3, 61, seed=1)
    later = np.concatenate([np.zeros((3, 1), F32), reverse[:, :-1]], axis=1)
    ours = ops.fft_conv(u, k, mode="bidirectional_fftconv", k_reverse=later)
    theirs = ops.fft_conv(u, k, mode="bidirectional_safari", k_reverse=reverse)
    assert relative_error(ours, theirs) < 3e-6
    named = ops.fft_conv(u, k, mode="bidirectional", k_reverse=later)
    np.testing.assert_array_equal(ours, named)


# Accuracy.


@pytest.mark.parametrize("length", [61, 1023, 16383])
@pytest.mark.parametrize("dtype", [F32, F16, BF16])
def test_the_promise(dtype: Any, length: int, full: bool) -> None:
    """N(0, 1) and a kernel that does not decay."""
    if not full and length > (1023 if dtype == F32 else 61):
        pytest.skip("make check-all runs it")
    agrees(normal(3, 1, length, dtype=dtype), normal(1, length, dtype=dtype))


def test_nothing_overflows_in_f16() -> None:
    """Sums of spectra go far beyond f16; results do not."""
    u, k = np.full((3, 3, 61), 30000, F16), np.full((3, 61), 1 / 61, F16)
    agrees(u, k)


def test_an_output_of_zeros_fails() -> None:
    wanted = fft_conv_reference(normal(3, 3, 61), normal(3, 61))
    assert relative_error(np.zeros_like(wanted), wanted) > 1


@pytest.mark.parametrize("shape", [(0, 3, 61), (3, 0, 61)])
def test_empty(shape: tuple[int, ...]) -> None:
    y = ops.fft_conv(normal(*shape), normal(shape[1], 61))
    assert y.shape == shape and y.dtype == F32


# Mistakes.

U, K = normal(2, 3, 40), normal(3, 40)
MISTAKES = [
    ({"k": normal(3, 41)}, r"k has 41 taps, more than the 40 elements of a sequence: cut it, k\[:, :40\]"),
    ({"k": normal(4, 40)}, r"k has 4 channels, and u \[2, 3, 40\] has 3"),
    ({"k": normal(3)}, r"k is f32\[3\], expected \[H, taps\]"),
    ({"k": normal(3, 0)}, r"k is f32\[3, 0\], expected \[H, taps\]"),
    ({"k": K.astype(F64)}, "k is f64, u f32: expected one dtype, or an f32 k with a u of 16 bits; cast one"),
    ({"u": U[0]}, r"takes u \[B, H, L\], of rank 3: found \[3, 40\]"),
    ({"u": U.astype(np.complex64)}, "u is complex64, expected real numbers: convolve its parts"),
    ({"u": U.astype(np.int32)}, "u is i32, expected f16, bf16, f32 or f64"),
    ({"u": normal(1, 3, 0)}, "takes sequences of 1 to 4194304 elements, found 0"),
    ({"u": np.broadcast_to(F32(0), (1, 3, (1 << 22) + 1))}, "of 1 to 4194304 elements, found 4194305"),
    ({"mode": "same"}, "expected mode 'causal', 'circular', 'bidirectional', .*, found 'same'"),
    ({"mode": "bidirectional"}, "mode 'bidirectional' takes k_reverse too, the kernel of what comes later"),
    ({"k_reverse": K}, "mode 'causal' takes no k_reverse"),
    (
        {"mode": "bidirectional", "k_reverse": normal(4, 9)},
        r"k_reverse is f32\[4, 9\], expected channels and",
    ),
    ({"mode": "bidirectional", "k_reverse": normal(3, 41)}, "k_reverse has 41 taps, more than the 40"),
    ({"pregate": U[:1]}, r"pregate is f32\[1, 3, 40\], expected the shape of u, \[2, 3, 40\]"),
    ({"postgate": U[..., 1:]}, r"postgate is f32\[2, 3, 39\], expected the shape of u, \[2, 3, 40\]"),
    ({"skip": normal(2)}, r"skip is f32\[2\], expected one number per channel, \[3\]"),
    ({"algorithm": "fast"}, "expected algorithm None, 'direct', 'one pass', 'three passes', found 'fast'"),
]


@pytest.mark.parametrize(("wrong", "message"), MISTAKES)
def test_mistakes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(tc.TilecError, match=message):
        ops.fft_conv(**({"u": U, "k": K} | wrong))


def test_spectra_of_something_else() -> None:
    spectrum = ops.fft_conv_spectrum(K, 40)
    for wrong, message in (
        ({"u": normal(2, 3, 39)}, "the spectrum was made for length 40, and u has length 39"),
        ({"mode": "circular"}, "the spectrum was made for mode 'causal', and the call is of mode 'circular'"),
        ({"k_reverse": K}, "a spectrum has k_reverse in it already: pass it to fft_conv_spectrum"),
        ({"u": U.astype(F64)}, "the spectrum is f32, and a u of f64 takes one of f64"),
        ({"u": normal(2, 4, 40)}, r"k has 3 channels, and u \[2, 4, 40\] has 4"),
        (
            {"algorithm": "direct"},
            "a spectrum was made for an algorithm already: leave out algorithm='direct'",
        ),
    ):
        with pytest.raises(tc.TilecError, match=message):
            ops.fft_conv(**({"u": U, "k": spectrum} | wrong))
    with pytest.raises(tc.TilecError, match="k has 40 taps, more than the 39"):
        ops.fft_conv_spectrum(K, 39)
    with pytest.raises(tc.TilecError, match=r"takes sequences of 1 to 4194304 elements, found 40\.0"):
        ops.fft_conv_spectrum(K, 40.0)


@pytest.mark.parametrize("op", [ops.fft_conv, ops.fft_conv_backward])
def test_bad_problems(op: Any) -> None:
    """What nothing can be compiled for."""
    for wrong, message in (
        ({"taps": 41}, "expected 1 to 40 taps, as many as a sequence has elements: found 41"),
        ({"taps": 0}, "expected 1 to 40 taps, as many as a sequence has elements: found 0"),
        ({"mode": "same"}, "expected mode 'causal', .* found 'same'"),
        ({"length": 0}, "sequences of 1 to 4194304 elements, found 0"),
        ({"dtype": "u4"}, "dtype is u4, expected f16, bf16, f32 or f64"),
    ):
        with pytest.raises(tc.TilecError, match=message):
            op.compile(**{"batch": 1, "channels": 2, "length": 40, **wrong}, target="cpu")
