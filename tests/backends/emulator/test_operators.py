"""Every operator of tilec.ops on the emulator, for two GPUs, and under random schedules: no finding.

The problems are those of tests/gpu. The examples for the newer GPU; for the other tests/test_examples.py has
them.
"""

import numpy as np
import pytest

import tilec as tc
from tests.gpu.test_on_a_gpu import CASES, EXAMPLES, close
from tilec.backends import emulator
from tilec.checking import check
from tilec.places import Emulated

TARGETS = ("emulator:sm_80", "emulator:sm_90a")
EVERY = [(target, name) for target in TARGETS for name in CASES]
SAMPLE = {
    (TARGETS[0], "linear u4 33"), (TARGETS[0], "na2d"), (TARGETS[0], "causal_conv1d"),
    (TARGETS[1], "linear i3 1"), (TARGETS[1], "matmul float16"), (TARGETS[1], "depthwise_conv"),
}  # fmt: skip
SHUFFLED = {(TARGETS[0], "matmul bfloat16"), (TARGETS[1], "linear u1 1")}


@pytest.fixture
def reports(monkeypatch):
    """The reports of all launches, warnings included."""
    found, launch = [], Emulated.launch

    def watched(self, args, blocks):
        launch(self, args, blocks)
        found.append(self.report)

    monkeypatch.setattr(Emulated, "launch", watched)
    return found


def clean(reports):
    told = [str(f) for report in reports for f in report.findings]
    assert reports and all(report.completed for report in reports) and not told, "\n".join(told)


@pytest.mark.parametrize(("target", "name"), EVERY)
def test_operator(target, name, reports, full):
    """All of them in make check-all, else a sample."""
    if (target, name) not in SAMPLE and not full:
        pytest.skip("make check-all runs it")
    wanted = CASES[name]()
    with tc.target(target):
        found = CASES[name]()
    assert close(found, wanted)
    clean(reports)


@pytest.mark.parametrize(("target", "name"), EVERY)
def test_operator_under_a_random_schedule(target, name, reports, full, monkeypatch):
    """Legal orders of warps and of asynchronous copies; the sums of a block are in one order all the same."""
    if (target, name) not in SHUFFLED and not full:
        pytest.skip("make check-all runs it")
    launch, seeds = emulator.Module.launch, np.random.default_rng(len(name))
    monkeypatch.setattr(
        emulator.Module,
        "launch",
        lambda *args, **options: launch(*args, **options, seed=int(seeds.integers(99))),
    )
    with tc.target(target):
        found = CASES[name]()
    monkeypatch.undo()
    assert close(found, CASES[name]())
    clean(reports)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, full):
    if not full and path.stem != "02_softmax":
        pytest.skip("make check-all runs it")
    outcome = check(path, "emulator:sm_90a")
    assert not outcome.error and not outcome.findings, outcome
    assert outcome.launches or path.stem == "08_reading_ptx"
