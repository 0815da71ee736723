"""tc.print and tc.assert_ on GPUs: the words that the CPU says, whatever the layout, also of errors."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.stub import StubDriver, installed
from tilec.backends.ptx import assemble, reports
from tilec.ir.errors import TilecError
from tilec.ir.tile import TileType

Output = pytest.CaptureFixture[str]


@tc.kernel
def talks(x: tc.Array, y: tc.Array, most: tc.f32 = 1000, *, warps=4):
    i = tc.blocks(tc.cdiv(x.shape[0], 8))
    t = x.load(i * 8, 8)
    tc.print("tile", t, "of", i)
    for s in tc.range(2):
        tc.print(t.reshape(2, 4)[0:1] + s.to(t.dtype))
    tc.print(t.sum() > 3, t.to(tc.bf16), -t.to(tc.i8), t.to(tc.f64) * 1e300, t.to(tc.u4), t.to(tc.f6e3m2))
    tc.assert_(t < most, "too large")
    y.store(i * 8, t)


@tc.kernel
def outer(x: tc.Array, *, n=16):
    a = x.load((0, 0), (n, n)).to(tc.f16)
    tc.print("product", tc.dot(a, a.T))
    tc.print("rows", a.sum(1))


X = np.arange(16, dtype=np.float32)


def said(capsys: Output, place: str, *args: object) -> str:
    talks.on(place)(X, np.zeros_like(X), *args)
    return capsys.readouterr().out


def test_the_same_words_everywhere(capsys: Output) -> None:
    expected = said(capsys, "reference")
    assert expected.startswith("tile [0., 1., 2., 3., 4., 5., 6., 7.]\nof 0\n")
    for place in ("cpu", "emulator:sm_80", "emulator:sm_90a"):
        assert said(capsys, place) == expected, place


def test_tiles_of_products_and_sums(capsys: Output) -> None:
    x = np.arange(256, dtype=np.float32).reshape(16, 16) % 7
    outer.meaning(x)
    expected = capsys.readouterr().out
    outer.on("emulator:sm_80")(x)
    assert capsys.readouterr().out == expected


def test_a_failed_assertion_has_its_message_and_line(capsys: Output) -> None:
    message = r"test_reports\.py:\d+: assertion failed in block 1: too large"
    with pytest.raises(tc.TilecError, match=message) as e:
        said(capsys, "emulator:sm_80", 12)
    assert e.value.report is not None and "tile [ 8., " in capsys.readouterr().out


@tc.kernel
def knows(x: tc.Array, *, most=8, warps=1):
    table = tc.from_function((8,), lambda i: i < most)
    tc.assert_(table, "known")
    x.store(0, tc.where(table, 1.0, 0.0).to(x.dtype))


def test_assertions_about_what_is_known_while_compiling() -> None:
    for place in ("cpu", "reference", "emulator:sm_80"):
        knows.on(place)(x := np.zeros(8, np.float32))
        assert x.all()
        with pytest.raises(TilecError, match="assertion failed in block 0: known"):
            knows.on(place)(x, most=7)


def test_code_that_says_nothing_takes_no_buffer() -> None:
    @tc.kernel
    def quiet(x: tc.Array):
        x.store(0, x.load(0, 4) + 1)

    done = quiet.compile(X, target="sm_80")
    assert not done.code.reports and all(slot.kind != "said" for slot in done.code.slots)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubDriver]:
    monkeypatch.setattr(assemble, "find", lambda tool: None)
    talks.forget()
    with installed() as made:
        yield made
        talks.forget()
        gc.collect()
        assert not made.memory and not made.pinned, "all memory is freed"


def test_on_a_gpu_words_come_when_it_is_waited_for(stub: StubDriver, capsys: Output) -> None:
    expected = said(capsys, "reference")
    x, y = tc.to_device(X), tc.to_device(X)
    for _ in range(2):
        talks(x, y)
        assert not capsys.readouterr().out
        np.testing.assert_array_equal(y.numpy(), X)
        assert capsys.readouterr().out == expected
    with tc.target("cuda:0"):
        assert said(capsys, "cuda:0") == expected


def test_on_a_gpu_an_assertion_is_told_instead_of_its_trap(stub: StubDriver, capsys: Output) -> None:
    x, y = tc.to_device(X), tc.to_device(X)
    talks(x, y, 12)
    with pytest.raises(tc.TilecError, match="assertion failed in block 1: too large") as e:
        y.numpy()
    assert "CUDA_ERROR_ILLEGAL_INSTRUCTION" in str(e.value.__cause__)
    with pytest.raises(tc.TilecError, match="CUDA_ERROR_ILLEGAL_INSTRUCTION"):  # told once
        y.numpy()
    stub.fail.clear()


def test_what_does_not_fit_is_counted(capsys: Output) -> None:
    kind = (reports.Report("x = ", None, TileType(tc.i32, ())),)
    buffer = np.zeros(reports.BUFFER_BYTES // 4, np.uint32)
    buffer[0] = reports.RECORDS + 3
    buffer[reports.FIRST :].reshape(-1, reports.WORDS)[:, 1] = np.arange(reports.RECORDS)
    assert reports.heard(kind, buffer) is None and buffer[0] == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == reports.RECORDS + 1 and lines[-1].startswith("3 more elements were printed than")


def test_reports_in_the_head_of_the_ptx(tmp_path: object) -> None:
    done = talks.compile(X, X, target="sm_80")
    assert [report.text for report in done.code.reports][:2] == ["tile ", "of "]
    assert done.with_ptx("// edited\n" + done.ptx).code.reports == done.code.reports
    done.save(path := f"{tmp_path}/talks.tilec")
    assert tc.load(path).code.slots == done.code.slots
