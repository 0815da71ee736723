"""Calls like earlier ones: what is cheap to see of arguments, and equal only where all of the call is.

    seen((x, y, 3), {})      a key: the same arrays at the same addresses, the same numbers
    seen((thing,), {})       None: another library's array, which has to be asked
Behind such a key a kernel keeps a launch with everything decided and packed: code, grid, addresses. It holds
no array; an address that comes back with the same extents, strides and dtype is the same memory again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tilec.arguments import constant_key
from tilec.device import DeviceArray
from tilec.ir.addresses import address
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout
from tilec.ir.packing import PackedArray

PLAIN = frozenset({int, bool, str, type(None)})
ALIKE = frozenset({DType, Layout})  # equal to their like alone
FROZEN = frozenset({float, tuple})  # constant_key tells equal ones apart, 0.0 and -0.0


REMEMBERED = 4096
TENSOR = object()  # what the part of a key about a tensor begins with
Again = Callable[[], None]


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
    elif kind.__module__ == "torch" and kind.__name__ == "Tensor":
        return _look_at_tensor(x, found)
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


def _look_at_tensor(x: Any, found: list[Any]) -> bool:
    """torch's own tensors of the host and of NVIDIA's GPUs, these with the stream that torch works on."""
    try:
        if x.requires_grad or x.is_neg() or not (x.is_cpu or x.is_cuda):
            return False
        at = x.data_ptr()
    except (RuntimeError, AttributeError):  # sparse ones, and what only stands for a tensor
        return False
    stream = sys.modules["torch"].cuda.current_stream(x.device).cuda_stream if x.is_cuda else None
    found += TENSOR, at, x.shape, x.stride(), x.dtype, x.device if x.is_cuda else None, stream
    return True
