"""Callers' arrays: operators take any library's, and give the same kind back, on its device and stream.

    @any_arrays
    def double(x: Any) -> Any: ...       # x is numpy's view of the memory, or a DeviceArray; so is the result
    double(torch.ones(3))                # tensor([2., 2., 2.])
No library is imported here: an array brings its own. Nothing is copied but where a function says so.
"""

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache, partial, wraps
from inspect import signature
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from tilec import dlpack
from tilec.device import DeviceArray, allocated, library_of, memory_of, to_device
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.places import element_strides, target
from tilec.tape import Given
from tilec.tape import current as noted

Host = np.ndarray[Any, Any]
KNOWN = frozenset({np.ndarray, int, float, bool, str, type(None)})  # most arguments
P = ParamSpec("P")
R = TypeVar("R")


class Caller(NamedTuple):
    """Whose arrays a call is about: one of them as it came, its library, and its memory."""

    array: Any
    library: Any  # a module with from_dlpack; None: DeviceArrays
    held: Host | DeviceArray


_caller: ContextVar[Caller | None] = ContextVar("tilec_caller", default=None)
_copies: ContextVar[bool] = ContextVar("tilec_copies", default=True)


@contextmanager
def no_copies() -> Iterator[None]:
    """Inside, operators raise TilecError where they would copy an array because a kernel cannot take it."""
    token = _copies.set(False)
    try:
        yield
    finally:
        _copies.reset(token)


copies = _copies.get


def check_copies(what: str) -> None:
    """Raises TilecError where copies are forbidden."""
    if not _copies.get():
        raise TilecError(f"{what}, and ops.no_copies() forbids copies")


def any_arrays(function: Callable[P, R]) -> Callable[P, R]:
    """A function on numpy arrays and DeviceArrays, for arrays of every library, also inside of tuples."""
    names = tuple(signature(function).parameters)

    @wraps(function)
    def call(*args: P.args, **named: P.kwargs) -> R:
        if not _any_foreign(args) and not _any_foreign(named.values()):
            return _noted(function(*args, **named), {}, None)
        given = {**dict(zip(names, args, strict=False)), **named}
        if len(given) < len(args) + len(named):
            return function(*args, **named)  # wrong: python says how
        return _called(function, given)

    return call


def _any_foreign(args: Iterable[Any]) -> bool:
    """Is one of them _foreign, or in a tuple or list among them?"""
    for x in args:
        if type(x) in KNOWN:
            continue
        if any(map(_foreign, x)) if isinstance(x, tuple | list) else _foreign(x):
            return True
    return False


def _foreign(x: Any) -> bool:
    """Does an argument have to become numpy's, or its result another library's?"""
    if isinstance(x, np.ndarray):
        return False
    if isinstance(x, DeviceArray):
        return _caller.get() is None
    return hasattr(type(x), "__dlpack__")


def _called(function: Callable[..., R], given: Mapping[str, Any]) -> R:
    taken = Taken()
    named = {name: taken.take(x, name) for name, x in given.items()}
    caller = taken.caller()
    token = _caller.set(caller)
    try:
        with _where(caller.held):
            result = _noted(function(**named), taken.as_came(), caller.library)
        return taken.give(result, caller)  # type: ignore[no-any-return]
    finally:
        _caller.reset(token)


def _noted(result: R, as_came: dict[int, Any], library: Any) -> R:
    """The result, on the tape where there is one."""
    tape = noted()
    if tape is not None:
        tape.gives(Given(result, as_came, library))
    return result


def _where(held: Host | DeviceArray) -> Any:
    """Arrays of a GPU are worked on there, whatever target is set."""
    return target(f"cuda:{held.device}") if isinstance(held, DeviceArray) else nullcontext()


class Taken:
    """The arrays of a call: what came in, by the memory that the operator sees of it."""

    def __init__(self) -> None:
        self.came: dict[int, tuple[Any, Any, str]] = {}  # by the id of what is held: held, as it came, name

    def take(self, x: Any, name: str) -> Any:
        """An argument as operators see it."""
        if isinstance(x, tuple | list) and any(map(_foreign, x)):
            return type(x)(self.take(each, name) for each in x)
        if not _foreign(x) and not isinstance(x, np.ndarray | DeviceArray):
            return x
        held = memory_of(x, name)
        self.came[id(held)] = (held, x, name)
        return held

    def caller(self) -> Caller:
        """The first array that is not numpy's; TilecError unless all lie in one place."""
        came = list(self.came.values())
        held, x, name = next(each for each in came if _foreign(each[1]))
        for other, _, theirs in came:
            if _device(other) != _device(held):
                raise TilecError(
                    f"{name} lies on {_device(held)}, and {theirs} on {_device(other)}: arrays of one call "
                    "lie in one place"
                )
        return Caller(x, None if isinstance(x, DeviceArray) else _library(x, name), held)

    def as_came(self) -> dict[int, Any]:
        """The arrays as they came, by the id of what is held."""
        return {key: x for key, (_, x, _) in self.came.items()}

    def give(self, x: Any, caller: Caller) -> Any:
        """A result as the caller knows it; an array that came in goes out as it came."""
        if isinstance(x, tuple | list):
            parts = [self.give(each, caller) for each in x]
            return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
        if not isinstance(x, np.ndarray | DeviceArray):
            return x
        if id(x) in self.came:
            return self.came[id(x)][1]
        return x if caller.library is None else handed(x, caller.library)


