"""Tuning: what is tried, what is dropped before it is compiled, how the rest is ranked, what is kept."""

from __future__ import annotations

import gc
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.stub import installed
from tilec import tuning
from tilec.backends.ptx import assemble
from tilec.estimate import NOMINAL
from tilec.ir.target import SM_80, SM_90
from tilec.tuning import Candidate, warps_per_sm


@tc.kernel
def matmul(a: tc.Array, b: tc.Array, c: tc.Array, *, bm=64, bn=64, bk=32, stages=2, warps=4):
    A, B, C = a.tiles((bm, bk)), b.tiles((bk, bn)), c.tiles((bm, bn))
    i, j = tc.blocks(*C.shape)
    acc = tc.zeros((bm, bn), tc.f32)
    for s in tc.range(A.shape[1], stages=stages):
        acc = tc.dot(A[i, s], B[s, j], acc)
    C[i, j] = acc.to(c.dtype)


@tc.kernel
def scaled(x: tc.Array, y: tc.Array, alpha: tc.f32, *, block=64, warps=4):
    i = tc.blocks(tc.cdiv(x.shape[0], block))
    y.store(i * block, x.load(i * block, block) * alpha)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEC_CACHE_DIR", str(tmp_path / "cache"))


MATRICES = (tc.Spec("f16", ("m", tc.dim("k", 8))), tc.Spec("f16", (tc.dim("k", 8), tc.dim("n", 8))),
            tc.Spec("f16", ("m", tc.dim("n", 8))))  # fmt: skip


def test_for_a_gpu_that_is_not_here() -> None:
    said: list[str] = []
    best = matmul.tune(*MATRICES, target="sm_80", bm=[16, 32, 512], bn=64, bk=[32, 128], stages=8,
                       progress=said.append)  # fmt: skip
    assert len(best.candidates) == 6 and len(said) == 6 and said[0].startswith("1 of 6: bm=16 bn=64 bk=32")
    fits = [each for each in best.candidates if not each.refused]
    assert [each.refused for each in best.candidates[len(fits) :]] and best.constants["bm"] in (16, 32)
    why = {(each.constants["bm"], each.constants["bk"]): each.refused for each in best.candidates}
    assert "registers of each of 128 threads" in why[512, 32] and "bytes of shared memory" in why[32, 128]
    assert all(each.seconds is None and each.shared_bytes and each.warps_per_sm for each in fits)
    assert fits == sorted(fits, key=lambda each: each.rank)
    assert str(best).splitlines()[0] == "on sm_80:" and "bytes shared" in str(best)


def test_measured_on_the_cpu_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.ones(5000, np.float32), np.zeros(5000, np.float32)
    best = scaled.tune(x, y, 2.0, block=[64, 256])
    assert best.place == "cpu" and all(each.seconds for each in best.candidates) and not y.any()
    assert best.candidates[0].seconds <= best.candidates[1].seconds
    scaled(x, y, 2.0, **best.constants)
    assert (y == 2).all()
    monkeypatch.setattr(tuning, "begun", None)
    assert scaled.tune(x, y, 2.0, block=[64, 256]) == best  # as it was kept
    with pytest.raises(TypeError):
        scaled.tune(x[:100], y[:100], 2.0, block=[64, 256])  # another problem


def test_measured_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "find", lambda tool: None)
    x, y = np.ones(500, np.float32), np.zeros(500, np.float32)
    with installed() as stub:
        with tc.target("cuda:0"):
            best = scaled.tune(x, y, 2.0, block=[64, 128])
        assert best.place == "cuda:0" and all(each.seconds for each in best.candidates)
        assert len(stub.launches) == 2 * (1 + tuning.REPEATS)
        there, out = tc.to_device(x), tc.to_device(y)
        assert scaled.tune(there, out, 2.0, block=[128, 256]).place == "cuda:0"
        assert not out.numpy().any(), "candidates write copies"
        del there, out
        gc.collect()
        assert not stub.memory


class Recording:
    """An executor that runs what it is given at once, after a trip through pickle."""

    def __init__(self) -> None:
        self.sent = 0

    def submit(self, function: Any, *args: Any) -> Future[Any]:
        import pickle

        function, args = pickle.loads(pickle.dumps((function, args)))
        self.sent += 1
        done: Future[Any] = Future()
        done.set_result(pickle.loads(pickle.dumps(function(*args))))
        return done


def test_any_executor_serves(full: bool) -> None:
    pool: Any = Recording()
    rows = (tc.Spec("f32", ("n",)),) * 2
    best = scaled.tune(*rows, target="sm_80", block=[64, 128], executor=pool)
    assert pool.sent == 2 and not best.candidates[0].refused
    if full:
        with ProcessPoolExecutor(1) as processes:
            again = scaled.tune(
                *(tc.Spec("f32", ("n",)),) * 2, target="sm_90a", block=[64, 128], executor=processes
            )
        assert not again.candidates[0].refused


