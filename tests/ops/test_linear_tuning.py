"""Measured tiles: what is run, what is kept, and that it is taken instead of the model's."""

import gc
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.stub import StubDriver, installed
from tests.ops.test_callers import forget as forget_kernels
from tilec import ops
from tilec.backends.ptx import assemble
from tilec.ir import dtype as dt
from tilec.ir.boards import BOARDS
from tilec.ir.errors import TilecError
from tilec.ops import callers, linear_choice, linear_tuning
from tilec.ops.arrays import numpy_dtype
from tilec.ops.linear_choice import chosen, measured, rounded
from tilec.ops.linear_cost import Problem
from tilec.ops.tiling import forget, linear_tiling

P = Problem(5, 64, 256, 4, 128)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubDriver]:
    """A GPU that emulates, a clock on which the last candidate is the fastest, and an empty cache."""
    monkeypatch.setenv("TILEC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(assemble, "find", lambda tool: None)
    ticks = count()
    monkeypatch.setattr(linear_tuning, "perf_counter", lambda: -(next(ticks) ** 2))
    clear()
    with installed((8, 0)) as made:
        yield made
        callers.forget_there()
        forget_kernels()
        clear()
        gc.collect()


def clear() -> None:
    for cached in (measured, chosen, linear_choice._fragment):
        cached.cache_clear()
    forget()


def layer() -> tuple[np.ndarray, ops.QuantizedWeight]:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((P.n, P.k), np.float32)
    return rng.standard_normal((P.m, P.k)).astype(np.float16), ops.quantize(w, "u4")


def test_the_fastest_is_taken_from_then_on(stub: StubDriver) -> None:
    x, q = layer()
    before = linear_tiling(P.m, dt.f16, P.group, "cuda:0", P.bits, P.n, P.k)
    with tc.target("cuda:0"):
        found = ops.linear.tune(x, q, tries=3)
        assert len(found.candidates) == 3 and found.place == "cuda:0"
        seconds = [each.seconds for each in found.candidates]
        assert seconds == sorted(seconds, key=float) and "us" in str(found)
        after = linear_tiling(P.m, dt.f16, P.group, "cuda:0", P.bits, P.n, P.k)
        assert after != before and after.fragment == before.fragment
        assert all(getattr(after, name) == found.constants[name] for name in ("bm", "stages", "split"))
        assert "* is taken: measured fastest" in str(ops.linear.plan(m=P.m, n=P.n, k=P.k, device="cuda:0"))
        y = ops.linear(x, q)
    np.testing.assert_allclose(y, x @ q.dequantize().T, rtol=2e-2, atol=5e-2)
    clear()  # as in another process
    assert linear_tiling(P.m, dt.f16, P.group, "cuda:0", P.bits, P.n, P.k) == after
    assert list(measured("NVIDIA Stub")) == [rounded(P)]
    assert linear_tiling(P.m, dt.f16, P.group, "sm_80", P.bits, P.n, P.k) == before, "another board"


@pytest.mark.parametrize("kind", ["i8", "f8e5m2"])
def test_other_dtypes_of_x(stub: StubDriver, kind: str) -> None:
    """Bytes are as those of layers with activations, and f8e5m2 is multiplied as f16."""
    x, q = layer()
    held = (8 * x).astype(numpy_dtype(tc.dtype(kind)))
    made_of = dt.f16 if kind == "f8e5m2" else tc.dtype(kind)
    with tc.target("cuda:0"):
        found = ops.linear.tune(held, q, tries=2)
        after = linear_tiling(P.m, made_of, P.group, "cuda:0", P.bits, P.n, P.k)
        assert all(getattr(after, name) == found.constants[name] for name in ("bm", "stages", "split"))
        assert [p.operands for p in measured("NVIDIA Stub")] == [made_of.name]
        y = ops.linear(held, q, x_scale=np.ones(P.m, np.float32), out_dtype="f32")
    wanted = held.astype(np.float32) @ q.dequantize().T
    np.testing.assert_allclose(y, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


def test_tiles_that_a_weight_does_not_take_are_not_tried() -> None:
    """Those that divide by scales."""
    p, board = Problem(4096, 8192, 8192, 4, 128), BOARDS["H100"]
    assert any(t.rescaled for t in linear_tuning._likely(p, board, True, 500))
    assert not any(t.rescaled for t in linear_tuning._likely(p, board, False, 500))


def test_what_does_not_run_is_not_kept(stub: StubDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise TilecError("no room")

    monkeypatch.setattr(linear_tuning, "quantised_product", refuse)
    with tc.target("cuda:0"), pytest.raises(TilecError, match=r"no tiles of linear run on cuda:0: .*no room"):
        ops.linear.tune(*layer(), tries=2)
    assert not measured("NVIDIA Stub")


def test_what_tune_refuses(stub: StubDriver) -> None:
    x, q = layer()
    with pytest.raises(TilecError, match="tune measures on a GPU, and x is on cpu: call it under"):
        ops.linear.tune(x, q)
    with tc.target("cuda:0"):
        with pytest.raises(TilecError, match="tune takes a QuantizedWeight, found ndarray"):
            ops.linear.tune(x, x)
        with pytest.raises(TilecError, match=r"rows x \[M, 256\] in f16, .*, found f64 \[5, 256\]"):
            ops.linear.tune(x.astype(np.float64), q)
        with pytest.raises(TilecError, match=r"found f16 \[5, 255\]"):
            ops.linear.tune(x[:, 1:], q)
