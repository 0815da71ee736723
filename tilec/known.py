"""Numbers that are known while a kernel is compiled, one per place of a tile: numpy arrays.

    tc.from_function((n, n), lambda i, j: tc.cos(2 * pi * (i * j % n) / n)).to(tc.f16)
Python computes with them in int64 and float64; where they meet a tile they become a table of its dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.literals import number

Numbers = np.ndarray[Any, Any]
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "erf": np.vectorize(math.erf, [np.float64]), "round": np.rint, "abs": np.abs, "floor": np.floor,
    "sqrt": np.sqrt, "exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "sin": np.sin,
    "cos": np.cos, "tanh": np.tanh, "minimum": np.minimum, "maximum": np.maximum,
}  # fmt: skip


def is_known(*operands: Any) -> bool:
    """Whether a function can be computed now: arrays of numbers, and perhaps numbers."""
    some = any(isinstance(x, np.ndarray) for x in operands)
    return some and all(isinstance(x, np.ndarray | int | float | np.generic) for x in operands)


def own_dtype(values: Numbers) -> DType:
    """What a tile of such numbers is where nothing else decides: f64, i32 or bool."""
    kinds = {"f": dt.f64, "i": dt.i32, "u": dt.i32, "b": dt.bool}
    if values.dtype.kind not in kinds:
        raise TilecError(f"an array of {values.dtype} is no table of numbers: use floats, integers or bools")
    return kinds[values.dtype.kind]


def rounded(values: Numbers, dtype: DType) -> Numbers:
    """These numbers as `dtype.reference`, rounded once; TilecError where the dtype does not hold one."""
    own = own_dtype(values)
    if values.size == 0:
        raise TilecError(f"an array of shape {values.shape} has no elements to make a tile of")
    if own.is_bool != dtype.is_bool or (own.is_float and dtype.is_integer):
        raise TilecError(f"an array of {values.dtype} meets {dtype.name}: cast one of the two")
    for extreme in (values.min(), values.max()):
        number(extreme, dtype)
    return codec.round_to(values, dtype)
