"""Helping threads: they take what is left, are never waited for in vain, and pass nothing by."""

import threading
from collections import Counter

import pytest

from tilec.backends.cpu.threads import Share, together


def test_all_is_done_once() -> None:
    """However many come, what they take from one counter is done when `together` returns."""
    for _ in range(200):
        left, done = list(range(50)), Counter[int]()

        def run(left: list[int] = left, done: Counter[int] = done) -> None:
            while left:
                try:
                    done[left.pop()] += 1
                except IndexError:
                    return

        together(run, 3)
        assert sorted(done) == list(range(50)) and set(done.values()) == {1}


def test_helpers_run_beside_the_caller() -> None:
    meeting = threading.Barrier(2, timeout=20)
    together(meeting.wait, 2)


def test_a_helper_that_comes_late_finds_nothing_to_do() -> None:
    calls: list[int] = []
    share = Share(lambda: calls.append(1))
    share.finish()
    share.help()
    assert not calls


def test_the_caller_waits_for_a_helper_at_work() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        may_end.wait(20)
        ended.set()

    share = Share(slow)
    helper = threading.Thread(target=share.help)
    helper.start()
    assert begun.wait(20)
    threading.Timer(0.05, may_end.set).start()
    share.finish()
    assert ended.is_set()
    helper.join()


def test_the_callers_own_error_is_told() -> None:
    def run() -> None:
        if threading.current_thread() is threading.main_thread():
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        together(run, 2)
