"""The roofline: the same in numbers, arrays and symbols, and as it must be where one unit does all."""

import numpy as np
import pytest

from tilec.cost import LATENCY, LAUNCH, MEMORY_SHARE, TURN, Work, largest, resident, smallest, times
from tilec.ir.boards import rates
from tilec.ir.target import SM_80, SM_90

IDLE = Work(1, 4, 1, 1, memory=0, l2=0, shared=0, products=0, instructions=0, integers=0, stages=3)
BOARD, PEAK = rates("H200"), 989.4


def test_how_many_blocks_an_sm_holds():
    assert resident(SM_80, 4, 0, 0) == 16 and resident(SM_80, 4, 0, 128) == 4
    assert resident(SM_80, 4, 80 << 10, 32) == 2 and resident(SM_90, 1, 0, 32) == 32
    assert resident(SM_80, 4, np.array([0, 200 << 10]), 128).tolist() == [4, 0]


def test_one_unit_at_a_time():
    memory = times(IDLE._replace(memory=4.8e9), BOARD, PEAK)
    assert memory.memory == pytest.approx(1e-3 / MEMORY_SHARE) and memory.l2 == memory.products == 0
    products = times(IDLE._replace(blocks=132 * 10, products=1e9), BOARD, PEAK)
    assert products.products == pytest.approx(1320e9 / (0.82 * 989.4e12))
    assert times(IDLE._replace(blocks=133, products=1e9), BOARD, PEAK).products == products.products / 5
    assert times(IDLE._replace(blocks=10, integers=2), BOARD, PEAK).integers * 1.83e9 == pytest.approx(4)
    assert times(IDLE._replace(shared=256), BOARD, PEAK).shared * 1.83e9 == pytest.approx(2)
    rest = times(IDLE._replace(turns=3), BOARD, PEAK)
    assert rest.fixed == LAUNCH + LATENCY + 3 * TURN and rest.latency == LATENCY / 2
    assert "fixed" not in rest.units and rest.seconds == pytest.approx(rest.fixed + rest.latency)


def test_many_warps_issue_more_than_one():
    def issue(**of: float) -> float:
        return float(times(IDLE._replace(instructions=100, **of), BOARD, PEAK).issue)

    assert issue(warps=4) == pytest.approx(100 / 0.35 / 1.83e9)
    assert issue(warps=16) == pytest.approx(16 * 100 / 4 / 1.83e9)
    assert issue(blocks=264, resident=2) == issue(warps=4)  # two blocks at once hide each other


def test_waves_follow_each_other():
    def latency(blocks: int, held: int) -> float:
        return float(times(IDLE._replace(blocks=blocks, resident=held, steps=10), BOARD, PEAK).latency)

    assert latency(132, 1) == latency(264, 2) == latency(1, 1) == 10 * LATENCY / 2
    assert latency(133, 1) == latency(265, 2) == 2 * latency(1, 1)


def test_numbers_arrays_and_symbols_agree():
    sympy = pytest.importorskip("sympy")
    rng = np.random.default_rng(0)
    given = Work(*rng.integers(2, 100, (len(Work._fields), 50)))
    symbols = Work(*sympy.symbols(Work._fields, integer=True, positive=True))
    shown = times(symbols, BOARD, PEAK)
    computed = sympy.lambdify(symbols, [*shown, shown.seconds])(*given)
    found = times(given, BOARD, PEAK)
    for name, array, formula in zip((*shown._fields, "all"), (*found, found.seconds), computed, strict=True):
        np.testing.assert_allclose(array, formula, rtol=1e-12, err_msg=name)
    for i in range(50):
        one = times(Work(*(int(x[i]) for x in given)), BOARD, PEAK)
        assert one.seconds == pytest.approx(found.seconds[i], rel=1e-12)


def test_extremes():
    assert largest(1, 2.5) == 2.5 and smallest(3, 2, 4) == 2
    assert largest(np.array([1, 5]), 3).tolist() == [3, 5]
    assert smallest(4, np.array([1, 5]), 3).tolist() == [1, 3]
