"""Timing calls beside those of peers, in one run: what the operators' benches share.

for line in compared("56x56, window 7", {"tilec": ours}, peers, runs=5, missing="torch, natten"): print(line)
All take turns. Wall time is the median; `cpu` is the time of all threads together, which other programs on
the machine disturb less.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from statistics import median
from typing import Any

import numpy as np

from tilec.ops.reference import relative_error

REPEATS = 10  # calls of each in one run
WARMING = 0.02  # seconds of calls that are not counted
PAUSE = 0.3  # seconds until threads of the one before are asleep: those of OpenMP look for more for up to 0.2
WRONG = 1e-4  # relative error from which a peer has computed something else
Call = Callable[[], Any]


def compared(
    title: str, ours: dict[str, Call], peers: Iterable[tuple[str, Call]], runs: int, missing: str
) -> Iterator[str]:
    """A line for each call: milliseconds, ratio to the first of ours. Peers that give another result than our
    last are told, and not timed; `missing`: what to install where there is none.
    """
    calls, expected = dict(ours), list(ours.values())[-1]()
    yield f"{title:<48}{'wall ms':>9}{'cpu ms':>9}{'ratio':>8}"
    found = False
    for name, call in peers:
        found, off = True, relative_error(np.asarray(call()).reshape(expected.shape), expected)
        if off < WRONG:
            calls[name] = call
        else:
            yield f"    {name}: its result is off by {off:.1e}, not timed"
    times = measured(calls, runs)
    first = times[next(iter(ours))][0]
    for name, (wall, cpu) in times.items():
        yield f"    {name:<44}{wall:9.3f}{cpu:9.3f}{wall / first:8.1f}"
    if not found:
        yield f"    no peer in this run: install {missing}"


def measured(calls: dict[str, Call], runs: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds of each, wall and CPU, taking turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            time.sleep(PAUSE)
            _warm(call)
            times[name] += [_timed(call) for _ in range(REPEATS)]
    return {name: (median(w for w, _ in each), median(c for _, c in each)) for name, each in times.items()}


def _warm(call: Call) -> None:
    begun = time.perf_counter()
    while time.perf_counter() - begun < WARMING:
        call()


def _timed(call: Call) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)
