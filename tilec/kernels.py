"""Kernels: functions marked @tc.kernel, compiled when they meet arguments, and kept.

add(x, y, out)                          specialise, compile, run on the current target
add.on("reference")(x, y, out)          on another target
add.compile(Spec("f32", ("n",)), ..., target="sm_90a").ptx
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from threading import RLock
from types import FunctionType
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np

from tilec.again import Again, forget_plays, keep, seen
from tilec.arguments import Static, argument_type, bind, checked, constant_key, fast_key, place_of
from tilec.compiled import LAUNCHES, Compiled, Launch
from tilec.frontend import Definition, constants_of, define, trace
from tilec.ir import debug
from tilec.ir.errors import TilecError
from tilec.ir.tile import Type
from tilec.outside import Outside
from tilec.places import current_target, runner_of
from tilec.specialise import Spec, agreed, array_type
from tilec.tape import current as noted
from tilec.tracing import Respecialise, tracing

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from tilec.tuning import Tuned


class Kernel:
    """A kernel: call it with arrays, or compile it for specifications."""

    def __init__(self, function: FunctionType, alias: Sequence[str] = ()) -> None:
        self.definition: Definition = define(function, alias)
        update_wrapper(self, function)
        self._static: dict[Any, Static] = {}
        self._compiled: dict[Any, Compiled] = {}
        self._launches: dict[Any, Launch] = {}
        self._again: dict[Any, Again] = {}
        self._without: dict[tuple[str, ...], Definition] = {}
        self._outside = Outside()
        self._lock = RLock()

    def __repr__(self) -> str:
        return f"<kernel {self.definition.usage}>"

    def __call__(self, *args: Any, **constants: Any) -> None:
        """Runs on the current target (tc.target), the CPU unless set otherwise."""
        self._run(current_target(), args, constants)

    def __getitem__(self, grid: Any) -> NoReturn:
        name = self.definition.name
        raise TilecError(
            f"{name}[...] gives no grid: the kernel sets it, tc.blocks(...); call {self.definition.usage}"
        )

    def on(self, target: str) -> Callable[..., None]:
        """The kernel on a target: "cpu", "reference", "emulator:sm_80", "cuda:0"."""
        runner_of(target)

        def run(*args: Any, **constants: Any) -> None:
            self._run(target, args, constants, chosen=True)

        return run

    @property
    def meaning(self) -> Callable[..., None]:
        """What the kernel means: its instructions one after another, in numpy."""
        return self.on("reference")

    def compile(self, *args: Any, target: str = "sm_90a", **constants: Any) -> Compiled:
        """Code for these arrays or specifications (for a scalar anything), without running it."""
        self._look_around()
        given, rest = bind(self.definition, args, {**self._absent_scalars(args), **constants})
        definition, present = self._present(given)
        try:
            return self._specialised(definition, target, present, rest)
        except TilecError as error:
            raise error.with_traceback(None) from error.__cause__

    def compile_many(self, calls: Sequence[Sequence[Any]], target: str = "sm_90a", *,
                     executor: Executor | None = None, progress: Callable[[str], None] | None = None,
                     **constants: Any) -> list[Compiled]:  # fmt: skip
        """Code, cubins included, for several calls at once: each a tuple of arrays or specifications, then a
        dictionary of constants where those differ.

        In threads, or by any concurrent.futures.Executor. What the disk cache has is not compiled again.
        TilecError with the first that does not compile.
        """
        from tilec.building import compile_many

        return compile_many(self, calls, target, executor, progress, constants)

    def tune(self, *args: Any, target: str | None = None, executor: Executor | None = None,
             progress: Callable[[str], None] | None = None, **choices: Any) -> Tuned:  # fmt: skip
        """The best of some constants for these arrays: lists are alternatives, tune(a, b, c, bm=[64, 128]).

        Measured on the current target, or on the arrays' GPU; ranked by resources for targets that are only
        compiled for. Results are kept on disk. TilecError where no candidate fits.
        """
        from tilec.tuning import tune

        given, choices = bind(self.definition, args, {**self._absent_scalars(args), **choices})
        place = target or self._place(given)
        return tune(self, given, choices, place=place, executor=executor, progress=progress)

    def _place(self, given: tuple[Any, ...]) -> str:
        definition, present = self._present(given)
        held = [checked(param, x) for param, x in zip(definition.params, present, strict=True)]
        return place_of(definition, held, current_target())

    def _absent_scalars(self, args: Sequence[Any]) -> dict[str, Any]:
        return {p.name: 0 for p in self.definition.params[len(args) :] if p.dtype is not None}

    def _run(
        self, target: str, args: tuple[Any, ...], constants: dict[str, Any], chosen: bool = False
    ) -> None:
        tape = noted()
        facts = seen(args, constants) if tape is None else None
        again = None if facts is None else self._again.get((target, chosen, facts))
        if again is not None and not self._outside.changed() and tracing() is None and not debug.inside():
            again()
            return
        if tracing() is not None:
            raise TilecError(
                f"the kernel {self.definition.name} is called inside a kernel: make what they share a plain "
                "function"
            )
        self._look_around()
        launch, held = self._launch(target, args, constants, chosen)
        again = launch(held)
        if tape is not None:
            tape.launched(launch, held)
        if facts is not None and again is not None and debug.level() < LAUNCHES:
            keep(self._again, (target, chosen, facts), again)

    def _launch(
        self, target: str, args: tuple[Any, ...], constants: dict[str, Any], chosen: bool
    ) -> tuple[Launch, tuple[Any, ...]]:
        """The launch for arguments like these, and they themselves as runners take them."""
        given, rest = bind(self.definition, args, constants)
        definition, present = self._present(given)
        held = tuple(checked(param, x) for param, x in zip(definition.params, present, strict=True))
        key = (target, chosen, definition.nothing, fast_key(held), _constants_key(rest))
        launch = self._launches.get(key)
        if launch is None:
            place = place_of(definition, held, target, chosen)
            launch = self._prepare(definition, place, held, rest, key)
        return launch, held

    def _look_around(self) -> None:
        """Forgets what was compiled where a global, or a name of the function around, has changed."""
        if self._outside.changed():
            with self._lock:
                self.forget()
                self._outside.forget()

    def forget(self) -> None:
        """Everything that was compiled in this process; what is on disk stays."""
        for kept in (self._static, self._compiled, self._launches, self._again):
            kept.clear()
        forget_plays()

    def _present(self, given: tuple[Any, ...]) -> tuple[Definition, tuple[Any, ...]]:
        """The arguments without optional arrays that are None, and the definition without those."""
        if all(x is not None for x in given):
            return self.definition, given
        pairs = tuple(zip(self.definition.params, given, strict=True))
        absent = tuple(p.name for p, x in pairs if p.optional and x is None)
        if absent not in self._without:
            self._without[absent] = self.definition.without(absent)
        return self._without[absent], tuple(x for p, x in pairs if p.name not in absent)

    def _prepare(self, definition: Definition, target: str, held: tuple[Any, ...], constants: dict[str, Any],
                 key: Any) -> Launch:  # fmt: skip
        """The first call of its kind: compiles, checks what the kernel requires, counts the blocks."""
        try:
            compiled = self._specialised(definition, target, held, constants)
            launch = compiled.prepared(held, target)
            with self._lock:
                compiled.program_on(target)  # compiled once, and what the target refuses is told here
        except TilecError as error:
            told = _with_arguments(error, definition, held)
            raise told.with_traceback(None) from error.__cause__  # our own frames help nobody
        keep(self._launches, key, launch)
        return launch

    def _specialised(self, definition: Definition, target: str, given: Sequence[Any],
                     constants: Mapping[str, Any]) -> Compiled:  # fmt: skip
        """Code for the types of these arguments; traced again where tc.static asks for an extent."""
        values, schedule = constants_of(definition, constants)
        chosen = (definition.nothing, _constants_key(constants))
        with self._lock:
            while True:
                static = self._static.get(chosen, frozenset())
                key = (target, types := _types(definition, given, static), chosen)
                try:
                    if key not in self._compiled:
                        with debug.stage("front end"):
                            func = trace(definition, types, values, schedule, self._outside)
                        self._compiled[key] = Compiled(definition, func, target)
                    return self._compiled[key]
                except Respecialise as wanted:
                    _check_static(definition, given, wanted)
                    self._static[chosen] = static | {(wanted.param, wanted.axis)}


def _types(definition: Definition, given: Sequence[Any], static: Static) -> tuple[Type, ...]:
    pairs = zip(definition.params, given, strict=True)
    found = [argument_type(param, i, x, static) for i, (param, x) in enumerate(pairs)]
    named = any(isinstance(x, Spec) for x in given)  # of arrays each extent has a name of its own
    return tuple(agreed(found) if named else found)


def _check_static(definition: Definition, given: Sequence[Any], wanted: Respecialise) -> None:
    if isinstance(given[wanted.param], Spec):
        name = definition.params[wanted.param].name
        raise TilecError(
            f"{definition.name} needs the extent of axis {wanted.axis} of {name} as a constant (tc.static): "
            "give its tc.Spec an integer there"
        )


def _constants_key(constants: Mapping[str, Any]) -> Any:
    if not constants:
        return ()
    return tuple((name, constant_key(value)) for name, value in sorted(constants.items()))


def _with_arguments(error: TilecError, definition: Definition, held: Sequence[Any]) -> TilecError:
    """The error with what the kernel was called with."""
    arrays = [(p.name, x) for p, x in zip(definition.params, held, strict=True) if p.dtype is None]
    said = ", ".join(f"{name} {array_type(x, name).dtype.name}{list(x.shape)}" for name, x in arrays)
    doubles = [name for name, x in arrays if x.dtype == np.float64]
    hint = f"; numpy makes float64 unless told otherwise: {doubles[0]}.astype(np.float32)" if doubles else ""
    error.message += f"\n    called with {said}{hint}" if said else ""
    return error


@overload
def kernel(function: Callable[..., None]) -> Kernel: ...
@overload
def kernel(*, alias: Sequence[str] = ()) -> Callable[[Callable[..., None]], Kernel]: ...


def kernel(function: Callable[..., None] | None = None, *, alias: Sequence[str] = ()) -> Any:
    """Marks a function as a kernel. `alias`: arrays that may overlap others although they are written."""
    if function is None:
        return lambda each: kernel_of(each, alias)
    return kernel_of(function, alias)


def kernel_of(function: Any, alias: Sequence[str]) -> Kernel:
    if not isinstance(function, FunctionType):
        raise TilecError(f"@tc.kernel marks a function written with def, found {type(function).__name__}")
    return Kernel(function, alias)
