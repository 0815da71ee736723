"""The scratch arena: every tile of a block lies at a fixed place in one piece of memory per thread.

    buffer = arena.take(4096);  ...;  arena.give(buffer)        # its bytes serve the next tile

Code is written in the order in which it runs, so what is given back while writing is free from there on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ALIGN = 64
DUMMY = 64  # bytes at the start that masked lanes may read and write
SLACK = 64  # bytes after each buffer that a wide read may touch


@dataclass(eq=False)
class Buffer:
    """Bytes of the arena. `holders` counts the values in it; a pinned one is kept when there are none."""

    offset: int
    size: int
    holders: int = 0
    pinned: bool = False


@dataclass
class Arena:
    """Takes the lowest place that fits; `size` is the most that was ever in use."""

    size: int = DUMMY
    _free: list[tuple[int, int]] = field(default_factory=list)  # (offset, size), by offset, never adjacent

    def take(self, nbytes: int) -> Buffer:
        size = -(-(nbytes + SLACK) // ALIGN) * ALIGN
        for i, (offset, room) in enumerate(self._free):
            if room >= size:
                self._free[i : i + 1] = [(offset + size, room - size)] if room > size else []
                return Buffer(offset, size)
        offset = self._tail()
        self.size = offset + size
        return Buffer(offset, size)

    def give(self, buffer: Buffer) -> None:
        """Gives a buffer's bytes back."""
        assert not buffer.holders and not buffer.pinned, "a buffer is given back when nothing is in it"
        merged: list[tuple[int, int]] = []
        for offset, size in sorted([*self._free, (buffer.offset, buffer.size)]):
            if merged and sum(merged[-1]) == offset:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((offset, size))
        self._free = merged

    def _tail(self) -> int:
        """Where the arena would grow: its end, or the free bytes just before it."""
        if self._free and sum(self._free[-1]) == self.size:
            return self._free.pop()[0]
        return self.size
