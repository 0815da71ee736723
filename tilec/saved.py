"""A compiled kernel as a file, to be launched where nothing can be compiled: numpy and the driver are enough.

    done.save("add.tilec");   add = tilec.load("add.tilec");   add(x, y, out)
The file holds the PTX, the cubin where there was an assembler, and how the kernel is launched: the types of
its parameters, what it requires and its grid, as IR, which is read and evaluated in numpy. Nothing in it is
run by Python. A digest tells of damage, a version of other formats.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from tilec.backends.container import packed, unpacked
from tilec.compiled import Compiled
from tilec.frontend import EMPTY, Param
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.func import Block, Func, Inst, Value
from tilec.ir.target import CPU, target

MAGIC, VERSION = b"tilec kernel ", 1
HEAD = len(MAGIC) + 1


@dataclass(frozen=True)
class Called:
    """How a saved kernel is called."""

    name: str
    params: tuple[Param, ...]
    alias: frozenset[str]

    @property
    def usage(self) -> str:
        return f"{self.name}({', '.join(p.name for p in self.params)})"


class Saved(Compiled):
    """A kernel from a file: it runs as any Compiled does, and keeps no text before its PTX."""

    def _gone(self) -> NoReturn:
        raise TilecError(
            f"{self.definition.name} was loaded from a file, which keeps its PTX alone: compile the source"
        )

    @cached_property
    def func(self) -> Func:
        self._gone()

    @property
    def llvm(self) -> str:
        self._gone()


def save(compiled: Compiled, path: str | Path) -> None:
    """Writes the file; TilecError where the kernel was not compiled for a GPU."""
    if compiled.place.runner == "reference" or compiled.machine == CPU:
        raise TilecError(f'{compiled.target} has no PTX to save: compile with target="sm_80" or another GPU')
    from tilec.ir.text import show

    about = {
        "target": compiled.machine.name,
        "shared_bytes": compiled.code.shared_bytes,
        "written": compiled.written,
        "alias": sorted(compiled.definition.alias),
        "params": [
            [p.name, p.dtype and p.dtype.name, _default(p.default)] for p in compiled.definition.params
        ],
    }
    parts = {"about": json.dumps(about).encode(), "ptx": compiled.ptx.encode()}
    parts["launch"] = show(launch_of(compiled.traced)).encode()
    if compiled.cubin is not None:
        parts |= compiled._assembled.parts()
    Path(path).write_bytes(packed(MAGIC + bytes([VERSION]), parts))


def _default(value: Any) -> Any:
    """A scalar's default as JSON has it."""
    return [] if value is EMPTY or value is None else [getattr(value, "item", lambda: value)()]


def launch_of(func: Func) -> Func:
    """What the host needs of a kernel: parameters, requirements, grid, and what those are computed from."""
    from tilec.ir.inst.sync import BlockIndex, Require

    required = [inst for inst in func.body.body if isinstance(inst, Require)]
    grid = func.grid
    needed = set(_from(grid)) | {v for inst in required for v in (inst, *_from(inst.operands))}
    body = tuple(inst for inst in func.body.body if inst in needed)
    block = (BlockIndex(grid, 0),) if grid else ()
    return Func(func.name, func.params, Block((), (*body, *block)), func.schedule)


def _from(values: tuple[Value, ...]) -> Iterator[Value]:
    for value in values:
        yield value
        if isinstance(value, Inst):
            yield from _from(value.operands)


def load(path: str | Path) -> Saved:
    """A kernel that `save` wrote. Arrays of a GPU run there, numpy's on the target that is set ("cuda:0").

    TilecError for files that are damaged, of another program, or of another version of the format.
    """
    parts = _read(Path(path))
    from tilec.backends.ptx import PtxKernel
    from tilec.backends.ptx.assemble import restored
    from tilec.ir.parse import parse

    about: dict[str, Any] = json.loads(parts["about"])
    func = parse(parts["launch"].decode())
    params = tuple(_param(*each) for each in about["params"])
    made = Saved(Called(func.name, params, frozenset(about["alias"])), func, about["target"])
    code = PtxKernel(func, target(about["target"]), "", parts["ptx"].decode(), about["shared_bytes"])
    kept: dict[str, Any] = {"code": code, "written": tuple(about["written"]), "cubin": parts.get("cubin")}
    if "cubin" in parts:
        kept["_assembled"] = restored(parts)
    made.__dict__.update(kept)
    return made


def _param(name: str, dtype: str | None, default: list[Any]) -> Param:
    return Param(name, find_dtype(dtype) if dtype else None, default[0] if default else EMPTY)


def _read(path: Path) -> Mapping[str, bytes]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TilecError(f"{path} cannot be read: {error.strerror}") from None
    if not data.startswith(MAGIC):
        raise TilecError(f"{path} is no kernel that tilec saved: compiled.save(path) writes one")
    if data[len(MAGIC) : HEAD] > bytes([VERSION]):
        raise TilecError(
            f"{path} was saved by a newer tilec: update this one, or save it again with this one"
        )
    parts = unpacked(MAGIC + bytes([VERSION]), data)
    if parts is None:
        raise TilecError(f"{path} is damaged: its contents and its digest differ; save or copy it again")
    return parts