class Interrupted(Recording):
    """Somebody presses a key while the first of its jobs runs."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Future[Any]] = []

    def submit(self, function: Any, *args: Any) -> Future[Any]:
        self.jobs.append(Future())
        if len(self.jobs) == 1:
            self.jobs[0].set_exception(KeyboardInterrupt())
        return self.jobs[-1]


def test_what_has_not_begun_ends_with_the_search() -> None:
    pool: Any = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        scaled.tune(*(tc.Spec("f32", ("n",)),) * 2, target="sm_80", block=[64, 128, 256], executor=pool)
    assert [job.cancelled() for job in pool.jobs] == [False, True, True]


def test_arguments_by_name() -> None:
    x, y = np.ones(500, np.float32), np.zeros(500, np.float32)
    best = scaled.tune(x, y=y, alpha=2.0, block=[64, 128])
    assert [set(each.constants) for each in best.candidates] == [{"block"}] * 2


def test_an_assembler_that_comes_later_ranks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (tc.Spec("f32", ("n",)),) * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "find", lambda tool: None)
        assert not scaled.tune(*rows, target="sm_80", block=[64, 128]).candidates[0].registers
    if assemble.assembler():
        assert scaled.tune(*rows, target="sm_80", block=[64, 128]).candidates[0].registers


def test_errors() -> None:
    x, y = np.ones(50, np.float32), np.zeros(50, np.float32)
    with pytest.raises(tc.TilecError, match=r"executor= takes one of concurrent\.futures, as .*, found int"):
        scaled.tune(x, y, 2.0, block=[64, 128], executor=4)  # type: ignore[arg-type]
    for choices, place, message in (
        (
            {"blok": [64, 128]},
            "cpu",
            "no candidate of scaled fits cpu: blok=64: .*no constant blok",
        ),
        ({"block": []}, "cpu", "tune has nothing to choose from: a list of alternatives is empty"),
        ({"block": [64], "warps": [64]}, "sm_80", "no candidate of scaled fits sm_80: .*asks for 64 warps"),
        ({"block": [64]}, "reference", "the reference is not made to be fast: tune for"),
    ):
        with pytest.raises(tc.TilecError, match=message):
            scaled.tune(x, y, 2.0, target=place, **choices)


def test_warps_that_an_sm_holds() -> None:
    assert warps_per_sm(SM_80, 4, 0, 0) == 64  # 2048 threads
    assert warps_per_sm(SM_80, 4, 0, 128) == 16  # 65536 registers
    assert warps_per_sm(SM_80, 4, 80 << 10, 32) == 8  # two blocks of 81 KiB in 164
    assert warps_per_sm(SM_90, 1, 0, 32) == 32  # 32 blocks
    assert warps_per_sm(SM_80, 8, 163 << 10, 0) == 8


def test_what_moves_fewer_bytes_goes_first() -> None:
    """Of blocks of one warp's work, the larger ones read less often."""
    best = matmul.tune(*MATRICES, target="sm_80", bm=[32, 64], bn=[32, 64], bk=32)
    assert best.constants["bm"] == best.constants["bn"] == 64
    moved = {(c.constants["bm"], c.constants["bn"]): c.bytes for c in best.candidates}
    rows = -(-NOMINAL // 32)
    assert moved[32, 32] == rows * rows * (2 * rows * 32 * 32 * 2 + 32 * 32 * 2)
    assert moved[64, 32] == moved[32, 64] < moved[32, 32] and "MB moved" in str(best)


def test_where_only_the_launch_could_tell_nothing_is_ranked_by_bytes() -> None:
    @tc.kernel
    def upto(x: tc.Array, y: tc.Array, n: tc.i32, *, block=64):
        i = tc.blocks(tc.cdiv(n, block))
        y.store(i * block, x.load(i * block, block))

    rows = (tc.Spec("f32", ("n",)),) * 2
    assert upto.tune(*rows, target="sm_80", block=[64, 128]).candidates[0].bytes == 0
    x = np.zeros(256, np.float32)
    assert upto.tune(x, x.copy(), 256, target="sm_80", block=[64]).candidates[0].bytes == 2 * x.nbytes


def test_progress_is_shown_to_whoever_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    scaled.tune(*(tc.Spec("f32", ("n",)),) * 2, target="sm_80", block=[64, 128])
    assert capsys.readouterr().err.startswith("1 of 2: block=64")


def test_rank() -> None:
    few, many = Candidate({}, bytes=1000, warps_per_sm=8), Candidate({}, bytes=2000, warps_per_sm=64)
    alike, idle = Candidate({}, bytes=1020, warps_per_sm=4), Candidate({}, bytes=1000, idle=27.0)
    assert sorted([idle, many, alike, few], key=lambda each: each.rank) == [few, alike, many, idle]
    fast, slow = Candidate({}, seconds=1e-6), Candidate({}, seconds=2e-6)
    spills, fits = Candidate({}, spill_bytes=8, warps_per_sm=64), Candidate({}, warps_per_sm=8)
    order = [fast, slow, fits, spills, Candidate({}, refused="too large")]
    assert sorted(reversed(order), key=lambda each: each.rank) == order
