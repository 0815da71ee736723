"""2:4 weights in torch: gradients, modules and their states, compiled models, quantising with sparsity."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import tilec as tc  # noqa: E402
import tilec.torch as tt  # noqa: E402
from tests.torch.test_operators import alike, off  # noqa: E402
from tilec import ops  # noqa: E402
from tilec.torch import sparse_weights  # noqa: E402

Tensor = Any


def pruned(n: int = 24, k: int = 72, kind: Any = np.float32) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((n, k)).astype(kind)
    return ops.prune_2_4(rows)


def weight(dtype: str | None = "u4", n: int = 24, k: int = 72, **more: Any) -> ops.SparseWeight:
    if dtype is None:
        return ops.sparsify(pruned(n, k, np.float16))
    return ops.sparsify(pruned(n, k), dtype, **{"group_size": 32, **more})


def rows(*shape: int, grad: bool = False) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).requires_grad_(grad)


@pytest.mark.parametrize("dtype", ["u4", "i3", "f6e3m2"])
def test_every_weight_keeps_its_numbers(dtype: str) -> None:
    """Packed, and written out by kernels: 24 x 36 codes of 3 bits do not end at a byte in every row."""
    for zero_point in (False, True):
        held = weight(dtype, zero_point=zero_point)
        layer = tt.SparseLinear.from_weight(held)
        np.testing.assert_array_equal(layer.dequantize().numpy(), held.dequantize())
        again = sparse_weights.sparse_weight_of(layer.held, 72)
        np.testing.assert_array_equal(again.dequantize(), held.dequantize())
        assert layer.codes.nbytes == -(-24 * 36 * held.dtype.bits // 8) and layer.places.nbytes == 24 * 36 / 4


@pytest.mark.parametrize("target", ["cpu", "emulator:sm_80", "emulator:sm_90a"])
def test_zeros_are_written_out_at_the_edges(target: str) -> None:
    held = weight("u4", 9, 140)
    with tc.target(target):
        found = sparse_weights.dense(sparse_weights.sparse_tensors_of(held, "cpu"), 140, torch.float32)
    np.testing.assert_array_equal(found.numpy(), held.dequantize())


@pytest.mark.parametrize("zero_point", [False, True])
def test_gradients_go_through_what_is_kept(zero_point: bool) -> None:
    held = weight("u4", zero_point=zero_point)
    w = torch.from_numpy(held.dequantize())
    alike(
        lambda x, b: tt.linear(x, held, b, activation="silu"),
        lambda x, b: nn.functional.silu(nn.functional.linear(x, w, b)),
        rows(7, 72, grad=True), rows(24, grad=True),
    )  # fmt: skip


def test_weights_of_16_bits() -> None:
    x, held = rows(5, 72).half().requires_grad_(), weight(None)
    layer, w = tt.SparseLinear.from_weight(held), torch.from_numpy(held.dequantize()).half()
    y = layer(x)
    assert y.dtype == torch.float16 and off(y, nn.functional.linear(x, w)) < 2e-3
    y.sum().backward()
    assert off(x.grad, w.sum(0).expand(5, 72)) < 2e-3
    assert layer.codes.dtype == torch.float16 and layer.codes.shape == (24, 36) and layer.scales is None
    wide = layer.bfloat16()
    assert off(wide(x.detach().bfloat16()), y) < 2e-2
    assert "2:4, dtype=None, bias=False" in repr(layer)


def test_out_and_what_is_refused() -> None:
    held, x, out = weight(), rows(3, 72), torch.empty(3, 24)
    assert tt.linear(x, held, out=out) is out and torch.equal(out, tt.linear(x, held))
    codes = sparse_weights.sparse_tensors_of(held, "cpu")
    for change, message in (
        ({"scales": codes.scales.detach().clone().requires_grad_()}, "a 2:4 weight has no gradient: detach"),
        ({"places": codes.places[:-1]}, r"places of a 2:4 weight u4 \[24, 72\] are \[216\], found \[215\]"),
        ({"codes": codes.codes[:-1]}, r"codes of a weight u4 \[24, 36\] in groups of 16 are \[432\]"),
    ):
        with pytest.raises(tc.TilecError, match=message):
            tt.linear(x, codes._replace(**change))
    floats = sparse_weights.sparse_tensors_of(weight(None), "cpu")
    with pytest.raises(tc.TilecError, match=r"codes of a 2:4 weight f16 \[23, 72\] are \[23, 36\]|places of"):
        tt.linear(x.half(), floats._replace(codes=floats.codes[:-1]))
    with pytest.raises(tc.TilecError, match=r"codes of a 2:4 weight f16 \[24, 72\] are \[24, 36\], found"):
        tt.linear(x.half(), floats._replace(codes=floats.codes[:, :-1]))
    with pytest.raises(tc.TilecError, match="2:4 weights take x as it is"):
        tt.linear(x, held, activations="int8")
    with pytest.raises(tc.TilecError, match="2:4 weights have a multiple of 4 columns, found 70"):
        tt.SparseLinear(70, 24)


def test_states_load_where_others_were() -> None:
    x, layer = rows(3, 72), tt.SparseLinear.from_weight(weight(zero_point=True), rows(24))
    fresh = tt.SparseLinear(72, 24, group_size=32, zero_point=True)
    assert float(fresh(x).detach().abs().sum()) == 0
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), layer(x))
    assert list(layer.state_dict()) == ["bias", "codes", "scales", "zeros", "places"]
    again = copy.deepcopy(layer)
    again.places.copy_(torch.full_like(again.places, 0b1110_1110))  # the last two of each four
    assert not torch.equal(again(x), layer(x)) and again(x).shape == (3, 24)
    assert layer.bfloat16().scales.dtype == torch.float16


def test_memory_is_let_go() -> None:
    layer = tt.SparseLinear.from_weight(weight())
    layer(rows(2, 72))
    places = weakref.ref(layer.places)
    del layer
    gc.collect()
    assert places() is None


def test_a_compiled_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(72, 24), nn.GELU(), nn.Linear(24, 12))
    report = tt.quantize_(model, "i8", group_size=24, sparsity="2:4")
    assert isinstance(model[0], tt.SparseLinear) and "2 linear layers are i8 now" in str(report)
    assert 0.1 < report.layers[0].error < 0.6 and report.layers[0].after < report.layers[0].before / 5
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x, y = rows(5, 72, grad=True), rows(5, 72, grad=True)
    found, wanted = compiled(x), model(y)
    torch.testing.assert_close(found, wanted)
    found.sum().backward(), wanted.sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_registered_operators_keep_their_word() -> None:
    held = sparse_weights.sparse_tensors_of(weight(), "cpu")
    rest = (None, "relu", None, None, None, None, None, None)
    torch.library.opcheck(torch.ops.tilec.sparse_linear.default, (rows(3, 72, grad=True), *held, *rest))
    torch.library.opcheck(torch.ops.tilec.expand_2_4.default, (rows(24, 36), held.places))


def test_layers_that_cannot_be_sparse_are_left() -> None:
    model = nn.Sequential(nn.Linear(70, 24), nn.Linear(24, 12))
    report = tt.quantize_(model, "u4", sparsity="2:4")
    assert type(model[0]) is nn.Linear and isinstance(model[1], tt.SparseLinear)
    assert "left as it was: 0, its 70 columns are no multiple of 4" in str(report)
    with pytest.raises(tc.TilecError, match="expected sparsity None or '2:4', found '1:4'"):
        tt.quantize_(model, "u4", sparsity="1:4")
