"""How the loops of products use memory, counted on the emulator: `tilec bench loops --emulate`.

    used = traffic(lambda: ops.linear(x, q), "sm_80")
    used.findings, used.shared.ratio, used.inside.ratio         0, 1.0, 1.0
A wavefront serves 32 banks of shared memory of four bytes, a sector is 32 bytes of global memory. The
emulator counts those that accesses take, and the fewest that would have held their bytes; a ratio of 1 is
an access that meets no bank twice, and reads no sector in part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tilec as tc
from tilec.places import Emulated
from tilec.scripts import replaced

LABEL = re.compile(r"(\$L__BB\w+):")
JUMP = re.compile(r"\bbra(?:\.uni)?\s+(\$L__BB\w+);")
PRODUCT = re.compile(r"\bmma\.(?:sp\S*\.)?sync|wgmma\.mma_async")


@dataclass(frozen=True)
class Used:
    """Wavefronts or sectors, and the fewest that would do."""

    units: int = 0
    least: int = 0

    @property
    def ratio(self) -> float:
        return self.units / self.least if self.least else 0.0

    def __str__(self) -> str:
        return f"{self.ratio:.2f}" if self.least else "-"


@dataclass(frozen=True)
class Traffic:
    """Of the kernel with the products: what was found, shared memory in the loop, global memory in it and
    outside.
    """

    findings: int
    shared: Used
    inside: Used
    outside: Used


def traffic(call: Callable[[], object], target: str) -> Traffic:
    """What the launches of a call on the emulator for a target count; every check is on, and raises."""
    launches: list[Emulated] = []
    launch = Emulated.launch

    def watched(self: Emulated, args: Sequence[Any], blocks: int) -> None:
        launch(self, args, blocks)
        launches.append(self)

    with tc.target(f"emulator:{target}"), replaced(Emulated, "launch", watched):
        call()
    last = max(launches, key=lambda each: len(PRODUCT.findall(each.code.ptx)))
    assert last.report is not None, "a launch has a report"
    metrics, body = last.report.metrics, hot_lines(last.code.ptx)
    return Traffic(
        len(last.report.findings), _used(metrics.shared, body), _used(metrics.global_, body),
        _used(metrics.global_, metrics.global_.keys() - body),
    )  # fmt: skip


def _used(counts: dict[int, Any], lines: set[int]) -> Used:
    chosen = [found for line, found in counts.items() if line in lines]
    return Used(sum(each.units for each in chosen), sum(each.least for each in chosen))


def hot_lines(ptx: str) -> set[int]:
    """The numbers of the PTX's lines, from 1, in the innermost loop with most products."""
    labels: dict[str, int] = {}
    loops: list[range] = []
    lines = ptx.splitlines()
    for number, line in enumerate(lines, 1):
        if label := LABEL.match(line):
            labels[label[1]] = number
        elif (jump := JUMP.search(line)) and jump[1] in labels:
            loops.append(range(labels[jump[1]], number + 1))
    products = {loop: sum(bool(PRODUCT.search(lines[i - 1])) for i in loop) for loop in loops}
    best: range = max(loops, key=lambda loop: (products[loop], -len(loop)), default=range(0))
    return set(best)
