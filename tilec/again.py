"""Calls like earlier ones: what is cheap to see of arguments, and equal only where all of the call is.

    seen((x, y, 3), {})      a key: the same arrays at the same addresses, the same numbers
    seen((thing,), {})       None: another library's array, which has to be asked
    look_of((x, y, 3), {})   what arrays look like, and where they lie now
Behind a key a kernel keeps a launch with everything decided and packed: code, grid, addresses. It holds
no array; an address that comes back with the same extents, strides and dtype is the same memory again.
Behind a look an operator keeps all that it decides, for such arrays wherever they lie.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tilec.arguments import constant_key
from tilec.device import WIDEST, DeviceArray
from tilec.ir.addresses import address
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout
from tilec.ir.packing import PackedArray

PLAIN = frozenset({int, bool, str, type(None)})
ALIKE = frozenset({DType, Layout})  # equal to their like alone
FROZEN = frozenset({float, tuple})  # constant_key tells equal ones apart, 0.0 and -0.0


REMEMBERED = 4096
TENSORS = {("torch", "Tensor"), ("torch.nn.parameter", "Parameter")}
DTYPE = "torch", "dtype"
TENSOR = object()  # what the part of a key about a tensor begins with
Again = Callable[[], None]
plays: dict[Any, Any] = {}  # of operators, by look
forget_plays = plays.clear


def keep(kept: dict[Any, Any], key: Any, again: Any) -> None:
    """Remembers one more, or begins anew where there are very many."""
    if len(kept) >= REMEMBERED:
        kept.clear()
    kept[key] = again


def seen(args: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """A key of these arguments; None where one of them is none of the kinds that are known here."""
    found: list[Any] = []
    for x in args:
        kind = type(x)
        if kind is DeviceArray:  # never changes
            found.append(x.serial)
        elif kind is np.ndarray:  # may be resized, written-protected and so on between calls
            found += kind, address(x), x.shape, x.strides, x.dtype, x.flags.writeable
        elif kind in PLAIN:
            found += kind, x
        elif kind in ALIKE:
            found.append(x)
        elif not _look(x, kind, found):
            return None
    if named:
        rest = seen(tuple(named.values()), {})
        return None if rest is None else (*found, *named, *rest)
    return tuple(found)


def _look(x: Any, kind: type, found: list[Any]) -> bool:
    """The rarer kinds."""
    if kind is float and x:
        found += kind, x
    elif _is_tensor(kind):
        where: list[int] = []
        shown = _look_at_tensor(x, found, where)
        found += where
        return shown
    elif kind is PackedArray:
        inner = seen((x.bytes,), {})
        found += kind, x.dtype.name, x.shape, inner
        return inner is not None
    elif issubclass(kind, np.generic):
        found += kind, x.tobytes()
    elif kind in FROZEN or issubclass(kind, tuple):
        try:
            found += kind, constant_key(x)
        except TilecError:  # said where the kernel looks at it
            return False
    else:
        return False
    return True


def _is_tensor(kind: type) -> bool:
    return (kind.__module__, kind.__name__) in TENSORS


def _look_at_tensor(x: Any, found: list[Any], at: list[int]) -> bool:
    """torch's own tensors of the host and of NVIDIA's GPUs, these with the stream that torch works on."""
    torch = sys.modules["torch"]
    try:
        if (x.requires_grad and torch.is_grad_enabled()) or x.is_neg() or not (x.is_cpu or x.is_cuda):
            return False
        where = x.data_ptr()
    except (RuntimeError, AttributeError):  # sparse ones, and what only stands for a tensor
        return False
    stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else None
    found += TENSOR, x.shape, x.stride(), x.dtype, x.device if x.is_cuda else None, stream
    at.append(where)
    return True


# Looks.


class Look:
    """What a call's arguments look like; its arrays and where they lie; what else is itself alone."""

    __slots__ = "arrays", "at", "key", "owners"

    def __init__(self) -> None:
        self.key: tuple[Any, ...] = ()
        self.arrays: list[Any] = []
        self.at: list[int] = []
        self.owners: list[Any] = []


def look_of(args: Sequence[Any], named: Mapping[str, Any]) -> Look | None:
    """What arguments look like, arrays in tuples and lists too; None where one of them is of a kind that is
    not known here."""
    found: list[Any] = [*named]
    look = Look()
    if not _looks(args, found, look) or (named and not _looks(named.values(), found, look)):
        return None
    look.key = tuple(found)
    return look


def _looks(args: Iterable[Any], found: list[Any], look: Look) -> bool:
    for x in args:
        kind = type(x)
        if kind is np.ndarray:
            where = address(x)
            found += kind, where % WIDEST, x.shape, x.strides, x.dtype, x.flags.writeable
            look.at.append(where)
            look.arrays.append(x)
        elif kind in PLAIN:
            found += kind, x
        elif not (_rarer.get(kind) or _kind(kind))(x, found, look):
            return False
    return True


Looking = Callable[[Any, list[Any], Look], bool]
_rarer: dict[type, Looking] = {}


def _kind(kind: type) -> Looking:
    """How things of a kind are looked at, found once."""
    how = _look_unknown
    if kind is DeviceArray:
        how = _look_at_device_array
    elif _is_tensor(kind):
        how = _look_at_any_tensor
    elif kind is float or issubclass(kind, np.generic):
        how = _look_at_number
    elif issubclass(kind, tuple) or kind is list:
        how = _look_inside
    elif kind in (DType, type) or issubclass(kind, np.dtype) or (kind.__module__, kind.__name__) == DTYPE:
        how = _look_at_dtype
    elif is_itself_alone(kind):
        how = _look_at_owner
    _rarer[kind] = how
    return how


def is_itself_alone(kind: type) -> bool:
    """Are these never changed, and equal to themselves alone? Their arrays are those of every call, then."""
    how = getattr(kind, "__dataclass_params__", None)
    return how is not None and how.frozen and not how.eq


def _look_unknown(x: Any, found: list[Any], look: Look) -> bool:
    return False


def _look_at_device_array(x: DeviceArray, found: list[Any], look: Look) -> bool:
    found += DeviceArray, x.key, x.stream
    look.at.append(x.address)
    look.arrays.append(x)
    return True


def _look_at_any_tensor(x: Any, found: list[Any], look: Look) -> bool:
    shown = _look_at_tensor(x, found, look.at)
    if shown:
        found.append(look.at[-1] % WIDEST)
        look.arrays.append(x)
    return shown


def _look_at_number(x: Any, found: list[Any], look: Look) -> bool:
    found += type(x), x.tobytes() if isinstance(x, np.generic) else repr(x)  # tells -0.0 from 0.0
    return True


def _look_inside(x: Sequence[Any], found: list[Any], look: Look) -> bool:
    found += type(x), len(x)
    return _looks(x, found, look)


def _look_at_dtype(x: Any, found: list[Any], look: Look) -> bool:
    """Ours, numpy's, a class of its scalars, torch's."""
    found += type(x), x
    return True


def _look_at_owner(x: Any, found: list[Any], look: Look) -> bool:
    found += type(x), id(x)
    look.owners.append(x)
    return True
