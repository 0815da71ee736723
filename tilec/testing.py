"""A pytest fixture: a test whose kernels run on the emulator, and that fails where it finds something.

    pytest_plugins = ["tilec.testing"]              # once, in the conftest.py at the top

    def test_softmax(emulator):
        softmax(x, y)                               # races, accesses out of bounds, ... raise TilecError
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tilec.places import target


@pytest.fixture
def emulator(request: pytest.FixtureRequest) -> Iterator[str]:
    """Kernels called with numpy arrays run on the emulated sm_80, checked; the name of that target.

    For another GPU: @pytest.mark.parametrize("emulator", ["sm_80", "sm_90a"], indirect=True).
    A finding raises TilecError, with the kernel's line in its text and the report as .report.
    """
    name = f"emulator:{getattr(request, 'param', 'sm_80')}"
    with target(name):
        yield name
