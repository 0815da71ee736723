"""Weights of which two of each four neighbours along a row are kept: half the bytes, half the products.

    w = prune_2_4(w)                           # the smaller two of each four become 0
    q = sparsify(w, "u4", group_size=128)      # what is kept, quantised, and where it belongs
    q.dequantize()                             # f32 [N, K], near w
GPUs multiply such weights at twice the rate (Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks").
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilec.ir import codec
from tilec.ir.dtype import DType, f32, u2
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.inst.sparse import GROUP, KEPT, expanded
from tilec.ir.layout import Layout
from tilec.ops.arrays import to_numpy
from tilec.ops.callers import any_arrays
from tilec.ops.quantize import quantize
from tilec.ops.sparse_checkpoints import SparseCheckpoints
from tilec.ops.weight import QuantizedWeight, code_values, packed_tiles, read_only

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class SparseWeight(SparseCheckpoints):
    """A weight [N, K]: `kept` [N, K / 2] are the numbers that may differ from 0, two of each four, in order;
    `places` uint8 [N, K / 2] says where, 0 to 3. `ops.sparsify` makes them.

    Weights that are not quantised are `kept` as codes of their own dtype, with scales of 1.
    """

    kept: QuantizedWeight
    places: NDArray[np.uint8]
    _places: dict[Layout, NDArray[np.uint8]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", read_only(self.places))

    def __repr__(self) -> str:
        n, k = self.shape
        groups = f", groups of {self.group_size}" if self.is_quantised else ""
        return f"SparseWeight({self.dtype} [{n}, {k}]{groups})"

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K] of the weight that it stands for."""
        n, half = self.kept.shape
        return n, half * GROUP // KEPT

    @property
    def dtype(self) -> DType:
        """What is kept is of this type."""
        return self.kept.dtype

    @property
    def is_quantised(self) -> bool:
        """Is what is kept codes of 8 bits or fewer?"""
        return self.dtype.bits <= 8

    @property
    def group_size(self) -> int:
        """Columns that share a scale, zeros among them counted."""
        return self.kept.group_size * GROUP // KEPT

    @cached_property
    def nbytes(self) -> int:
        """Bytes of what is kept with its scales and zeros, and of places, two bits each."""
        places = -(-self.places.size * u2.bits // 8)
        return places + (self.kept.nbytes if self.is_quantised else self.kept.codes.nbytes)

    def dequantize(self) -> NDArray[np.float32]:
        """The weight that the codes stand for, f32 [N, K]."""
        return expanded(self.kept.dequantize(), self.places, 1)

    @cached_property
    def whole(self) -> QuantizedWeight | Array | None:
        """The weight with its zeros written out, for machines that multiply those as fast: quantised, or an
        array. None where no code stands for 0, as floats may have none for zeros of their own.
        """
        if not self.is_quantised:
            return to_numpy(self.dequantize(), self.dtype)
        kept, k = self.kept, self.shape[1]
        if kept.zeros is None and kept.zero % 1:
            kept = _in_half_steps(kept)
        zeros = np.full((len(self.places), 1), kept.zero) if kept.zeros is None else kept.zeros
        values = code_values(kept.dtype)
        nearest = np.abs(values - zeros[..., None].astype(np.float32)).argmin(2)
        if not np.array_equal(values[nearest], zeros):
            return None
        run = self.group_size if kept.zeros is not None else k
        codes = np.repeat(nearest.astype(np.uint8), run, axis=1)[:, :k].copy()
        groups, places = (x.reshape(len(x), -1, size) for x, size in ((codes, GROUP), (self.places, KEPT)))
        np.put_along_axis(groups, places.astype(np.intp), kept.codes.reshape(places.shape), axis=2)
        return QuantizedWeight(codes, kept.scales, kept.zeros, kept.dtype, kept.scale_dtype, self.group_size)

    def packed_places(self, layout: Layout) -> NDArray[np.uint8]:
        """The bytes of places as QuantizedWeight.packed has those of codes: tiles (bk / 2, bn) of the
        transpose, for tc.view(bytes, u2, layout).
        """
        if layout not in self._places:
            self._places[layout] = packed_tiles(self.places, u2, layout, None, tuple(range(KEPT)))
        return self._places[layout]


def _in_half_steps(weight: QuantizedWeight) -> QuantizedWeight:
    """The same weight of signed integers, one bit wider: u1, whose codes stand for -1/2 and 1/2, as -1 and 1
    of i2, so that there is a 0.
    """
    dtype = find_dtype(f"i{weight.dtype.bits + 1}")
    steps = 2 * (code_values(weight.dtype) - weight.zero)
    codes = codec.encode(steps, dtype).astype(np.uint8)[weight.codes]
    return QuantizedWeight(codes, weight.scales / 2, None, dtype, f32, weight.group_size)


@any_arrays
def prune_2_4(weight: Any) -> Any:
    """The weight [N, K] with the two smallest magnitudes of each four neighbours along K set to 0; of equals
    the first is kept, and a NaN before all others. Raises TilecError where K is no multiple of 4.

    Source: Mishra et al. 2021, the magnitude-based one-shot pruning of its section 4.
    """
    given = _matrix(weight)
    groups = given.reshape(len(given), -1, GROUP)
    backwards = np.abs(groups[:, :, ::-1].astype(np.float64))  # equals' first is last there; so are NaNs
    order = GROUP - 1 - np.argsort(backwards, axis=2, kind="stable")
    kept = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(kept, order[:, :, -KEPT:], True, axis=2)
    return np.where(kept, groups, np.zeros((), given.dtype)).reshape(given.shape)


@any_arrays
def sparsify(
    weight: Any,
    dtype: object = None,
    *,
    group_size: int | None = 128,
    zero_point: bool = False,
    scale_dtype: object = "f16",
) -> SparseWeight:
    """A weight [N, K] of which at most two of each four neighbours along K are not 0, as what is kept.

    With a `dtype` of 1 to 8 bits that is quantised as ops.quantize does it, `group_size` columns to a scale
    (a multiple of 4); without one, weights of f16 and bf16 stay what they are. A QuantizedWeight keeps its
    codes. Raises TilecError for weights of which more is not 0 (ops.prune_2_4 makes them), with the first.
    """
    if isinstance(weight, QuantizedWeight):
        return _of_codes(weight, dtype)
    floats = _matrix(weight)
    places = _places(floats != 0)
    kept = _taken(floats, places)
    if dtype is None:
        return SparseWeight(unchanged(kept), places)
    size = kept_of(group_size)
    made = quantize(kept, dtype, group_size=size, zero_point=zero_point, scale_dtype=scale_dtype)
    return SparseWeight(made, places)


def _matrix(weight: Any) -> Array:
    found = weight.numpy() if hasattr(weight, "numpy") else np.asarray(weight)
    if found.ndim != 2 or found.size == 0 or not find_dtype(found.dtype).is_float:
        raise TilecError(f"expected a weight [N, K] of floats, found {found.dtype}{list(found.shape)}")
    check_columns(found.shape[1])
    return found


def check_columns(k: int) -> None:
    """Raises TilecError unless fours of columns are whole."""
    if k % GROUP:
        raise TilecError(f"2:4 weights have a multiple of {GROUP} columns, found {k}")


def _places(there: Array) -> NDArray[np.uint8]:
    """Where the two of each four are that are there, or may as well be; [N, K] -> [N, K / 2]."""
    groups = there.reshape(len(there), -1, GROUP)
    full = np.argwhere(groups.sum(2) > KEPT)
    if len(full):
        n, at = (int(x) for x in full[0])
        raise TilecError(
            f"more than {KEPT} of 4 weights are not 0 in weight[{n}, {at * GROUP}:{at * GROUP + GROUP}]: "
            "ops.prune_2_4(weight) keeps the larger two"
        )
    first = np.argsort(~groups, axis=2, kind="stable")[:, :, :KEPT]
    return np.sort(first, axis=2).astype(np.uint8).reshape(len(there), -1)


def _taken(x: Array, places: NDArray[np.uint8]) -> Array:
    """The elements at places, [N, K / 2]."""
    groups, at = x.reshape(len(x), -1, GROUP), places.reshape(len(x), -1, KEPT).astype(np.intp)
    return np.take_along_axis(groups, at, axis=2).reshape(len(x), -1)


def kept_of(group_size: int | None) -> int | None:
    """How many of a group are kept; TilecError for a size that is no multiple of 4."""
    if group_size is None:
        return None
    if not isinstance(group_size, int | np.integer) or group_size < GROUP or group_size % GROUP:
        raise TilecError(
            f"expected a group_size that is a multiple of 4, or None for the whole row, found {group_size!r}"
        )
    return int(group_size) * KEPT // GROUP


def unchanged(kept: Array) -> QuantizedWeight:
    """What is kept [N, K / 2] of f16 or bf16, as codes of its own dtype. TilecError for other dtypes."""
    dtype = find_dtype(kept.dtype)
    if dtype.bits != 16:
        raise TilecError(f"2:4 weights that are not quantised are f16 or bf16, found {dtype}: name a dtype")
    codes = codec.encode(kept.astype(dtype.reference), dtype).astype(dtype.code)
    ones = np.ones((len(kept), 1), np.float32)
    return QuantizedWeight(codes, ones, None, dtype, f32, kept.shape[1])


def _of_codes(weight: QuantizedWeight, dtype: object) -> SparseWeight:
    """What is 0 is what has the zero's code."""
    if dtype is not None:
        raise TilecError(f"this weight is quantised to {weight.dtype} already: leave the dtype out")
    k = weight.shape[1]
    check_columns(k)
    if weight.order is not None:
        raise TilecError("a weight whose columns have an order of their own is not 2:4 along x's columns")
    size = min(weight.group_size, k)
    if size % GROUP:
        raise TilecError(f"a group of a 2:4 weight is a multiple of 4 columns, found {size}")
    zero = weight.zero if weight.zeros is None else weight._spread(weight.zeros)
    places = _places(code_values(weight.dtype)[weight.codes] != zero)
    kept = QuantizedWeight(
        _taken(weight.codes, places), weight.scales, weight.zeros, weight.dtype, weight.scale_dtype,
        size * KEPT // GROUP,
    )  # fmt: skip
    return SparseWeight(kept, places)
