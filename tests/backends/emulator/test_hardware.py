"""Replaying the instruction tests on a GPU, tried with the driver made for tests."""

import json

import numpy as np
import pytest

from tests.backends.emulator import hardware
from tests.backends.emulator.conftest import name_of
from tests.backends.ptx.stub import installed
from tilec.backends import emulator
from tilec.backends.ptx import driver

X = np.arange(64, dtype=np.uint32)


@pytest.fixture
def replay(tmp_path, monkeypatch):
    """A Replay on the stub, in the place of Module.launch."""
    with installed((9, 0)) as stub:
        record = hardware.Record("sm_90a", tmp_path)
        plain, load = emulator.Module.launch, emulator.load
        made = hardware.Replay("test_it", driver.device(0), record, plain)
        made.stub, made.there = stub, []
        run = stub.run

        def on_the_gpu(module, *args):
            made.there.append(module)
            with monkeypatch.context() as patch:
                patch.setattr(emulator.Module, "launch", plain)
                run(module, *args)

        monkeypatch.setattr(stub, "run", on_the_gpu)
        monkeypatch.setattr(emulator, "load", lambda ptx: hardware.with_text(load(ptx), ptx))
        monkeypatch.setattr(emulator.Module, "launch", lambda *args, **options: made.launch(*args, **options))
        yield made


def test_agreement_is_recorded(replay, apply):
    for shift in (1, 2):
        found = apply(f"shl.b32 {{d}}, {{a}}, {shift};", "u32", a=("u32", X))
        assert found.tolist() == (X << shift).tolist()
    first, second = replay.record.launches["test_it 0"], replay.record.launches["test_it 1"]
    assert set(first) == {"same"} and first != second
    assert [m.source.target for m in replay.there] == ["sm_90a"] * 2 and not replay.stub.memory
    replay.record.write()
    again = hardware.Record("sm_90a", replay.record.path.parent)
    assert again.launches == replay.record.launches
    assert again.summary() == {"same": 2, "differs": 0, "refused": 0, "left out": 0}
    assert json.loads(again.path.read_text())["gpu"] == "sm_90a"


def test_a_difference_is_recorded_and_the_test_sees_the_gpu(replay, apply, monkeypatch):
    run = replay.stub.run

    def other(*args):
        run(*args)
        next(iter(replay.stub.memory.values())).view(np.uint32)[3] ^= 1

    monkeypatch.setattr(replay.stub, "run", other)
    found = apply("not.b32 {d}, {a};", "u32", a=("u32", X))
    assert found.tolist() == [int(x) ^ (i == 3) for i, x in enumerate(~X)]
    assert replay.record.launches["test_it 0"] == {
        "differs": 1, "of": 128, "array, element, emulator, gpu": [[0, 3, "0xfffffffc", "0xfffffffd"]]
    }  # fmt: skip


def test_what_the_driver_refuses(replay, apply):
    replay.stub.fail["cuModuleLoadDataEx"] = 222
    assert apply("not.b32 {d}, {a};", "u32", a=("u32", X)).tolist() == (~X).tolist()
    refused = replay.record.launches["test_it 0"]["refused"]
    assert "cuModuleLoadDataEx: CUDA_ERROR_UNSUPPORTED_PTX_VERSION" in refused and not replay.stub.memory


@pytest.mark.parametrize(
    ("body", "args", "options", "reason"),
    [
        ("ld.global.u32 %r1, [%p0+4096];", [X], {}, "the emulator has findings"),
        ("", [X, X[3:]], {}, "has arrays that share memory"),
        ("", [X[::2]], {}, "has arrays with gaps"),
        ("", [X], {"cluster": (1, 1, 1)}, "is launched with cluster"),
        ("", [X], {"block": (8, 2)}, "has more than one dimension"),
        ("", [emulator.TensorMap(X, (16,))], {}, "takes tensor maps"),
    ],
)
def test_what_is_left_out(replay, launch, body, args, options, reason):
    launch(body, args, **options)
    assert replay.record.launches == {"test_it 0": {"left out": reason}} and not replay.there


def test_later_runs_are_held_against_records(replay, apply, monkeypatch):
    apply("not.b32 {d}, {a};", "u32", a=("u32", X))
    replay.record.write()
    (record,) = hardware.stored(replay.record.path.parent)
    monkeypatch.setattr(emulator.Module, "launch", hardware.held([record], "test_it", replay.plain))
    apply("not.b32 {d}, {a};", "u32", a=("u32", X))
    apply("neg.s32 {d}, {a};", "u32", a=("u32", X))  # the record knows of one launch
    monkeypatch.setattr(emulator.Module, "launch", hardware.held([record], "test_it", replay.plain))
    with pytest.raises(
        AssertionError, match="test_it 0: sm_90a gave something else, see instructions-sm_90a"
    ):
        apply("neg.s32 {d}, {a};", "u32", a=("u32", X))


def test_names(request):
    class Node:
        name = "test_logic[gpu-16]"

    assert name_of(Node) == "test_logic[16]" and name_of(request.node) == "test_names"
    Node.name = "test_logic[here-16]"
    assert name_of(Node) == "test_logic[16]"
    Node.name = "test_logic[here]"
    assert name_of(Node) == "test_logic"
