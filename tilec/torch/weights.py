"""Quantised weights as tensors: packed codes, scales and zeros, as state dicts keep them.

codes = tensors_of(ops.quantize(w, "u4"), "cpu")      # codes row after row without gaps
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch._compile import _disable_dynamo
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

import tilec as tc
from tilec.device import memory_of
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout
from tilec.ir.packing import pack_codes, packed_bytes, unpack_codes
from tilec.ops import QuantizedWeight
from tilec.ops.quantize import weight_dtype
from tilec.ops.weight import default_zero
from tilec.torch.register import Tensor, register

Array = np.ndarray[Any, Any]
W = TypeVar("W")
T = TypeVar("T")


class Codes(NamedTuple):
    """A quantised weight [N, k]: codes uint8 [bytes], scales [N, groups], zeros [N, groups] or None; `order`:
    the column of x that each column of codes belongs to, int32 [k], None where it is the same.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    dtype: str
    group_size: int
    k: int
    order: Tensor | None = None


def once(new: Callable[[W, Any], T]) -> Callable[[W, Any], T]:
    """What is made of a weight on a device is made once, and lives as long as the weight. torch.compile does
    not look inside: its graph breaks here.
    """
    made: WeakKeyDictionary[W, dict[Any, T]] = WeakKeyDictionary()

    @_disable_dynamo  # torch.compiler.disable, which imports much, when it is first called
    def found(weight: W, device: Any) -> T:
        held = made.setdefault(weight, {})
        if device not in held:
            held[device] = new(weight, device)
        return held[device]

    return found  # type: ignore[no-any-return]


def new_tensors(weight: QuantizedWeight, device: Any) -> Codes:
    """New tensors of a weight on a device."""
    codes = torch.from_numpy(pack_codes(weight.codes, weight.dtype.bits).copy())
    names = weight.scale_dtype.aliases
    kind = next((getattr(torch, name) for name in names if hasattr(torch, name)), torch.float32)
    scales = torch.from_numpy(np.array(weight.scales, order="C")).to(device, kind)
    zeros = weight.zeros
    if zeros is not None:
        zeros = torch.from_numpy(np.array(zeros, order="C")).to(device)
    order = None if weight.order is None else torch.from_numpy(np.array(weight.order, np.int32)).to(device)
    group, k = min(weight.group_size, weight.shape[1]), weight.shape[1]
    return Codes(codes.to(device), scales, zeros, weight.dtype.name, group, k, order)


tensors_of = once(new_tensors)


@dataclass(frozen=True, eq=False)
class PackedWeight(QuantizedWeight):
    """A weight whose codes stay packed in a tensor, which it does not keep alive; `codes` is their shape."""

    held: Any = None

    def packed(self, layout: Layout, placed: DType | None = None) -> Array:
        if (layout, placed) not in self._bytes:
            self._bytes[layout, placed] = self.whole().packed(layout, placed)
        return self._bytes[layout, placed]

    def whole(self) -> QuantizedWeight:
        """The same weight with its codes unpacked."""
        n, k = self.shape
        data = np.asarray(memory_of(self.held().cpu(), "codes"))
        codes = unpack_codes(data, self.dtype.bits, n * k).reshape(n, k).astype(np.uint8)
        return QuantizedWeight(codes, self.scales, self.zeros, self.dtype, self.scale_dtype, self.group_size)

    def dequantize(self) -> Array:
        return self.whole().dequantize()


class Known(NamedTuple):
    """A weight, and what else it was made from: that may be exchanged, or written."""

    weight: PackedWeight
    scales: Tensor
    zeros: Tensor | None
    stamp: tuple[Any, ...]


known: Any = WeakTensorKeyDictionary()  # by the tensor of codes; of places, where those are


def weight_of(held: Codes) -> PackedWeight:
    """The weight that tensors describe, but for its order: made once, and again when they were written.

    Tensors of torch.inference_mode() count no writes, and writes through `.data` or numpy are not counted:
    `forget` them after such a one.
    """
    stamp = (*held[3:6], *map(version, held[:3]))
    found = known.get(held.codes)
    same = found is not None and found.scales is held.scales and found.zeros is held.zeros
    if not same or found.stamp != stamp:
        found = known[held.codes] = Known(_made(held), held.scales, held.zeros, stamp)
    return found.weight  # type: ignore[no-any-return]


def forget(codes: Tensor) -> None:
    """Drops what is known of a weight by its tensor of codes, or of places."""
    known.pop(codes, None)


def version(x: Tensor | None) -> int:
    """How often a tensor was written, as far as torch counts."""
    return -1 if x is None or x.is_inference() else x._version


def _made(held: Codes) -> PackedWeight:
    """Raises TilecError for tensors that are no quantised weight [N, k]."""
    dtype, n = weight_dtype(held.dtype), held.scales.shape[0]
    bytes_, groups = packed_bytes(n * held.k, dtype.bits), -(-held.k // held.group_size)
    wanted = f"{dtype} [{n}, {held.k}] in groups of {held.group_size}"
    for name, x, sizes in zip(Codes._fields, held, ((bytes_,), (n, groups), (n, groups)), strict=False):
        if x is not None and tuple(x.shape) != sizes:
            raise TilecError(f"{name} of a weight {wanted} are {list(sizes)}, found {list(x.shape)}")
    scales = np.asarray(memory_of(held.scales.detach().cpu(), "scales"))
    zeros = None if held.zeros is None else np.array(memory_of(held.zeros.cpu(), "zeros"))
    kind, shape = find_dtype(scales.dtype), np.broadcast_to(np.uint8(0), (n, held.k))
    numbers, codes = scales.astype(kind.reference), TensorWeakRef(held.codes)
    return PackedWeight(shape, numbers, zeros, dtype, kind, held.group_size, held=codes)


# Dequantising where the codes are.


@tc.kernel
def dequantize_kernel(
    codes: tc.Array,
    scales: tc.Array,
    zeros: tc.Array | None,
    w: tc.Array,
    *,
    group: int,
    zero: float,
    rows: int = 8,
    columns: int = 128,
    warps: int = 4,
) -> None:
    """w [N, K] = (codes - zeros) * scales; codes packed [N, K], scales and zeros [N, groups]."""
    i, j = tc.blocks(tc.cdiv(w.shape[0], rows), tc.cdiv(w.shape[1], columns))
    at = (i * rows, j * columns)
    n, g = at[0] + tc.arange(rows)[:, None], (at[1] + tc.arange(columns)[None, :]) // group
    steps = codes.load(at, (rows, columns)).to(tc.f32)
    steps = steps - (zero if zeros is None else zeros.gather(n, g).to(tc.f32))
    w.store(at, (steps * scales.gather(n, g).to(tc.f32)).to(w.dtype))


SCHEMA = (
    "(Tensor codes, Tensor scales, Tensor? zeros, str dtype, int group_size, int k, ScalarType out_dtype)"
    " -> Tensor"
)


def _dequantize(codes: Tensor, scales: Tensor, zeros: Tensor, dtype: str, group_size: int, k: int,
                out_dtype: Any) -> Tensor:  # fmt: skip
    kind = weight_dtype(dtype)
    w = scales.new_empty((scales.shape[0], k), dtype=out_dtype)
    packed = tc.packed(codes, kind, tuple(w.shape))
    dequantize_kernel(packed, scales, zeros, w, group=group_size, zero=default_zero(kind))
    return w


dequantize = register(
    "dequantize",
    SCHEMA,
    _dequantize,
    lambda codes, scales, zeros, dtype, group_size, k, out_dtype: scales.new_empty(
        (scales.shape[0], k), dtype=out_dtype
    ),
)
