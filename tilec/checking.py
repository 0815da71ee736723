"""A script's kernels on the emulator: `tilec check FILE`.

    outcome = check(Path("matmul.py"), "emulator:sm_80");  outcome.launches, outcome.findings, outcome.error
Every launch is checked, also after a finding; the script goes on with what the kernel wrote.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilec.ir.errors import TilecError
from tilec.places import Emulated, target
from tilec.scripts import replaced, run_script


@dataclass
class Outcome:
    """How many launches there were, what was found in them, and the script's own error if it failed."""

    launches: int = 0
    findings: list[tuple[str, Any]] = field(default_factory=list)
    error: str = ""

    def add(self, kernel: str, report: Any) -> None:
        """The same finding of several launches counts once."""
        for finding in report.findings:
            if not any(_same(finding, other) and kernel == name for name, other in self.findings):
                self.findings.append((kernel, finding))

    @property
    def failed(self) -> bool:
        return bool(self.error or not self.launches or any(not f.warning for _, f in self.findings))


def _same(a: Any, b: Any) -> bool:
    """Unrolled code has many of one line."""
    one, other = ((f.kind, f.warning, f.array, f.source or f.text) for f in (a, b))
    return bool(one == other)


def check(path: Path, place: str) -> Outcome:
    """Runs a file with every kernel on an emulator. TilecError where there is no such file or emulator."""
    if not place.startswith("emulator:"):
        raise TilecError(f"kernels are checked on an emulated GPU, as emulator:sm_80 is, found {place!r}")
    if not path.is_file():
        raise TilecError(f"there is no file {path}")
    outcome, launch = Outcome(), Emulated.launch

    def watched(self: Emulated, args: Sequence[Any], blocks: int) -> None:
        outcome.launches += 1
        try:
            launch(self, args, blocks)
        except TilecError as error:
            if error.report is None:
                raise
        outcome.add(self.func.name, self.report)

    with target(place), replaced(Emulated, "launch", watched):
        try:
            run_script(path)
        except SystemExit as end:
            outcome.error = f"{path} ended with {end.code!r}" if end.code else ""
        except TilecError as error:
            outcome.error = str(error)
        except Exception:
            outcome.error = traceback.format_exc()
    return outcome


def told(path: Path, place: str, outcome: Outcome) -> str:
    """What was found, each at its line of Python."""
    lines = [described(kernel, finding) for kernel, finding in outcome.findings]
    if outcome.error:
        lines.append(f"the script failed: {outcome.error.rstrip()}")
    if not outcome.launches:
        lines.append(f"{path} launched no kernel on {place}: there was nothing to check")
    else:
        found = counted(len(outcome.findings), "finding")
        lines.append(f"checked {counted(outcome.launches, 'launch')} on {place}: {found}")
    return "\n".join(lines)


def counted(n: int, word: str) -> str:
    """no findings, 1 launch, 2 launches"""
    return f"{n or 'no'} {word}{'' if n == 1 else 'es' if word.endswith('h') else 's'}"


def described(kernel: str, finding: Any) -> str:
    """A finding, led by the user's line."""
    file, line = finding.source or ("", 0)
    where = f"{file}:{line}: " if line else ""
    return f"{where}{kernel}: {finding}"
