"""What operators share about their arrays: dtypes in numpy, results to write into, leading axes made one.

y = result(out, (m, n), f16)        `out` if it fits, else a new array where the caller's are
Arrays are numpy's, or DeviceArrays, whose elements only kernels touch: see callers.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

import tilec as tc
from tilec.device import DeviceArray, bounds_of, memory_of
from tilec.ir import codec
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.callers import check_copies, device_maker, there
from tilec.places import element_strides
from tilec.specialise import array_type
from tilec.tape import current as noted

Array = np.ndarray[Any, Any]

ARRAYS = (np.ndarray, DeviceArray)
FLOATS = ("f16", "bf16", "f32", "f64")  # what operators compute with
LONGEST = 2**31 - 1  # the longest axis that kernels count along
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


def sums_in(dtype: DType) -> DType:
    """What sums of this dtype are made in."""
    return find_dtype("f64" if dtype.name == "f64" else "f32")


def told(x: Array) -> str:
    """As messages show it: f32[16, 8]."""
    return f"{find_dtype(x.dtype)}{list(x.shape)}"


def to_numpy(values: Array, dtype: DType) -> Array:
    """Values that `dtype` has, as an array that kernels take for it."""
    return codec.to_storage(values.astype(dtype.reference), dtype).view(numpy_dtype(dtype))


def array(x: object, name: str, *, rank: int) -> Array:
    """`x` as kernels read it; TilecError unless it is an array of at least `rank` axes.

    Copied where it runs backwards, or has strides that are no multiple of its elements.
    """
    held = _array(x, name, rank)
    return contiguous(held, name) if _is_askew(held) else held


def float_of(dtype: Any, name: str) -> DType:
    """One of the dtypes that operators compute with. Raises TilecError for others."""
    found = find_dtype(dtype)
    if found.name not in FLOATS:
        raise TilecError(f"{name} is {found}, expected f16, bf16, f32 or f64")
    return found


def _is_askew(x: Array) -> bool:
    """Does it run backwards, or with strides that are no multiple of its elements?"""
    return isinstance(x, np.ndarray) and any([s < 0 or s % x.itemsize for s in x.strides])


def _array(x: object, name: str, rank: int) -> Array:
    if not isinstance(x, ARRAYS):
        raise TilecError(f"{name} takes an array, found {type(x).__name__}")
    if x.ndim < rank:
        raise TilecError(f"{name} needs at least {rank} axes, found shape {list(x.shape)}")
    if max(x.shape, default=0) > LONGEST:
        raise TilecError(f"{name} is {list(x.shape)}: extents end at 2^31 - 1; split the array")
    return x  # type: ignore[return-value]  # a DeviceArray has what operators ask of an array


def operand(x: object, name: str, rank: int = 1) -> tuple[Array, DType]:
    """An array of one of the float dtypes that products are made of, and which."""
    held = array(x, name, rank=rank)
    dtype = find_dtype(held.dtype)
    if dtype.name not in FLOATS:
        raise TilecError(f"{name} is {dtype}, expected f16, bf16, f32 or f64: {name}.astype(np.float32)")
    return held, dtype


def optional(x: Any, name: str, shape: tuple[int, ...]) -> Array | None:
    """An array of floats of just this shape, or None."""
    if x is None:
        return None
    given = array(x, name, rank=0)
    if given.shape != shape or not find_dtype(given.dtype).is_float:
        raise TilecError(f"{name} is {told(given)}, expected floats {list(shape)}")
    return given


def flat(x: Array, rank: int) -> Array:
    """Leading axes made one, so that `rank` are left; a copy only where strides can't say it."""
    if x.ndim == rank:
        return x
    lead = x.ndim - rank + 1
    shape = (prod(x.shape[:lead]), *x.shape[lead:])
    return (x if says(x, lead) else contiguous(x, "an array")).reshape(*shape)


def says(x: Array, lead: int) -> bool:
    """Can strides say the first `lead` axes of x as one?"""
    if not x.size:
        return True
    strides = element_strides(x)
    axes = [(x.shape[i], strides[i]) for i in range(lead) if x.shape[i] > 1]
    return all(outer == inner * n for (_, outer), (n, inner) in pairwise(axes))


def result_dtype(wanted: object, out: object, otherwise: DType) -> DType:
    """The dtype of a result: what is asked for, else that of the array to write, else `otherwise`."""
    if wanted is not None:
        return find_dtype(wanted)
    return find_dtype(out.dtype) if isinstance(out, ARRAYS) else otherwise


