"""The loops of shipped products: nothing found on the emulator, no bank met twice, no sector read in part."""

import numpy as np
import pytest

import tilec as tc
from tilec.backends.emulator.metrics import Traffic, sectors, wavefronts
from tilec.ops import loops_bench
from tilec.ops.loops_traffic import hot_lines, traffic

SAMPLES = ("f16 x f16, by 8", "f16 x u4, M = 16", "f16 x f6e3m2, M = 16", "f16 x u4, M = 64",
           "int8 x u4, M = 16")  # fmt: skip
CASES = {case.name: case for case in loops_bench.cases()}


@pytest.mark.parametrize("target", loops_bench.TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_loops_use_memory_as_well_as_can_be(name: str, target: str, full: bool) -> None:
    if target not in CASES[name].targets or (not full and name not in SAMPLES):
        pytest.skip("make check-all runs it")
    used = traffic(CASES[name].small, target)
    assert used.findings == 0
    assert used.shared.units == used.shared.least and used.inside.units == used.inside.least


def test_the_loop_is_the_one_with_products() -> None:
    ptx = """
$L__BB0_1:
add.f32
@%p1 bra $L__BB0_1;
$L__BB0_2:
$L__BB0_3:
mma.sync.aligned
bra.uni $L__BB0_3;
bra $L__BB0_2;
"""
    assert hot_lines(ptx) == {6, 7, 8} and hot_lines("ret;") == set()


def test_a_column_of_a_matrix_is_no_good_access() -> None:
    """Fewest: what would hold the bytes."""
    lane, warp = np.arange(32), np.zeros(32, int)
    assert wavefronts(lane * 128, warp, lane, 4) == (1, 32, 1)
    assert wavefronts(lane * 4, warp, lane, 4) == wavefronts(lane * 0, warp, lane, 4) == (1, 1, 1)
    assert wavefronts(lane * 16, warp, lane, 16) == (1, 4, 4)
    assert sectors(lane * 64, warp, 4) == (1, 32, 4) and sectors(lane * 2, warp, 2) == (1, 2, 2)
    found = Traffic()
    found.add(1, 32, 4)
    assert (found.units, found.least, found.ratio) == (32, 4, 32)


def test_the_table_of_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops_bench, "TARGETS", ("sm_80",))
    monkeypatch.setattr(loops_bench, "cases", lambda: [CASES["f16 x u4, M = 16"]])
    head, line, *rest = loops_bench.traffic_table()
    assert line.split() == ["f16", "x", "u4,", "M", "=", "16", "sm_80", "0", "1.00", "1.00", line.split()[-1]]
    assert "wavefronts" in head and len(rest) == 2


def test_what_an_emulator_finds_is_raised() -> None:
    @tc.kernel
    def wrong(x: tc.Array, out: tc.Array):
        out.store(0, x.load(tc.blocks(x.shape[0]), 1))

    with pytest.raises(tc.TilecError, match=r"write different values|different blocks|global-race"):
        traffic(lambda: wrong(np.arange(4, dtype=np.float32), np.zeros(1, np.float32)), "sm_80")
