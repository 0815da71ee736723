"""Arrays in a GPU's memory, of any library: what kernels take, and what tc.to_device gives.

    x = tc.to_device(numpy_array);  y = tc.to_device(np.empty_like(numpy_array))
    double(x, y);   y.numpy()
torch, cupy, jax and others come in by `__dlpack__` or `__cuda_array_interface__`; a DeviceArray goes out by
both. Nothing is copied, and kernels run on the arrays' own device and stream.
"""

from __future__ import annotations

import sys
import weakref
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from math import prod
from types import EllipsisType
from typing import Any, NoReturn

import numpy as np

from tilec import dlpack
from tilec.dlpack import LEGACY
from tilec.ir.addresses import address
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.packing import PackedArray
from tilec.ir.tile import dense_strides

Array = np.ndarray[Any, Any]
_serials = count(1)
VIEWING = (int, np.integer, slice, type(None), EllipsisType)  # indices for which numpy touches no element
LIBRARIES = ("torch", "cupy", "jax", "jaxlib")
WIDEST = 16  # bytes of the widest access: alignment beyond it changes no code


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array in the memory of a GPU, and the stream on which its elements come to be.

    `bounds` says where it lies: an array of numpy's with its address, extents and strides, whose elements
    must not be touched from the host. `owner` keeps the memory alive.
    """

    dtype: DType
    bounds: Array = field(repr=False)
    device: int
    stream: int = LEGACY
    owner: Any = field(default=None, repr=False)
    # Found once, as calls ask for them each time.
    address: int = field(init=False, repr=False)
    shape: tuple[int, ...] = field(init=False, repr=False)
    strides: tuple[int, ...] = field(init=False, repr=False)  # in elements
    span: tuple[int, int] = field(init=False, repr=False)  # addresses of the first byte and after the last
    key: Any = field(init=False, repr=False)  # all that code can depend on
    serial: int = field(init=False, repr=False)  # another one for every object, and never again

    def __post_init__(self) -> None:
        x = self.bounds
        self._set("address", address(x))
        self._set("shape", x.shape)
        self._set("serial", next(_serials))
        self._set("strides", tuple(stride // x.itemsize for stride in x.strides))
        self._set("span", span(x))
        aligned = self.address % WIDEST
        self._set("key", (self.dtype.name, self.device, self.shape, self.strides, aligned, x.flags.writeable))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype.name}{list(self.shape)}, cuda:{self.device})"

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return self.bounds.ndim

    @property
    def size(self) -> int:
        """How many elements there are."""
        return self.bounds.size

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.bounds.nbytes

    def __len__(self) -> int:
        return len(self.bounds)

    # Views of the same memory, as numpy makes them.

    def __getitem__(self, index: Any) -> DeviceArray:
        items = index if isinstance(index, tuple) else (index,)
        if any(item is True or item is False or not isinstance(item, VIEWING) for item in items):
            raise TilecError(
                f"{self!r} has views alone, by integers, slices, None and ...; gather in a kernel, or take "
                ".numpy(), a copy"
            )
        return replace(self, bounds=self.bounds[(*items, *(() if Ellipsis in items else (Ellipsis,)))])

    @property
    def T(self) -> DeviceArray:
        """The same elements, axes in reverse."""
        return replace(self, bounds=self.bounds.T)

    def transpose(self, *axes: int) -> DeviceArray:
        return replace(self, bounds=self.bounds.transpose(*axes))

    def broadcast_to(self, shape: tuple[int, ...]) -> DeviceArray:
        """The same elements in another shape, as numpy's broadcast_to; nothing is copied."""
        return replace(self, bounds=np.broadcast_to(self.bounds, shape))

    def reshape(self, *shape: int) -> DeviceArray:
        """TilecError where strides cannot say it: elements of a GPU are not moved by the host."""
        try:
            return replace(self, bounds=self.bounds.reshape(*shape, copy=False))
        except ValueError as error:
            raise TilecError(f"{self!r} has no view of shape {list(shape)}: {error}") from None

    def numpy(self) -> Array:
        """A copy in the host's memory, once the stream is there; of codes where numpy lacks the dtype."""
        gpu, (low, high) = device(self.device), self.span
        held = np.empty(high - low, np.uint8)
        gpu.synchronise(self.stream)
        gpu.copy_out(held.ctypes.data, low, held.nbytes)
        view = np.ndarray(self.shape, self.bounds.dtype, held, self.address - low, self.bounds.strides)
        return _named(view.copy(), self.dtype)

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TilecError(f"{self!r} lies on a GPU: .numpy() copies it")

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device

    def __dlpack__(self, *, stream: int | None = None, max_version: Any = None, dl_device: Any = None,
                   copy: bool | None = None) -> Any:  # fmt: skip
        """A capsule for a consumer that works on `stream` (-1: it looks after the order itself)."""
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("a DeviceArray is handed out as it is: neither copied nor moved")
        if stream != -1 and (stream or LEGACY) != self.stream:
            device(self.device).wait(stream or LEGACY, self.stream)
        tensor = dlpack.Tensor(self.address, self.shape, self.strides, self.dtype, dlpack.CUDA, self.device)
        return dlpack.make(tensor, self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype.storage != self.dtype.reference:
            raise AttributeError(f"__cuda_array_interface__ has no {self.dtype.name}: DLPack has")
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.bounds.dtype.str,
            "data": (self.address, not self.bounds.flags.writeable),
            "strides": self.bounds.strides,
            "stream": self.stream,
        }


