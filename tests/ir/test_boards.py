"""Boards: found by name, by what a driver calls them, and scaled to what it counts."""

import re

import pytest

from tilec.ir.boards import BOARDS, rates, rates_of
from tilec.ir.errors import TilecError
from tilec.ir.target import TARGETS, target


def test_names():
    assert rates("h200") is rates("H200") and rates("H200").dram == 4800
    assert all(board.target in TARGETS for board in BOARDS.values())
    with pytest.raises(TilecError, match=re.escape("no device 'H20' is known: expected one of A100, A10")):
        rates("H20")
    with pytest.raises(TilecError, match="did you mean RTX 4090"):
        rates("rtx4090")


@pytest.mark.parametrize("name", BOARDS)
def test_an_sm_does_a_power_of_two_of_operations_a_clock(name: str):
    """About: data sheets state another clock."""
    board = BOARDS[name]
    f16 = board.tensor_tflops("f16")
    assert f16 is not None
    per_clock = f16 * 1000 / board.sms / board.clock
    assert min(abs(per_clock / 2**n - 1) for n in range(8, 15)) < 0.1


@pytest.mark.parametrize(
    ("called", "sms", "board"),
    [
        ("NVIDIA H200", 132, "H200 SXM"),
        ("NVIDIA H100 80GB HBM3", 132, "H100 SXM"),
        ("NVIDIA A100-SXM4-80GB", 108, "A100 SXM 80GB"),
        ("NVIDIA GeForce RTX 4090", 128, "RTX 4090"),
        ("NVIDIA A10", 72, "A10"),
    ],
)
def test_what_drivers_call_them(called: str, sms: int, board: str):
    like = next(b for b in BOARDS.values() if b.board == board)
    default = target(like.target).rates
    assert default is not None
    assert rates_of(called, default, sms, 1.98, 3000.0) is like


def test_an_unknown_board_is_scaled():
    like = rates("A100")
    found = rates_of("NVIDIA A30", like, 56, 1.44, 933)
    assert (found.board, found.sms, found.clock, found.dram) == ("NVIDIA A30", 56, 1.44, 933)
    f16, scale = found.tensor_tflops("f16"), 56 * 1.44 / (108 * 1.41)
    assert f16 == pytest.approx(312 * scale) and found.l2 == pytest.approx(5000 * scale)
    silent = rates_of("?", like, 0, 0, 0)
    assert (silent.sms, silent.dram, silent.tensor_tflops("f16")) == (108, 2039, 312)
    smaller = rates_of("NVIDIA H100 PCIe", rates("H200"), 114, 1.755, 2039)
    assert smaller.dram == 2039 and smaller.sms == 114