def _device(x: Host | DeviceArray) -> str:
    return f"cuda:{x.device}" if isinstance(x, DeviceArray) else "the host"


def _library(x: Any, name: str) -> Any:
    """The module that makes arrays like x of others'."""
    root = library_of(x)
    found = sys.modules["jax"].numpy if root == "jax" else sys.modules.get(root)
    if not hasattr(found, "from_dlpack") and hasattr(x, "__array_namespace__"):
        found = x.__array_namespace__()
    if not hasattr(found, "from_dlpack"):
        raise TilecError(f"{name} is of {root}, which has no from_dlpack to take results: pass a numpy array")
    return found


class Exported:
    """An array of the host's, for libraries that know more dtypes than numpy."""

    def __init__(self, x: Host) -> None:
        self.x = x

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU, 0

    def __dlpack__(self, **words: Any) -> Any:
        x = self.x
        address = x.__array_interface__["data"][0]
        kind = find_dtype(x.dtype)
        return dlpack.make(dlpack.Tensor(address, x.shape, element_strides(x), kind, dlpack.CPU, 0), x)


def exported(x: Host | DeviceArray) -> Any:
    """What hands out the memory of an array by DLPack."""
    if isinstance(x, DeviceArray):
        return x
    known = x.dtype.kind in "biuf" and x.flags.writeable
    return x if known else Exported(x)


def handed(x: Host | DeviceArray, library: Any) -> Any:
    """An array as one of a library's."""
    if isinstance(x, np.ndarray) and x.flags.writeable and hasattr(library, "from_numpy"):  # soon done
        if x.dtype.kind == "f":
            return library.from_numpy(x)
        kind = _torch_dtype(x.dtype, library)
        if kind is not None:
            return library.from_numpy(x.view(f"i{x.itemsize}")).view(kind)
    return library.from_dlpack(exported(x))


@lru_cache
def _torch_dtype(dtype: Any, torch: Any) -> Any:
    """torch's dtype of such arrays; None where it has none."""
    return next((getattr(torch, each) for each in find_dtype(dtype).aliases if hasattr(torch, each)), None)


def device_maker(shape: tuple[int, ...], dtype: DType) -> Callable[[], Any] | None:
    """What makes a new array on the caller's GPU; None where the caller's arrays are the host's.

    Of the allocator of torch or cupy, which know about streams and graphs; the driver's for other libraries.
    """
    caller = _caller.get()
    if caller is None or not isinstance(caller.held, DeviceArray):
        return None
    own = partial(allocated, shape, dtype, caller.held.device, caller.held.stream)
    return _library_maker(caller, shape, dtype) or own


def _library_maker(caller: Caller, shape: tuple[int, ...], dtype: DType) -> Callable[[], Any] | None:
    """What makes an array of the caller's library, where others may write it and it has the dtype."""
    library, array = caller.library, caller.array
    kinds = [getattr(library, name) for name in (*dtype.aliases, dtype.name) if hasattr(library, name)]
    if not kinds or library_of(array) not in ("torch", "cupy"):
        return None
    if library_of(array) == "torch":
        return partial(library.empty, shape, dtype=kinds[0], device=array.device)

    def made() -> Any:
        with array.device:
            return library.empty(shape, kinds[0])

    return made


def caller_stream() -> tuple[int, int] | None:
    """The GPU and the stream of the caller's arrays; None where they are the host's."""
    caller = _caller.get()
    if caller is None or not isinstance(caller.held, DeviceArray):
        return None
    return caller.held.device, caller.held.stream


_there: dict[tuple[int, int], tuple[Any, DeviceArray]] = {}  # constants on GPUs, by id and device
forget_there = _there.clear


def there(constant: Any) -> Any:
    """An array of ours that does not change, where the caller's arrays are: copied there once."""
    caller = _caller.get()
    if caller is not None and isinstance(caller.held, DeviceArray) and isinstance(constant, np.ndarray):
        key = (id(constant), caller.held.device)
        if key not in _there:
            forget = weakref.ref(constant, lambda _: _there.pop(key, None))
            _there[key] = (forget, to_device(constant, caller.held.device))
        constant = _there[key][1]
    tape = noted()
    if tape is not None:
        tape.lends(constant)
    return constant