def result(out: object, shape: tuple[int, ...], dtype: DType) -> Array:
    """`out` where it is given, else a new array."""
    if out is None:
        return empty(shape, dtype)
    given = _array(out, "out", 0)
    if given.shape != shape or find_dtype(given.dtype) != dtype:
        raise TilecError(f"out is {told(given)}, and the result {dtype}{list(shape)}")
    if not bounds_of(given).flags.writeable:
        raise TilecError("out is read-only, as arrays of jax always are: leave it out, or pass a copy")
    return given


@contextmanager
def written_flat(y: Array, rank: int) -> Iterator[Array]:
    """`y` with its leading axes made one, to be written; what can be no view of it is copied back. TilecError
    where that would run backwards.
    """
    lead = y.ndim - rank + 1
    shape = (prod(y.shape[:lead]), *y.shape[lead:])
    if lead == 1 or says(y, lead):
        if _is_askew(y):
            array_type(y, "out")  # says what kernels do not take
        yield y if lead == 1 else y.reshape(*shape)
        return
    check_copies(f"out, of strides {list(element_strides(y))}, would be written through a copy")
    work = empty(shape, find_dtype(y.dtype))
    yield work
    assign(y, work.reshape(*y.shape))


# New arrays where the caller's are, and moves between arrays.


new_host_array = np.empty


def empty(shape: tuple[int, ...], dtype: DType) -> Array:
    """A new array, row-major, where the caller's arrays are."""
    make = device_maker(shape, dtype) or partial(new_host_array, shape, numpy_dtype(dtype))
    held: Any = memory_of(make(), "a new array")
    tape = noted()
    if tape is not None:
        tape.makes(make, held)
    return held  # type: ignore[no-any-return]


def empty_like(x: Array) -> Array:
    """A new array of x's shape and dtype, row-major."""
    return empty(x.shape, find_dtype(x.dtype))


def zeros(shape: tuple[int, ...], dtype: DType) -> Array:
    """Zeros to be read: one element in memory."""
    return broadcast(there(_zero(dtype)), shape)


@lru_cache
def _zero(dtype: DType) -> Array:
    return np.zeros((), numpy_dtype(dtype))


def broadcast(x: Array, shape: tuple[int, ...]) -> Array:
    """A view of x in this shape, to be read."""
    given: Any = x
    view: Any = given.broadcast_to(shape) if isinstance(given, DeviceArray) else np.broadcast_to(x, shape)
    return view  # type: ignore[no-any-return]


def contiguous(x: Array, name: str) -> Array:
    """`x` row after row: itself, or a copy, which TilecError says of where copies are forbidden."""
    strides, n = element_strides(x), x.ndim
    if all(x.shape[i] == 1 or strides[i] == prod(x.shape[i + 1 :]) for i in range(n)) or not x.size:
        return x
    check_copies(f"{name}, of strides {list(strides)}, would be copied")
    return copied(x)


def copied(x: Array, dtype: DType | None = None) -> Array:
    """A new array of x's elements, row after row, as `dtype`."""
    made = empty(x.shape, dtype or find_dtype(x.dtype))
    assign(made, x)
    return made


def assign(y: Array, x: Array) -> None:
    """y[...] = x, cast to y's dtype."""
    tape = noted()
    if isinstance(y, np.ndarray) and (tape is None or _is_askew(x) or _is_askew(y)):
        y[...] = x
        if tape is not None:
            tape.tears()
    elif y.size:
        rows = (y[None], x[None]) if y.ndim == 0 else (y, x)
        copy_kernel(*rows)


@tc.kernel
def copy_kernel(y: tc.Array, x: tc.Array, *, block: int = 512, warps: int = 4) -> None:
    """y = x in y's dtype, for arrays of one shape and of any strides."""
    tc.require(*[m == n for m, n in zip(y.shape, x.shape, strict=True)])
    *lead, part = tc.blocks(*y.shape[:-1], tc.cdiv(y.shape[-1], block))
    at = (*lead, part * block)
    y.store(at, x.load(at, (1,) * len(lead) + (block,)).to(y.dtype))


@tc.kernel
def total_kernel(parts: tc.Array, total: tc.Array, *, columns: int = 256, warps: int = 4) -> None:
    """total [N] = the sum of parts [P, N], row after row."""
    at = tc.blocks(tc.cdiv(total.shape[0], columns)) * columns
    found = tc.zeros((1, columns), parts.dtype)
    for p in tc.range(parts.shape[0]):
        found = found + parts.load((p, at), (1, columns))
    total.store(at, found.reshape((columns,)).to(total.dtype))
