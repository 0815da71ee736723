"""A small transformer, its weights packed as GPTQ's checkpoints are, says what its twin in f32 says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import tilec.torch as tt  # noqa: E402
from tilec import ops  # noqa: E402

Array = np.ndarray[Any, Any]
WORDS, WIDTH, HEADS, GROUP, MASK = 50, 64, 4, 32, 15


def gptq(weight: Array, ordered: bool, rng: np.random.Generator) -> tuple[dict[str, Array], Array]:
    """The tensors of a GPTQ checkpoint for a weight [N, K], and the weight that they stand for.

    Written from the format's description: nibble i of qweight[j, n] is the code of (n, 8 j + i), nibble i of
    qzeros[g, j] the zero of row 8 j + i less one; g_idx gives each column's group.
    """
    n, k = weight.shape
    groups = np.arange(k) // GROUP
    if ordered:
        groups = rng.permutation(groups)
    scales, zeros = np.zeros((k // GROUP, n), np.float16), np.zeros((k // GROUP, n), np.int64)
    codes, meant = np.zeros((n, k), np.int64), np.zeros((n, k), np.float32)
    for g in range(k // GROUP):
        part = weight[:, groups == g]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        scales[g] = (high - low) / MASK
        zeros[g] = np.clip(np.rint(-low / scales[g]), 1, MASK + 1)
        steps = np.clip(np.rint(part / scales[g][:, None]) + zeros[g][:, None], 0, MASK)
        codes[:, groups == g] = steps
        meant[:, groups == g] = (steps - zeros[g][:, None]) * scales[g].astype(np.float32)[:, None]
    qweight, qzeros = np.zeros((k // 8, n), np.uint32), np.zeros((k // GROUP, n // 8), np.uint32)
    for i in range(8):
        qweight |= (codes.T[i::8] << 4 * i).astype(np.uint32)
        qzeros |= ((zeros[:, i::8] - 1) << 4 * i).astype(np.uint32)
    tensors = {"qweight": qweight.view(np.int32), "qzeros": qzeros.view(np.int32), "scales": scales}
    return {**tensors, "g_idx": groups.astype(np.int32)}, meant


class Block(nn.Module):
    """Attention, then two layers with a gelu between them, each around a root-mean-square norm."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)])
        self.qkv, self.out = linear(WIDTH, 3 * WIDTH), linear(WIDTH, WIDTH)
        self.up, self.down = linear(WIDTH, 2 * WIDTH), linear(2 * WIDTH, WIDTH)

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).unbind(2)
        x = x + self.out(tt.attention(q, k, v, is_causal=True).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


class Transformer(nn.Module):
    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(64, WIDTH)
        self.blocks = nn.Sequential(Block(linear), Block(linear))
        self.norm = nn.RMSNorm(WIDTH)

    def forward(self, tokens: Any) -> Any:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.norm(self.blocks(x)) @ self.words.weight.T

    @torch.no_grad()
    def generate(self, tokens: list[int], length: int) -> list[int]:
        """Always of one shape: what follows is not seen."""
        for n in range(len(tokens), length):
            filled = torch.tensor([tokens + [0] * (length - n)])
            tokens = [*tokens, int(self(filled)[0, n - 1].argmax())]
        return tokens


def twins(ordered: bool) -> tuple[Transformer, Transformer]:
    """One model with the weights that a checkpoint's codes stand for, and one with the codes."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    dense, quantised = Transformer(nn.Linear), Transformer(nn.Linear)
    quantised.load_state_dict(dense.state_dict())
    for theirs, ours in zip(dense.blocks, quantised.blocks, strict=True):
        for name in ("qkv", "out", "up", "down"):
            layer = getattr(theirs, name)
            weight = 3 * rng.standard_normal(tuple(layer.weight.shape)).astype(np.float32) / WIDTH**0.5
            tensors, meant = gptq(weight, ordered, rng)
            layer.weight.data = torch.from_numpy(meant)
            held = ops.QuantizedWeight.from_gptq(**{key: torch.from_numpy(x) for key, x in tensors.items()})
            setattr(ours, name, tt.QuantizedLinear.from_weight(held, layer.bias))
    return dense, quantised


@pytest.mark.parametrize("ordered", [False, True])
def test_the_same_words(ordered: bool) -> None:
    dense, quantised = twins(ordered)
    assert isinstance(quantised.blocks[0].qkv, tt.QuantizedLinear)
    assert (quantised.blocks[0].qkv.order is not None) == ordered
    torch.testing.assert_close(
        quantised.blocks[1].down.dequantize(), dense.blocks[1].down.weight.detach(), rtol=1e-6, atol=0
    )
    wanted, found = (model.generate([3, 1, 4], 28) for model in (dense, quantised))
    assert found == wanted and len(set(wanted[3:])) > 5
    scores = [model(torch.tensor([wanted])).detach() for model in (dense, quantised)]
    torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-3)


def test_states_with_an_order_load_where_others_were() -> None:
    _, quantised = twins(True)
    layer, x = quantised.blocks[0].up, torch.randn(3, WIDTH)
    fresh = tt.QuantizedLinear(
        WIDTH,
        2 * WIDTH,
        dtype="u4",
        group_size=GROUP,
        zero_point=True,
        zero_dtype=layer.zeros.dtype,
        ordered=True,
    )
    fresh.load_state_dict(layer.state_dict())
    torch.testing.assert_close(fresh(x), layer(x))
    torch.testing.assert_close(
        fresh(x), nn.functional.linear(x, layer.dequantize(), layer.bias), rtol=1e-4, atol=1e-4
    )
    a, b = torch.randn(2, WIDTH), torch.randn(2 * WIDTH, 2)
    wanted = fresh(x) + x @ a.T @ b.T
    torch.testing.assert_close(
        tt.linear(x, fresh.held, fresh.bias, low_rank=(a, b)), wanted, rtol=1e-4, atol=1e-4
    )
