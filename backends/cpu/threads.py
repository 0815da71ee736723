"""Threads that help with a launch: those awake enter at once, others are woken, late ones find it closed.

    crew().run(Job(function, words, tables, arenas, helpers=1), state, scratch)    # here, and in one more

Waking a sleeper takes longer than many launches do. So where launches follow each other soon, helpers look
for the next one for a while before they sleep (board.py); where they are far apart, helpers sleep at once.
One launch has the crew at a time.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from functools import cache
from queue import SimpleQueue
from typing import NamedTuple

from tilec.backends.cpu import board as at
from tilec.backends.cpu.board import board_code

SOON = 200e-6  # seconds from one launch to the next for which helpers stay awake
LOOKING = 20e-6  # seconds between looks at helpers that take long to end
CROWDED = 20e-3  # seconds for which helpers stay awake no longer, after one lost its core to another program
AT_MOST = 1.0  # seconds that the end of a process waits
TRIES, PAUSES = 3, 100  # to find out how long a pause takes
LINE = 64  # bytes of a cache line

Pointer = ctypes.c_void_p
Count = ctypes.c_int64
OFFER = ctypes.PYFUNCTYPE(None, Pointer)  # so short that it keeps Python's lock
LEAD = ctypes.CFUNCTYPE(Count, Pointer, Pointer, Count)
CLOSE = ctypes.CFUNCTYPE(Count, Pointer, Count)
SERVE = ctypes.CFUNCTYPE(Count, Pointer, Count, Count)


class Job(NamedTuple):
    """What launches have in common. Addresses: of a function, of what it takes, of where each of the helpers
    finds its scratch.
    """

    function: int
    words: int
    tables: int
    arenas: int
    helpers: int


class Helper:
    """One thread. It is `asleep` until its bell rings."""

    def __init__(self, crew: Crew, number: int) -> None:
        self.crew, self.number, self.asleep = crew, number, True
        self._bell: SimpleQueue[None] = SimpleQueue()
        threading.Thread(target=self._work, name=f"tilec_{number}", daemon=True).start()

    def ring(self) -> None:
        self.asleep = False
        self._bell.put(None)

    def _work(self) -> None:
        served = 0
        while True:
            self._bell.get()
            served = self.crew.serve(self.number, served)
            self.asleep = True
            if self.crew.has_one_for(self.number, served):  # put up when this one did not look asleep yet
                self.ring()


class Crew:
    """The helpers of a process, and the board that they look at."""

    def __init__(self) -> None:
        self._code = code = board_code()  # kept: where two threads asked at once, each has code of its own
        self._offer, self._lead = OFFER(code.address("offer")), LEAD(code.address("lead"))
        self._close, self._serve = CLOSE(code.address("close")), SERVE(code.address("serve"))
        self._memory = (ctypes.c_int64 * (at.SIZE + LINE // 8))()
        self._board = -(-ctypes.addressof(self._memory) // LINE) * LINE
        self._words = (ctypes.c_int64 * at.SIZE).from_address(self._board)
        self._busy, self._process = threading.Lock(), os.getpid()
        self._ended, self._crowded = 0.0, 0.0  # when the last launch did, and until when cores are few
        self._pauses = int(SOON / self._pause())
        self._helpers: list[Helper] = []

    def _pause(self) -> float:
        """Seconds that a pause takes: from a few cycles to a hundred, by the machine."""
        self._words[at.PATIENCE] = PAUSES
        times = []
        for _ in range(TRIES):
            begun = time.perf_counter()
            self.serve(0, 0)
            times.append(time.perf_counter() - begun)
        return min(times) / PAUSES

    def run(self, job: Job, state: int, scratch: int) -> bool:
        """Runs the job with this state, unless another launch has the crew; `scratch` is the caller's."""
        if not self._busy.acquire(blocking=False):
            return False
        try:
            self._put_up(job, state)
            begun = time.perf_counter()
            try:
                self._lead(self._board, scratch, self._pauses)
            finally:
                self._finish(time.perf_counter() - begun)
            return True
        finally:
            self._ended = time.perf_counter()
            self._busy.release()

    def _put_up(self, job: Job, state: int) -> None:
        """From here on helpers may enter."""
        while len(self._helpers) < job.helpers:
            self._helpers.append(Helper(self, len(self._helpers)))
        now = time.perf_counter()
        patience = self._pauses if now - self._ended < SOON and now > self._crowded else 0
        self._words[at.FUNCTION : at.PATIENCE + 1] = [*job, state, patience]
        self._offer(self._board)
        for helper in self._helpers[: job.helpers]:
            if helper.asleep:
                helper.ring()

    def _finish(self, took: float) -> None:
        """Returns when nobody runs the job any more, nor will; interrupts wait for that. A helper that needs
        longer for its last blocks than the caller `took` for all of its own has lost its core.
        """
        interrupt, left, begun = None, 1, time.perf_counter()
        while left:
            try:
                left = self._close(self._board, self._pauses)
                if left:
                    if (now := time.perf_counter()) - begun > took:
                        self._crowded = now + CROWDED
                    time.sleep(LOOKING)
            except KeyboardInterrupt as found:
                interrupt = found
        if interrupt:
            raise interrupt

    def serve(self, number: int, served: int) -> int:
        """A helper's: runs jobs as they come, and gives the number of the last when there have been none for
        a while."""
        return int(self._serve(self._board, number, served))

    def has_one_for(self, number: int, served: int) -> bool:
        """Is there an open job that this helper has not run?"""
        job = self._words[at.JOB]
        return bool(job & at.OPEN) and job >> at.SERIAL != served and number < self._words[at.WANTED]

    def rest(self) -> None:
        """At the end of the process: helpers sleep before the code goes, and nobody has them from here on."""
        if os.getpid() != self._process or not self._busy.acquire(timeout=AT_MOST):
            return
        self._words[at.PATIENCE], begun = 0, time.perf_counter()
        while not all(helper.asleep for helper in self._helpers) and time.perf_counter() - begun < AT_MOST:
            time.sleep(LOOKING)


@cache
def crew() -> Crew:
    """That of this process. After a fork there is another: threads stay behind."""
    made = Crew()
    atexit.register(made.rest)
    return made


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=crew.cache_clear)
