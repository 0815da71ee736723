"""What a call passes: bound to the kernel's parameters, checked, and keyed for the cache.

given, constants = bind(definition, (a, b, c), {"bm": 64})
key = fast_key(given)       all that code and grid can depend on: equal keys, same code, same grid
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from tilec.device import WIDEST, DeviceArray, bounds_of, gpu_of, memory_of
from tilec.frontend import EMPTY, Param
from tilec.ir import codec
from tilec.ir.addresses import address
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.func import Func, written_arrays
from tilec.ir.packing import PackedArray
from tilec.ir.target import parse_target
from tilec.ir.tile import ArrayType, Dim, Extent, TileType, Type
from tilec.literals import NUMBERS, number
from tilec.places import element_strides
from tilec.specialise import Spec, alignment, array_type

Array = np.ndarray[Any, Any]
Static = frozenset[tuple[int, int]]
EFFORT: Any = 10_000  # candidate solutions until numpy gives up telling strided views apart


class Signature(Protocol):
    """How a kernel is called: a Definition, or what is left of one in a saved kernel."""

    @property
    def name(self) -> str: ...
    @property
    def params(self) -> tuple[Param, ...]: ...
    @property
    def alias(self) -> frozenset[str]: ...
    @property
    def usage(self) -> str: ...


def bind(
    definition: Signature, args: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The run-time arguments in order, and the constants that remain."""
    params = definition.params
    if len(args) == len(params) and not named:
        return args, {}
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
    if type(value) is tuple:
        return (tuple, *(constant_key(each) for each in value))
    if isinstance(value, tuple):
        return _named_tuple_key(value)
    if isinstance(value, float):
        return (type(value), repr(value))
    try:
        hash(value)
    except TypeError:
        raise TilecError(
            f"constants of a kernel are hashable, found {value!r}: a tuple instead of a list"
        ) from None
    return (type(value), value)


def _named_tuple_key(value: Any) -> Any:
    """That of a NamedTuple, kept for this very one: operators describe schedules by them, call after call."""
    found = _keys.get(id(value))
    if found is None or found[0] is not value:
        if len(_keys) >= REMEMBERED:
            _keys.clear()
        found = _keys[id(value)] = value, (type(value), *(constant_key(each) for each in value))
    return found[1]


_keys: dict[int, tuple[Any, Any]] = {}  # by id, with what has it, so that no other gets it
REMEMBERED = 1024


def fast_key(held: Sequence[Any]) -> tuple[Any, ...]:
    """All that code and grid can depend on: of arrays everything but the elements, of scalars the value."""
    return tuple(map(_key, held))


