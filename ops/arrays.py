"""What operators share about their arrays: dtypes in numpy, results to write into, leading axes made one.

y = result(out, (m, n), f16)        `out` if it fits, else a new array
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from tilec.ir import codec
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError

Array = np.ndarray[Any, Any]

NOTHING = np.zeros(1, np.float32)  # stands where a kernel's optional array is not given


@lru_cache
def numpy_dtype(dtype: DType) -> "np.dtype[Any]":
    """How numpy holds values of a dtype: natively, or by ml_dtypes. Raises TilecError where neither can."""
    if not in_numpy(dtype):
        raise TilecError(f"numpy has no {dtype}: expected a dtype like f32, f16, bf16 or f8e4m3")
    if dtype.storage == dtype.reference:
        return np.dtype(dtype.storage)
    found: np.dtype[Any] = np.dtype(next(_in_ml_dtypes(dtype)))
    return found


def in_numpy(dtype: DType) -> bool:
    """Is there a dtype of numpy's or ml_dtypes' with just these bits?"""
    return dtype.bits % 8 == 0 and (dtype.storage == dtype.reference or any(_in_ml_dtypes(dtype)))


def _in_ml_dtypes(dtype: DType) -> Iterator[Any]:
    import ml_dtypes

    yield from (getattr(ml_dtypes, name) for name in dtype.aliases if hasattr(ml_dtypes, name))


def to_numpy(values: Array, dtype: DType) -> Array:
    """Values that `dtype` has, as an array that kernels take for it."""
    return codec.to_storage(values.astype(dtype.reference), dtype).view(numpy_dtype(dtype))


def array(x: object, name: str, *, rank: int) -> Array:
    """`x` as numpy holds it; TilecError unless it is an array of at least `rank` axes."""
    if not isinstance(x, np.ndarray):
        raise TilecError(f"{name} takes a numpy array, found {type(x).__name__}")
    if x.ndim < rank:
        raise TilecError(f"{name} needs at least {rank} axes, found shape {list(x.shape)}")
    return x


def operand(x: object, name: str, rank: int = 1) -> tuple[Array, DType]:
    """An array of one of the float dtypes that products are made of, and which."""
    held = array(x, name, rank=rank)
    dtype = find_dtype(held.dtype)
    if dtype.name not in ("f16", "bf16", "f32"):
        raise TilecError(f"{name} is {dtype}, expected f16, bf16 or f32: {name}.astype(np.float32)")
    return held, dtype


def flat(x: Array, rank: int) -> Array:
    """Leading axes made one, so that `rank` are left; a copy only where strides can't say it."""
    lead = x.ndim - rank + 1
    return x.reshape(prod(x.shape[:lead]), *x.shape[lead:])


def result_dtype(wanted: object, out: object, otherwise: DType) -> DType:
    """The dtype of a result: what is asked for, else that of the array to write, else `otherwise`."""
    if wanted is not None:
        return find_dtype(wanted)
    return find_dtype(out.dtype) if isinstance(out, np.ndarray) else otherwise


def result(out: object, shape: tuple[int, ...], dtype: DType) -> Array:
    """`out` where it is given, else a new array."""
    if out is None:
        return np.empty(shape, numpy_dtype(dtype))
    given = array(out, "out", rank=0)
    if given.shape != shape or find_dtype(given.dtype) != dtype:
        found = f"{find_dtype(given.dtype)}{list(given.shape)}"
        raise TilecError(f"out is {found}, and the result {dtype}{list(shape)}")
    return given


@contextmanager
def written_flat(y: Array, rank: int) -> Iterator[Array]:
    """`y` with its leading axes made one, to be written; what can be no view of it is copied back."""
    work = flat(y, rank)
    yield work
    if not np.may_share_memory(work, y):
        y[...] = work.reshape(y.shape)
