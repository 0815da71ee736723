"""The text of a kernel at one of its stations: `tilec show FILE:KERNEL --stage ptx`.

    show("matmul.py:matmul", "ptx", "sm_90a", "f16[m, k:8] f16[k:8, n:8] f16[m, n]", {"bm": "64"})
Without specifications the file is run, and the kernel is compiled for what it is first called with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tilec as tc
from tilec.ir.errors import TilecError
from tilec.scripts import Call, first_call, kernel_in

STAGES = ("ir", "llvm", "ptx", "sass", "asm")
SPEC = re.compile(r"(\w+)(?:\[([^\]]*)\])?")
EXTENT = re.compile(r"(\d+)|([A-Za-z_]\w*)(?::(\d+))?")


def show(where: str, stage: str, target: str, specs: str | None, constants: Mapping[str, str]) -> str:
    """The text of a stage. TilecError for what cannot be found, read or compiled."""
    file, colon, name = where.rpartition(":")
    if not colon or not file or not name:
        raise TilecError(f"show takes FILE:KERNEL, as in matmul.py:matmul, found {where!r}")
    path = Path(file)
    call = first_call(path, name) if specs is None else Call(kernel_in(path, name), parsed(specs), {})
    values = {word: evaluated(word, text) for word, text in constants.items()}
    return str(getattr(call.compile(target, **values), stage))


def parsed(text: str) -> tuple[Any, ...]:
    """`f16[m, k:8] f32[64] i32`: an array m x k where k is a multiple of 8, one of 64 elements, a scalar."""
    words = re.findall(r"[^\s\[\]]+\s*(?:\[[^\]]*\])?", text)
    if not words or "".join(words).replace(" ", "") != re.sub(r"\s", "", text):
        raise TilecError(_unreadable(text))
    return tuple(_spec(word.strip(), text) for word in words)


def _spec(word: str, text: str) -> Any:
    found = SPEC.fullmatch(word)
    if not found:
        raise TilecError(_unreadable(text))
    dtype = tc.dtype(found[1])
    if found[2] is None:
        return 0.0 if dtype.is_float else 0
    return tc.Spec(dtype, [_extent(each.strip(), text) for each in found[2].split(",")])


def _extent(word: str, text: str) -> Any:
    found = EXTENT.fullmatch(word)
    if not found:
        raise TilecError(_unreadable(text))
    return int(found[1]) if found[1] else tc.dim(found[2], int(found[3] or 1))


def _unreadable(text: str) -> str:
    return (
        f"--specs cannot be read: expected one entry per argument, dtype[extents] for arrays and a dtype for "
        f'scalars, as in "f16[m, k:8] f16[k:8, 4096] f32", found {text!r}'
    )


def evaluated(word: str, text: str) -> Any:
    """A constant as Python reads it, with tc at hand, and dtypes by name: 64, u4, (8, 8), tc.f16."""
    try:
        return eval(text, {"tc": tc, "tilec": tc})
    except Exception as error:
        try:
            return tc.dtype(text)
        except TilecError:
            raise TilecError(f"--set {word}={text} cannot be evaluated: {error}") from None
