"""Modules: NATTEN's and torch's parameters load as they are, and a small network of all of them learns."""

from __future__ import annotations

from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import tilec as tc  # noqa: E402
import tilec.torch as tt  # noqa: E402

Tensor = Any
NA = {1: tt.NeighborhoodAttention1D, 2: tt.NeighborhoodAttention2D, 3: tt.NeighborhoodAttention3D}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masked(layer: Any, x: Tensor) -> Tensor:
    """What NATTEN computes, of its parameters: dense attention under a mask, axis by axis."""
    extents = x.shape[1:-1]
    qkv = layer.qkv(x).reshape(len(x), -1, 3, layer.num_heads, x.shape[-1] // layer.num_heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    mask, bias = torch.ones(1, 1, dtype=torch.bool), torch.zeros(layer.num_heads, 1, 1)
    places = []
    for axis, n in enumerate(extents):
        i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
        size, dilation = layer.kernel_size[axis], layer.dilation[axis]
        length = (n - i % dilation + dilation - 1) // dilation
        first = (i // dilation - size // 2).clamp(min=0).minimum(length - size)
        seen = (j % dilation == i % dilation) & (j // dilation >= first) & (j // dilation < first + size)
        mask = (mask[:, None, :, None] & seen[None, :, None, :]).reshape(len(mask) * n, -1)
        places.append((j // dilation - i // dilation + size - 1).clamp(0, 2 * size - 2))
    if layer.rpb is not None:
        (rows,) = places
        bias = layer.rpb[:, rows]
    scores = (q @ k.mT) * q.shape[-1] ** -0.5 + bias
    out = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
    return layer.proj(out.transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize(
    ("extents", "options"),
    [
        ((13,), {"kernel_size": 5, "dilation": 2, "rel_pos_bias": True}),
        ((7, 6), {"kernel_size": (3, 5)}),
        ((4, 5, 3), {"kernel_size": 3, "qkv_bias": False}),
    ],
)
def test_neighborhood_attention(extents: tuple[int, ...], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = NA[len(extents)](16, 2, **options)
    x = normal(2, *extents, 16)
    torch.testing.assert_close(layer(x), masked(layer, x), rtol=1e-4, atol=1e-5)


def test_state_of_natten() -> None:
    """The names and shapes of NATTEN 0.21, and rpb as it was until 0.17."""
    for rank, layer in ((1, NA[1](12, 3, 5)), (2, NA[2](12, 3, (3, 5))), (3, NA[3](12, 3, 3))):
        theirs = {
            "qkv.weight": normal(36, 12), "qkv.bias": normal(36), "proj.weight": normal(12, 12),
            "proj.bias": normal(12),
        }  # fmt: skip
        layer.load_state_dict(theirs)
        assert torch.equal(layer.qkv.weight, theirs["qkv.weight"]), rank
    older = NA[2](12, 3, (3, 5), rel_pos_bias=True)
    older.load_state_dict({**theirs, "rpb": normal(3, 5, 9)})
    assert "kernel_size=(3, 5), stride=(1, 1)" in repr(older)


def test_what_modules_refuse() -> None:
    for call, message in (
        (lambda: NA[2](10, 3, 3), "num_heads must divide embed_dim: found 3 heads of 10"),
        (lambda: NA[2](12, 3, 3)(normal(2, 5, 12)), r"NeighborhoodAttention2D takes x \[B, X, Y, C\], found"),
        (lambda: NA[1](12, 3, (3, 3)), "kernel_size is one whole number of 1 or more, or one per"),
        (lambda: tt.DepthwiseConv2d.from_conv(nn.Conv2d(4, 4, 3)), "convolutions with groups = in_channels"),
        (lambda: tt.InceptionDepthwiseConv(4), "three branches of 0.125 of 4 channels are 3 x 0"),
        (lambda: tt.LongConv(2, 8)(normal(1, 2, 9)), "this LongConv takes sequences of up to 8, found 9"),
    ):
        with pytest.raises(tc.TilecError, match=message):
            call()


@pytest.mark.parametrize("padding", ["same", (2, 1)])
def test_depthwise_conv(padding: Any) -> None:
    torch.manual_seed(0)
    theirs = nn.Conv2d(6, 12, (5, 3), padding=padding, dilation=(1, 2), groups=6)
    x = normal(2, 6, 12, 11)
    shared = tt.DepthwiseConv2d.from_conv(theirs)
    assert shared.weight is theirs.weight
    loaded = tt.DepthwiseConv2d(6, 12, (5, 3), padding=padding, dilation=(1, 2))
    loaded.load_state_dict(theirs.state_dict())
    for layer in (shared, loaded):
        torch.testing.assert_close(layer(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_inception() -> None:
    torch.manual_seed(0)
    layer, x = tt.InceptionDepthwiseConv(16), normal(2, 16, 13, 12)
    names = [f"dwconv_{part}.{kind}" for part in ("hw", "w", "h") for kind in ("weight", "bias")]
    assert list(layer.state_dict()) == names and layer.dwconv_w.weight.shape == (2, 1, 1, 11)
    y = layer(x)
    assert torch.equal(y[:, :10], x[:, :10])
    for part, conv in zip((slice(10, 12), slice(12, 14), slice(14, 16)), layer.children(), strict=True):
        wanted = nn.functional.conv2d(x[:, part], conv.weight, conv.bias, padding="same", groups=2)
        torch.testing.assert_close(y[:, part], wanted, rtol=1e-4, atol=1e-5)


def test_long_conv(full: bool) -> None:
    torch.manual_seed(0)
    for mode, more in ((("causal", {}),) if full else ()) + (("bidirectional", {"skip": False}),):
        layer = tt.LongConv(3, 32, mode=mode, **more)
        u = normal(2, 3, 20)
        wanted = torch.zeros_like(u)
        for t in range(20):
            for s in range(20):
                if s <= t:
                    wanted[:, :, t] += layer.kernel[:, t - s].detach() * u[:, :, s]
                if s >= t and mode == "bidirectional":
                    wanted[:, :, t] += layer.kernel_reverse[:, s - t].detach() * u[:, :, s]
        wanted += u if layer.skip is not None else 0
        torch.testing.assert_close(layer(u), wanted, rtol=1e-4, atol=1e-5)
    gated = layer(u, pregate=normal(2, 3, 20, seed=1), postgate=normal(2, 3, 20, seed=2))
    assert gated.shape == u.shape and "mode='bidirectional'" in repr(layer)


class Digits(nn.Module):
    """Two layers of each module on images of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(1, 16)
        self.conv = nn.Sequential(*(tt.DepthwiseConv2d(16, kernel_size=3, padding="same") for _ in range(2)))
        self.inception = nn.Sequential(*(tt.InceptionDepthwiseConv(16, 3, 5) for _ in range(2)))
        self.image = nn.Sequential(*(tt.NeighborhoodAttention2D(16, 2, 3) for _ in range(2)))
        self.rows = nn.Sequential(*(tt.NeighborhoodAttention1D(16, 2, 7) for _ in range(2)))
        self.cube = nn.Sequential(*(tt.NeighborhoodAttention3D(16, 2, 2) for _ in range(2)))
        self.long = nn.Sequential(*(tt.LongConv(16, 64) for _ in range(2)))
        self.quantised = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
        tt.quantize_(self.quantised, "u4")
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x[..., None])
        x = x + self.inception(self.conv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        x = x + self.image(x)
        x = x + self.rows(x.flatten(1, 2)).unflatten(1, (8, 8))
        x = x + self.cube(x.unflatten(1, (2, 4))).flatten(1, 2)
        x = x + self.long(x.flatten(1, 2).mT).mT.unflatten(1, (8, 8))
        return self.head((x + self.quantised(x)).mean((1, 2)))


def test_a_network_of_all_of_them_learns() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    torch.manual_seed(0)
    images, labels = datasets.load_digits(return_X_y=True)
    x = torch.tensor(images[:64], dtype=torch.float32).reshape(-1, 8, 8) / 16
    y = torch.tensor(labels[:64])
    net = Digits()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0], losses
