"""Copies by TMA: which arrays, what becomes of them on every launcher, and that nothing in it is too much."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.emulator.mutate import deletions
from tests.backends.ptx.runner import (
    build,
    check_kernel,
    meaning,
    out,
    seeds,
    tells,
    trace,
    values,
)
from tests.backends.ptx.stub import StubDriver, installed
from tests.backends.ptx.test_products import matmul
from tilec import ops
from tilec.backends.ptx import assemble
from tilec.backends.ptx.maps import maps_of
from tilec.ir import dtype as dt
from tilec.ir.signature import Slot
from tilec.ops.epilogue import finishing
from tilec.ops.linear import quantised_product
from tilec.ops.tiling import linear_tiling

TMA, CP_ASYNC = "cp.async.bulk.tensor", "cp.async.cg"


def compiled(a: Any, b: Any, **options: Any) -> str:
    """The PTX of c = a @ b."""
    settings: dict[str, Any] = {"tile": (64, 64, 64), "stages": 3, "warps": 4, **options}
    c = tc.Spec("f32", ("m", "n"))
    return matmul.compile(a, b, c, target="sm_90a", **settings).ptx


def loaded(ptx: str) -> list[Slot]:
    """The maps of a and b; c is stored, which tests/ir/passes/test_bulk_stores.py looks at."""
    return [m for m in maps_of(ptx) if m.param < 2]


K, N = tc.dim("k", multiple=8), tc.dim("n", multiple=8)


@pytest.mark.parametrize(("a", "b", "options", "there"), [
    (tc.Spec("f16", ("m", K)), tc.Spec("f16", (K, N)), {}, (2, False)),
    (tc.Spec("f16", ("m", "k")), tc.Spec("f16", ("k", N)), {}, (1, False)),  # a's rows start anywhere
    (tc.Spec("f16", ("m", K), align=8), tc.Spec("f16", (K, N)), {}, (1, False)),
    (tc.Spec("f16", ("m", K)), tc.Spec("f16", (K, N), (1, tc.dim("s", multiple=8))), {}, (2, False)),
    (tc.Spec("f16", ("m", K)), tc.Spec("f16", (K, N)), {"stages": 1}, (0, True)),
    (tc.Spec("f16", ("m", K)), tc.Spec("f16", (K, N)), {"computed": True}, (0, False)),
    (tc.Spec("f16", ("m", K)), tc.Spec("f16", (K, N)), {"tile": (16, 32, 32)}, (2, False)),  # for mma.sync
    (tc.Spec("f16", ("m", K)), tc.Spec("f16", (K, N)), {"tile": (12, 32, 32)}, (1, True)),  # 12: no panels
])  # fmt: skip
def test_what_it_takes(a: Any, b: Any, options: dict[str, Any], there: tuple[int, bool]) -> None:
    ptx = compiled(a, b, **options)
    assert (len(loaded(ptx)), CP_ASYNC in ptx) == there
    assert ptx.count("mbarrier.init") == (3 if there[0] else 0)


def test_a_box_is_one_panel() -> None:
    """Innermost first; as many copies as panels: two of 64 columns for 128 of b."""
    ptx = compiled(tc.Spec("f16", ("m", K)), tc.Spec("f16", (K, N)), tile=(64, 128, 32), stages=2)
    maps = [(m.param, m.box) for m in loaded(ptx)]
    assert [(p, b.axes, b.extents, b.span) for p, b in maps if b] == [
        (0, (1, 0), (32, 64), 64),
        (1, (1, 0), (64, 32), 128),
    ]
    assert ptx.count(TMA) == 2 * (1 + 2)  # before the loop, and in it


@pytest.mark.parametrize(("weight", "boxes"), [("u4", 4), ("u3", 3), ("i8", 8)])
def test_rows_come_in_words(weight: str, boxes: int) -> None:
    """Quantised weights: one row of bytes for each tile, in pieces of 256 words of 8 bytes."""
    own = linear_tiling(16, dt.f16, 128, "sm_90a", dt.dtype(weight).bits, "n", 4096)._replace(producer=False)
    ptx = ops.linear.compile(m=16, n="n", k=4096, weight=weight, target="sm_90a", schedule=own).ptx
    codes = next(m.box for m in maps_of(ptx) if m.param == 1)
    assert codes is not None and (codes.axes, codes.span, codes.unit) == ((2, 2, 1, 0), 16, 8)
    assert codes.extents == (256, boxes, 1, 1) and CP_ASYNC not in ptx
    assert ptx.count(TMA) == 3 * own.stages  # all rounds but one before the loop; x has two panels


@pytest.mark.parametrize(("weight", "words", "boxes"), [("u5", 160, 2), ("u6", 192, 2), ("u7", 224, 2)])
def test_rows_come_in_equal_pieces(weight: str, words: int, boxes: int) -> None:
    """Of up to 256 words, each beginning where boxes may; a producer has them too."""
    q = ops.quantize(np.random.default_rng(0).standard_normal((40, 64)), weight, group_size=32)
    own = linear_tiling(16, dt.f16, 32, "sm_90a", q.dtype.bits, 40, 64)._replace(producer=True)
    done = ops.linear.compile(m=16, n=40, k=64, weight=weight, group_size=32, target="sm_90a", schedule=own)
    assert own.fragment.shape == (32, 128)
    assert next(m.box for m in maps_of(done.ptx) if m.param == 1).extents == (words, boxes, 1, 1)
    x, y = np.ones((16, 64), np.float16), np.zeros((16, 40), np.float16)
    with tc.target("emulator:sm_90a"):
        quantised_product(x, q, y, *finishing(y.shape, None, None, None, None, None, None), schedule=own)
    np.testing.assert_allclose(y, x @ q.dequantize().T, rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize(
    ("target", "there"), [("sm_80", ""), ("sm_90", "cluster"), ("sm_100a", "cta"), ("sm_120", "cta")]
)
def test_targets(target: str, there: str) -> None:
    """From sm_90 on, for mma.sync too; as soon as PTX can say so, into the block's own memory."""
    specs = tc.Spec("f16", ("m", K)), tc.Spec("f16", (K, N)), tc.Spec("f32", ("m", "n"))
    done = matmul.compile(*specs, target=target, tile=(64, 64, 32), stages=3, warps=4)
    assert set(re.findall(rf"{TMA}\.\dd\.shared::(\w+)\.global", done.ptx)) == ({there} - {""})
    assert (TMA in done.ptx) == bool(there) and "mma.sync" in done.ptx
    if assemble.find("ptxas"):
        assert done.resources.spill_bytes == 0 and "CALL" not in done.sass


