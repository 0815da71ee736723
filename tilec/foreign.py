"""PTX of any compiler, run and checked on the emulator: `tilec check --ptx FILE --args ...`.

    tilec check --ptx add.ptx --kernel add --grid 4 --block 256 --args "f32[1000] f32[1000]=0 u32=1000"
One argument of the kernel after another:
    f32[100, 64]                        an array of random numbers (floats normal, integers of any bits)
    f32[100, 64]=0                      every element the same
    i32=1000                            a scalar
    f16[512, 512]:box[64, 64]:128B      a tensor map over an array: the box of a copy, and its swizzle
Types are tilec's, or as PTX writes them (s32, b32); pointers that are null are u64=0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilec.checking import counted, described
from tilec.ir import codec
from tilec.ir.dtype import DType, dtype
from tilec.ir.errors import TilecError

WORD = re.compile(r"(\w+)(?:\[([^\]]*)\])?(?::box\[([^\]]*)\](?::(\w+))?)?(?:=(\S+))?")


@dataclass(frozen=True)
class Run:
    """One launch: the kernel (the only one of the file without a name), its sizes, its arguments as text."""

    file: Path
    kernel: str | None
    grid: tuple[int, ...]
    block: tuple[int, ...]
    args: str
    shared: int = 0
    cluster: tuple[int, ...] = (1, 1, 1)
    seed: int | None = None


def check_ptx(run: Run) -> tuple[str, Any]:
    """The kernel's name and the report of its launch with all checks. TilecError for wrong use."""
    from tilec.backends import emulator

    if not run.file.is_file():
        raise TilecError(f"there is no file {run.file}")
    module = emulator.load(run.file.read_text())
    name = run.kernel or _only(run.file, module.kernels)
    cluster = (*run.cluster, 1, 1)[:3]
    args = arguments(run.args)
    return name, module.launch(name, run.grid, run.block, args, run.shared, cluster, seed=run.seed)


def _only(file: Path, kernels: Sequence[str]) -> str:
    if len(kernels) != 1:
        raise TilecError(f"--kernel says which of {file}: it has {', '.join(kernels) or 'none'}")
    return kernels[0]


def told(run: Run, kernel: str, report: Any) -> str:
    """What was found, each at its line of the PTX, and of the source where the PTX names it."""
    lines = [described(kernel, finding) for finding in report.findings]
    blocks, threads = int(np.prod(run.grid)), int(np.prod(run.block))
    where = f"{counted(blocks, 'block')} of {counted(threads, 'thread')}"
    return "\n".join([*lines, f"checked {kernel}, {where}: {counted(len(report.findings), 'finding')}"])


def arguments(text: str) -> tuple[Any, ...]:
    """The arguments that a text describes: numpy arrays and scalars, tensor maps. The same ones each time."""
    rng = np.random.default_rng(0)
    return tuple(_argument(word, rng) for word in _words(text))


def _words(text: str) -> Iterator[str]:
    for word in re.findall(r"(?:\[[^\]]*\]|\S)+", text):
        yield re.sub(r"\s", "", word)


def _argument(word: str, rng: np.random.Generator) -> Any:
    found = WORD.fullmatch(word)
    if not found:
        raise TilecError(_unreadable(word))
    kind, extents, box, swizzle, fill = found.groups()
    element = dtype(_ours(kind))
    if extents is None:
        if box is not None or fill is None:
            raise TilecError(f"--args: a scalar takes a value, as in {kind}=1000, found {word!r}")
        return _stored(_number(fill, element, word), element)[()]
    shape = _numbers(extents, word)
    try:
        array = _random(rng, element, shape) if fill is None else _filled(shape, element, fill, word)
    except (MemoryError, ValueError) as error:
        raise TilecError(f"--args: {word!r} is no array that fits here: {error}") from None
    return _tensor_map(array, box, swizzle, word) if box is not None else array


def _ours(kind: str) -> str:
    """PTX's s32 and b32 are i32 and u32."""
    return re.sub(r"^[sb](?=\d+$)", lambda m: {"s": "i", "b": "u"}[m[0]], kind)


def _stored(values: Any, element: DType) -> np.ndarray[Any, Any]:
    """Numbers as memory holds them: 8, 16, 32 or 64 bits each."""
    return codec.encode(np.asarray(values), element).view(element.storage)


def _random(rng: np.random.Generator, element: DType, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if element.is_float:
        return _stored(rng.standard_normal(shape), element)
    codes = rng.integers(0, element.code_mask, shape, dtype=np.uint64, endpoint=True)
    return codes.astype(element.code).view(element.storage)


def _filled(shape: tuple[int, ...], element: DType, fill: str, word: str) -> np.ndarray[Any, Any]:
    return np.full(shape, _stored(_number(fill, element, word), element))


def _tensor_map(array: Any, box: str, swizzle: str | None, word: str) -> Any:
    from tilec.backends.emulator import TensorMap

    return TensorMap(array, _numbers(box, word), swizzle or "none")


def _numbers(text: str, word: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise TilecError(_unreadable(word))
    return tuple(map(int, text.split(",")))


def _number(text: str, element: DType, word: str) -> int | float:
    """A number that the element can be, with a sign or without one."""
    try:
        number = int(text, 0)
    except ValueError:
        return _decimal(text, element, word)
    if not element.is_float and not -(1 << element.bits - 1) <= number < 1 << element.bits:
        raise TilecError(f"--args: {element.name} is too narrow for {text}, in {word!r}")
    return number


def _decimal(text: str, element: DType, word: str) -> float:
    if not element.is_float:
        raise TilecError(_unreadable(word))
    try:
        return float(text)
    except ValueError:
        raise TilecError(_unreadable(word)) from None


def _unreadable(word: str) -> str:
    return (
        "--args cannot be read: expected one entry per argument, as in "
        f'"f32[1000] f32[1000]=0 u32=1000 f16[512, 512]:box[64, 64]:128B", found {word!r}'
    )
