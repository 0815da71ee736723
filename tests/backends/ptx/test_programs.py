"""Random kernels: every pass keeps their meaning, and their PTX has the same bits, without a finding."""

from __future__ import annotations

import pytest

from tests.backends.ptx.programs import program
from tests.backends.ptx.runner import check, seeds


@pytest.mark.parametrize("seed", seeds(40, 1000))
def test_small_programs(seed: int) -> None:
    check(*program(seed))


@pytest.mark.parametrize("seed", seeds(4, 200))
def test_long_programs(seed: int) -> None:
    check(*program(seed + 10_000, 20))


@pytest.mark.parametrize("seed", seeds(4, 100))
def test_on_newer_targets(seed: int) -> None:
    check(*program(seed + 20_000), "sm_90a")
