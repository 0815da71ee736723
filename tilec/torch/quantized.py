"""Linear layers with quantised weights, and quantising those of a model.

layer = QuantizedLinear.from_linear(torch.nn.Linear(512, 256), "u4", group_size=128)
print(quantize_(model, "u3", filter=lambda name, layer: "head" not in name))
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tilec import ops
from tilec.ir.errors import TilecError
from tilec.ir.inst.sparse import GROUP
from tilec.ir.packing import packed_bytes
from tilec.ops import QuantizedWeight
from tilec.ops.activations import check_bytes, check_class
from tilec.ops.linear_kernel import check_sparsity
from tilec.ops.quantize import weight_dtype
from tilec.torch.coded import CodedLinear
from tilec.torch.products import linear
from tilec.torch.register import Tensor
from tilec.torch.sparse import SparseLinear
from tilec.torch.weights import Codes, dequantize, new_tensors


class QuantizedLinear(CodedLinear):
    """y = x @ weight^T + bias, the weight [out_features, in_features] of 1 to 8 bits; it takes no gradient.

    Its state: `codes` uint8, packed row after row without gaps (tilec.pack), `scales` [out_features, groups],
    `zeros` of the same shape where `zero_point`, `order` [in_features] where the columns are not in x's order
    (`ordered`: GPTQ's act-order), and `bias`. `dtype`: u4, i3, f6e3m2 ...; `scale_dtype` and `zero_dtype` are
    torch's. `activations="int8"` rounds x to bytes on the way (ops.linear); it is no part of the state, and
    may be set on a layer. A new one has weights of 0: load a state, or use `from_linear` or `from_weight`.
    What is packed of it is made anew where its tensors were written, as far as torch counts that: after one
    through `.data` or numpy call `tilec.torch.weights.forget(layer.codes)`.
    """

    order: Any

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: str = "u4",
        group_size: int | None = 128,
        zero_point: bool = False,
        scale_dtype: Any = torch.float16,
        zero_dtype: Any = None,
        ordered: bool = False,
        device: Any = None,
        activations: str | None = None,
    ) -> None:
        super().__init__()
        kind = weight_dtype(dtype)
        check_class(activations)
        if activations == "int8":
            check_bytes(kind)
        self.activations = activations
        self.in_features, self.out_features, self.dtype = in_features, out_features, kind.name
        self.group_size = in_features if group_size is None else min(group_size, in_features)
        groups = -(-in_features // self.group_size)
        nbytes = packed_bytes(in_features * out_features, kind.bits)
        integers = torch.int16 if kind.is_float else getattr(torch, f"{'' if kind.is_signed else 'u'}int8")
        self.register_buffer("codes", torch.zeros(nbytes, dtype=torch.uint8, device=device))
        scales = torch.zeros(out_features, groups, device=device).to(scale_dtype)
        self.register_buffer("scales", scales)
        zeros = torch.zeros(out_features, groups, dtype=zero_dtype or integers, device=device)
        order = torch.arange(in_features, dtype=torch.int32, device=device)
        self.register_buffer("zeros", zeros if zero_point else None)
        self.register_buffer("order", order if ordered else None)
        self.bias = nn.Parameter(torch.zeros(out_features, device=device)) if bias else None

    @classmethod
    def from_linear(
        cls,
        layer: Any,
        dtype: str = "u4",
        *,
        group_size: int | None = 128,
        zero_point: bool = False,
        scale_dtype: str = "f16",
        activations: str | None = None,
    ) -> "QuantizedLinear":
        """The nearest to an nn.Linear; its bias is kept. TilecError for weights that cannot be quantised."""
        floats = layer.weight.detach()
        weight = ops.quantize(
            floats, dtype, group_size=group_size, zero_point=zero_point, scale_dtype=scale_dtype
        )
        device = layer.weight.device
        return cls.from_weight(weight, layer.bias, device=device, activations=activations)

    @classmethod
    def from_weight(
        cls, weight: QuantizedWeight, bias: Any = None, *, device: Any = None, activations: str | None = None
    ) -> "QuantizedLinear":
        """With a weight that is quantised already, of ops.quantize or of a checkpoint."""
        held = new_tensors(weight, torch.device(device or "cpu"))
        made = cls(
            weight.shape[1],
            weight.shape[0],
            bias is not None,
            dtype=held.dtype,
            group_size=held.group_size,
            zero_point=held.zeros is not None,
            scale_dtype=held.scales.dtype,
            device="meta",
            activations=activations,
        )
        made.codes, made.scales, made.zeros, made.order = held.codes, held.scales, held.zeros, held.order
        if bias is not None:
            given = bias if isinstance(bias, nn.Parameter) else nn.Parameter(torch.as_tensor(bias))
            made.bias = given
        return made

    @property
    def held(self) -> Codes:
        """The weight as tensors."""
        sizes = (self.dtype, self.group_size, self.in_features)
        return Codes(self.codes, self.scales, self.zeros, *sizes, self.order)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] of f16, bf16 or f32 -> [..., out_features] of the same dtype."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return linear(x, self.held, bias, activations=self.activations)

    def dequantize(self, dtype: Any = torch.float32) -> Tensor:
        """The weight that the codes stand for, [out_features, in_features]."""
        weight = dequantize(*self.held[:6], dtype)
        return weight if self.order is None else weight[:, self.order.argsort()]

    def extra_repr(self) -> str:
        sizes = f"{self.in_features}, {self.out_features}, dtype={self.dtype!r}, group_size={self.group_size}"
        rounded = "" if self.activations is None else f", activations={self.activations!r}"
        return f"{sizes}, zero_point={self.zeros is not None}, bias={self.bias is not None}{rounded}"


@dataclass(frozen=True)
class Quantised:
    """What became of one layer; `error` is that of its weight, relative, in the norm."""

    name: str
    shape: tuple[int, int]
    before: int
    after: int
    error: float

    def __str__(self) -> str:
        n, k = self.shape
        smaller = self.before / self.after
        return f"{self.name} [{n}, {k}]: {smaller:.1f} times smaller, weights off by {100 * self.error:.2f} %"


@dataclass(frozen=True)
class Report:
    """What quantize_ did: the linear layers that it replaced, and those that it left, with the reason."""

    dtype: str
    layers: tuple[Quantised, ...]
    left: tuple[tuple[str, str], ...] = field(default=())

    def __str__(self) -> str:
        before, after = (sum(getattr(x, name) for x in self.layers) for name in ("before", "after"))
        head = f"{len(self.layers)} linear layers are {self.dtype} now"
        if self.layers:
            head += f": {before / 1e6:.2f} MB of weights became {after / 1e6:.2f} MB"
        return "\n".join([head, *(f"left as it was: {name}, {why}" for name, why in self.left)])


def quantize_(
    model: Any,
    dtype: str = "u4",
    *,
    group_size: int | None = 128,
    zero_point: bool = False,
    scale_dtype: str = "f16",
    activations: str | None = None,
    sparsity: str | None = None,
    filter: Callable[[str, Any], bool] | None = None,  # noqa: A002
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Replaces the nn.Linear layers in a model by QuantizedLinear, in place, and says what it did. With
    `sparsity="2:4"` by SparseLinear: the larger two of each four weights are kept.

    `filter(name, layer)` says which; all of them without one. `progress` is called with a line per layer
    (print, say). `activations` is that of the new layers. A layer that stands in several places is quantised
    once. TilecError where the model is a linear layer itself, or weights cannot be quantised; it names the
    layer.
    """
    kind = weight_dtype(dtype)
    if isinstance(model, nn.Linear):
        raise TilecError(
            "quantize_ replaces layers inside of a model: use QuantizedLinear.from_linear(layer)"
        )
    how: dict[str, Any] = {"group_size": group_size, "zero_point": zero_point, "scale_dtype": scale_dtype}
    into: Any = QuantizedLinear if sparsity is None else SparseLinear
    if sparsity is None:
        how["activations"] = activations
    else:
        check_sparsity(sparsity, activations)
    todo, left = _chosen(model, filter, 1 if sparsity is None else GROUP)
    done: dict[Any, CodedLinear] = {}
    told: list[Quantised] = []
    for i, (name, layer) in enumerate(todo):
        made = done[layer] = _quantised(into, name, layer, kind.name, how)
        told.append(_told(name, layer, made))
        if progress is not None:
            progress(f"{i + 1}/{len(todo)} {told[-1]}")
    _replace(model, done)
    return Report(kind.name, tuple(told), tuple(left))


def _chosen(model: Any, choose: Any, columns: int) -> tuple[list[tuple[str, Any]], list[tuple[str, str]]]:
    """Linear layers to quantise, each once, and those that are not; these have multiples of `columns`."""
    todo, left = [], []
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        if type(layer) is not nn.Linear:
            left.append((name, f"a {type(layer).__name__}, which may do more than a linear layer"))
        elif choose is not None and not choose(name, layer):
            left.append((name, "by the filter"))
        elif layer.weight.is_meta or layer.weight.numel() == 0:
            left.append((name, "its weight has no elements in memory"))
        elif layer.in_features % columns:
            left.append((name, f"its {layer.in_features} columns are no multiple of {columns}"))
        else:
            todo.append((name, layer))
    return todo, left


def _quantised(into: Any, name: str, layer: Any, dtype: str, how: dict[str, Any]) -> CodedLinear:
    try:
        made: CodedLinear = into.from_linear(layer, dtype, **how)
    except TilecError as error:
        error.message = f"{name}: {error.message}"
        raise
    made.train(layer.training)
    return made


def _told(name: str, layer: Any, made: Any) -> Quantised:
    weight = layer.weight.detach().float()
    length = float(weight.norm()) or 1.0
    error = float((made.dequantize().to(weight.device) - weight).norm()) / length
    after = sum(x.nbytes for x in made.buffers())
    return Quantised(name, tuple(weight.shape), layer.weight.nbytes, after, error)


def _replace(model: Any, done: dict[Any, CodedLinear]) -> None:
    """At every place where a layer stands."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children() tells of each but once
            if child in done:
                setattr(parent, name, done[child])
                if isinstance(
                    parent, nn.TransformerEncoderLayer
                ):  # evaluation would read weights past layers
                    parent.activation_relu_or_gelu = 0
        if isinstance(parent, nn.TransformerEncoder):
            parent.use_nested_tensor = False
