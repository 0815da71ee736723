"""The one error that users see: where, what was expected, what was found, what to do.

    raise TilecError("dot needs a's columns to match b's rows: a is 16x8, b is 4x16", Loc("kernel.py", 31))
prints
    kernel.py:31: dot needs a's columns to match b's rows: a is 16x8, b is 4x16
"""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Loc:
    """A line of the user's source; `text` is the line itself where it is known."""

    file: str
    line: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class TilecError(Exception):
    """A mistake in what the user wrote or passed. Our own impossibilities are assertions instead.

    `loc` is the user's line, `report` what a runner found (the emulator's Report); None where there is none.
    """

    def __init__(self, message: str, loc: Loc | None = None, report: object = None) -> None:
        super().__init__(message, loc, report)  # the arguments as they are, so that the error pickles
        self.message = message
        self.loc = loc
        self.report = report

    def __str__(self) -> str:
        if self.loc is None:
            return self.message
        source = self.loc.text.strip()
        return f"{self.loc}: {self.message}" + (f"\n    {source}" if source else "")

    def at(self, loc: Loc | None) -> Self:
        """This same error, placed at `loc` if it had no place yet: the innermost line wins."""
        self.loc = self.loc or loc
        return self
