"""Trees of tiles: what a loop carries may be a tile, or a tuple, list, dict, NamedTuple or dataclass of them.

dict(leaves("state", Softmax(m, t))) == {"state.maximum": m, "state.total": t}
rebuilt("state", state, new)         the same tree with new(path, leaf) at each leaf
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

Rebuild = Callable[[str, Any], Any]


def leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Each leaf of a tree with the expression that names it."""
    inner = _children(path, value)
    if inner is None:
        yield path, value
        return
    for each, child in inner:
        yield from leaves(each, child)


def _children(path: str, value: Any) -> list[tuple[str, Any]] | None:
    """The parts of a container; None for a leaf."""
    match value:
        case tuple() if hasattr(value, "_fields"):
            return [(f"{path}.{name}", getattr(value, name)) for name in value._fields]
        case tuple() | list() if type(value) in (tuple, list):
            return [(f"{path}[{i}]", child) for i, child in enumerate(value)]
        case dict() if type(value) is dict:
            return [(f"{path}[{key!r}]", child) for key, child in value.items()]
    if is_dataclass(value) and not isinstance(value, type) and not _ours(value):
        return [(f"{path}.{field.name}", getattr(value, field.name)) for field in fields(value)]
    return None


def _ours(value: Any) -> bool:
    """Dtypes, layouts and tiles are leaves, whatever they are made of."""
    module = type(value).__module__
    return module.startswith("tilec.") and not module.startswith("tilec.ops")


def rebuilt(path: str, value: Any, new: Rebuild) -> Any:
    """The same containers with other leaves; nothing of the old tree is changed."""
    inner = _children(path, value)
    if inner is None:
        return new(path, value)
    made = [rebuilt(each, child, new) for each, child in inner]
    if isinstance(value, tuple):
        named: Any = value
        return named._make(made) if hasattr(value, "_fields") else tuple(made)
    if isinstance(value, list):
        return made
    if isinstance(value, dict):
        return dict(zip(value, made, strict=True))
    twin = copy.copy(value)
    for field, child in zip(fields(value), made, strict=True):
        object.__setattr__(twin, field.name, child)
    return twin
