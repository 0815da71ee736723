"""Products that are computed where they are read: whoever reads them, and whatever changes before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.cpu.test_codes import MACHINES, on_machine
from tilec.backends.cpu import waiting

Array = np.ndarray[Any, Any]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each cluster that was written, whether it finished a product."""
    found: list[bool] = []
    block = waiting.Finish.__init__

    def watched(self: waiting.Finish, *args: Any) -> None:
        found.append(True)
        block(self, *args)

    monkeypatch.setattr(waiting.Finish, "__init__", watched)
    return found


@tc.kernel
def scaled(
    a: tc.Array, b: tc.Array, scale: tc.Array, c: tc.Array, *, m: int, n: int, k: int, steps: int = 2
) -> None:
    """c = the sum of steps * (a @ b) * scale, in c's dtype: what linear layers make of groups."""
    acc = tc.zeros((m, n), c.dtype)
    for s in tc.range(steps):
        part = tc.dot(a.load((0, 0), (m, k)), b.load((0, 0), (k, n)), tc.full((m, n), 3, tc.i32))
        acc = tc.fma(part.to(c.dtype), scale.load((s, 0), (1, n)).to(c.dtype), acc)
    c.store((0, 0), acc)


@tc.kernel
def seldom(a: tc.Array, b: tc.Array, scale: tc.Array, c: tc.Array, *, m: int, n: int, k: int) -> None:
    """Products that one cluster reads twice, that two read, that a branch reads, and that two make one."""
    x, y, zero = a.load((0, 0), (m, k)), b.load((0, 0), (k, n)), tc.zeros((m, n), tc.i32)
    p, q, r = tc.dot(x, y, zero), tc.dot(x, y, zero + 1), tc.dot(x, y, zero + 2)
    total = p * p + q * r
    some = r.sum(1)[:, None] + tc.zeros((m, n), tc.i32)
    if scale.at(0, 0) > 0:
        some = some + q
    last = tc.dot(x, y, zero)
    a.store((0, 0), tc.full((m, k), 1, a.dtype))  # last's operands were read before
    c.store((0, 0), (total + some - last * 5).to(c.dtype))


@tc.kernel
def plain(a: tc.Array, b: tc.Array, scale: tc.Array, c: tc.Array, *, m: int, n: int, k: int) -> None:
    """c = relu(a @ b * a row + a column), in c's dtype, from floats."""
    x, y = a.load((0, 0), (m, k)).to(tc.f16), b.load((0, 0), (k, n)).to(tc.f16)
    row, column = scale.load((0, 0), (1, n)).to(tc.f32), a.load((0, 0), (m, 1)).to(tc.f32)
    c.store((0, 0), tc.maximum(tc.dot(x, y, tc.zeros((m, n), tc.f32)) * row + column, 0).to(c.dtype))


def compared(kernel: Any, machine: str, out: str, m: int, n: int, k: int) -> None:
    """Small whole numbers: sums of any order are equal."""
    rng = np.random.default_rng((m, n, k))
    a, b = (rng.integers(-8, 8, shape).astype(np.int8) for shape in ((m, k), (k, n)))
    scale = rng.integers(1, 4, (2, n)).astype(np.float32)
    found, wanted = np.full((m, n), -1, out), np.full((m, n), -2, out)
    on_machine(machine, kernel, a.copy(), b, scale, found, m=m, n=n, k=k)
    kernel.on("reference")(a, b, scale, wanted, m=m, n=n, k=k)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 64, 32), (7, 33, 20), (20, 130, 16), (40, 17, 5)])
def test_sums_are_scaled_in_registers(machine: str, m: int, n: int, k: int, taken: list[bool]) -> None:
    compared(scaled, machine, "float32", m, n, k)
    assert taken


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 20, 24), (9, 16, 16), (20, 40, 12)])
def test_whoever_reads_them(machine: str, m: int, n: int, k: int) -> None:
    compared(seldom, machine, "int32", m, n, k)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("out", ["float32", "float16", "float64"])
def test_into_an_array(machine: str, out: str, taken: list[bool]) -> None:
    compared(plain, machine, out, 19, 70, 24)
    assert taken
