"""PTX to a cubin, with ptxas or nvJitLink, and a cubin to SASS, with nvdisasm.

The tools come from PATH or from NVIDIA's wheels (pip install 'tilec[ptxas]').
    done = assemble(ptx, target("sm_90a"))
    done.registers, done.spill_bytes, sass(done.cubin)
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from tilec.backends.origin import origin
from tilec.backends.ptx import link
from tilec.ir.errors import TilecError
from tilec.ir.target import Target

if TYPE_CHECKING:
    import subprocess
    import tempfile

TOOLS = ("ptxas", "nvjitlink", "nvdisasm", "cuobjdump")
# What a ptxas says that is older than the target; then the next one is asked.
TOO_OLD = re.compile(r"Unsupported \.version|is not defined for option 'gpu-name'")


@dataclass(frozen=True)
class Usage:
    """What one kernel takes: a thread's registers, spills and stack, a block's static shared memory."""

    registers: int = 0
    spill_store_bytes: int = 0
    spill_load_bytes: int = 0
    stack_bytes: int = 0
    shared_bytes: int = 0
    barriers: int = 0

    @property
    def spill_bytes(self) -> int:
        return self.spill_store_bytes + self.spill_load_bytes


@dataclass(frozen=True)
class Assembled:
    """A cubin, what each of its kernels takes, what ptxas said. Its own numbers are its kernels' largest."""

    cubin: bytes
    kernels: Mapping[str, Usage]
    log: str

    @property
    def registers(self) -> int:
        return self._largest("registers")

    @property
    def spill_store_bytes(self) -> int:
        return self._largest("spill_store_bytes")

    @property
    def spill_load_bytes(self) -> int:
        return self._largest("spill_load_bytes")

    @property
    def spill_bytes(self) -> int:
        return self._largest("spill_bytes")

    @property
    def stack_bytes(self) -> int:
        return self._largest("stack_bytes")

    @property
    def shared_bytes(self) -> int:
        return self._largest("shared_bytes")

    def parts(self) -> dict[str, bytes]:
        """What brings it back (`restored`) without the assembler."""
        return {"cubin": self.cubin, "log": self.log.encode()}

    def _largest(self, what: str) -> int:
        return max((getattr(usage, what) for usage in self.kernels.values()), default=0)


def find(tool: str) -> Path | None:
    """Where a tool of TOOLS is: on PATH, else in the newest of NVIDIA's wheels; None without one."""
    return next(_places(tool), None)


def describe_tools() -> list[tuple[str, Path | None, str]]:
    """(name, path, version) of each tool; (name, None, "") where it is missing."""
    return [(tool, path, _version(path) if path else "") for tool in TOOLS for path in (find(tool),)]


def restored(parts: Mapping[str, bytes]) -> Assembled:
    """What an assembler made, from its parts."""
    log = parts["log"].decode()
    return Assembled(parts["cubin"], _usage(log), log)


def assemble(ptx: str, target: Target, options: tuple[str, ...] = ()) -> Assembled:
    """The cubin of PTX text. TilecError where ptxas is missing or refuses the text (with its lines)."""
    tools = list(_assemblers()) or [_need("ptxas", "the cubin")]
    for tool in tools:
        cubin, log = _run(tool, ptx, target, options)
        if cubin is not None:
            return Assembled(cubin, MappingProxyType(_usage(log)), log)
        if not TOO_OLD.search(log):
            raise _refused(tool, target, log, ptx)
    raise TilecError(
        f"{_named(tools[0])} is too old for {target.name}, written as PTX "
        f"{target.ptx_version / 10}: pip install 'tilec[ptxas]', or put a newer CUDA toolkit on PATH"
    )


def assembler() -> str:
    """What would assemble here, told apart from all others; "" where there is none."""
    ptxas = find("ptxas")
    if ptxas is not None:
        return f"{ptxas} {ptxas.stat().st_mtime_ns}"
    return f"nvJitLink {link.version()}" if find("nvjitlink") else ""


def _assemblers() -> Iterator[Path]:
    """What assembles, the fastest first: nvJitLink where this process has loaded it, else ptxas."""
    early = link.loaded()
    if early:
        yield from _places("nvjitlink")
    yield from _places("ptxas")
    if not early:
        yield from _places("nvjitlink")


def _named(tool: Path) -> str:
    return f"nvJitLink {link.version()}" if tool.stem == "nvjitlink" else f"ptxas {_version(tool)} ({tool})"


