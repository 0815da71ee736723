"""Quantised linear layers: states, dtypes, devices and modes; quantising models, and what is said of it."""

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
from tilec import ops  # noqa: E402
from tilec.torch import weights  # noqa: E402

Tensor = Any


def weight(n: int = 24, k: int = 70, dtype: str = "u4", **more: Any) -> ops.QuantizedWeight:
    rows = np.random.default_rng(0).standard_normal((n, k)).astype(np.float32)
    return ops.quantize(rows, dtype, **{"group_size": 32, **more})


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "u2", "i3", "u4", "f4e2m1", "i5", "f6e3m2", "u7", "i8", "f8e4m3", "f8e5m2"]
)
def test_every_weight_keeps_its_numbers(dtype: str, full: bool) -> None:
    """Packed, and unpacked by a kernel: 24 x 70 weights do not end at a byte in every row."""
    if not full and dtype not in ("u1", "i3", "f6e3m2", "f8e4m3"):
        pytest.skip("make check-all runs it")
    for zero_point in (False, True):
        held = weight(dtype=dtype, zero_point=zero_point)
        layer = tt.QuantizedLinear.from_weight(held)
        np.testing.assert_array_equal(layer.dequantize().numpy(), held.dequantize())
        np.testing.assert_array_equal(weights.weight_of(layer.held).dequantize(), held.dequantize())
        assert layer.codes.nbytes == -(-24 * 70 * held.dtype.bits // 8)


def test_forward() -> None:
    held, bias, x = weight(zero_point=True), rows(24), rows(5, 70)
    layer = tt.QuantizedLinear.from_weight(held, bias)
    wanted = nn.functional.linear(x, torch.from_numpy(held.dequantize()), bias)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(x.half()).float(), wanted, rtol=2e-2, atol=2e-2)
    assert layer(x.bfloat16()).dtype == torch.bfloat16 and layer(x[0]).shape == (24,)
    many = layer(rows(64, 70))  # another fragment layout
    torch.testing.assert_close(
        many, nn.functional.linear(rows(64, 70), layer.dequantize(), bias), rtol=1e-4, atol=1e-4
    )


def test_activations_of_bytes() -> None:
    """What ops.linear gives with them; a layer says so, and its state knows nothing of it."""
    held, x = weight(k=64, group_size=32), rows(5, 64)
    layer = tt.QuantizedLinear.from_weight(held, activations="int8")
    np.testing.assert_array_equal(layer(x), ops.linear(x.numpy(), held, activations="int8"))
    assert "activations='int8'" in repr(layer) and "activations" not in layer.state_dict()
    layer.activations = None
    np.testing.assert_array_equal(layer(x), ops.linear(x.numpy(), held))
    assert "activations" not in repr(layer)
    model = nn.Sequential(nn.Linear(64, 32))
    tt.quantize_(model, "i4", activations="int8")
    assert model[0].activations == "int8" and model(x).shape == (5, 32)
    with pytest.raises(tc.TilecError, match="expected activations=None"):
        tt.QuantizedLinear(64, 32, activations="int4")
    with pytest.raises(tc.TilecError, match="activations='int8' takes weights quantised to integers"):
        tt.QuantizedLinear(64, 32, dtype="f4e2m1", activations="int8")


def test_states_load_where_others_were() -> None:
    x = rows(3, 70)
    layer, other = (tt.QuantizedLinear.from_weight(weight(seed), rows(24)) for seed in (24, 24))
    fresh = tt.QuantizedLinear(70, 24, dtype="u4", group_size=32)
    assert float(fresh(x).detach().abs().sum()) == 0
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), layer(x))
    assert list(layer.state_dict()) == ["bias", "codes", "scales"]
    with torch.inference_mode():  # where torch counts no writes
        frozen = tt.QuantizedLinear(70, 24, dtype="u4", group_size=32)
        assert float(frozen(x).abs().sum()) == 0
        frozen.load_state_dict(other.state_dict())
        assert torch.equal(frozen(x), other(x))
    again = copy.deepcopy(layer)
    again.codes.zero_()
    assert not torch.equal(again(x), layer(x)) and torch.equal(again.scales, layer.scales)


def test_scales_keep_their_dtype() -> None:
    """Of fewer bits they would be other weights."""
    layer = tt.QuantizedLinear.from_weight(weight(), rows(24))
    before = layer.dequantize()
    for moved in (layer.bfloat16(), layer.half(), layer.double()):
        assert torch.equal(moved.dequantize(), before) and moved.scales.dtype == torch.float16
    assert layer.bias.dtype == torch.float64
    for scale_dtype, kind in (
        ("bf16", torch.bfloat16),
        ("f32", torch.float32),
        ("e8m0", torch.float8_e8m0fnu),
    ):
        made = tt.QuantizedLinear.from_weight(weight(scale_dtype=scale_dtype))
        assert made.scales.dtype == kind
        np.testing.assert_array_equal(made.dequantize().numpy(), weight(scale_dtype=scale_dtype).dequantize())
        made(rows(2, 70))


