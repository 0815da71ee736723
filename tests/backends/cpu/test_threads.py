"""Helping threads: they enter open jobs once, are never waited for in vain, and pass nothing by."""

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tilec.backends import llvm
from tilec.backends.cpu.threads import SOON, Crew, Job

# state: how many have come, rounds that one waits at most, how many have gone
# scratch: how many one waits for, negative in the end
MEETING = """
define void @meet(ptr %words, ptr %state, ptr %scratch, ptr %tables) {
entry:
  %wanted = load i64, ptr %scratch
  %met = sub i64 0, %wanted
  store i64 %met, ptr %scratch
  %rounds.at = getelementptr i64, ptr %state, i64 1
  %rounds = load i64, ptr %rounds.at
  %gone.at = getelementptr i64, ptr %state, i64 2
  %before = atomicrmw add ptr %state, i64 1 seq_cst
  br label %look
look:
  %i = phi i64 [0, %entry], [%next, %look]
  %next = add i64 %i, 1
  %come = load atomic i64, ptr %state acquire, align 8
  %all = icmp sge i64 %come, %wanted
  %late = icmp sge i64 %i, %rounds
  %stop = or i1 %all, %late
  br i1 %stop, label %exit, label %look
exit:
  %after = atomicrmw add ptr %gone.at, i64 1 seq_cst
  ret void
}
"""
ROOT = Path(__file__).parents[3]
LONG = 10**10  # rounds, of which a second has 10^9 at most


@cache
def _meet() -> llvm.NativeModule:
    return llvm.compile_native(MEETING)


class Meeting:
    """A job whose runs wait for each other: the caller until so many have come, then helpers."""

    def __init__(self, *wanted: int, rounds: int = LONG) -> None:
        self.state, helpers = (ctypes.c_int64 * 3)(0, rounds, 0), len(wanted) - 1
        self.scratch = (ctypes.c_int64 * len(wanted))(*wanted)
        self.own, *others = (ctypes.addressof(self.scratch) + 8 * i for i in range(len(wanted)))
        self.arenas = (ctypes.c_int64 * helpers)(*others)
        self.job = Job(_meet().address("meet"), 0, 0, ctypes.addressof(self.arenas), helpers)

    def run(self, crew: Crew) -> bool:
        return crew.run(self.job, ctypes.addressof(self.state), self.own)

    @property
    def come(self) -> int:
        return int(self.state[0])

    @property
    def gone(self) -> int:
        return int(self.state[2])


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    made = Crew()
    yield made
    made.rest()


@pytest.mark.parametrize("helpers", [1, 2, 1])
def test_helpers_run_beside_the_caller_each_in_its_own_scratch(crew: Crew, helpers: int) -> None:
    threads = 1 + helpers
    meeting = Meeting(*[threads] * threads)
    assert meeting.run(crew)
    assert meeting.come == meeting.gone == threads
    assert list(meeting.scratch) == [-threads] * threads


def test_nobody_enters_twice_and_all_are_waited_for(crew: Crew) -> None:
    """In many jobs, soon after each other or not, helpers come in time or not at all."""
    for i in range(300):
        meeting = Meeting(3, 3, 3, rounds=i % 7 * 100)
        assert meeting.run(crew)
        assert 1 <= meeting.come == meeting.gone <= 3
        if i % 50 == 0:
            time.sleep(2 * SOON)


def test_a_helper_that_comes_late_finds_nothing_to_do(crew: Crew) -> None:
    meeting = Meeting(1)
    assert meeting.run(crew)
    assert not crew.has_one_for(0, 0)
    assert crew.serve(0, 12345) == 12345 and meeting.come == 1


def test_one_launch_has_the_crew_at_a_time(crew: Crew) -> None:
    long, refused = Meeting(2), Meeting(1, 1)
    other = threading.Thread(target=long.run, args=(crew,))
    other.start()
    while not long.come:
        time.sleep(1e-4)
    assert not refused.run(crew) and not refused.come
    long.state[0] += 1
    other.join(20)
    assert long.gone == 1 and refused.run(crew)


def test_an_interrupt_waits_for_helpers(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = Meeting(2, 3)

    def interrupted(_: float) -> None:
        meeting.state[0] += 1  # from here on the helper may go
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        meeting.run(crew)
    assert meeting.gone == 2 and Meeting(1).run(crew)


@pytest.mark.parametrize(("took", "crowded"), [(60.0, False), (0.0, True)])
def test_cores_are_few_where_helpers_take_longer_than_the_caller(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, took: float, crowded: bool
) -> None:
    late = iter([1, 1, 0])
    monkeypatch.setattr(crew, "_close", lambda board, pauses: next(late))
    monkeypatch.setattr(crew, "_crowded", 0.0)
    crew._finish(took)
    assert (crew._crowded > time.perf_counter()) == crowded


FORKED = """
import os
import numpy as np
import tilec as tc

@tc.kernel
def more(x: tc.Array, y: tc.Array):
    i = tc.blocks(x.shape[0])
    y.store((i, 0), x.load((i, 0), (1, 4096)) + 1)

x, y = np.ones((512, 4096), np.float32), np.zeros((512, 4096), np.float32)
more(x, y)
child = os.fork()
y[:] = 0
more(x, y)
assert (y == 2).all()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_helpers_of_its_own_and_ends(tmp_path: Path) -> None:
    file = tmp_path / "forked.py"
    file.write_text(FORKED)
    done = subprocess.run([sys.executable, file], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.returncode == 0
