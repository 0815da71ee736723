"""The model of dense products: its counts against machine code, and what it chooses."""

import pytest

import tilec as tc
from tilec.backends.ptx.assemble import find
from tilec.ir.boards import BOARDS, rates
from tilec.ir.target import target
from tilec.ops.dense_choice import Product, candidates, chosen, instructions, registers, shared_bytes, work
from tilec.ops.linear_cost import LAUNCHED, Tiles, sums
from tilec.ops.matmul import Extras, matmul_kernel

SHAPES = [
    ("sm_80", Tiles(16, 128, 64, 4, 4)),
    ("sm_80", Tiles(64, 128, 32, 4, 3)),
    ("sm_80", Tiles(128, 256, 32, 8, 3)),
    ("sm_90a", Tiles(16, 64, 64, 4, 4)),
    ("sm_90a", Tiles(64, 128, 64, 4, 4, producer=1)),
    ("sm_90a", Tiles(128, 256, 64, 8, 4, producer=1)),
]


@pytest.mark.skipif(find("ptxas") is None, reason="no ptxas")
@pytest.mark.parametrize(("name", "t"), SHAPES)
def test_counts_are_those_of_the_machine_code(name: str, t: Tiles) -> None:
    m, n, k = 4096, 8192, 2048
    specs = tc.Spec("f16", (1, m, k)), tc.Spec("f16", (1, k, n), (0, 1, k)), tc.Spec("f16", (1, m, n))
    how = {"producer": True} if t.producer else {}
    done = matmul_kernel.compile(
        *specs, *[tc.Spec("f32", (1,)) for _ in Extras._fields], target=name,
        bm=t.bm, bn=t.bn, bk=t.bk, stages=t.stages, warps=t.warps, **how,
    )  # fmt: skip
    loop, used, machine = done.hot_loop, done.resources, target(name)
    assert loop is not None and loop.instructions == pytest.approx(instructions(t, machine), rel=0.2)
    expected = LAUNCHED if t.producer and t.warps > 4 else registers(t, machine)
    assert used.registers == pytest.approx(expected, rel=0.45) and not used.spill_bytes
    assert 0 <= used.shared_bytes - shared_bytes(t) <= 96


@pytest.mark.parametrize("name", BOARDS)
def test_what_is_chosen_fits(name: str) -> None:
    board, machine = rates(name), target(rates(name).target)
    shapes = {tuple(map(int, each)) for each in zip(*candidates(board), strict=True)}
    for m in (1, 16, 100, 4096):
        for n, k in ((64, 64), (1000, 4096), (28672, 8192)):
            plain, done = (chosen(Product(m, n, k, finished), board) for finished in (False, True))
            assert tuple(plain) in shapes and sums(done) <= 64
            assert work(Product(m, n, k), plain, machine).resident >= 1


def test_large_products_have_large_tiles() -> None:
    large = chosen(Product(8192, 8192, 8192), rates("H100"))
    assert (large.bm, large.bn, large.warps, large.producer) == (128, 256, 8, 1)
    assert chosen(Product(8192, 8192, 8192), rates("A100"))[:2] == (128, 256)
    assert chosen(Product(16, 1024, 8192), rates("A100"))[:2] == (16, 64), "blocks for the processors"
