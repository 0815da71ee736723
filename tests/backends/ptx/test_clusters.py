"""Blocks that run as clusters: asked for in the code, checked at launch; what the driver has to be told."""

from __future__ import annotations

import gc
import re

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.stub import installed
from tilec.backends.ptx import assemble
from tilec.backends.ptx.assemble import assembler


@tc.kernel
def plus_one(x: tc.Array, y: tc.Array, *, block=32):
    X, Y = x.tiles((block,)), y.tiles((block,))
    i = tc.blocks(*Y.shape)
    Y[i] = X[i] + 1


X = np.arange(32 * 32, dtype=np.float32)


@pytest.mark.parametrize(("cluster", "blocks"), [(2, 2), ((2, 2), 4), (16, 16)])
def test_the_code_asks_for_them(cluster: object, blocks: int) -> None:
    done = plus_one.compile(X, X, target="sm_90", cluster=cluster)
    assert re.search(rf"\.reqnctapercluster {blocks}\b", done.ptx)
    if assembler():
        assert done.resources.registers
    with tc.target("emulator:sm_90"):
        plus_one(X, y := np.zeros_like(X), cluster=cluster)
    np.testing.assert_array_equal(y, X + 1)


def test_other_runners_take_no_notice() -> None:
    for place in ("cpu", "reference"):
        plus_one.on(place)(X[:96], y := np.zeros(96, np.float32), cluster=2)
        np.testing.assert_array_equal(y, X[:96] + 1)
    assert ".reqnctapercluster" not in plus_one.compile(X, X, target="sm_90", cluster=1).ptx


@pytest.mark.parametrize(
    ("place", "cluster", "message"),
    [
        ("emulator:sm_80", 2, "sm_80 has no clusters: leave cluster= out, or compile for sm_90"),
        ("emulator:sm_90", 3, r"launches 32 blocks, which are no whole clusters of 3: choose cluster= so"),
        ("emulator:sm_90", 32, "a cluster has 16 blocks at most, found 32"),
    ],
)
def test_what_cannot_be(place: str, cluster: int, message: str) -> None:
    with pytest.raises(tc.TilecError, match=message):
        plus_one.on(place)(X, np.zeros_like(X), cluster=cluster)


@pytest.mark.parametrize(("cluster", "asked"), [(8, 0), (16, 1)])
def test_more_than_eight_need_the_drivers_leave(
    cluster: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "find", lambda tool: None)
    plus_one.forget()
    with installed((9, 0)) as stub:
        plus_one.on("cuda:0")(X, y := np.zeros_like(X), cluster=cluster)
        assert [call[2:] for call in stub.calls if call[0] == "cuFuncSetAttribute"] == [(14, 1)] * asked
        np.testing.assert_array_equal(y, X + 1)
        gc.collect()
    plus_one.forget()