def to_device(x: Any, number: int | None = None) -> Any:
    """A copy of an array of the host in a GPU's memory (cuda:0, or the one that tc.target names).

    Takes numpy arrays, whatever has `__dlpack__`, and packed arrays, whose bytes are copied; the copy is
    row-major. What lies on a GPU stays there. TilecError where there is no GPU.
    """
    if isinstance(x, PackedArray):
        return replace(x, bytes=to_device(x.bytes, number))
    held = memory_of(x, "x")
    if held is None:
        raise TilecError(f"tc.to_device takes an array, found {type(x).__name__}")
    if isinstance(held, DeviceArray):
        return held
    dense = np.ascontiguousarray(held, held.dtype.newbyteorder("=")).reshape(held.shape)
    made = allocated(dense.shape, find_dtype(held.dtype), _default() if number is None else number)
    device(made.device).copy_in(made.address, dense.ctypes.data, dense.nbytes)
    return made


def allocated(shape: tuple[int, ...], dtype: DType, number: int, stream: int = LEGACY) -> DeviceArray:
    """A new array on a GPU, row-major, its elements whatever the memory holds."""
    at = device(number).allocate(prod(shape) * dtype.storage.itemsize)
    kept = _Memory(number, at)
    return placed(at, shape, dense_strides(shape), dtype, number, stream=stream, owner=kept)


class _Memory:
    """Device memory that is freed with this object."""

    def __init__(self, number: int, address: int) -> None:
        weakref.finalize(self, _free, device(number), address).atexit = False  # then the driver frees all


def _free(gpu: Any, address: int) -> None:
    with suppress(TilecError):  # of a launch before, which is told where somebody waits for it
        gpu.free(address)


def _default() -> int:
    from tilec.ir.target import parse_target
    from tilec.places import current_target

    place = parse_target(current_target())
    return place.device if place.runner.startswith("cuda") else 0


def placed(
    address: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: DType,
    number: int,
    *,
    stream: int = LEGACY,
    owner: Any = None,
    read_only: bool = False,
) -> DeviceArray:
    """An array at an address of a GPU; strides in elements."""
    return DeviceArray(dtype, view(address, shape, strides, dtype, read_only), number, stream, owner)


class _At:
    """Memory at an address, for numpy."""

    def __init__(self, described: dict[str, Any], owner: Any = None) -> None:
        self.__array_interface__ = described
        self.owner = owner


def view(
    address: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: DType,
    read_only: bool,
    owner: Any = None,
) -> Array:
    """numpy's view of an address: nothing is read. Of codes where numpy lacks the dtype."""
    size = dtype.storage.itemsize
    described = {
        "version": 3,
        "shape": shape,
        "typestr": dtype.storage.str,
        "data": (address or 256, read_only),  # null only where there are no elements
        "strides": tuple(stride * size for stride in strides),
    }
    return np.asarray(_At(described, owner))


def device(number: int) -> Any:
    """The driver's Device: loaded when first needed."""
    from tilec.backends.ptx import driver

    return driver.device(number)


# Arrays of other libraries.


def memory_of(x: Any, name: str) -> Array | DeviceArray | None:
    """The memory of an array of any library: the host's as numpy's view, a GPU's as a DeviceArray; or None.

    TilecError where it lies elsewhere, or where its library will not hand it out.
    """
    if isinstance(x, np.ndarray | DeviceArray):
        return x
    torch = library_of(x) == "torch"
    if torch and getattr(x, "requires_grad", False):
        x = _without_gradient(x, name)
    try:
        if torch and getattr(x, "is_cpu", False):
            with suppress(TypeError):  # of dtypes that numpy lacks
                return x.numpy()  # type: ignore[no-any-return]
        interface = None if torch else getattr(x, "__cuda_array_interface__", None)
        if interface is not None and (interface.get("stream") or not hasattr(x, "__dlpack__")):
            return _from_interface(x, interface, name)
        return _from_dlpack(x, name, torch) if hasattr(x, "__dlpack__") else None
    except (BufferError, RuntimeError, ValueError, AttributeError, KeyError) as error:
        raise TilecError(f"{name} is not handed out by {type(x).__module__}: {error}") from None