@pytest.mark.parametrize("seed", seeds(6, 150))
def test_products(seed: int) -> None:
    """Any number of stages and rounds, ragged ends, each dtype, arrays and their transposes."""
    draw = np.random.default_rng([seed, 3])
    dtype = (dt.f16, dt.bf16, dt.i8, dt.f8e4m3, dt.tf32)[seed % 5]
    sums, unit = (dt.i32 if dtype.is_integer else dt.f32), 16 // dtype.bytes
    tile = (64, int(draw.choice([32, 64, 128])), 64)
    m, n, k = int(draw.choice([64, 70])), unit * int(draw.integers(2, 12)), unit * int(draw.integers(1, 40))
    turned = (False, True) if dtype.bits != 16 else (False, bool(draw.integers(2)))
    a, b = (values(dtype, shape, [seed, i], small=True) for i, shape in enumerate(((m, k), (k, n))))
    b = np.ascontiguousarray(b.T) if turned[1] else b
    options: dict[str, Any] = {
        "tile": tile,
        "turned": turned,
        "sums": sums,
        "stages": int(draw.integers(2, 5)),
    }
    kernel = check_kernel(
        matmul,
        (dtype, a),
        (dtype, b),
        (sums, out((m, n), sums)),
        name="sm_90a",
        warps=4,
        bound=1e-3,
        **options,
    )
    assert len(loaded(kernel.ptx)) == 2 and CP_ASYNC not in kernel.ptx


def test_no_rounds() -> None:
    a, b = np.zeros((8, 0), np.float16), np.zeros((0, 16), np.float16)
    check_kernel(matmul, (dt.f16, a), (dt.f16, b), (dt.f32, out((8, 16), dt.f32)), name="sm_90a",
                 tile=(64, 16, 32), stages=3, warps=4)  # fmt: skip


# -- views -----------------------------------------------------------------------------------------------


def half(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float16)


@pytest.mark.parametrize("heads", [1, 3])
def test_one_matrix_of_many(heads: int) -> None:
    """Axes of which a view keeps one index are axes of the map, with boxes of 1."""
    q, k, v = (half(2, 80, heads, 32) for _ in range(3))
    done = ops.attention.compile(dim=32, heads=heads, target="sm_90a")
    assert done.ptx.count(TMA) and CP_ASYNC in done.ptx  # queries come once, without a ring
    with tc.target("emulator:sm_90a"):
        found = ops.attention(q, k, v)
    np.testing.assert_allclose(found, ops.attention(q, k, v), atol=2e-3)