def _key(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return (x.dtype, x.shape, x.strides, address(x) % WIDEST, x.flags.writeable)
    if isinstance(x, PackedArray):
        return (x.dtype, x.shape, _key(x.bytes))
    if isinstance(x, DeviceArray):
        return x.key
    return (type(x), x.tobytes())


def checked(param: Param, x: Any) -> Any:
    """An argument as the runners take it: an array, or a numpy scalar of the parameter's dtype."""
    if param.dtype is not None:
        return scalar_argument(param.name, param.dtype, x)
    if isinstance(x, np.ma.MaskedArray):
        raise TilecError(
            f"{param.name} is a masked array, whose mask kernels do not see: pass {param.name}.filled(...)"
        )
    if isinstance(x, np.ndarray | DeviceArray):
        return x
    if isinstance(x, PackedArray):
        return x if isinstance(x.bytes, np.ndarray) else replace(x, bytes=memory_of(x.bytes, param.name))
    held = memory_of(x, param.name)
    if held is None:
        raise TilecError(f"{param.name} takes an array, found {type(x).__name__}{_instead(x)}")
    return held


def place_of(definition: Signature, held: Sequence[Any], target: str, chosen: bool = False) -> str:
    """Where a call runs: arrays of a GPU on their GPU, others on `target`.

    TilecError where arrays lie apart, or where the target was `chosen` and they lie elsewhere.
    """
    gpus = [gpu_of(x) for x in held]
    if not any(gpus):
        return target
    first = next(i for i, gpu in enumerate(gpus) if gpu is not None)
    there = _lies(gpus[first])
    name = definition.params[first].name
    for param, gpu in zip(definition.params, gpus, strict=True):
        if param.dtype is None and _lies(gpu) != there:
            hint = f"pass tc.to_device({param.name})" if gpu is None else "arrays of one call lie on one GPU"
            raise TilecError(f"{name} lies on {there}, and {param.name} on {_lies(gpu)}: {hint}")
    if chosen and parse_target(target).runner != there:
        raise TilecError(f"{name} lies on {there}, and {target} runs kernels on arrays of the host")
    return there


def _lies(gpu: DeviceArray | None) -> str:
    return "the host" if gpu is None else f"cuda:{gpu.device}"


def _instead(x: Any) -> str:
    if isinstance(x, NUMBERS):
        return ": a scalar parameter is annotated with a dtype, as in alpha: tc.f32"
    if isinstance(x, list | tuple):
        return ": pass np.array(..., dtype)"
    if x is None:
        return ": allocate the output first, np.empty(shape, dtype)"
    return ": pass a numpy array, or one of torch, cupy or jax"


def scalar_argument(name: str, dtype: DType, x: Any) -> Any:
    """A number as a numpy scalar, rounded to the dtype, as the reference holds it."""
    if isinstance(x, np.ndarray) and x.ndim == 0:
        x = x[()]
    if not isinstance(x, NUMBERS):
        raise TilecError(f"{name} takes a number ({dtype.name}), found {type(x).__name__}")
    try:
        value = number(x, dtype)
    except TilecError as error:
        raise TilecError(f"{name}: {error.message}") from None
    return codec.round_to(np.asarray(value), dtype)[()]


def argument_type(param: Param, i: int, x: Any, static: Static) -> Type:
    """What the kernel is compiled for, given this argument or specification."""
    if param.dtype is not None:
        return TileType(param.dtype)
    if isinstance(x, Spec):
        return x.type
    axes = frozenset(axis for param_, axis in static if param_ == i)
    return array_type(checked(param, x), param.name, axes)


def check_writeable(definition: Signature, written: Sequence[int], held: Sequence[Any]) -> None:
    """Arrays that the kernel writes must be writeable, each element of them on its own."""
    for i in written:
        x, name = data_of(held[i]), definition.params[i].name
        if not x.flags.writeable:
            raise TilecError(f"{definition.name} writes {name}, which is read-only: pass a copy")
        for axis, (extent, stride) in enumerate(zip(x.shape, x.strides, strict=True)):
            if stride == 0 and extent > 1 and x.size:
                raise TilecError(
                    f"{definition.name} writes {name}, whose {extent} elements along axis {axis} are one in "
                    "memory (an expanded array): pass a copy"
                )


def kept_apart(definition: Signature, written: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Pairs of arrays that may not share bytes: one is written, and neither may overlap others (alias=)."""
    params = definition.params
    arrays = [i for i, p in enumerate(params) if p.dtype is None and p.name not in definition.alias]
    return tuple(
        (i, j) for i in arrays for j in arrays if i in written and j != i and (j not in written or i < j)
    )


def check_apart(definition: Signature, pairs: Sequence[tuple[int, int]], held: Sequence[Any]) -> None:
    """Written arrays share no bytes with other arguments."""
    for i, j in pairs:
        if _apart(held[i], held[j]):
            continue
        if overlap(data_of(held[i]), data_of(held[j])):
            name, theirs = definition.params[i].name, definition.params[j].name
            raise TilecError(
                f"{definition.name} writes {name}, whose bytes overlap those of {theirs}: pass a copy, or "
                f'say that this is meant, @tc.kernel(alias=("{name}",))'
            )


def _apart(a: Any, b: Any) -> bool:
    """What two arrays of GPUs show at once."""
    if type(a) is not DeviceArray or type(b) is not DeviceArray:
        return False
    return bool(a.span[1] <= b.span[0] or b.span[1] <= a.span[0])


def overlap(a: Array, b: Array) -> bool:
    """Whether two arrays share bytes; where that is hard to tell, whether their bounds do."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=EFFORT)
    except np.exceptions.TooHardError:
        return True


def written_params(func: Func) -> tuple[int, ...]:
    """Numbers of the parameters that the kernel writes."""
    written = written_arrays(func)
    return tuple(i for i, param in enumerate(func.params) if param in written)


def data_of(x: Any) -> Array:
    """An array's memory; only its bounds where that is a GPU's."""
    return x if isinstance(x, np.ndarray) else bounds_of(x)


def check_fits(definition: Signature, types: Sequence[Type], held: Sequence[Any]) -> None:
    """Arguments of code compiled beforehand: every extent, stride and alignment that it counts on."""
    known: dict[str, int] = {}
    arrays = [(p.name, kind, x) for p, kind, x in zip(definition.params, types, held, strict=True)
              if isinstance(kind, ArrayType)]  # fmt: skip
    for name, kind, x in arrays:
        found = array_type(x, name)
        if found.dtype != kind.dtype or found.rank != kind.rank or found.packed != kind.packed:
            raise TilecError(f"{name} was compiled for {kind}, found {found.dtype.name}{list(x.shape)}")
        for axis, extent in enumerate(kind.shape):
            _check_extent(f"axis {axis} of {name}", extent, x.shape[axis], known)
    for name, kind, x in arrays:
        _check_place(name, kind, x, known)


def _check_place(name: str, kind: ArrayType, x: Any, known: dict[str, int]) -> None:
    """Strides (of axes that have any) and the address."""
    for axis, stride in enumerate(kind.strides):
        if x.shape[axis] > 1:
            _check_extent(f"the stride of axis {axis} of {name}", stride, element_strides(x)[axis], known)
    data = data_of(x)
    if alignment(data) < min(kind.align, WIDEST) and data.size:
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
