"""A user's script, run for its kernels: what it calls them with, and how they fare.

call = first_call(Path("matmul.py"), "matmul")         call.kernel, call.given, call.constants
kernels_in(Path("matmul.py"))                          {"matmul": <kernel matmul(a, b, c, *, bm)>}
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilec.compiled import Compiled
from tilec.ir.errors import TilecError
from tilec.kernels import Kernel


@dataclass(frozen=True)
class Call:
    """A kernel with the arguments or specifications that it was called with, and what was passed by name."""

    kernel: Kernel
    given: tuple[Any, ...]
    constants: Mapping[str, Any]

    def compile(self, target: str, **constants: Any) -> Compiled:
        """The same call's code for a target, with other constants where they are given."""
        return self.kernel.compile(*self.given, target=target, **{**self.constants, **constants})


class Enough(BaseException):
    """Ends a script that has made the call that was wanted; not an Exception, so that scripts let it pass."""

    def __init__(self, call: Call) -> None:
        self.call = call


def run_script(path: Path, name: str = "__main__") -> dict[str, Any]:
    """Runs a file as Python would, the folder it lies in first on sys.path; its names."""
    if not path.is_file():
        raise TilecError(f"there is no file {path}")
    before_path, before_arguments = list(sys.path), sys.argv
    sys.path.insert(0, str(path.parent.resolve()))
    sys.argv = [str(path)]
    try:
        return runpy.run_path(str(path), run_name=name)
    finally:
        sys.path[:], sys.argv = before_path, before_arguments


@contextmanager
def replaced(owner: Any, method: str, by: Callable[..., Any]) -> Iterator[None]:
    """A method or function that is another one for a while."""
    before = getattr(owner, method)
    setattr(owner, method, by)
    try:
        yield
    finally:
        setattr(owner, method, before)


def kernels_in(path: Path) -> dict[str, Kernel]:
    """The kernels of a file, which is imported: what stands under `if __name__ == ...` does not run."""
    names = run_script(path, path.stem)
    return {name: x for name, x in names.items() if isinstance(x, Kernel)}


def kernel_in(path: Path, name: str) -> Kernel:
    """The kernel of this name."""
    kernels = kernels_in(path)
    if name not in kernels:
        raise TilecError(f"{path} has no kernel {name}; it has {', '.join(kernels) or 'none'}")
    return kernels[name]


def first_call(path: Path, name: str | None = None, own: bool = True) -> Call:
    """Runs a file until it calls (or compiles) the kernel `name`, any of its own without one.

    Unless it has to be its `own`, an operator's kernel serves too.
    What the file prints goes to the standard error. TilecError where it ends or fails before it gets there.
    """
    others: dict[str, None] = {}
    run, compiled = Kernel._run, Kernel.compile

    def meet(kernel: Kernel, args: tuple[Any, ...], constants: Mapping[str, Any]) -> None:
        called, call = kernel.definition.name, Call(kernel, args, constants)
        here = not own or Path(kernel.definition.code.file).resolve() == path.resolve()
        if name == called or (name is None and here):
            raise Enough(call)
        others[called] = None

    def watched_run(self: Kernel, target: str, args: tuple[Any, ...], constants: dict[str, Any]) -> None:
        meet(self, args, constants)
        run(self, target, args, constants)

    def watched_compile(self: Kernel, *args: Any, target: str = "sm_90a", **constants: Any) -> Compiled:
        meet(self, args, constants)
        return compiled(self, *args, target=target, **constants)

    watches = replaced(Kernel, "_run", watched_run), replaced(Kernel, "compile", watched_compile)
    with watches[0], watches[1], redirect_stdout(sys.stderr):
        try:
            run_script(path)
        except Enough as end:
            return end.call
        except TilecError:
            raise
        except (Exception, SystemExit) as error:
            wanted = name or "a kernel of its own"
            raise TilecError(f"{path} failed before it called {wanted}: {error!r}") from error
    called = f"it called {', '.join(others)}" if others else "it called no kernel"
    raise TilecError(f"{path} ran to its end without calling {name or 'a kernel of its own'}: {called}")
