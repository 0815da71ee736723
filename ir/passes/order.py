"""The passes, in order, and which targets each serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tilec.ir.func import Func
from tilec.ir.target import Target


@dataclass(frozen=True)
class Pass:
    """One step from Func to Func; `layouts` marks those that only targets with registers and threads need."""

    run: Callable[[Func, Target], Func]
    layouts: bool = False

    @property
    def name(self) -> str:
        return self.run.__name__