def library_of(x: Any) -> str:
    """The name of the library that an array belongs to, also of a user's subclass."""
    roots = [base.__module__.partition(".")[0] for base in type(x).__mro__]
    return next((root for root in roots if root in LIBRARIES), roots[0]).replace("jaxlib", "jax")


def _without_gradient(x: Any, name: str) -> Any:
    """The same memory to a kernel, which has no gradient; TilecError where one would be lost unnoticed."""
    if sys.modules["torch"].is_grad_enabled():
        raise TilecError(
            f"{name} requires a gradient, which is lost here: call the operator of tilec.torch, make the "
            f"kernel one with tilec.torch.op, or pass {name}.detach()"
        )
    return x.detach()


def _from_interface(x: Any, given: dict[str, Any], name: str) -> DeviceArray:
    """By `__cuda_array_interface__`, which knows the stream since version 3."""
    address, read_only = given["data"]
    kind, shape, in_bytes = np.dtype(given["typestr"]), tuple(given["shape"]), given.get("strides")
    if not kind.isnative or given.get("mask") is not None or any(s % kind.itemsize for s in in_bytes or ()):
        raise TilecError(
            f"{name} is byte-swapped, masked, or has strides (in bytes: {in_bytes}) that are no multiples of "
            f"its elements' {kind.itemsize}: pass a copy"
        )
    strides = dense_strides(shape) if in_bytes is None else tuple(s // kind.itemsize for s in in_bytes)
    number = int(getattr(getattr(x, "device", None), "id", 0))
    how: dict[str, Any] = {"stream": given.get("stream") or LEGACY, "owner": x, "read_only": read_only}
    return placed(address, shape, strides, find_dtype(kind), number, **how)


def _from_dlpack(x: Any, name: str, torch: bool) -> Array | DeviceArray:
    kind, number = map(int, x.__dlpack_device__())
    if kind not in (dlpack.CPU, dlpack.CUDA, dlpack.CUDA_HOST, dlpack.CUDA_MANAGED):
        raise TilecError(
            f"{name} lies on a device that is neither the host nor an NVIDIA GPU (DLPack's {kind})"
        )
    on_gpu = kind in (dlpack.CUDA, dlpack.CUDA_MANAGED)
    stream = LEGACY
    if on_gpu and torch:  # we work where torch is working
        stream = int(sys.modules["torch"].cuda.current_stream(number).cuda_stream) or LEGACY
    capsule = _capsule(x, {"stream": -1 if torch else stream} if on_gpu else {})
    t = dlpack.read(capsule)
    if library_of(x) == "jax":  # whose arrays never change, which its capsules do not say
        t = replace(t, read_only=True)
    if not on_gpu:
        return _named(view(t.address, t.shape, t.strides, t.dtype, t.read_only, (x, capsule)), t.dtype)
    return placed(t.address, t.shape, t.strides, t.dtype, t.device, stream=stream, owner=(x, capsule),
                  read_only=t.read_only)  # fmt: skip


def _capsule(x: Any, words: dict[str, Any]) -> Any:
    """Of version 1, which says what is read-only, where the library knows it."""
    try:
        return x.__dlpack__(max_version=(1, 1), **words)
    except TypeError:
        return x.__dlpack__(**words)


def _named(codes: Array, dtype: DType) -> Array:
    """Codes under the name that ml_dtypes gives them, where numpy has none."""
    if dtype.storage == dtype.reference:
        return codes
    import ml_dtypes

    name = next((alias for alias in dtype.aliases if hasattr(ml_dtypes, alias)), None)
    return codes.view(getattr(ml_dtypes, name)) if name else codes


# What numpy arrays, arrays of GPUs and packed ones share.


def bounds_of(x: Any) -> Array:
    """Where an argument's memory is; its elements only where it is the host's."""
    if isinstance(x, PackedArray):
        return bounds_of(x.bytes)
    return x.bounds if isinstance(x, DeviceArray) else np.asarray(x)


def gpu_of(x: Any) -> DeviceArray | None:
    """The array of a GPU that an argument is, or that its bytes are."""
    held = x.bytes if isinstance(x, PackedArray) else x
    return held if isinstance(held, DeviceArray) else None


def span(x: Array) -> tuple[int, int]:
    """The address of an array's first byte, and that after its last."""
    at = address(x)
    if not x.size or x.flags.c_contiguous:
        return at, at + x.nbytes
    low, high = np.lib.array_utils.byte_bounds(x)
    return int(low), int(high)
