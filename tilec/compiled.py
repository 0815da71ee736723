"""A kernel compiled for one set of types and one target: its text at every station, and a call.

    done = matmul.compile(a, b, c, target="sm_90a");  done.ir, done.llvm, done.ptx, done.resources.registers
Every text is made when it is first asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilec.again import Again, keep, seen
from tilec.arguments import (
    Signature,
    bind,
    check_apart,
    check_fits,
    check_writeable,
    checked,
    kept_apart,
    place_of,
    written_params,
)
from tilec.backends import cache
from tilec.device import device
from tilec.ir import debug
from tilec.ir.errors import TilecError
from tilec.ir.func import Func, Value
from tilec.ir.run import Memory, grid_size
from tilec.ir.target import CPU, Place, Target, parse_target
from tilec.ir.tile import ArrayType, Type
from tilec.places import Emulated, Program, Reference, current_target, meant, runner_of
from tilec.tape import current as noted

if TYPE_CHECKING:
    from tilec.backends.ptx.hot_loop import Loop

LAUNCHES = 5  # the level of debug that tells of them


@dataclass(frozen=True)
class Resources:
    """Registers and spilled bytes of a thread, shared memory of a block."""

    registers: int
    spill_bytes: int
    shared_bytes: int


class Compiled:
    """What `kernel.compile` gives. Callable with arrays that fit the types it was compiled for."""

    def __init__(self, definition: Signature, func: Func, target: str) -> None:
        self.definition = definition
        self.target = target
        self.traced = func
        self.place: Place = parse_target(target)
        self._programs: dict[str, Program] = {}
        self._again: dict[Any, Again] = {}

    def __repr__(self) -> str:
        return f"Compiled({self.definition.name}, {', '.join(map(str, self.types))}, target={self.target!r})"

    @property
    def types(self) -> tuple[Type, ...]:
        """Of its parameters."""
        return tuple(param.type for param in self.traced.params)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that it launches."""
        return (self.traced.name,)

    @cached_property
    def machine(self) -> Target:
        """The target as data."""
        if self.place.target is None:  # only the driver knows
            target: Target = device(self.place.device).target
            return target
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
        room = _backend("cpu" if self.machine == CPU else "ptx")
        machine = () if self.machine == CPU else (self.machine,)
        kept = None if debug.level() else cache.fetch(self.cache_key)
        if kept is not None:
            return room.restore(self.traced, *machine, kept)
        made = room.compile(self.func, *machine)
        cache.keep(self.cache_key, made.parts())
        return made

    @cached_property
    def cache_key(self) -> str:
        """The name of its code on disk."""
        from tilec.ir.text import show

        return cache.key(self.machine.name, show(self.traced, lines=True))

    @property
    def is_kept(self) -> bool:
        """Whether its code is here already, or on disk."""
        return "code" in self.__dict__ or cache.has(self.cache_key)

    @property
    def llvm(self) -> str:
        """LLVM IR."""
        return str(self.code.llvm)

    @property
    def ptx(self) -> str:
        """PTX, for targets that are GPUs."""
        return str(self._of("ptx", "PTX", "sm_90a"))

    def with_ptx(self, text: str) -> Compiled:
        """The same kernel with PTX edited by hand, to be run, assembled or saved.

        TilecError unless the text has a kernel of the same name and parameters.
        """
        name, old = self.traced.name, self.ptx
        wanted, found = parameters_of(old, name), parameters_of(text, name)
        if found != wanted:
            there = "no such kernel" if found is None else f"({', '.join(found)})"
            raise TilecError(f"with_ptx needs the kernel {name}({', '.join(wanted or ())}), found {there}")
        made = type(self)(self.definition, self.traced, self.target)
        made.__dict__.update(code=replace(self.code, ptx=text), written=self.written)
        return made

    def save(self, path: str | Path) -> None:
        """Writes one file that tilec.load runs on a machine with numpy and NVIDIA's driver alone."""
        from tilec.saved import save

        save(self, path)

    @property
    def asm(self) -> str:
        """Assembly of this machine, for the target cpu."""
        return str(self._of("asm", "assembly", "cpu"))

    @cached_property
    def sass(self) -> str:
        """The GPU's machine code; needs ptxas and nvdisasm."""
        self._of("sass", "SASS", "sm_90a")
        return disassembled(self._assembled.cubin)

    @cached_property
    def hot_loop(self) -> Loop | None:
        """The loop with most matrix products, or the longest: how many instructions it has, by name; None
        where there is no loop. Needs ptxas and nvdisasm.
        """
        from tilec.backends.ptx.hot_loop import hot_loop

        return hot_loop(self.sass)

    @cached_property
    def resources(self) -> Resources:
        """What a thread and a block take; needs ptxas."""
        self._of("assembled", "resources", "sm_90a")
        usage = self._assembled
        return Resources(usage.registers, usage.spill_bytes, usage.shared_bytes + self.code.shared_bytes)

    @cached_property
    def _assembled(self) -> Any:
        """What ptxas makes of the PTX, kept on disk too."""
        from tilec.backends.ptx.assemble import assembler, restored

        kept = cache.fetch(self.cubin_key) if assembler() and not debug.level() else None
        if kept is not None:
            return restored(kept)
        made = self.code.assembled
        cache.keep(self.cubin_key, made.parts())
        return made

    @property
    def cubin_key(self) -> str:
        """The name of its machine code on disk."""
        from tilec.backends.ptx.assemble import assembler

        return cache.key("cubin", assembler(), self.code.target.name, self.code.ptx)

    def _of(self, name: str, what: str, other: str) -> Any:
        if not hasattr(type(self.code), name) and not hasattr(self.code, name):
            raise TilecError(f"{self.target} has no {what}: compile with target={other!r}")
        return getattr(self.code, name)

    # Running.

    def program_on(self, name: str) -> Program:
        """The compiled code, ready to launch on a target; made once."""
        if name not in self._programs:
            self._programs[name] = self._program(runner_of(name))
        return self._programs[name]

    def _program(self, place: Place) -> Program:
        if place.runner == "reference":
            return Reference(self.func)
        if place.runner == "emulator":
            return Emulated(self.code)
        if place.target is None:
            from tilec.on_cuda import OnCuda

            return OnCuda(self.code, self.cubin, self.written, place.device)
        program: Program = self.code
        return program

    @cached_property
    def cubin(self) -> bytes | None:
        """Machine code, where there is an assembler."""
        from tilec.backends.ptx.assemble import assembler

        return self._assembled.cubin if assembler() else None

    @cached_property
    def written(self) -> tuple[int, ...]:
        """Numbers of the parameters that it writes."""
        return written_params(self.traced)

    def __call__(self, *args: Any) -> None:
        """Runs on these arguments; TilecError unless they are what it was compiled for."""
        tape = noted()
        facts = seen(args, {}) if tape is None else None
        key = (current_target(), facts)
        again = None if facts is None or debug.inside() else self._again.get(key)
        if again is not None:
            again()
            return
        given, _ = bind(self.definition, tuple(x for x in args if x is not None), {})
        held = [checked(param, x) for param, x in zip(self.definition.params, given, strict=True)]
        check_fits(self.definition, self.types, held)
        launch = self.prepared(held, self.place_of(held))
        again = launch(held)
        if tape is not None:
            tape.launched(launch, held)
        if facts is not None and again is not None and debug.level() < LAUNCHES:
            keep(self._again, key, again)

    def place_of(self, held: Sequence[Any]) -> str:
        """Arrays of a GPU: there. The host's: where it was compiled for, or on the current target if that was
        a GPU by its name, as "sm_90a" is."""
        if self.place.runner != "compile":
            return place_of(self.definition, held, self.target, chosen=True)
        place, here = place_of(self.definition, held, current_target()), current_target()
        if place.startswith("cuda") or here == f"emulator:{self.target}":
            return place
        raise TilecError(
            f"{self.definition.name} was compiled for {self.target}, and its arguments lie on the host: run "
            f'it with tc.target("cuda:0") or tc.target("emulator:{self.target}"), or pass arrays of a GPU'
        )

    def prepared(self, held: Sequence[Any], place: str) -> Launch:
        """A launch on arguments like these: checks what the kernel requires, and counts its blocks."""
        check_writeable(self.definition, self.written, held)
        env: dict[Value, Any] = {
            param: Memory(x, param.type.dtype) if isinstance(param.type, ArrayType) else meant(x, param.type)
            for param, x in zip(self.traced.params, held, strict=True)
        }
        blocks = grid_size(self.traced, env)
        if blocks % self.traced.cluster and self.place.runner not in ("cpu", "reference"):
            raise TilecError(
                f"{self.definition.name} launches {blocks} blocks, which are no whole clusters of "
                f"{self.traced.cluster}: choose cluster= so that it divides the grid"
            )
        return Launch(self, place, blocks, kept_apart(self.definition, self.written))


