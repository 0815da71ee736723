"""What is installed here, and what works as a consequence: `tilec doctor`.

    for line in diagnosis(): print(line)
Nothing is guessed: what is said to work has just run one small kernel.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

import tilec as tc
from tilec.backends import cache
from tilec.ir.errors import TilecError

PACKAGES = ("numpy", "llvmlite", "sympy", "ml_dtypes", "cuda-python")
USES = {
    "ptxas": ".resources, cubins and .sass: pip install 'tilec[ptxas]'",
    "nvjitlink": "cubins without ptxas: pip install cuda-python nvidia-nvjitlink",
    "nvdisasm": ".sass: pip install 'tilec[ptxas]'",
    "cuobjdump": ".sass where there is no nvdisasm",
}


@dataclass(frozen=True)
class Finding:
    """One line: a thing, whether it is there or works, what to know. `needed`: nothing goes without it."""

    name: str
    good: bool
    note: str
    needed: bool = False

    def __str__(self) -> str:
        return f"{'ok' if self.good else 'NO' if self.needed else '--':3}{self.name:16}{self.note}"


def diagnosis() -> Iterator[Finding]:
    """What is there, then what works."""
    yield Finding("tilec", True, f"{tc.__version__} in {os.path.dirname(tc.__file__)}")
    yield Finding("python", True, f"{platform.python_version()} on {platform.platform()}")
    yield from map(package, PACKAGES)
    yield llvm()
    yield from tools()
    yield gpu()
    yield kept()
    for name, attempt in ATTEMPTS.items():
        yield tried(name, attempt)


def package(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, f"pip install {name}", needed=name in ("numpy", "llvmlite"))


def llvm() -> Finding:
    """The compiler under ours, and the CPU that it sees."""
    try:
        from tilec.backends.llvm import host
        from tilec.backends.llvm import version as llvm_version

        return Finding("llvm", True, f"{llvm_version()}, this CPU is {host().cpu}", needed=True)
    except TilecError as error:
        return Finding("llvm", False, str(error), needed=True)


def tools() -> Iterator[Finding]:
    from tilec.backends.ptx.assemble import describe_tools

    for name, path, found in describe_tools():
        missing = f"not found; it gives {USES[name]}"
        yield Finding(name, path is not None, f"{found} ({path})" if path else missing)


def gpu() -> Finding:
    """What NVIDIA's own tool says; the driver is not loaded for it."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return Finding("gpu", False, "no NVIDIA driver found (nvidia-smi)")
    query = [smi, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    found = "; ".join(done.stdout.strip().splitlines())
    return Finding("gpu", done.returncode == 0 and bool(found), found or done.stderr.strip() or "none")


def kept() -> Finding:
    """What compiling has left on disk."""
    note = f"{len(cache.entries())} kernels, {cache.size() / 2**20:.1f} MiB in {cache.directory()}"
    return Finding("cache", True, f"{note} (TILEC_CACHE_DIR)")


# What works: one kernel, run or compiled.


@tc.kernel
def probe(x: tc.Array, y: tc.Array, *, block: int = 128) -> None:
    """y = 2 x + 1"""
    X, Y = x.tiles((block,)), y.tiles((block,))
    i = tc.blocks(*Y.shape)
    Y[i] = X[i] * 2 + 1


def runs_on(place: str) -> Callable[[], str]:
    def attempt() -> str:
        x, y = np.arange(300, dtype=np.float32), np.zeros(300, np.float32)
        probe.on(place)(x, y)
        assert (y == 2 * x + 1).all(), f"a kernel gave wrong numbers on {place}"
        return f'kernels run on "{place}"'

    return attempt


def compiles() -> str:
    return f"{len(_compiled().ptx.splitlines())} lines of PTX for sm_90a"


def assembles() -> str:
    return f"a cubin for sm_90a with {_compiled().resources.registers} registers"


def disassembles() -> str:
    return f"{len(_compiled().sass.splitlines())} lines of SASS for sm_90a"


def _compiled() -> tc.Compiled:
    return probe.compile(tc.Spec("f32", ("n",)), tc.Spec("f32", ("n",)), target="sm_90a")


ATTEMPTS: dict[str, Callable[[], str]] = {
    "run: reference": runs_on("reference"),
    "run: cpu": runs_on("cpu"),
    "run: emulator": runs_on("emulator:sm_80"),
    "compile: ptx": compiles,
    "assemble": assembles,
    "disassemble": disassembles,
}
NEEDED = ("run: reference", "run: cpu", "compile: ptx")


def tried(name: str, attempt: Callable[[], Any]) -> Finding:
    """What came of it; an error's first line where it failed."""
    try:
        return Finding(name, True, attempt(), needed=name in NEEDED)
    except Exception as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        return Finding(name, False, first, needed=name in NEEDED)
