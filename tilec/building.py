"""Compiling apart from the kernel: as text in and bytes out, in threads, processes or a cluster's pool.

    with begun(compiled, executor) as jobs: filled(compiled[0], jobs[0].result()).ptx
Threads assemble side by side; passes hold Python's lock, and llvmlite one of its own. With an executor of
processes everything runs side by side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tilec.backends import cache
from tilec.compiled import Compiled
from tilec.ir.errors import TilecError
from tilec.ir.target import CPU, Target, target

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from tilec.kernels import Kernel

Parts = Mapping[str, bytes]


@dataclass(frozen=True)
class Built:
    """What became of one kernel: why it does not fit, or the parts of its code and of its cubin."""

    refused: str = ""
    code: Parts = field(default_factory=dict)
    cubin: Parts = field(default_factory=dict)


@contextmanager
def begun(
    kernels: Sequence[Compiled | None], executor: Executor | None
) -> Iterator[list[Future[Built] | None]]:
    """Jobs that make the code of kernels which have been traced; what has not begun at the end never does."""
    with _pool(executor, len(kernels)) as workers:
        jobs = [None if each is None else begin(each, workers) for each in kernels]
        try:
            yield jobs
        finally:
            for job in jobs:
                if job is not None:
                    job.cancel()


@contextmanager
def _pool(executor: Executor | None, jobs: int) -> Iterator[Executor]:
    """The executor, or threads of our own for as long."""
    if executor is not None:
        if not hasattr(executor, "submit"):
            found = type(executor).__name__
            raise TilecError(
                f"executor= takes one of concurrent.futures, as ProcessPoolExecutor(4), found {found}"
            )
        yield executor
        return
    from concurrent.futures import ThreadPoolExecutor  # loads what few processes need

    with ThreadPoolExecutor(max(1, min(os.cpu_count() or 1, jobs))) as made:
        yield made


def begin(compiled: Compiled, executor: Executor) -> Future[Built]:
    from tilec.ir.text import show

    return executor.submit(build, show(compiled.traced, lines=True), compiled.machine.name)


def build(text: str, name: str) -> Built:
    """A kernel's code for a target, in whatever process."""
    from tilec.ir.parse import parse
    from tilec.ir.passes.order import lower

    machine = target(name)
    try:
        func = lower(parse(text), machine)
        if machine == CPU:
            return Built(code=backend(machine).compile(func).parts())
        code = backend(machine).compile(func, machine)  # refuses what shared memory or threads cannot hold
        return Built(code=code.parts(), cubin=_assembled(code))
    except TilecError as error:
        return Built(refused=str(error))


def _assembled(code: Any) -> Parts:
    from tilec.backends.ptx.assemble import assembler

    made: Parts = code.assembled.parts() if assembler() else {}
    return made


def filled(compiled: Compiled, built: Built) -> Compiled:
    """The kernel, now with code that was made elsewhere, which is also kept on disk."""
    machine = () if compiled.machine == CPU else (compiled.machine,)
    compiled.__dict__["code"] = backend(compiled.machine).restore(compiled.traced, *machine, built.code)
    cache.keep(compiled.cache_key, built.code)
    if built.cubin:
        from tilec.backends.ptx.assemble import restored

        compiled.__dict__["_assembled"] = restored(built.cubin)
        cache.keep(compiled.cubin_key, built.cubin)
    return compiled


def backend(machine: Target) -> Any:
    return import_module(f"tilec.backends.{'cpu' if machine == CPU else 'ptx'}")


def compile_many(
    kernel: Kernel,
    calls: Sequence[Sequence[Any]],
    target: str,
    executor: Executor | None,
    progress: Callable[[str], None] | None,
    constants: Mapping[str, Any],
) -> list[Compiled]:
    """What Kernel.compile_many gives."""
    given = [_apart(call) for call in calls]
    traced = [kernel.compile(*args, target=target, **{**constants, **own}) for args, own in given]
    if any(each.place.runner == "reference" for each in traced):
        raise TilecError('the reference runs the IR itself: compile for "cpu" or "sm_90a"')
    made: list[Compiled] = []
    with begun([None if each.is_kept else each for each in traced], executor) as jobs:
        for each, job in zip(traced, jobs, strict=True):
            made.append(each if job is None else _whole(each, job.result()))
            if progress is not None:
                progress(f"{len(made)} of {len(traced)}: {made[-1]!r}")
    return made


def _apart(call: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments, and the constants that may follow them as a dictionary."""
    args = tuple(call)
    return (args[:-1], args[-1]) if args and isinstance(args[-1], dict) else (args, {})


def _whole(compiled: Compiled, built: Built) -> Compiled:
    if built.refused:
        raise TilecError(built.refused)
    return filled(compiled, built)
