"""The last write to a granule of shared memory in one word: when, by which instruction, by whom.

    clock << 36 | pc << 16 | atomic << 15 | agent << 5 | lane
An agent is a warp or an asynchronous engine of the block's cluster: 16 blocks of 33 agents fit.
"""

from __future__ import annotations

from typing import Any

ATOMIC, AGENT, PC, CLOCK = 1 << 15, 5, 16, 36


def stamp(clock: Any, pc: int, agent: Any, lane: Any = 0, atomic: bool = False) -> Any:
    return (clock << CLOCK) | (pc << PC) | (ATOMIC * atomic) | (agent << AGENT) | lane


def author(word: Any) -> Any:
    """The agent that wrote."""
    return (word >> AGENT) & 1023


def moment(word: Any) -> Any:
    return word >> CLOCK


def place(word: Any) -> Any:
    """The pc of the write."""
    return (word >> PC) & 0xFFFFF