# -- what stands between threads and TMA -----------------------------------------------------------------


def ring() -> tuple[Any, list[np.ndarray]]:
    args = [values(dt.f16, shape, i) for i, shape in enumerate(((64, 192), (192, 64)))]
    args.append(np.zeros((64, 64), np.float32))
    given = [(dt.f16, args[0]), (dt.f16, args[1]), (dt.f32, args[2])]
    return trace(matmul, *given, tile=(64, 64, 32), stages=3, warps=4), args


def test_no_wait_barrier_or_arrival_can_go() -> None:
    """In the PTX, up to the last product's wait."""
    func, args = ring()
    kernel, wanted = build(func, "sm_90a")[1], meaning(func, args)[-1]
    last = kernel.ptx[: kernel.ptx.rindex("wgmma.wait_group")].count("\n") + 1
    mutants = [m for m in deletions(kernel.ptx) if m.line <= last]
    assert {"mbarrier", "bar", "wgmma"} <= {
        re.split(r"[. ]", m.what.lstrip("{@ %p0123456789"))[0] for m in mutants
    }
    spare = [
        m.what
        for m in mutants
        if not tells(replace(kernel, ptx=m.text), args, wanted, (None, 1, 2), atol=1e-2)
    ]
    assert not spare, f"nobody misses {spare}"


# -- launchers -------------------------------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubDriver]:
    """A Hopper GPU, and no assembler: PTX reaches the driver, which emulates it."""
    monkeypatch.setattr(assemble, "find", lambda tool: None)
    matmul.forget()
    with installed((9, 0)) as made:
        yield made
    matmul.forget()


def test_on_a_gpu_the_driver_encodes_maps(stub: StubDriver) -> None:
    """Once for each array and box; launches pass them after all other arguments."""
    a, b, c = half(70, 96), half(96, 72), np.zeros((70, 72), np.float32)
    with tc.target("cuda:0"):
        matmul(a, b, c, tile=(64, 64, 32), stages=3, warps=4)
    np.testing.assert_allclose(c, a.astype(np.float32) @ b.astype(np.float32), atol=1e-2)
    assert [(m[0], m[3], m[4], m[5], m[8]) for m in stub.maps] == [
        (16, [96, 70], [192], [32, 64], "64B"),
        (16, [72, 96], [144], [64, 32], "128B"),
        (32, [72, 70], [288], [32, 64], "128B"),
    ]
    assert len(stub.launches[0][4]) % 64 == 0


def test_from_a_file(stub: StubDriver, tmp_path: Path) -> None:
    """The PTX says which maps it takes, in a file too."""
    path = tmp_path / "matmul.tilec"
    specs = tc.Spec("f16", ("m", K)), tc.Spec("f16", (K, N)), tc.Spec("f32", ("m", "n"))
    matmul.compile(*specs, target="sm_90a", tile=(64, 64, 32), stages=3, warps=4).save(path)
    a, b, c = half(64, 64), half(64, 64), np.zeros((64, 64), np.float32)
    for place in ("cuda:0", "emulator:sm_90a"):
        with tc.target(place):
            tc.load(path)(a, b, c)
        np.testing.assert_allclose(c, a.astype(np.float32) @ b.astype(np.float32), atol=1e-2)
        c[...] = 0


def test_an_array_without_elements_needs_no_map(stub: StubDriver) -> None:
    a, b, c = np.zeros((8, 0), np.float16), np.zeros((0, 16), np.float16), np.ones((8, 16), np.float32)
    with tc.target("cuda:0"):
        matmul(a, b, c, tile=(64, 16, 32), stages=3, warps=4)
    assert not stub.maps and not c.any()


def test_operators_ask_the_driver_which_gpu_it_is(stub: StubDriver) -> None:
    """Tiles are those of its target, with weights as wgmma's left operand."""
    tilings = [linear_tiling(64, dt.f16, 128, target) for target in ("cuda:0", "sm_90a")]
    assert tilings[0].fragment == tilings[1].fragment
    x, w = half(5, 128), half(40, 128)
    with tc.target("cuda:0"):
        y = ops.linear(x, ops.quantize(w.astype(np.float32), "u4"))
    assert np.linalg.norm(y - x @ w.T) < 0.2 * np.linalg.norm(y)
    assert len(stub.launches) == 1
