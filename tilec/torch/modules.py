"""Modules: neighborhood attention with NATTEN's parameters, depthwise convolution with nn.Conv2d's.

layer = NeighborhoodAttention2D(embed_dim=64, num_heads=2, kernel_size=7)
layer.load_state_dict(natten_layer.state_dict())
"""

from typing import Any

import torch
from torch import nn

from tilec.ir.errors import TilecError
from tilec.ops.attention_call import per_axis
from tilec.torch.attention import neighborhood_attention
from tilec.torch.convolutions import depthwise_conv, inception_depthwise_conv
from tilec.torch.register import Tensor
from tilec.torch.sequences import fft_conv


class _NeighborhoodAttention(nn.Module):
    """x [B, X.., embed_dim] -> the same shape: a projection to query, key and value, attention, and another.

    Parameters, their order and the state's names (qkv, proj) are NATTEN's. With `rel_pos_bias` also `rpb`
    [num_heads, 2 * kernel_size - 1 ..], which NATTEN had until 0.17.
    """

    rank = 0

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kernel_size: Any,
        stride: Any = 1,
        dilation: Any = 1,
        is_causal: Any = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
        *,
        rel_pos_bias: bool = False,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise TilecError(f"num_heads must divide embed_dim: found {num_heads} heads of {embed_dim}")
        self.embed_dim, self.num_heads, self.scale = embed_dim, num_heads, qk_scale
        self.kernel_size = per_axis(kernel_size, "kernel_size", self.rank)
        self.stride = per_axis(stride, "stride", self.rank)
        self.dilation = per_axis(dilation, "dilation", self.rank)
        self.is_causal = per_axis(is_causal, "is_causal", self.rank, bool)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        if rel_pos_bias:
            self.rpb = nn.Parameter(torch.zeros(num_heads, *(2 * size - 1 for size in self.kernel_size)))
            nn.init.trunc_normal_(self.rpb, std=0.02)
        else:
            self.register_parameter("rpb", None)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != self.rank + 2:
            axes = ", ".join("XYZ"[: self.rank])
            raise TilecError(f"{type(self).__name__} takes x [B, {axes}, C], found {list(x.shape)}")
        heads = (3, self.num_heads, self.embed_dim // self.num_heads)
        query, key, value = self.qkv(x).reshape(*x.shape[:-1], *heads).unbind(-3)
        out = neighborhood_attention(
            query, key, value, self.kernel_size, self.stride, self.dilation, self.is_causal, self.scale,
            bias=None if self.rpb is None else self.rpb.to(query.dtype),
        )  # fmt: skip
        return self.proj_drop(self.proj(out.reshape(x.shape)))

    def extra_repr(self) -> str:
        names = ("kernel_size", "stride", "dilation", "is_causal")
        more = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"{self.embed_dim}, num_heads={self.num_heads}, {more}"


class NeighborhoodAttention1D(_NeighborhoodAttention):
    """Along sequences, x [B, X, embed_dim]; parameters as NATTEN's NeighborhoodAttention1D."""

    rank = 1


class NeighborhoodAttention2D(_NeighborhoodAttention):
    """On images, x [B, X, Y, embed_dim]; parameters as NATTEN's NeighborhoodAttention2D."""

    rank = 2


class NeighborhoodAttention3D(_NeighborhoodAttention):
    """On volumes and films, x [B, X, Y, Z, embed_dim]; parameters as NATTEN's NeighborhoodAttention3D."""

    rank = 3


class DepthwiseConv2d(nn.Conv2d):
    """nn.Conv2d with groups=in_channels, by ops.depthwise_conv: its parameters, state and meaning.

    `out_channels` None is in_channels; else a multiple of it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: Any = 3,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias: bool = True,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        outs = in_channels if out_channels is None else out_channels
        super().__init__(
            in_channels, outs, kernel_size, stride, padding, dilation, in_channels, bias,
            device=device, dtype=dtype,
        )  # fmt: skip

    @classmethod
    def from_conv(cls, conv: Any) -> "DepthwiseConv2d":
        """With the parameters of an nn.Conv2d, shared. TilecError for one that is not depthwise."""
        if conv.groups != conv.in_channels or conv.padding_mode != "zeros":
            raise TilecError(
                f"DepthwiseConv2d takes convolutions with groups = in_channels and zeros around: found {conv}"
            )
        made = cls(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
                   conv.dilation, conv.bias is not None, device="meta")  # fmt: skip
        made.weight, made.bias = conv.weight, conv.bias
        made.train(conv.training)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, out_channels, H', W']."""
        return depthwise_conv(x, self.weight, self.bias, self.stride, self.padding, self.dilation)


class InceptionDepthwiseConv(nn.Module):
    """InceptionNeXt's token mixer on x [N, channels, H, W]: some channels stay as they are, three parts of
    `branch_ratio` each are filtered by a square, a row and a column. Order and the state's names (dwconv_hw,
    dwconv_w, dwconv_h) are those of Yu et al., "InceptionNeXt: When Inception Meets ConvNeXt", 2023.
    """

    def __init__(
        self, channels: int, square_size: int = 3, band_size: int = 11, branch_ratio: float = 0.125
    ) -> None:
        super().__init__()
        part = int(channels * branch_ratio)
        if not 0 < 3 * part <= channels:
            raise TilecError(
                f"three branches of {branch_ratio} of {channels} channels are 3 x {part}: expected 1 to "
                f"{channels} channels in all"
            )
        square, band = square_size // 2, band_size // 2
        self.dwconv_hw = DepthwiseConv2d(part, kernel_size=square_size, padding=square)
        self.dwconv_w = DepthwiseConv2d(part, kernel_size=(1, band_size), padding=(0, band))
        self.dwconv_h = DepthwiseConv2d(part, kernel_size=(band_size, 1), padding=(band, 0))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, channels, H, W] -> the same shape, in one launch."""
        parts = (self.dwconv_hw, self.dwconv_w, self.dwconv_h)
        return inception_depthwise_conv(x, *(p.weight for p in parts), *(p.bias for p in parts))


class LongConv(nn.Module):
    """y = fft_conv(u, kernel) + skip * u along sequences u [B, channels, L], each channel with its kernel.

    Parameters: `kernel` [channels, length], and with `skip` also `skip` [channels]; in "bidirectional" modes
    `kernel_reverse` too. Sequences are up to `length` long, and what is left of the kernel is not used.
    """

    def __init__(
        self,
        channels: int,
        length: int,
        *,
        mode: str = "causal",
        skip: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.channels, self.length, self.mode = channels, length, mode

        def taps() -> Any:
            return nn.Parameter(torch.randn(channels, length, device=device, dtype=dtype) / length**0.5)

        self.kernel = taps()
        self.kernel_reverse = taps() if mode.startswith("bidirectional") else None
        self.skip = nn.Parameter(torch.ones(channels, device=device, dtype=dtype)) if skip else None

    def forward(self, u: Tensor, pregate: Tensor = None, postgate: Tensor = None) -> Tensor:
        """u and gates [B, channels, L], L up to `length` -> postgate * (the convolution of pregate * u)."""
        n = u.shape[-1]
        if n > self.length:
            raise TilecError(f"this LongConv takes sequences of up to {self.length}, found {n}")
        k, reverse = self.kernel[:, :n], self.kernel_reverse
        return fft_conv(
            u, k, mode=self.mode, k_reverse=None if reverse is None else reverse[:, :n], skip=self.skip,
            pregate=pregate, postgate=postgate,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.channels}, length={self.length}, mode={self.mode!r}, skip={self.skip is not None}"
