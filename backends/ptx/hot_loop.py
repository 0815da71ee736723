"""The loop of a kernel in which its matrix products are, read from the machine code.

    hot_loop(compiled.sass)      Loop(instructions=260, products=32, counts={"LOP3": 64, "HMMA": 32, ...})
Counting is the one measure of a GPU kernel's speed that needs no GPU: a warp issues at most one instruction
a cycle, and everything beside the products takes their place.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

LABEL = re.compile(r"\s*(\.L_\S+):")
INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S+?)(?:\.\S*)?(?:\s+(.*?))?\s*;")
PRODUCTS = ("HMMA", "IMMA", "QMMA", "DMMA", "BMMA", "HGMMA", "IGMMA", "QGMMA", "BGMMA")


@dataclass(frozen=True)
class Loop:
    """Instructions of one round, how many of them are matrix products, and how many there are by name."""

    instructions: int
    products: int
    counts: dict[str, int]

    def __str__(self) -> str:
        return f"{self.instructions} instructions, {self.products} of them matrix products"


def hot_loop(sass: str) -> Loop | None:
    """The innermost loop with most matrix products, without any the longest; None where there is no loop."""
    names, labels, jumps = _read(sass)
    back = ((labels[label], at) for at, label in jumps if label in labels)
    loops = [names[first : at + 1] for first, at in back if first < at]  # code ends in a branch to itself
    found = [Loop(len(body), sum(name in PRODUCTS for name in body), dict(Counter(body).most_common()))
             for body in loops]  # fmt: skip
    return max(found, key=_heat, default=None)


def _heat(loop: Loop) -> tuple[int, int]:
    return loop.products, -loop.instructions if loop.products else loop.instructions


def _read(sass: str) -> tuple[list[str], dict[str, int], list[tuple[int, str]]]:
    """The instructions' names, the place of each label, and (place, label) of each branch."""
    names: list[str] = []
    labels: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []
    for line in sass.splitlines():
        if label := LABEL.match(line):
            labels[label.group(1)] = len(names)
        elif found := INSTRUCTION.match(line):
            if found.group(1) == "BRA" and (to := re.search(r"(\.L_\w+)", found.group(2) or "")):
                jumps.append((len(names), to.group(1)))
            names.append(found.group(1))
    return names, labels, jumps
