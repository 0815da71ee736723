"""Operators in torch: the same as torch's own, gradients in f64, traced, compiled, exported, autocast."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

import tilec as tc  # noqa: E402
import tilec.torch as tt  # noqa: E402
from tilec import ops  # noqa: E402

Tensor = Any
ACTIVATIONS: dict[Any, Callable[[Tensor], Tensor]] = {
    None: lambda x: x, "relu": F.relu, "gelu": F.gelu, "silu": F.silu
}  # fmt: skip


def normal(*shape: int, seed: int = 0, dtype: Any = None, grad: bool = True) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(dtype or torch.float32).requires_grad_(grad)


def wide(*shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, seed=seed, dtype=torch.float64)


def off(found: Tensor, wanted: Tensor) -> float:
    with torch.no_grad():
        return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def alike(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *tensors: Tensor, bound: float = 1e-5
) -> None:
    """Results and gradients."""
    y, wanted = ours(*tensors), theirs(*tensors)
    assert y.shape == wanted.shape and off(y, wanted) < bound
    d = normal(*y.shape, seed=9, dtype=y.dtype, grad=False)
    grads = torch.autograd.grad(y, tensors, d)
    for grad, other in zip(grads, torch.autograd.grad(wanted, tensors, d), strict=True):
        assert grad.shape == other.shape and off(grad, other) < bound


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear(activation: str | None, full: bool) -> None:
    if not full and activation not in ("gelu", "relu"):
        pytest.skip("make check-all runs it")
    x, w, b, residual = normal(2, 3, 6), normal(5, 6, seed=1), normal(5, seed=2), normal(2, 3, 5, seed=3)
    a, up = normal(2, 6, seed=4), normal(5, 2, seed=5)
    act = ACTIVATIONS[activation]
    alike(
        lambda x, w, b: tt.linear(x, w, b, activation=activation),
        lambda x, w, b: act(F.linear(x, w, b)),
        x,
        w,
        b,
    )
    alike(
        lambda x, w, b, r, a, up: tt.linear(x, w, b, activation=activation, residual=r, low_rank=(a, up)),
        lambda x, w, b, r, a, up: act(F.linear(x, w, b) + x @ a.T @ up.T) + r,
        x, w, b, residual, a, up,
    )  # fmt: skip


def test_linear_with_a_quantised_weight(full: bool) -> None:
    """The gradient goes through the weights that the codes stand for, dequantised where they are."""
    more = (("i3", False), ("f6e3m2", False), ("f8e4m3", False)) if full else ()
    for dtype, zero_point in (("u4", True), *more):
        weight = ops.quantize(normal(40, 70, seed=1, grad=False), dtype, group_size=32, zero_point=zero_point)
        w = torch.from_numpy(weight.dequantize())
        alike(
            lambda x, b, weight=weight: tt.linear(x, weight, b, activation="silu"),
            lambda x, b, w=w: F.silu(F.linear(x, w, b)),
            normal(7, 70), normal(40, seed=2),
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantize_activation(dtype: Any) -> None:
    x = normal(2, 3, 64, grad=False)
    weight = ops.quantize(normal(8, 64, grad=False).numpy(), "u4", group_size=32)
    q, scale = tt.quantize_activation(x, dtype)
    assert q.dtype == dtype and q.shape == x.shape and scale.shape == (2, 3, 1)
    assert off(q.float() * scale, x) < 0.03
    out = torch.empty_like(q), torch.empty_like(scale)
    assert tt.quantize_activation(x, dtype, out=out) is out
    assert torch.equal(out[0].view(torch.int8), q.view(torch.int8)) and torch.equal(out[1], scale)
    y = tt.linear(q, weight, x_scale=scale, out_dtype=torch.float32)
    name = "int8" if dtype == torch.int8 else "f8e4m3"
    assert y.dtype == torch.float32 and off(y, tt.linear(x, weight, activations=name)) < 1e-6
    torch.library.opcheck(torch.ops.tilec.quantize_activation.default, (x, "i8"))
    with pytest.raises(tc.TilecError, match="activations are rounded to i8 or f8e4m3, not to f16"):
        tt.quantize_activation(x, torch.float16)


def test_activations_rounded_to_bytes() -> None:
    """The gradient is that without the rounding; dense weights are refused as by ops.linear."""
    weight = ops.quantize(normal(40, 64, seed=1, grad=False), "u4", group_size=32)
    x, bias = normal(7, 64), normal(40, seed=2)
    y = tt.linear(x, weight, bias, activation="silu", activations="int8")
    np.testing.assert_array_equal(
        y.detach(), ops.linear(x.detach().numpy(), weight, bias.detach().numpy(), activation="silu",
                               activations="int8")
    )  # fmt: skip
    exact = tt.linear(x, weight, bias, activation="silu")
    assert 0 < off(y, exact) < 1e-2
    d, wanted = (torch.autograd.grad(each.sum(), (x, bias)) for each in (y, exact))
    assert all(off(a, b) < 2e-2 for a, b in zip(d, wanted, strict=True))
    out = torch.empty(7, 40)
    assert tt.linear(x.detach(), weight, activations="int8", out=out) is out
    with pytest.raises(tc.TilecError, match="activations='int8' takes a QuantizedWeight"):
        tt.linear(x, normal(4, 64), activations="int8")
    with pytest.raises(tc.TilecError, match=r"low_rank is a pair \(a \[R, K\], b \[N, R\]\), found Tensor"):
        tt.linear(x, weight, low_rank=normal(2, 64))


def test_codes_with_scales_have_no_gradient() -> None:
    x, w = torch.ones(2, 8, dtype=torch.float8_e4m3fn), normal(4, 8, dtype=torch.float16)
    y = tt.linear(x, w, x_scale=torch.full((2,), 0.5))
    assert y.dtype == torch.float16 and off(y, 0.5 * w.sum(1).expand(2, 4)) < 2e-3
    with pytest.raises(tc.TilecError, match="linear with x_scale has no gradient"):
        y.sum().backward()


@pytest.mark.parametrize(("a", "b"), [((3, 4), (4, 5)), ((2, 1, 3, 4), (3, 4, 5)), ((2, 3, 4), (4, 5))])
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    alike(tt.matmul, torch.matmul, normal(*a), normal(*b, seed=1))
    half = tt.matmul(
        normal(3, 4, dtype=torch.bfloat16), normal(4, 5, dtype=torch.bfloat16), out_dtype=torch.float32
    )
    assert half.dtype == torch.float32


def test_attention() -> None:
    q, k, v = (wide(2, 9, 2, 8, seed=s) for s in range(3))
    alike(tt.attention, sdpa, q, k, v, bound=1e-7)
    full = tt.na1d(q, k, v, kernel_size=9)
    assert off(full, tt.attention(q, k, v)) < 1e-7


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "channels last"])
def test_depthwise_conv(layout: str, full: bool) -> None:
    if not full and layout != "channels last":
        pytest.skip("make check-all runs it")
    x, w, b = wide(2, 4, 7, 8), wide(8, 1, 3, 3, seed=1), wide(8, seed=2)
    scale, residual = wide(8, seed=3), wide(2, 8, 4, 4, seed=4)

    def ours(x: Tensor, w: Tensor, b: Tensor, scale: Tensor, residual: Tensor) -> Tensor:
        if layout == "channels last":
            x = x.contiguous(memory_format=torch.channels_last)
        if layout == "NHWC":
            x, residual = x.permute(0, 2, 3, 1), residual.permute(0, 2, 3, 1)
        y = tt.depthwise_conv(
            x, w, b, 2, 1, scale=scale, activation="gelu", residual=residual,
            layout="NHWC" if layout == "NHWC" else "NCHW",
        )  # fmt: skip
        assert layout != "channels last" or y.is_contiguous(memory_format=torch.channels_last)
        return y.permute(0, 3, 1, 2) if layout == "NHWC" else y

    def theirs(x: Tensor, w: Tensor, b: Tensor, scale: Tensor, residual: Tensor) -> Tensor:
        conv = F.conv2d(x, w, None, 2, 1, groups=4)
        return F.gelu(conv * scale[:, None, None] + b[:, None, None]) + residual

    alike(ours, theirs, x, w, b, scale, residual, bound=1e-7)


def test_causal_conv1d() -> None:
    x, w, b = wide(2, 4, 9), wide(4, 3, seed=1), wide(4, seed=2)
    alike(
        lambda x, w, b: tt.causal_conv1d(x, w, b, activation="silu"),
        lambda x, w, b: F.silu(F.conv1d(F.pad(x, (2, 0)), w[:, None], b, groups=4)),
        x, w, b, bound=1e-7,
    )  # fmt: skip
    y, state = tt.causal_conv1d(x[:, :, :5], w, return_state=True)
    more, _ = tt.causal_conv1d(x[:, :, 5:], w, initial_state=state, return_state=True)
    assert off(torch.cat((y, more), 2), tt.causal_conv1d(x, w)) < 1e-7


def test_fft_conv(full: bool) -> None:
    if not full:
        pytest.skip("make check-all runs it; tests of LongConv do as well")
    u, k, skip = wide(2, 3, 20), wide(3, 20, seed=1), wide(3, seed=2)

    def theirs(u: Tensor, k: Tensor, skip: Tensor) -> Tensor:
        y = torch.fft.irfft(torch.fft.rfft(u, 40) * torch.fft.rfft(k, 40), 40)[..., :20]
        return y + skip[:, None] * u

    alike(lambda u, k, skip: tt.fft_conv(u, k, skip=skip), theirs, u, k, skip, bound=1e-7)


# Gradients in f64, and what torch.library asks of an operator.


class Case(NamedTuple):
    """An operator of torch.ops.tilec with arguments."""

    name: str
    args: tuple[Any, ...]


Q, K, V = (wide(1, 6, 2, 4, seed=s) for s in range(3))
IMAGES = tuple(wide(1, 4, 4, 2, 4, seed=s) for s in range(3))
CASES = (
    Case("attention", (Q, K, V, True, None)),
    Case("neighborhood_attention", (Q, K, V, [3], [1], [2], [True], 0.3, None, None, "shift", None)),
    Case(
        "neighborhood_attention",
        (*IMAGES, [3, 2], [2, 1], [1, 1], [False, True], None, wide(1, 2, 2, 4), wide(1, 2, 2, 4, seed=1),
         "shift", wide(2, 5, 3)),
    ),
    Case("depthwise_conv", (wide(1, 2, 5, 4), wide(4, 1, 3, 3), wide(4), wide(4, seed=1), None, "silu",
                            [2, 1], [1, 1, 0, 2], [1, 1], "NCHW")),
    Case("depthwise_conv", (wide(1, 5, 4, 2), wide(2, 1, 3, 2), None, None, None, "gelu",
                            [1, 1], [1, 1, 1, 1], [1, 2], "NHWC")),
    Case("causal_conv1d", (wide(1, 2, 5), wide(2, 3), wide(2), "silu", wide(1, 2, 2))),
    Case("fft_conv", (wide(2, 2, 5), wide(2, 4), wide(2, 4, seed=1), wide(2), wide(2, 2, 5), wide(2, 2, 5),
                      "bidirectional")),
    Case("linear", (wide(3, 6), wide(4, 6), wide(4), "gelu", wide(3, 4), wide(2, 6), wide(4, 2), None, None,
                    None)),
    Case("matmul", (wide(2, 3, 4), wide(4, 5), None)),
    Case("butterfly_conv", (wide(2, 2, 5), wide(2, 4), [wide(3, 3, 2), wide(2, 4, 4, 2)], [], True)),
    Case("tame_kernel", (wide(2, 9), 0.1, 3)),
    Case("inception_depthwise_conv", (wide(1, 5, 4, 3), wide(1, 1, 3, 3), wide(1, 1, 1, 5), wide(1, 1, 5, 1),
                                      wide(1), None, wide(1, seed=1), "NCHW")),
    Case("dcls_kernel", (wide(2, 1, 3), wide(2, 2, 1, 3), None, [5, 5], "v1", "upstream")),
    Case("dcls_kernel", (wide(2, 3), wide(2, 2, 3), wide(2, 2, 3, seed=1), [5, 4], "gauss", "corrected")),
)  # fmt: skip


def _tensors(x: Any) -> bool:
    """Is this a list of tensors?"""
    return isinstance(x, list) and any(isinstance(each, torch.Tensor) for each in x)


SAMPLE = [CASES[i] for i in (0, 2, 3, 5, 6, 7, 8, 9, 10, 11, 13)]  # each operator once


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients(case: Case, full: bool) -> None:
    if not full and not any(case is each for each in SAMPLE):
        pytest.skip("make check-all runs it")

    def run(*tensors: Tensor) -> Any:
        given = list(tensors)
        args = [given.pop(0) if isinstance(x, torch.Tensor) else x for x in case.args]
        args = [[given.pop(0) for _ in x] if _tensors(x) else x for x in args]
        return getattr(torch.ops.tilec, case.name)(*args)

    tensors = [x for x in case.args if isinstance(x, torch.Tensor)]
    tensors += [x for held in case.args if _tensors(held) for x in held]
    assert torch.autograd.gradcheck(run, tensors, fast_mode=not full)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_torch_checks(case: Case, full: bool) -> None:
    if not full and not any(case is each for each in SAMPLE):
        pytest.skip("make check-all runs it")
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        getattr(torch.ops.tilec, case.name).default, case.args,
        test_utils=(*tests, "test_aot_dispatch_dynamic") if full else tests,
    )  # fmt: skip


def test_what_torch_checks_of_quantised_weights() -> None:
    weight = tt.QuantizedLinear.from_weight(
        ops.quantize(np.ones((4, 32), np.float32), "u3", group_size=16)
    ).held
    op = torch.ops.tilec.quantized_linear.default
    torch.library.opcheck(op, (normal(3, 32), *weight[:5], normal(4), "relu", *[None] * 6))
    torch.library.opcheck(torch.ops.tilec.dequantize.default, (*weight[:6], torch.float16))


def test_every_operator_is_in_torch() -> None:
    """All of tilec.ops that have a gradient, under their names."""
    names = {name for name, value in vars(ops).items() if callable(value) and name[0] != "_"}
    wanted = {name.removesuffix("_backward") for name in names if name.endswith("_backward")}
    wanted |= {"linear", "matmul", "na1d", "na2d", "na3d", "causal_conv1d", "inception_depthwise_conv"}
    assert wanted - set(vars(tt)) == set()


# Compiled, exported, in other precisions, into memory that is there.


class Net(torch.nn.Module):
    """Every kind of operator after another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = tt.DepthwiseConv2d(8, kernel_size=3, padding="same")
        self.na = tt.NeighborhoodAttention2D(8, 2, 3, rel_pos_bias=True)
        self.up = torch.nn.Linear(8, 16)
        self.long = tt.LongConv(16, 64)
        self.quantised = tt.QuantizedLinear.from_linear(torch.nn.Linear(16, 8), "u4", group_size=16)
        self.short = torch.nn.Parameter(torch.randn(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.na(self.conv(x).permute(0, 2, 3, 1))
        x = tt.linear(x, self.up.weight, self.up.bias, activation="gelu").flatten(1, 2)
        x = self.quantised(self.long(x.mT).mT)
        x = tt.causal_conv1d(x.mT, self.short, activation="silu")
        heads = x.mT.unflatten(2, (2, 4))
        return tt.attention(heads, heads, heads, is_causal=True).flatten(2)


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(0)
    return Net()


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_compiled_without_a_break(net: Any, full: bool) -> None:
    x = normal(2, 8, 6, 6, grad=False)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(full):
        found, wanted = compiled(x), net(x)
    assert off(found, wanted) < 1e-5
    if full:
        ours, theirs = (
            torch.autograd.grad(y.sum(), list(net.parameters()), allow_unused=True) for y in (found, wanted)
        )
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None and b is None) or torch.allclose(a, b, atol=1e-5)
        assert compiled(normal(3, 8, 7, 7, grad=False)).shape == (3, 49, 8)  # again, for shapes that change


@pytest.mark.filterwarnings("ignore")
def test_gradients_of_what_is_compiled() -> None:
    w, x = normal(8, 8), normal(3, 8)
    q = tt.QuantizedLinear.from_weight(ops.quantize(normal(4, 8, grad=False), "u4"))

    def run(x: Tensor, w: Tensor) -> Tensor:
        return tt.linear(tt.matmul(x, w), q.held, activation="relu").square().sum()

    compiled = torch.compile(lambda x, w: run(x, w), fullgraph=True, backend="aot_eager")
    for found, wanted in zip(
        torch.autograd.grad(compiled(x, w), (x, w)), torch.autograd.grad(run(x, w), (x, w)), strict=True
    ):
        assert off(found, wanted) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_exported(net: Any, full: bool) -> None:
    x = normal(1, 8, 5, 5, grad=False)
    some = (net.conv, torch.nn.Flatten(0, 1), torch.nn.Linear(5, 16), net.quantised)
    module = net.eval() if full else torch.nn.Sequential(*some)
    program, kept = torch.export.export(module, (x,)), io.BytesIO()
    torch.export.save(program, kept)
    kept.seek(0)
    assert off(torch.export.load(kept).module()(x), module(x)) < 1e-5


def test_autocast() -> None:
    x, w, image = normal(3, 8, grad=False), normal(4, 8), normal(1, 4, 6, 6, grad=False)
    conv = tt.DepthwiseConv2d(4, kernel_size=3)
    weight = ops.quantize(w.detach(), "i8", group_size=None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = (tt.linear(x, w), tt.linear(x, weight), tt.matmul(x, w.mT), conv(image))
        assert tt.attention(Q, K, V).dtype == torch.float64
    assert {y.dtype for y in results} == {torch.bfloat16}
    for y in results[:3]:
        assert off(y, F.linear(x, w)) < 2e-2
    results[0].sum().backward()
    assert w.grad.dtype == torch.float32


def test_into_memory_that_is_there() -> None:
    x, w = normal(3, 8, grad=False), normal(4, 8, grad=False)
    weight = ops.quantize(w, "i8", group_size=None)
    image, filters = normal(1, 2, 5, 5, grad=False), normal(2, 1, 3, 3, grad=False)
    for call, shape in (
        (lambda out: tt.linear(x, w, out=out), (3, 4)),
        (lambda out: tt.linear(x, weight, out=out), (3, 4)),
        (lambda out: tt.matmul(x, w.T, out=out), (3, 4)),
        (lambda out: tt.depthwise_conv(image, filters, out=out), (1, 2, 3, 3)),
    ):
        out = torch.full(shape, torch.nan)
        version = out._version
        assert call(out) is out and bool(torch.isfinite(out).all()) and out._version > version
        assert torch.equal(out, call(torch.empty(shape)))
        with pytest.raises(
            tc.TilecError, match=r"out= has no gradient: leave it out, or call inside torch\.no_grad"
        ):
            call(out.requires_grad_())


def test_plain_operators_do_not_lose_gradients_unnoticed() -> None:
    x, w = normal(3, 8), normal(4, 8, grad=False)
    with pytest.raises(tc.TilecError, match="x requires a gradient, which is lost here: call the operator"):
        ops.linear(x, w)
    with torch.no_grad():
        y = ops.linear(x, w)
    assert off(y, F.linear(x, w)) < 1e-5 and off(ops.linear(x.detach(), w), y) == 0


@pytest.mark.filterwarnings("ignore")  # torch's own, in forward mode
def test_what_is_refused() -> None:
    image, filters = normal(1, 2, 5, 5, grad=False), normal(2, 1, 3, 3, grad=False)
    x = Q.detach()
    for call, message in (
        (lambda: tt.depthwise_conv(image[0], filters), r"takes x \[N, C, H, W\], of rank 4: found"),
        (lambda: tt.depthwise_conv(image, filters[0]), r"takes a weight \[C \* multiplier, 1, kh, kw\]"),
        (lambda: tt.depthwise_conv(image.numpy(), filters), "takes tensors, found ndarray: see tilec.ops"),
        (lambda: torch.func.jvp(lambda q: tt.attention(q, K, V), (x,), (x,)), "no derivative in forward"),
    ):
        with pytest.raises(tc.TilecError, match=message), torch.no_grad():
            call()


def test_nothing_to_convolve_and_no_additional_keys() -> None:
    x, w, b, state = wide(2, 3, 0), wide(3, 4), wide(3, seed=1), wide(2, 3, 3)
    tt.causal_conv1d(x, w, b, initial_state=state).sum().backward()
    assert x.grad.shape == x.shape and not any(t.grad.any() for t in (w, b, state))
    none = wide(1, 0, 2, 4)
    tt.na1d(Q, K, V, 3, additional_keys=none, additional_values=none).sum().backward()
    assert none.grad.shape == none.shape


def test_ranks() -> None:
    with pytest.raises(
        tc.TilecError, match=r"na2d takes query \[B, X, Y, H, D\], of rank 5: found \[1, 6, 2, 4\]"
    ):
        tt.na2d(Q, K, V, kernel_size=3)
