"""What the fields of an instruction hold, by their annotations: values, blocks, or constants ("attributes").

    operand_fields(Load) == ("array", "at", "other")
Unlike `inst.operands`, this also knows a field whose tuple of values is empty.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from tilec.ir.func import Inst

_FIELDS: dict[type, tuple[tuple[str, str, Any], ...]] = {}


def _annotated(kind: type[Inst]) -> tuple[tuple[str, str, Any], ...]:
    """(name, annotation, default) of an instruction's own fields."""
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple((f.name, str(f.type), f.default) for f in fields(kind) if f.name != "loc")
    return _FIELDS[kind]


def operand_fields(kind: type[Inst]) -> tuple[str, ...]:
    """The fields that hold values."""
    return tuple(name for name, annotation, _ in _annotated(kind) if "Value" in annotation)


def block_fields(kind: type[Inst]) -> tuple[str, ...]:
    """The fields that hold blocks."""
    return tuple(name for name, annotation, _ in _annotated(kind) if annotation == "Block")


def settings(inst: Inst) -> dict[str, Any]:
    """The other fields, those that differ from their defaults."""
    kind = type(inst)
    values = {*operand_fields(kind), *block_fields(kind)}
    named = (
        (name, getattr(inst, name), default) for name, _, default in _annotated(kind) if name not in values
    )
    return {
        name: v
        for name, v, default in named
        if default is MISSING or type(v) is not type(default) or v != default
    }