@dataclass(frozen=True)
class Launch:
    """Compiled code and its grid, for arguments of one `fast_key`. `apart`: arrays that may not overlap."""

    compiled: Compiled
    place: str
    blocks: int
    apart: tuple[tuple[int, int], ...]

    def __call__(self, held: Sequence[Any]) -> Again | None:
        """Launches, and gives what does it again; None where the place has to see the arrays each time."""
        check_apart(self.compiled.definition, self.apart, held)
        if debug.level() >= LAUNCHES:
            self._tell(held)
        again = self.bound(held)
        if again is None:
            self.compiled.program_on(self.place).launch(held, self.blocks)
        else:
            again()
        return again

    def _tell(self, held: Sequence[Any]) -> None:
        func, args = self.compiled.traced, zip(self.compiled.definition.params, held, strict=True)
        shown = (f"{p.name}={x!r}" if p.dtype else f"{p.name}{list(x.shape)}" for p, x in args)
        print(f"{func.name} on {self.place}: {self.blocks} blocks, {', '.join(shown)}")

    def bound(self, held: Sequence[Any]) -> Again | None:
        """This launch on these very arrays, checked already, which it does not keep."""
        moved = self.movable(held, ())
        return moved and partial(moved, ())

    def movable(self, held: Sequence[Any], moving: Sequence[int]) -> Callable[[Sequence[int]], None] | None:
        """This launch for arrays like these elsewhere: it takes the addresses of the `moving` parameters."""
        if not self.blocks:
            return _nothing
        program: Any = self.compiled.program_on(self.place)
        moved: Callable[[Sequence[int]], None] | None = (
            program.movable(held, self.blocks, moving) if hasattr(program, "movable") else None
        )
        return moved


def _nothing(addresses: Sequence[int]) -> None:
    """A grid of zero."""


def parameters_of(ptx: str, name: str) -> tuple[str, ...] | None:
    """The types of a kernel's parameters; None where the text has no such kernel."""
    found = re.search(rf"\.entry\s+{re.escape(name)}\s*\((.*?)\)", ptx, re.DOTALL)
    return tuple(re.findall(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)", found[1])) if found else None


def disassembled(cubin: bytes) -> str:
    from tilec.backends.ptx.assemble import sass

    return sass(cubin)


def _backend(name: str) -> Any:
    return import_module(f"tilec.backends.{name}")
