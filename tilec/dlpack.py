"""DLPack: the capsules by which array libraries hand each other their memory, read and made with ctypes.

    tensor = read(x.__dlpack__());   tensor.address, tensor.shape, tensor.dtype
    capsule = make(tensor, keep)     `keep` lives until whoever takes the capsule is done with it
Structures as in version 1.1 of DLPack's header. A capsule that is read is not consumed: it lives on with its
owner, and frees what it holds by itself.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.tile import dense_strides

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13  # kinds of device
READ_ONLY = 1
LEGACY = 1  # the default stream, as DLPack, __cuda_array_interface__ and the driver name it
KINDS = {0: "i", 1: "u", 2: "f", 4: "bf", 6: "bool"}
NARROW = {10: "float8_e4m3fn", 12: "float8_e5m2", 14: "float8_e8m0fnu"}  # what numpy has no name for


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_kind", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", DELETER))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_is = ctypes.pythonapi.PyCapsule_IsValid
_is.restype, _is.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_char_p)
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
# A capsule that is being freed is at no reference: these take its address, and touch no reference.
_freed_is = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_freed_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


@dataclass(frozen=True)
class Tensor:
    """What a capsule describes; strides in elements."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: DType
    kind: int
    device: int
    read_only: bool = False


def read(capsule: Any) -> Tensor:
    """The tensor of a capsule, of either version. TilecError for elements that no tile can hold."""
    if _is(capsule, b"dltensor_versioned"):
        versioned = _Versioned.from_address(_pointer(capsule, b"dltensor_versioned"))
        return _tensor(versioned.tensor, bool(versioned.flags & READ_ONLY))
    return _tensor(_Managed.from_address(_pointer(capsule, b"dltensor")).tensor, False)


def _tensor(t: _Tensor, read_only: bool) -> Tensor:
    shape = tuple(t.shape[: t.ndim])
    strides = tuple(t.strides[: t.ndim]) if t.strides else dense_strides(shape)
    address = (t.data or 0) + t.byte_offset
    return Tensor(address, shape, strides, _dtype(t), t.device_kind, t.device, read_only)


def _dtype(t: _Tensor) -> DType:
    name = NARROW.get(t.code) or KINDS.get(t.code, "") + (str(t.bits) if t.code != 6 else "")
    if t.lanes != 1 or t.code not in (*NARROW, *KINDS) or t.bits % 8:
        raise TilecError(
            f"an array's elements (DLPack's type {t.code}, {t.bits} bits, {t.lanes} lanes) fit no tile: "
            "expected integers, floats or bool; sub-byte elements go through tc.packed"
        )
    return find_dtype(name)


def _code(dtype: DType) -> int:
    """DLPack's number for a dtype."""
    for code, name in NARROW.items():
        if find_dtype(name) == dtype:
            return code
    for code, kind in KINDS.items():
        if dtype.bits % 8 == 0 and dtype.name == kind + (str(dtype.bits) if kind != "bool" else ""):
            return code
    raise TilecError(f"DLPack has no {dtype.name}")


_alive: dict[int, Any] = {}  # what the capsules that were made hold, until their deleter is called


def _let_go(managed: int | None) -> None:
    _alive.pop(managed or 0, None)


def _freed(capsule: int | None) -> None:
    """The end of a capsule; nobody took it if it still has its first name."""
    if _freed_is(capsule, b"dltensor"):
        _let_go(_freed_pointer(capsule, b"dltensor"))


_delete, _unused = DELETER(_let_go), DELETER(_freed)  # C calls them: they live as long as this module


def make(tensor: Tensor, keep: Any) -> Any:
    """A capsule of this tensor; `keep` is held until it is consumed and deleted, or freed."""
    rank = len(tensor.shape)
    extents, strides = (ctypes.c_int64 * rank)(*tensor.shape), (ctypes.c_int64 * rank)(*tensor.strides)
    described = _Tensor(
        tensor.address,
        tensor.kind,
        tensor.device,
        rank,
        _code(tensor.dtype),
        tensor.dtype.bits,
        1,
        extents,
        strides,
        0,
    )
    managed = _Managed(described, None, _delete)
    address = ctypes.addressof(managed)
    _alive[address] = (managed, extents, strides, keep)
    return _new(address, b"dltensor", ctypes.cast(_unused, ctypes.c_void_p))
