"""Weights that keep two of each four neighbours, as tensors: what is kept, and where it belongs.

held = sparse_tensors_of(ops.sparsify(ops.prune_2_4(w), "u4"), "cpu")
w = dense(held, k, torch.float16)                    # [N, K], zeros written out
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.weak import TensorWeakRef

import tilec as tc
from tilec.device import memory_of
from tilec.ir.dtype import u2
from tilec.ir.errors import TilecError
from tilec.ir.inst.sparse import GROUP, KEPT
from tilec.ir.layout import Layout
from tilec.ir.packing import pack_codes, packed_bytes, unpack_codes
from tilec.ops import QuantizedWeight, SparseWeight
from tilec.ops.sparse_weight import check_columns, unchanged
from tilec.torch.register import Tensor, register
from tilec.torch.weights import Codes, PackedWeight, dequantize, known, new_tensors, once, version, weight_of

Array = np.ndarray[Any, Any]


class SparseCodes(NamedTuple):
    """A weight [N, K] that keeps two of each four: `codes` of what is kept, scales and zeros as of Codes, and
    `places` uint8 [bytes], two bits each, row after row without gaps. `group_size`: columns of the weight
    that share a scale. What is not quantised is floats `codes` [N, K / 2] without scales.
    """

    codes: Tensor
    scales: Tensor | None
    zeros: Tensor | None
    dtype: str
    group_size: int
    places: Tensor

    @property
    def outputs(self) -> int:
        """N."""
        return int((self.codes if self.scales is None else self.scales).shape[0])

    def kept(self, k: int) -> Codes:
        """What is kept of K columns, quantised."""
        group = self.group_size * KEPT // GROUP
        return Codes(self.codes, self.scales, self.zeros, self.dtype, group, k * KEPT // GROUP)


def new_sparse_tensors(weight: SparseWeight, device: Any) -> SparseCodes:
    """New tensors of a weight on a device."""
    places = torch.from_numpy(pack_codes(weight.places, u2.bits).copy()).to(device)
    if weight.is_quantised:
        held = new_tensors(weight.kept, device)
        group = held.group_size * GROUP // KEPT
        return SparseCodes(held.codes, held.scales, held.zeros, held.dtype, group, places)
    kind = torch.float16 if weight.dtype.name == "f16" else torch.bfloat16
    floats = torch.from_numpy(weight.kept.codes.copy()).view(kind)
    return SparseCodes(floats.to(device), None, None, weight.dtype.name, weight.shape[1], places)


sparse_tensors_of = once(new_sparse_tensors)


@dataclass(frozen=True, eq=False)
class PackedSparse(SparseWeight):
    """A weight whose places stay packed in a tensor, which it keeps not alive; `places` is their shape."""

    held: Any = None

    def packed_places(self, layout: Layout) -> Array:
        if layout not in self._places:
            self._places[layout] = self.unpacked().packed_places(layout)
        return self._places[layout]

    def unpacked(self) -> SparseWeight:
        """The same weight, a byte for each code and each place."""
        n, half = self.kept.shape
        data = np.asarray(memory_of(self.held().cpu(), "places"))
        places = unpack_codes(data, u2.bits, n * half).reshape(n, half).astype(np.uint8)
        kept = self.kept.whole() if isinstance(self.kept, PackedWeight) else self.kept
        return SparseWeight(kept, places)

    @cached_property
    def whole(self) -> Any:
        return self.unpacked().whole

    def dequantize(self) -> Array:
        return self.unpacked().dequantize()


class Known(NamedTuple):
    """A weight, and what it was made from besides its places."""

    weight: PackedSparse
    kept: QuantizedWeight | Tensor
    stamp: tuple[Any, ...]


def sparse_weight_of(held: SparseCodes, k: int) -> PackedSparse:
    """The weight [N, k] that tensors describe: made once, and again when they were written (weight_of)."""
    kept = held.codes if held.scales is None else weight_of(held.kept(k))
    stamp = k, held.dtype, version(held.codes), version(held.places)
    found = known.get(held.places)
    if found is None or found.kept is not kept or found.stamp != stamp:
        found = known[held.places] = Known(_made(held, k, kept), kept, stamp)
    return found.weight  # type: ignore[no-any-return]


def _made(held: SparseCodes, k: int, kept: Any) -> PackedSparse:
    """Raises TilecError for tensors that are no sparse weight [N, k]."""
    check_columns(k)
    n, half = held.outputs, k * KEPT // GROUP
    wanted = f"a 2:4 weight {held.dtype} [{n}, {k}]"
    if held.places.shape != (packed_bytes(n * half, u2.bits),):
        raise TilecError(
            f"places of {wanted} are [{packed_bytes(n * half, u2.bits)}], found {list(held.places.shape)}"
        )
    if held.scales is None:
        if held.codes.shape != (n, half):
            raise TilecError(f"codes of {wanted} are [{n}, {half}], found {list(held.codes.shape)}")
        kept = unchanged(np.array(memory_of(held.codes.detach().cpu(), "codes")))
    places = np.broadcast_to(np.uint8(0), (n, half))
    return PackedSparse(kept, places, held=TensorWeakRef(held.places))


# With zeros written out, where the weight is.


@tc.kernel
def expand_kernel(
    kept: tc.Array, places: tc.Array, w: tc.Array, *, rows: int = 8, columns: int = 64, warps: int = 4
) -> None:
    """w [N, K]: kept [N, K / 2] at their places, else 0."""
    i, j = tc.blocks(tc.cdiv(kept.shape[0], rows), tc.cdiv(kept.shape[1], columns))
    at, shape = (i * rows, j * columns), (rows, columns)
    here, there = at[0] + tc.arange(rows)[:, None], at[1] + tc.arange(columns)[None, :]
    inside = (here < kept.shape[0]) & (there < kept.shape[1])
    first = (there % 2).to(tc.u2)  # in order, where there is nothing
    found = tc.where(inside, places.load(at, shape), first + tc.zeros(shape, tc.u2))
    w.store((at[0], 2 * at[1]), tc.sparse(kept.load(at, shape), found))


def _expand(kept: Tensor, places: Tensor) -> Tensor:
    w = kept.new_empty((kept.shape[0], kept.shape[1] * GROUP // KEPT))
    expand_kernel(kept, tc.packed(places, u2, tuple(kept.shape)), w)
    return w


expand = register(
    "expand_2_4",
    "(Tensor kept, Tensor places) -> Tensor",
    _expand,
    lambda kept, places: kept.new_empty((kept.shape[0], kept.shape[1] * GROUP // KEPT)),
)


def dense(held: SparseCodes, k: int, dtype: Any) -> Tensor:
    """The weight [N, k] that tensors stand for."""
    kept = held.codes.to(dtype) if held.scales is None else dequantize(*held.kept(k)[:6], dtype)
    return expand(kept, held.places)