def sass(cubin: bytes) -> str:
    """The machine code of a cubin, one instruction a line. TilecError without nvdisasm and cuobjdump."""
    nvdisasm = find("nvdisasm")
    tool = nvdisasm or find("cuobjdump") or _need("nvdisasm", "SASS")
    with _folder() as folder:
        source = Path(folder, "kernel.cubin")
        source.write_bytes(cubin)
        command = [str(tool), "--print-code" if nvdisasm else "-sass", str(source)]
        done = _said(command)
    assert done.returncode == 0, f"internal: {tool} can't read what ptxas wrote: {done.stderr.strip()}"
    return done.stdout


def _places(tool: str) -> Iterator[Path]:
    if tool == "nvjitlink":
        with suppress(ModuleNotFoundError):  # of a package that the binding would be in
            spec = find_spec(link.BINDING)
            yield from [Path(str(spec.origin)).with_name("nvjitlink")] if spec and link.version() else []
        return
    from shutil import which

    on_path = which(tool)
    if on_path:
        yield Path(on_path)
    name = f"{tool}.exe" if sys.platform == "win32" else tool
    spec = find_spec("nvidia")  # a namespace: every wheel of NVIDIA's adds a folder
    for root in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(Path(root).glob(f"*/bin/{name}"), reverse=True)


def _need(tool: str, what: str) -> Path:
    path = find(tool)
    if path is None:
        raise TilecError(
            f"{what} needs {tool}, and there is none on PATH nor in an installed wheel: "
            "pip install 'tilec[ptxas]', or put the CUDA toolkit's bin folder on PATH; PTX needs neither"
        )
    return path


def _run(tool: Path, ptx: str, target: Target, options: tuple[str, ...]) -> tuple[bytes | None, str]:
    """(cubin, log); (None, log) where the tool refuses."""
    if tool.stem == "nvjitlink":
        return link.linked(ptx, target, options)
    with _folder() as folder:
        source, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        command = [str(tool), f"-arch={target.name}", "-v", *options, "-o", str(cubin), str(source)]
        done = _said(command)
        log = (done.stdout + done.stderr).replace(str(source), "kernel.ptx")
        return (None if done.returncode else cubin.read_bytes()), log


def _folder() -> "tempfile.TemporaryDirectory[str]":
    """A new one that is removed at the end. Loaded here, as code that was kept needs none of it."""
    from tempfile import TemporaryDirectory

    return TemporaryDirectory(prefix="tilec-")


def _said(command: list[str]) -> "subprocess.CompletedProcess[str]":
    """What a tool did and said."""
    import subprocess

    return subprocess.run(command, capture_output=True, text=True)


def _version(tool: Path) -> str:
    if tool.stem == "nvjitlink":
        return link.version()
    text = _said([str(tool), "--version"]).stdout
    found = re.search(r"V(\d+\.\d+\.\d+)", text)
    return found[1] if found else "unknown"


def _usage(log: str) -> dict[str, Usage]:
    """Reads ptxas -v: for every kernel a block of lines from "Compiling entry function" on."""
    parts = re.split(r"Compiling entry function '([^']+)'", log)[1:]
    return {name: _one_usage(part) for name, part in zip(parts[::2], parts[1::2], strict=True)}


def _one_usage(text: str) -> Usage:
    def number(pattern: str) -> int:
        found = re.search(pattern, text)
        return int(found[1]) if found else 0

    return Usage(
        registers=number(r"Used (\d+) registers"),
        spill_store_bytes=number(r"(\d+) bytes spill stores"),
        spill_load_bytes=number(r"(\d+) bytes spill loads"),
        stack_bytes=number(r"(\d+) bytes stack frame"),
        shared_bytes=number(r"(\d+) bytes smem"),
        barriers=number(r"used (\d+) barriers"),
    )


def _refused(tool: Path, target: Target, log: str, ptx: str) -> TilecError:
    """The first complaints of ptxas, each followed by its line; at the source's line of the first."""
    shown: list[str] = []
    lines, first = ptx.splitlines(), None
    for complaint in re.findall(r".*line \d+.*; (?:error|fatal).*", log)[:8]:
        number = int(re.findall(r"line (\d+)", complaint)[0])
        shown += [complaint, *(f"    {line.strip()}" for line in lines[number - 1 : number])]
        first = first or origin(ptx, number)
    told = "\n".join(shown or [log.strip()])
    return TilecError(f"{_named(tool)} refuses the PTX for {target.name}:\n{told}", first)