def test_memory_is_let_go() -> None:
    layer = tt.QuantizedLinear.from_weight(weight())
    layer(rows(2, 70))
    held = weakref.ref(weights.weight_of(layer.held))
    codes = weakref.ref(layer.codes)
    assert held() is not None and not held().codes.strides[0]  # nothing is kept unpacked
    del layer
    gc.collect()
    assert held() is None and codes() is None


def test_tensors_that_are_no_weight() -> None:
    layer = tt.QuantizedLinear.from_weight(weight(zero_point=True))
    for change, message in (
        (
            {"codes": layer.codes[:-1]},
            r"codes of a weight u4 \[24, 70\] in groups of 32 are \[840\], found \[839\]",
        ),
        ({"scales": layer.scales[:, :2]}, r"scales of a weight .* are \[24, 3\], found \[24, 2\]"),
        ({"zeros": layer.zeros[:, :1]}, r"zeros of a weight .* are \[24, 3\], found \[24, 1\]"),
        ({"dtype": "bf16"}, "weights are quantised to an integer or float type of 1 to 8 bits"),
    ):
        with pytest.raises(tc.TilecError, match=message):
            tt.linear(rows(2, 70), layer.held._replace(**change))


class Model(nn.Module):
    """Layers in several places, one of them twice, and some that are not to be touched."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(64, 48)
        self.deep = nn.ModuleList([nn.Sequential(nn.Linear(48, 48), nn.GELU())])
        self.again = self.same = self.deep[0][0]
        self.head = nn.Linear(48, 10)
        self.twin = nn.modules.linear.NonDynamicallyQuantizableLinear(48, 10)
        self.empty = nn.Linear(48, 10, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.deep[0](self.one(x))))


def test_quantising_a_model() -> None:
    torch.manual_seed(0)
    model, x, lines = Model().eval(), rows(5, 64), []
    before = model(x)
    report = tt.quantize_(
        model, "i8", group_size=16, filter=lambda name, layer: name != "head", progress=lines.append
    )
    assert isinstance(model.one, tt.QuantizedLinear) and model.again is model.same is model.deep[0][0]
    assert isinstance(model.again, tt.QuantizedLinear) and not model.again.training
    assert type(model.head) is nn.Linear
    assert float((model(x) - before).detach().norm() / before.detach().norm()) < 0.02
    assert [layer.name for layer in report.layers] == ["one", "deep.0.0"] and len(lines) == 2
    assert lines[0].startswith("1/2 one [48, 64]: 3.6 times smaller, weights off by 0.")
    assert str(report).splitlines() == [
        "2 linear layers are i8 now: 0.02 MB of weights became 0.01 MB",
        "left as it was: head, by the filter",
        "left as it was: twin, a NonDynamicallyQuantizableLinear, which may do more than a linear layer",
        "left as it was: empty, its weight has no elements in memory",
    ]
    assert str(tt.quantize_(model, "u4", filter=lambda *_: False)).startswith("0 linear layers are u4 now\n")


def test_layers_whose_weights_are_read_past_them() -> None:
    """torch's encoders do so when they are evaluated, with linear layers of their own kind."""
    torch.manual_seed(0)
    model, x = (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 2),
        rows(2, 5, 32),
    )
    tt.quantize_(model.eval(), "i8", group_size=32)
    padding = torch.arange(5).expand(2, 5) >= torch.tensor([[5], [3]])
    with torch.no_grad():
        found = model(x, src_key_padding_mask=padding), model(x)
    wanted = model(x, src_key_padding_mask=padding), model(x)
    torch.testing.assert_close(found, wanted)


def test_without_memory() -> None:
    layer = tt.QuantizedLinear(32, 7).to("meta")
    assert layer(torch.empty(3, 32, device="meta")).shape == (3, 7)


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_a_weight_in_a_compiled_function() -> None:
    held, x = weight(), rows(3, 70)
    compiled = torch.compile(lambda x: tt.linear(x, held), backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(x), tt.linear(x, held))


def test_models_that_cannot_be_quantised() -> None:
    model = Model()
    with torch.no_grad():
        model.deep[0][0].weight[3, 4] = torch.inf
    with pytest.raises(tc.TilecError, match=r"deep\.0\.0: cannot quantise inf \(weight\[3, 4\]\)"):
        tt.quantize_(model)
    assert type(model.one) is nn.Linear, "nothing is replaced where something fails"
    with pytest.raises(tc.TilecError, match=r"quantize_ replaces layers inside of a model: use QuantizedLin"):
        tt.quantize_(model.one)
    with pytest.raises(
        tc.TilecError, match="weights are quantised to an integer or float type of 1 to 8 bits"
    ):
        tt.quantize_(model, "f16")
