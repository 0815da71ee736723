"""Long convolutions on GPUs: emulated with all checks, and the PTX of the sizes that people use."""

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.ops.fft_conv_cases import BF16, F16, F32, bound
from tilec import ops
from tilec.backends.ptx.assemble import find
from tilec.ir.inst.memory import Store
from tilec.ops.fft_conv_plan import Plan, matrices_of, of_period, places_of
from tilec.ops.fft_conv_reference import fft_conv_backward_reference, fft_conv_reference
from tilec.ops.reference import relative_error

EMULATED = [  # length, taps, dtype, mode, what else is there
    (200, 150, F16, "causal", ("skip", "pregate", "postgate")),
    (333, 333, BF16, "bidirectional", ("postgate",)),
    (300, 7, F16, "circular", ("pregate",)),
    (1025, 1025, F16, "causal", ()),
    (100, 33, F16, "bidirectional_safari", ("skip",)),
    (60, 60, F32, "circular", ("skip", "postgate")),
]


def normal(*shape: int, dtype: Any = F32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def options_of(mode: str, there: tuple[str, ...], length: int, dtype: Any) -> dict[str, Any]:
    shapes = {"skip": (2,), "pregate": (3, 2, length), "postgate": (3, 2, length)}
    found: dict[str, Any] = {name: normal(*shapes[name], dtype=dtype, seed=5) for name in there}
    if mode.startswith("bi"):
        found["k_reverse"] = normal(2, length // 2, dtype=dtype, seed=6)
    return {"mode": mode, **found}


@pytest.mark.parametrize("target", ["emulator:sm_80", "emulator:sm_90a"])
@pytest.mark.parametrize("case", EMULATED, ids=str)
def test_emulated(case: tuple[Any, ...], target: str, full: bool) -> None:
    length, taps, dtype, mode, there = case
    if not full and (EMULATED.index(case), target[-3:]) not in ((0, "_80"), (1, "90a")):
        pytest.skip("make check-all runs every case on both")
    u, k = normal(3, 2, length, dtype=dtype), normal(2, taps, dtype=dtype)
    options = options_of(mode, there, length, dtype)
    with tc.target(target):
        y = ops.fft_conv(u, k, **options)
    assert relative_error(y, fft_conv_reference(u, k, **options)) < bound(dtype, length)


@pytest.mark.parametrize("dtype", [F16, F32])
def test_gradients_emulated(dtype: Any, full: bool) -> None:
    if not full and dtype == F16:
        pytest.skip("make check-all runs it")
    u, k, dy = (
        normal(3, 2, 20, dtype=dtype),
        normal(2, 20, dtype=dtype),
        normal(3, 2, 20, dtype=dtype, seed=1),
    )
    with tc.target("emulator:sm_80"):
        found = ops.fft_conv_backward(dy, u, k, skip=normal(2, dtype=dtype))
    wanted = fft_conv_backward_reference(dy, u, k, skip=normal(2, dtype=dtype))
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours is None and theirs is None) or relative_error(ours, theirs) < bound(dtype, 20)


@pytest.mark.parametrize("algorithm", [None, "direct", "three passes"])
def test_meaning(algorithm: str | None) -> None:
    u, k = normal(3, 2, 61), normal(2, 45)
    with tc.target("reference"):
        y = ops.fft_conv(u, k, algorithm=algorithm)
    assert relative_error(y, fft_conv_reference(u, k)) < bound(F32, 61)


@pytest.mark.parametrize("length", [200, 600])
def test_any_magnitude_in_f16(length: int, full: bool) -> None:
    """A constant is the worst: all of it is in one frequency."""
    if not full and length != 200:
        pytest.skip("make check-all runs it")
    scales, noise = [30000.0, 30000.0, 2.0**-5, 2.0**-8], normal(length)
    waves = [np.ones(length), np.sign(noise), normal(length, seed=1), normal(length, seed=2)]
    u = np.stack([scale * wave for scale, wave in zip(scales, waves, strict=True)]).astype(F16)[:, None]
    k = np.full((1, length), 1 / 512, F16)
    with tc.target("emulator:sm_80"):
        y = ops.fft_conv(u, k)
    wanted = fft_conv_reference(u, k)
    for pair in (slice(0, 2), slice(2, 4)):  # which go through one transform
        assert relative_error(y[pair], wanted[pair]) < bound(F16, length)


def test_a_spectrum_for_matrix_units() -> None:
    u, k = normal(3, 2, 200, dtype=F16), normal(2, 200, dtype=F16)
    with tc.target("emulator:sm_80"):
        spectrum = ops.fft_conv_spectrum(k, 200)
        assert relative_error(ops.fft_conv(u, spectrum), fft_conv_reference(u, k)) < bound(F16, 200)
        with pytest.raises(tc.TilecError, match="made for matrix units and a u of 16 bits, and u is f32"):
            ops.fft_conv(u.astype(F32), spectrum)


@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("length", [256, 1024, 4096, 8192, 16384])
def test_what_people_use(length: int, target: str, full: bool) -> None:
    """Matrix instructions, two exchanges through shared memory, no spills; gated, with what skips."""
    if not full and (target == "sm_90a") != (length == 16384):
        pytest.skip("make check-all runs it")
    done = ops.fft_conv.compile(
        batch=64,
        channels=768,
        length=length,
        dtype="bf16",
        target=target,
        skip=True,
        pregate=True,
        postgate=True,
    )
    assert done.ptx.count("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32") >= 4 * 4
    stores = [inst for inst in done.func.walk() if isinstance(inst, Store)]
    exchanged = [inst for inst in stores if inst.array.array_type.space == "shared"]
    assert len(exchanged) == (0 if length == 256 else 4)  # two exchanges, of real and imaginary parts
    if find("ptxas"):
        assert done.resources.spill_bytes == 0


def test_compiled_without_matrix_units() -> None:
    assert ops.fft_conv.compile(batch=4, channels=8, length=30, dtype="f32", target="sm_80").ptx
    assert ops.fft_conv.compile(batch=4, channels=8, length=30, dtype="f32", target="cpu", skip=True).asm
    done = ops.fft_conv.compile(batch=4, channels=8, length=1 << 18, dtype="f32", target="cpu")
    assert "middle_pass" in done.ir
    assert ops.fft_conv_spectrum.compile(
        channels=8, taps=9, length=30, mode="bidirectional", target="cpu"
    ).asm
    assert ops.fft_conv_backward.compile(batch=4, channels=8, length=30, target="cpu").asm


def test_compiled_as_they_are_called() -> None:
    """Periods that no block of a GPU holds are done in three passes, and in one on the CPU."""
    passes = ("middle_pass_of_taps", "middle_pass_of_lags")
    for target, names in {"cpu": ("spectrum_kernel", "lags_kernel"), "sm_80": passes}.items():
        spectrum = ops.fft_conv_spectrum.compile(channels=8, taps=4096, length=4096, target=target)
        backward = ops.fft_conv_backward.compile(batch=3, channels=8, length=4096, target=target)
        assert (*spectrum.kernels, *backward.kernels) == names
        assert backward.func.warps == 8


# Plans.


@pytest.mark.parametrize("bits", range(2, 23))
def test_frequencies_are_a_permutation(bits: int) -> None:
    for plan in (of_period(bits, 17), of_period(bits, 11), matrices_of(1 << bits, 1, "circular", 1 << 20)):
        if plan and plan.period < 1 << 18:
            assert (np.sort(plan.frequencies().reshape(-1)) == np.arange(plan.period)).all()


def test_places_lead_from_one_order_to_another() -> None:
    plan, given = matrices_of(200, 200, "causal", 1 << 20), Plan((8, 4), (4, 4))
    assert plan and plan.period == given.period
    there = given.frequencies().reshape(-1)[places_of(plan, given)]
    assert (there == plan.frequencies().reshape(-1)).all()
