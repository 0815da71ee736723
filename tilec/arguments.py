"""What a call passes: bound to the kernel's parameters, checked, and keyed for the cache.

Two calls with equal `fast_key`s take the same code with the same grid; everything that code or grid can depend on is
in the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilec.frontend import EMPTY, Definition, Param
from tilec.ir import codec
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Func, root, written_arrays
from tilec.ir.packing import PackedArray
from tilec.ir.tile import ArrayType, Dim, Extent, TileType, Type
from tilec.literals import NUMBERS, number
from tilec.places import element_strides
from tilec.specialise import LIMIT, Spec, alignment, array_type

Static = frozenset[tuple[int, int]]


def bind(
    definition: Definition, args: Sequence[Any], named: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The run-time arguments in order, and the constants that remain."""
    params = definition.params
    if len(args) > len(params):
        raise TilecError(
            f"{definition.name} takes {len(params)} arguments, found {len(args)}: {definition.usage}; "
            "constants are passed by name"
        )
    constants = dict(named)
    given = list(args)
    for param in params[len(args) :]:
        value = constants.pop(param.name, param.default)
        if value is EMPTY:
            raise TilecError(f"{definition.name} needs the argument {param.name}: {definition.usage}")
        given.append(value)
    for param in params[: len(args)]:
        if param.name in constants:
            raise TilecError(f"{definition.name} is given {param.name} twice")
    return tuple(given), constants


def constant_key(value: Any) -> Any:
    """A key that tells 1, 1.0 and True apart, and -0.0 from 0.0."""
    if isinstance(value, tuple):
        return (type(value), *(constant_key(each) for each in value))
    if isinstance(value, float):
        return (type(value), repr(value))
    try:
        hash(value)
    except TypeError:
        raise TilecError(
            f"constants of a kernel are hashable, found {value!r}: a tuple instead of a list"
        ) from None
    return (type(value), value)


def fast_key(args: Sequence[Any]) -> tuple[Any, ...]:
    """Everything about the arguments that code and grid can depend on; scalars' values are in it too."""
    return tuple(_key(x) for x in args)


def _key(x: Any) -> Any:
    if type(x) is np.ndarray:
        at = x.__array_interface__["data"][0]
        return (x.dtype, x.shape, x.strides, at % LIMIT, x.flags.writeable)
    if isinstance(x, PackedArray):
        return (x.dtype, x.shape, x.bytes.ctypes.data % LIMIT, x.bytes.flags.writeable)
    if isinstance(x, NUMBERS):
        return (type(x), repr(x))
    return (type(x), id(x))


def checked(param: Param, x: Any) -> Any:
    """An argument as the runners take it: an array, or a numpy scalar of the parameter's dtype."""
    if param.dtype is not None:
        return scalar_argument(param.name, param.dtype, x)
    if isinstance(x, PackedArray):
        return x
    if not isinstance(x, np.ndarray):
        raise TilecError(f"{param.name} takes an array, found {type(x).__name__}{_instead(x)}")
    return x


def _instead(x: Any) -> str:
    if isinstance(x, NUMBERS):
        return ": a scalar parameter is annotated with a dtype, as in alpha: tc.f32"
    if isinstance(x, list | tuple):
        return ": pass np.array(..., dtype)"
    return ": pass a numpy array" if x is not None else ": allocate the output first, np.empty(shape, dtype)"


def scalar_argument(name: str, dtype: DType, x: Any) -> Any:
    """A number as a numpy scalar of a dtype."""
    if isinstance(x, np.ndarray) and x.ndim == 0:
        x = x[()]
    if not isinstance(x, NUMBERS):
        raise TilecError(f"{name} takes a number ({dtype.name}), found {type(x).__name__}")
    try:
        value = number(x, dtype)
    except TilecError as error:
        raise TilecError(f"{name}: {error.message}") from None
    return codec.round_to(np.asarray(value), dtype).astype(dtype.reference)[()]


def argument_type(param: Param, i: int, x: Any, static: Static) -> Type:
    """What the kernel is compiled for, given this argument or specification."""
    if param.dtype is not None:
        return TileType(param.dtype)
    if isinstance(x, Spec):
        return x.type
    axes = frozenset(axis for param_, axis in static if param_ == i)
    return array_type(checked(param, x), param.name, axes)


def check_written(definition: Definition, func: Func, args: Sequence[Any]) -> None:
    """Arrays that the kernel writes must be writeable, and share no bytes with another argument."""
    for i in written_params(func):
        data = _data(args[i])
        if not data.flags.writeable:
            raise TilecError(
                f"{definition.name} writes {definition.params[i].name}, which is read-only: pass a copy"
            )
        _check_overlap(definition, args, i)


def _check_overlap(definition: Definition, args: Sequence[Any], i: int) -> None:
    data, name = _data(args[i]), definition.params[i].name
    for j, other in enumerate(args):
        if j == i or definition.params[j].dtype is not None or name in definition.alias:
            continue
        theirs = definition.params[j].name
        if theirs not in definition.alias and overlap(data, _data(other)):
            raise TilecError(
                f"{definition.name} writes {name}, whose bytes overlap those of {theirs}: pass a copy, or "
                f'say that this is meant, @tc.kernel(alias=("{name}",))'
            )


def overlap(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Whether two arrays share bytes; where that is hard to tell, whether their bounds do."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=1000)
    except (np.exceptions.TooHardError, OverflowError):
        return True


def written_params(func: Func) -> tuple[int, ...]:
    """Numbers of the parameters that the kernel writes."""
    written = {root(array) for array in written_arrays(func)}
    return tuple(i for i, param in enumerate(func.params) if param in written)


def _data(x: Any) -> np.ndarray[Any, Any]:
    return np.asarray(x.bytes) if isinstance(x, PackedArray) else x


def check_fits(definition: Definition, types: Sequence[Type], args: Sequence[Any]) -> None:
    """Arguments of code that was compiled beforehand: every extent, stride and alignment that it counts on."""
    known: dict[str, int] = {}
    for param, kind, x in zip(definition.params, types, args, strict=True):
        if isinstance(kind, ArrayType):
            _check_array(param.name, kind, x, known)


def _check_array(name: str, kind: ArrayType, x: Any, known: dict[str, int]) -> None:
    found = array_type(x, name)
    if found.dtype != kind.dtype or found.rank != kind.rank or found.packed != kind.packed:
        raise TilecError(f"{name} was compiled for {kind}, found {found.dtype.name}{list(x.shape)}")
    for axis in range(kind.rank):
        _check_extent(f"axis {axis} of {name}", kind.shape[axis], x.shape[axis], known)
        if x.shape[axis] > 1:
            _check_extent(
                f"the stride of axis {axis} of {name}", kind.strides[axis], element_strides(x)[axis], known
            )
    if alignment(_data(x)) % kind.align and _data(x).size:
        raise TilecError(
            f"{name} was compiled for an alignment of {kind.align} bytes, which its first element lacks"
        )


def _check_extent(what: str, expected: Extent, found: int, known: dict[str, int]) -> None:
    if not isinstance(expected, Dim):
        if expected != found:
            raise TilecError(f"{what} was compiled as {expected}, found {found}")
        return
    if known.setdefault(expected.name, found) != found:
        raise TilecError(f"{what} is {found}, but {expected.name} was {known[expected.name]} before")
    if found % expected.multiple:
        raise TilecError(f"{what} was compiled as a multiple of {expected.multiple}, found {found}")
