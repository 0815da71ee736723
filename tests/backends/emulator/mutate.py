"""Mutants of PTX text: each synchronisation deleted, one at a time.

for mutant in deletions(text): mutant.text runs with one line less; mutant.line and mutant.what say which
"""

import re
from dataclasses import dataclass

SYNCHRONISATION = re.compile(
    r"\s*(@!?%?\w+\s+)?(bar(rier)?\.(sync|cta\.sync|warp\.sync|arrive|red)|barrier\.cluster|cp\.async\.(wait|commit)"
    r"|cp\.async\.bulk\.(wait|commit)|wgmma\.(fence|commit_group|wait_group)|fence\.proxy|mbarrier\.(arrive|try_wait|init|expect))"
)


@dataclass(frozen=True)
class Mutant:
    line: int
    what: str
    text: str


def deletions(text: str, kernel: str | None = None) -> list[Mutant]:
    """Every synchronisation of a kernel (or of all), deleted alone. A wait's predicate becomes true
    instead."""
    lines = text.split("\n")
    first, last = extent(lines, kernel)
    found = []
    for n in range(first, last):
        if SYNCHRONISATION.match(lines[n]):
            changed = [*lines[:n], replacement(lines[n]), *lines[n + 1 :]]
            found.append(Mutant(n + 1, lines[n].strip(), "\n".join(changed)))
    return found


def extent(lines: list[str], kernel: str | None) -> tuple[int, int]:
    """The lines of a kernel's body."""
    if kernel is None:
        return 0, len(lines)
    start = next(n for n, line in enumerate(lines) if re.search(rf"\.entry\s+{kernel}\b", line))
    return start, next(n for n in range(start, len(lines)) if lines[n].startswith("}"))


def replacement(line: str) -> str:
    waits = re.match(r"\s*mbarrier\.(?:try_wait|test_wait)\S*\s+(\S+),", line)
    return f"setp.eq.u32 {waits.group(1)}, 0, 0;" if waits else ""


def substitutions(text: str, pattern: str, change: str, kernel: str | None = None) -> list[Mutant]:
    """Each place where a pattern matches, changed alone."""
    lines = text.split("\n")
    first, last = extent(lines, kernel)
    found = []
    for n in range(first, last):
        if re.search(pattern, lines[n]):
            changed = [*lines[:n], re.sub(pattern, change, lines[n]), *lines[n + 1 :]]
            found.append(Mutant(n + 1, lines[n].strip(), "\n".join(changed)))
    return found
