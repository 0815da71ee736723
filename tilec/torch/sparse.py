"""Linear layers whose weights keep two of each four neighbours.

layer = SparseLinear.from_linear(torch.nn.Linear(512, 256), "u4", group_size=128)    # prunes, then quantises
"""

from typing import Any

import torch
from torch import nn

from tilec import ops
from tilec.ir.dtype import u2
from tilec.ir.inst.sparse import GROUP, KEPT
from tilec.ir.packing import packed_bytes
from tilec.ops import SparseWeight
from tilec.ops.quantize import weight_dtype
from tilec.ops.sparse_weight import check_columns, kept_of
from tilec.torch.coded import CodedLinear
from tilec.torch.products import linear
from tilec.torch.register import Tensor
from tilec.torch.sparse_weights import SparseCodes, dense, new_sparse_tensors


class SparseLinear(CodedLinear):
    """y = x @ weight^T + bias; of each four neighbours along a row of the weight [out_features, in_features]
    two are kept, of 1 to 8 bits or, with `dtype=None`, of 16. It takes no gradient.

    Its state: `codes` uint8 of what is kept, packed row after row without gaps (tilec.pack), `places` uint8,
    two bits each, likewise, `scales` [out_features, groups], `zeros` of the same shape where `zero_point`,
    and `bias`; without a dtype `codes` are floats [out_features, in_features / 2], and there are no scales.
    `group_size` columns share a scale, a multiple of 4. A new one has weights of 0: load a state, or use
    `from_linear` or `from_weight`.
    """

    places: Any

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: str | None = "u4",
        group_size: int | None = 128,
        zero_point: bool = False,
        scale_dtype: Any = torch.float16,
        device: Any = None,
    ) -> None:
        super().__init__()
        check_columns(in_features)
        kept_of(group_size)
        self.in_features, self.out_features = in_features, out_features
        self.group_size = min(group_size or in_features, in_features)
        count, groups = out_features * in_features * KEPT // GROUP, -(-in_features // self.group_size)
        self.dtype = None if dtype is None else weight_dtype(dtype).name
        held: dict[str, Any] = {"codes": None, "scales": None, "zeros": None}
        with torch.device(device or "cpu"):
            if dtype is None:
                held["codes"] = torch.zeros(out_features, in_features * KEPT // GROUP, dtype=torch.float16)
            else:
                kind = weight_dtype(dtype)
                integers = torch.int16 if kind.is_float else torch.int8 if kind.is_signed else torch.uint8
                held["codes"] = torch.zeros(packed_bytes(count, kind.bits), dtype=torch.uint8)
                held["scales"] = torch.zeros(out_features, groups).to(scale_dtype)
                held["zeros"] = torch.zeros(out_features, groups, dtype=integers) if zero_point else None
            first = 0b0100_0100  # places 0, 1, 0, 1
            held["places"] = torch.full((packed_bytes(count, u2.bits),), first, dtype=torch.uint8)
        for name, x in held.items():
            self.register_buffer(name, x)
        self.bias = nn.Parameter(torch.zeros(out_features, device=device)) if bias else None

    @classmethod
    def from_linear(
        cls,
        layer: Any,
        dtype: str | None = "u4",
        *,
        group_size: int | None = 128,
        zero_point: bool = False,
        scale_dtype: str = "f16",
    ) -> "SparseLinear":
        """The larger two of each four weights of an nn.Linear (ops.prune_2_4), quantised; its bias is kept.
        TilecError for weights that cannot be, and for in_features that are no multiple of 4.
        """
        pruned = ops.prune_2_4(layer.weight.detach())
        how: dict[str, Any] = {"group_size": group_size, "zero_point": zero_point, "scale_dtype": scale_dtype}
        return cls.from_weight(ops.sparsify(pruned, dtype, **how), layer.bias, device=layer.weight.device)

    @classmethod
    def from_weight(cls, weight: SparseWeight, bias: Any = None, *, device: Any = None) -> "SparseLinear":
        """With a weight of ops.sparsify or of a checkpoint."""
        held = new_sparse_tensors(weight, torch.device(device or "cpu"))
        n, k = weight.shape
        made = cls(k, n, bias is not None, dtype=None, device="meta")
        made.codes, made.scales, made.zeros, made.places = held.codes, held.scales, held.zeros, held.places
        made.group_size, made.dtype = held.group_size, held.dtype if weight.is_quantised else None
        if bias is not None:
            made.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(torch.as_tensor(bias))
        return made

    @property
    def held(self) -> SparseCodes:
        """The weight as tensors."""
        name = self.dtype or str(self.codes.dtype).removeprefix("torch.")
        return SparseCodes(self.codes, self.scales, self.zeros, name, self.group_size, self.places)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] of f16, bf16 or f32 -> [..., out_features] of the same dtype; without a dtype
        of its own the weight's."""
        return linear(x, self.held, None if self.bias is None else self.bias.to(x.dtype))

    def dequantize(self, dtype: Any = torch.float32) -> Tensor:
        """The weight that the codes stand for, zeros among it, [out_features, in_features]."""
        return dense(self.held, self.in_features, dtype)

    def extra_repr(self) -> str:
        kept = f"dtype={self.dtype!r}" + (f", group_size={self.group_size}" if self.dtype else "")
        zeros = f", zero_point={self.zeros is not None}" if self.dtype else ""
        return f"{self.in_features}, {self.out_features}, 2:4, {kept}{zeros}, bias={self.bias is not None}"
