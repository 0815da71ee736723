"""Small blocks of ConvNeXt, InceptionNeXt and UniRepLKNet: with our convolutions, torch's outputs."""

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

from tilec import ops  # noqa: E402
from tilec.ops.reparam import BatchNorm, Branch  # noqa: E402

Tensor = Any


class ConvNeXt(nn.Module):
    """7 x 7 depthwise, LayerNorm, a pointwise MLP, a scale of each layer, residual (Liu et al., 2022)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.gamma = nn.Parameter(torch.rand(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.mlp(y)).permute(0, 3, 1, 2)


class InceptionNeXt(nn.Module):
    """Identity, 3 x 3, 1 x 11 and 11 x 1, BatchNorm, an MLP of convolutions (Yu et al., 2023)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        g = dim // 8
        self.parts = (dim - 3 * g, g, g, g)
        self.dwconv_hw = nn.Conv2d(g, g, 3, padding=1, groups=g)
        self.dwconv_w = nn.Conv2d(g, g, (1, 11), padding=(0, 5), groups=g)
        self.dwconv_h = nn.Conv2d(g, g, (11, 1), padding=(5, 0), groups=g)
        self.norm = nn.BatchNorm2d(dim)
        self.mlp = nn.Sequential(nn.Conv2d(dim, 4 * dim, 1), nn.GELU(), nn.Conv2d(4 * dim, dim, 1))

    def mixed(self, x: Tensor) -> Tensor:
        kept, hw, w, h = x.split(self.parts, 1)
        return torch.cat((kept, self.dwconv_hw(hw), self.dwconv_w(w), self.dwconv_h(h)), 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(self.mixed(x)))


class UniRepLKNet(nn.Module):
    """13 x 13 beside dilated kernels, BatchNorms, squeeze-and-excite, an MLP (Ding et al., 2023)."""

    DILATED = ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5))

    def __init__(self, dim: int) -> None:
        super().__init__()
        pairs = [(13, 1), *self.DILATED]
        self.convs = nn.ModuleList(
            nn.Conv2d(dim, dim, k, padding=d * (k // 2), dilation=d, groups=dim, bias=False) for k, d in pairs
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(dim) for _ in pairs)
        self.squeeze = nn.Sequential(nn.Conv2d(dim, dim // 4, 1), nn.ReLU(), nn.Conv2d(dim // 4, dim, 1))
        self.norm = nn.BatchNorm2d(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def mixed(self, x: Tensor) -> Tensor:
        return sum(norm(conv(x)) for conv, norm in zip(self.convs, self.norms, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.mixed(x))
        y = y * torch.sigmoid(self.squeeze(y.mean((2, 3), keepdim=True)))
        return x + self.mlp(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def swap_convnext(block: Any) -> None:
    conv = block.dwconv
    conv.forward = lambda x: ops.depthwise_conv(x, conv.weight, conv.bias, padding=3)


def swap_inception(block: Any) -> None:
    convs = (block.dwconv_hw, block.dwconv_w, block.dwconv_h)
    block.mixed = lambda x: ops.inception_depthwise_conv(
        x, *(conv.weight for conv in convs), *(conv.bias for conv in convs)
    )


def swap_unireplknet(block: Any) -> None:
    def branch(conv: Any, norm: Any) -> Branch:
        given = BatchNorm(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
        return Branch(conv.weight, given, conv.dilation)

    large, *more = map(branch, block.convs, block.norms)
    weight, bias = map(torch.from_numpy, ops.merge_reparam(large, more))
    block.mixed = lambda x: ops.depthwise_conv(x, weight, bias, padding="same")


def randomised(block: Any) -> Any:
    """With weights and statistics that hide nothing, in evaluation mode."""
    for name, each in block.state_dict().items():
        if each.is_floating_point():
            each.copy_(torch.rand_like(each) + 0.5 if "running_var" in name else torch.randn_like(each) / 4)
    return block.eval()


SWAPS = [(ConvNeXt, swap_convnext), (InceptionNeXt, swap_inception), (UniRepLKNet, swap_unireplknet)]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("block_of", "swap"), SWAPS)
def test_blocks(block_of: Any, swap: Callable[[Any], None], last: bool) -> None:
    torch.manual_seed(0)
    block, x = randomised(block_of(16)), torch.randn(2, 16, 14, 15)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    with torch.no_grad():
        wanted = block(x)
        swap(block)
        found = block(x)
    assert (wanted - x).abs().mean() > 0.02, "the block does something"
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
