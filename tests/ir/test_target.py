"""Targets: the data hangs together, names are found, and a wrong one is told the right one."""

import dataclasses
import re

import pytest

from tilec.ir.errors import TilecError
from tilec.ir.target import (
    CPU,
    FEATURES,
    KIB,
    TARGETS,
    Mma,
    Place,
    Target,
    of_capability,
    parse_target,
    target,
)

GPUS = [t for t in TARGETS.values() if t.kind == "ptx"]
each_gpu = pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)


def test_the_targets() -> None:
    assert list(TARGETS) == ["sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100a", "sm_120", "cpu"]
    assert all(target(name).name == name for name in TARGETS)


@each_gpu
def test_a_name_says_the_capability(gpu: Target) -> None:
    assert gpu.name.rstrip("a") == f"sm_{gpu.sm}"
    assert gpu.oldest_ptx_version <= gpu.ptx_version


@each_gpu
def test_limits_hang_together(gpu: Target) -> None:
    assert gpu.shared_bytes_per_block + gpu.shared_bytes_reserved == gpu.shared_bytes_per_sm
    assert gpu.max_threads_per_sm % gpu.warp_size == 0 and gpu.max_threads <= gpu.max_threads_per_sm
    assert gpu.max_warps == 32 and gpu.max_registers_per_thread == 255
    assert gpu.needs_layouts and not CPU.needs_layouts


@pytest.mark.parametrize(
    ("name", "kib"),
    [("sm_80", 163), ("sm_86", 99), ("sm_89", 99), ("sm_90a", 227), ("sm_100a", 227), ("sm_120", 99)],
)
def test_shared_memory_of_a_block(name: str, kib: int) -> None:
    assert target(name).shared_bytes_per_block == kib * KIB


@each_gpu
def test_newer_targets_only_add(gpu: Target) -> None:
    for older in GPUS:
        if older.sm <= gpu.sm and not older.name.endswith("a"):
            assert older.features <= gpu.features
            assert set(older.mma) <= set(gpu.mma) and older.atomic_add <= gpu.atomic_add


@each_gpu
def test_the_rates_agree_with_the_machine(gpu: Target) -> None:
    """An SM's peak is a power of two of operations a clock, about: data sheets state another clock."""
    rates = gpu.rates
    assert rates is not None
    f16 = rates.tensor_tflops("f16")
    assert f16 is not None and f16 == rates.tensor_tflops("bf16") and f16 > rates.f32
    per_clock = f16 * 1000 / rates.sms / rates.clock
    assert min(abs(per_clock / 2**n - 1) for n in range(8, 15)) < 0.1
    assert rates.tensor_tflops("f64") is None


def test_a_feature_is_asked_for_by_name() -> None:
    assert target("sm_90a").has("wgmma") and not target("sm_90").has("wgmma")
    assert all(not CPU.has(feature) for feature in FEATURES)
    with pytest.raises(AssertionError, match="'wgma' is not described in FEATURES"):
        target("sm_90a").has("wgma")
    with pytest.raises(AssertionError, match=re.escape("sm_80: ['wings'] is not described in FEATURES")):
        dataclasses.replace(target("sm_80"), features=frozenset({"wings"}))


def test_every_feature_is_somebodys() -> None:
    assert frozenset().union(*(gpu.features for gpu in GPUS)) == FEATURES.keys()


def test_the_products_of_a_warp() -> None:
    kinds = target("sm_80").mma
    assert len(set(kinds)) == len(kinds)
    assert Mma(16, 8, 16, "f16", "f16", "f32") in kinds and Mma(16, 8, 32, "u8", "i8", "i32") in kinds
    assert Mma(16, 8, 32, "f8e4m3", "f8e5m2", "f32") in set(target("sm_89").mma) - set(kinds)
    assert Mma(16, 8, 16, "f16", "f16", "f32").name == "m16n8k16"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("reference", Place("reference", CPU)),
        ("cpu", Place("cpu", CPU)),
        ("emulator:sm_80", Place("emulator", target("sm_80"))),
        ("cuda:3", Place("cuda:3", None)),
        ("cuda", Place("cuda:0", None)),
        ("sm_90a", Place("compile", target("sm_90a"))),
    ],
)
def test_places(text: str, place: Place) -> None:
    assert parse_target(text) == place


def test_the_number_of_the_gpu() -> None:
    assert parse_target("cuda:3").device == 3
    with pytest.raises(AssertionError, match="cpu is no GPU"):
        assert parse_target("cpu").device


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("sm_95", "sm_90a"),
        ("sm_100", "sm_100a"),
        ("sm80", "sm_80"),
        ("sm_70", "sm_80"),
        ("compute_90", "sm_90a"),
        ("SM_86", "sm_86"),
        ("emulator:sm_95", "emulator:sm_90a"),
        ("emulator", "emulator:sm_80"),
        ("emulator:cpu", "emulator:sm_80"),
        ("refrence", "reference"),
        ("cuda:x", "cuda:0"),
        ("gpu", None),
        ("", None),
        ("vulkan", None),
    ],
)
def test_a_misspelt_target(text: str, meant: str | None) -> None:
    with pytest.raises(TilecError, match=re.escape(f"no target {text!r}: ")) as error:
        parse_target(text)
    assert ("did you mean" in str(error.value)) == (meant is not None)
    if meant:
        assert str(error.value).endswith(f"; did you mean {meant}?")


def test_a_misspelt_name() -> None:
    with pytest.raises(
        TilecError, match=r"no target 'sm_95': expected one of sm_80, .*; did you mean sm_90a\?"
    ):
        target("sm_95")


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ((8, 0), "sm_80"),
        ((8, 7), "sm_86"),
        ((8, 9), "sm_89"),
        ((9, 0), "sm_90a"),
        ((10, 0), "sm_100a"),
        ((10, 3), "sm_90"),
        ((12, 1), "sm_120"),
    ],
)
def test_the_target_of_a_gpu(capability: tuple[int, int], name: str) -> None:
    assert of_capability(*capability).name == name


def test_a_gpu_that_is_too_old() -> None:
    with pytest.raises(TilecError, match=r"capability 7\.5: tilec needs 8\.0 \(sm_80\) or newer"):
        of_capability(7, 5)
