"""What a launch would move, for arguments that are there or only specified: what tuning ranks by, offline.

    traffic(compiled, args) == (bytes, blocks)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilec.compiled import Compiled
from tilec.ir.errors import TilecError
from tilec.ir.func import Value
from tilec.ir.run import Memory, grid_size
from tilec.ir.tile import ArrayType, Dim
from tilec.ir.traffic import moved
from tilec.places import meant
from tilec.specialise import Spec

NOMINAL = 2048  # an extent that only the launch knows, rounded up to its multiple


def traffic(compiled: Compiled, args: Sequence[Any]) -> tuple[int, int]:
    """Bytes of global memory, and blocks; (0, 0) where only the launch could tell."""
    specified = any(isinstance(x, Spec) for x in args)
    env: dict[Value, Any] = {}
    for param, x in zip(compiled.traced.params, args, strict=True):
        if isinstance(param.type, ArrayType):
            shape = tuple(_extent(n) for n in x.shape)
            env[param] = Memory(np.broadcast_to(np.uint8(0), shape), param.type.dtype)
        elif not specified:  # of specifications, scalars are whatever
            env[param] = meant(np.asarray(x, param.tile.dtype.reference)[()], param.type)
    try:
        return moved(compiled.traced, env), grid_size(compiled.traced, env)
    except TilecError:
        return 0, 0


def _extent(n: int | Dim) -> int:
    return -(-NOMINAL // n.multiple) * n.multiple if isinstance(n, Dim) else int(n)
