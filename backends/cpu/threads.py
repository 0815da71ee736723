"""Threads that help with a launch: woken for it, and let be where all is done before they come.

together(run, 2)        run() here, and in one more thread
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from queue import SimpleQueue

Run = Callable[[], None]


class Share:
    """A helper's part of a launch. Whoever claims it first has it: a helper runs it, the caller drops it."""

    def __init__(self, run: Run) -> None:
        self.run, self.claimed, self.running = run, threading.Lock(), threading.Lock()
        self.running.acquire()

    def help(self) -> None:
        if self.claimed.acquire(blocking=False):
            try:
                self.run()
            finally:
                self.running.release()

    def finish(self) -> None:
        """Returns when nobody runs it any more, nor will."""
        if not self.claimed.acquire(blocking=False):
            self.running.acquire()


def together(run: Run, threads: int) -> None:
    """Calls `run` here and in other threads, as many as come in time; it says itself what is left to do."""
    waiting = _helpers(threads - 1)
    shares = [Share(run) for _ in range(threads - 1)]
    for share in shares:
        waiting.put(share)
    try:
        run()
    finally:
        for share in shares:
            share.finish()


@cache
def _helpers(count: int) -> SimpleQueue[Share]:
    """The queue of so many threads, which end with the process."""
    waiting: SimpleQueue[Share] = SimpleQueue()

    def work() -> None:
        while True:
            waiting.get().help()

    for i in range(count):
        threading.Thread(target=work, name=f"tilec_{i}", daemon=True).start()
    return waiting
