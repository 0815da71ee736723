"""The user's line behind a line of PTX: what the `.loc` before it says.

origin(ptx, 42)     Loc("kernel.py", 7, "y = tc.inline_ptx(...)"), or None where no .loc came before
"""

from __future__ import annotations

import linecache
import re

from tilec.ir.errors import Loc

FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', re.MULTILINE)
PLACE = re.compile(r"\s*\.loc\s+(\d+)\s+(\d+)")


def origin(ptx: str, line: int) -> Loc | None:
    """Where line `line` of the text, counted from 1, comes from."""
    before = reversed(ptx.splitlines()[: line - 1])
    place = next((found for each in before if (found := PLACE.match(each))), None)
    file = dict(FILE.findall(ptx)).get(place[1]) if place else None
    if place is None or file is None:
        return None
    return Loc(file, int(place[2]), linecache.getline(file, int(place[2])))
