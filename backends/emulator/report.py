"""What a launch found: findings, metrics, instructions that never ran.

report = module.launch("kernel", 4, 128, (x, y))
report.raise_if_any()
print(report.table())
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tilec.backends.emulator.metrics import Metrics
from tilec.ir.errors import TilecError

KINDS = frozenset(
    ("out-of-bounds", "misaligned", "uninitialised", "race", "global-race", "async", "deadlock", "divergence")
)


@dataclass(frozen=True)
class Finding:
    """One kind of trouble at one instruction; the first lane it happened to, and how often it did.

    `line` is the PTX line (0 where there is none), `source` the (file, line) of the .loc before it, `other`
    the PTX line of the other access of a race.
    """

    kind: str
    line: int
    warning: bool
    message: str
    text: str = ""
    source: tuple[str, int] | None = None
    block: tuple[int, int, int] | None = None
    warp: int | None = None
    lane: int | None = None
    address: int | None = None
    array: str | None = None
    other: int | None = None
    count: int = 1

    def __str__(self) -> str:
        level = "warning: " if self.warning else ""
        lines = [f"{level}{self.kind}: {self.message}", f"    line {self.line}: {self.text}"]
        if self.source:
            lines.append(f"    from {self.source[0]}:{self.source[1]}")
        if self.block is not None:
            times = f", {self.count} times in all" if self.count > 1 else ""
            lines.append(f"    first in block {self.block}, warp {self.warp}, lane {self.lane}{times}")
        return "\n".join(lines)


def told(first: Finding, *more: Finding) -> str:
    if not more:
        return str(first)
    lines = sorted({f.line for f in more})
    shown = ", ".join(map(str, lines[:4])) + (", ..." if len(lines) > 4 else "")
    many = f"{len(more)} more instruction{'s' * (len(more) > 1)}"
    return f"{first}\n    and the same at {many} of that line (PTX {shown})"


@dataclass
class Report:
    """Findings in the order in which they came; completed is False after a deadlock.

    unread: warnings of source lines whose masked loads read nothing; findings where masks mean bounds, as in
    tilec's own kernels.
    """

    findings: list[Finding] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    unexecuted: list[tuple[int, str]] = field(default_factory=list)
    completed: bool = True
    unread: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self.findings if not f.warning]

    def raise_if_any(self) -> None:
        """TilecError with this report as .report when there is a finding that is more than a warning."""
        if self.errors:
            many = len(self.errors)
            found = f"the emulator found {many} error{'s' * (many > 1)}\n{self.describe()}"
            raise TilecError(found, report=self)

    def describe(self) -> str:
        """The findings; of those of one source line, kind and array, as unrolled code has many, the first."""
        groups: dict[Any, list[Finding]] = {}
        for n, f in enumerate(self.findings):
            groups.setdefault((f.kind, f.warning, f.array, f.source or n), []).append(f)
        return "\n".join(told(*group) for group in groups.values()) or "no findings"

    def rename(self, names: Mapping[str, str]) -> None:
        """Calls arrays by the names that their kernel knows: {"argument 2": "out"}."""
        any_of = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names) or "(?!)")
        for n, f in enumerate(self.findings):
            message = any_of.sub(lambda found: names[found.group()], f.message)
            self.findings[n] = replace(f, message=message, array=names.get(f.array or "", f.array))

    def table(self) -> str:
        """Findings, then the metrics, then what never ran."""
        rows = [self.describe(), "", self.metrics.table()]
        if self.unexecuted:
            rows += ["", "never executed:"] + [f"    line {line}: {text}" for line, text in self.unexecuted]
        return "\n".join(rows)
