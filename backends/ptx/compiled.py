"""What becomes of a kernel on a GPU: its LLVM IR, its PTX, its machine code; compiled just now, or kept.

    restore(func, target, kept.parts()).ptx == kept.ptx
Nothing here needs the compiler, which is not loaded for what has been compiled before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tilec.backends.ptx.assemble import Assembled, assemble, sass
from tilec.backends.ptx.maps import maps_of
from tilec.backends.ptx.reports import Report, reports_of
from tilec.ir.func import Func
from tilec.ir.signature import Slot, signature
from tilec.ir.target import Target


@dataclass(frozen=True)
class PtxKernel:
    """What became of a kernel: its LLVM IR, its PTX and, with an assembler, its machine code."""

    func: Func
    target: Target
    llvm: str
    ptx: str
    shared_bytes: int

    @property
    def threads(self) -> int:
        return self.func.all_warps * self.target.warp_size

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """What a launch passes, in order."""
        said = (Slot("said", 0),) if self.reports else ()
        return signature(self.func) + maps_of(self.ptx) + said

    @cached_property
    def reports(self) -> tuple[Report, ...]:
        """What it may say: assertions and prints."""
        return reports_of(self.ptx)

    @cached_property
    def assembled(self) -> Assembled:
        """By ptxas; TilecError where there is none."""
        return assemble(self.ptx, self.target)

    @cached_property
    def sass(self) -> str:
        return sass(self.assembled.cubin)

    def parts(self) -> dict[str, bytes]:
        """What brings it back (restore) without compiling."""
        shared = str(self.shared_bytes).encode()
        return {"llvm": self.llvm.encode(), "ptx": self.ptx.encode(), "shared": shared}


def restore(func: Func, target: Target, parts: Mapping[str, bytes]) -> PtxKernel:
    """A kernel from its parts; `func` may be as traced."""
    return PtxKernel(func, target, parts["llvm"].decode(), parts["ptx"].decode(), int(parts["shared"]))
