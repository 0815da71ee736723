"""A kernel compiled for one set of types and one target: its text at every station, and a call.

    done = matmul.compile(a, b, c, target="sm_90a");  done.ir, done.llvm, done.ptx, done.resources.registers
Every text is made when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from tilec import cache
from tilec.arguments import (
    bind,
    check_apart,
    check_fits,
    check_writeable,
    checked,
    kept_apart,
    written_params,
)
from tilec.frontend import Definition
from tilec.ir import debug
from tilec.ir.errors import TilecError
from tilec.ir.func import Func, Value
from tilec.ir.run import Memory, grid_size
from tilec.ir.target import CPU, Place, Target, parse_target
from tilec.ir.tile import ArrayType, Type
from tilec.places import Emulated, Program, Reference, meant, runner_of


@dataclass(frozen=True)
class Resources:
    """Registers and spilled bytes of a thread, shared memory of a block."""

    registers: int
    spill_bytes: int
    shared_bytes: int


class Compiled:
    """What `kernel.compile` gives. Callable with arrays that fit the types it was compiled for."""

    def __init__(self, definition: Definition, func: Func, target: str) -> None:
        self.definition = definition
        self.target = target
        self.traced = func
        self.place: Place = parse_target(target)

    def __repr__(self) -> str:
        return f"Compiled({self.definition.name}, {', '.join(map(str, self.types))}, target={self.target!r})"

    @property
    def types(self) -> tuple[Type, ...]:
        return tuple(param.type for param in self.traced.params)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that it launches."""
        return (self.traced.name,)

    @cached_property
    def machine(self) -> Target:
        """The target as data."""
        if self.place.target is None:
            raise TilecError(
                f'{self.target}: kernels are not launched on GPUs yet; they run on "cpu", "reference" and '
                '"emulator:sm_80", and compile(..., target="sm_90a") gives their PTX'
            )
        return self.place.target

    @cached_property
    def func(self) -> Func:
        """The kernel after all passes for its target; the reference runs it as traced."""
        if self.place.runner == "reference":
            return self.traced
        from tilec.ir.passes.order import lower

        lowered: Func = lower(self.traced, self.machine)
        return lowered

    @cached_property
    def ir(self) -> str:
        """The IR after all passes."""
        from tilec.ir.text import show

        return show(self.func)

    @cached_property
    def code(self) -> Any:
        """What the backend made of it."""
        if self.place.runner == "reference":
            raise TilecError(
                "the reference runs the IR itself: it has no other code; compile for cpu or sm_90a"
            )
        from tilec.ir.text import show

        room = _backend("cpu" if self.machine == CPU else "ptx")
        machine = () if self.machine == CPU else (self.machine,)
        name = cache.key(self.machine.name, show(self.traced, lines=True))
        kept = None if debug.level() else cache.fetch(name)
        if kept is not None:
            return room.restore(self.traced, *machine, kept)
        made = room.compile(self.func, *machine)
        cache.keep(name, made.parts())
        return made

    @property
    def llvm(self) -> str:
        """LLVM IR."""
        return str(self.code.llvm)

    @property
    def ptx(self) -> str:
        """PTX, for targets that are GPUs."""
        return str(self._of("ptx", "PTX", "sm_90a"))

    @property
    def asm(self) -> str:
        """Assembly of this machine, for the target cpu."""
        return str(self._of("asm", "assembly", "cpu"))

    @cached_property
    def sass(self) -> str:
        """The GPU's machine code; needs ptxas and nvdisasm."""
        return str(self._of("sass", "SASS", "sm_90a"))

    @cached_property
    def resources(self) -> Resources:
        """What a thread and a block take; needs ptxas."""
        usage = self._of("assembled", "resources", "sm_90a")
        return Resources(usage.registers, usage.spill_bytes, usage.shared_bytes + self.code.shared_bytes)

    def _of(self, name: str, what: str, other: str) -> Any:
        if not hasattr(type(self.code), name) and not hasattr(self.code, name):
            raise TilecError(f"{self.target} has no {what}: compile with target={other!r}")
        return getattr(self.code, name)

    # Running.

    @cached_property
    def program(self) -> Program:
        """The compiled code, ready to launch."""
        place = runner_of(self.target)
        if place.runner == "reference":
            return Reference(self.func)
        if place.runner == "emulator":
            return Emulated(self.code)
        program: Program = self.code
        return program

    @cached_property
    def written(self) -> tuple[int, ...]:
        """Numbers of the parameters that it writes."""
        return written_params(self.traced)

    def __call__(self, *args: Any) -> None:
        """Runs on these arguments; TilecError unless they are what it was compiled for."""
        given, _ = bind(self.definition, tuple(x for x in args if x is not None), {})
        held = [checked(param, x) for param, x in zip(self.definition.params, given, strict=True)]
        check_fits(self.definition, self.types, held)
        self.prepared(held)(held)

    def prepared(self, held: Sequence[Any]) -> Launch:
        """A launch on arguments like these: checks what the kernel requires, and counts its blocks."""
        check_writeable(self.definition, self.written, held)
        env: dict[Value, Any] = {
            param: Memory(x, param.type.dtype) if isinstance(param.type, ArrayType) else meant(x, param.type)
            for param, x in zip(self.traced.params, held, strict=True)
        }
        blocks = grid_size(self.traced, env)
        return Launch(self, blocks, kept_apart(self.definition, self.written))


@dataclass(frozen=True)
class Launch:
    """Compiled code and its grid, for arguments of one `fast_key`. `apart`: arrays that may not overlap."""

    compiled: Compiled
    blocks: int
    apart: tuple[tuple[int, int], ...]

    def __call__(self, held: Sequence[Any]) -> None:
        check_apart(self.compiled.definition, self.apart, held)
        if self.blocks:
            self.compiled.program.launch(held, self.blocks)


def _backend(name: str) -> Any:
    return import_module(f"tilec.backends.{name}")
