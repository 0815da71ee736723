"""One way to look inside: TILEC_DEBUG=n, or `with tilec.debug(n):`.

    1  stages and their times, decisions about layouts      4  PTX
    2  the IR after each pass                               5  launches
    3  LLVM IR
TILEC_CHECK=1 verifies the IR after every pass.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_level: ContextVar[int | None] = ContextVar("tilec_debug", default=None)


def level() -> int:
    """How much to tell: what `at` set, else TILEC_DEBUG, else 0."""
    inner = _level.get()
    return _from_environment() if inner is None else inner


def inside() -> bool:
    """Whether an `at` is around, which costs less to ask than what level there is."""
    return _level.get() is not None


def _from_environment() -> int:
    text = os.environ.get("TILEC_DEBUG", "0")
    return int(text) if text.isdigit() else 0


def checking() -> bool:
    """Whether the IR is verified after every pass."""
    return os.environ.get("TILEC_CHECK", "") not in ("", "0")


@contextmanager
def at(wanted: int) -> Iterator[None]:
    """Tells this much inside the `with`."""
    token = _level.set(wanted)
    try:
        yield
    finally:
        _level.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Times a stage of a compile; prints it at level 1."""
    if level() < 1:
        yield
        return
    start = time.perf_counter()
    yield
    print(f"{name:24} {1000 * (time.perf_counter() - start):8.2f} ms")
