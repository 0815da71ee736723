"""Kernels of one's own in torch: called with tensors, and as operators whose gradients are kernels."""

from __future__ import annotations

from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

import tilec as tc  # noqa: E402
import tilec.torch as tt  # noqa: E402


@tc.kernel
def scaled_square(x: tc.Array, y: tc.Array, alpha: tc.f32, *, block=64):
    """y = alpha * x^2"""
    i = tc.blocks(tc.cdiv(x.shape[0], block)) * block
    t = x.load(i, block)
    y.store(i, t * t * alpha.to(x.dtype))


@tc.kernel
def scaled_square_gradient(x: tc.Array, d_y: tc.Array, alpha: tc.f32, d_x: tc.Array, *, block=64):
    i = tc.blocks(tc.cdiv(x.shape[0], block)) * block
    d_x.store(i, x.load(i, block) * d_y.load(i, block) * alpha.to(x.dtype) * 2.0)


@tc.kernel
def row_softmax(x: tc.Array, y: tc.Array, top: tc.Array):
    """y = softmax(x), row by row; top: the largest of each."""
    n, row = tc.static(x.shape[1]), tc.blocks(x.shape[0])
    z = x.load((row, 0), (1, n))
    e = tc.exp(z - z.max())
    y.store((row, 0), e / e.sum())
    top.store(row, z.max())


@tc.kernel
def row_softmax_gradient(y: tc.Array, d_y: tc.Array, d_x: tc.Array):
    n, row = tc.static(y.shape[1]), tc.blocks(y.shape[0])
    p, d = y.load((row, 0), (1, n)), d_y.load((row, 0), (1, n))
    d_x.store((row, 0), p * (d - (p * d).sum()))


@tc.kernel
def weighted(x: tc.Array, w: tc.Array | None, y: tc.Array, *, block=64):
    i = tc.blocks(tc.cdiv(x.shape[0], block)) * block
    t = x.load(i, block)
    y.store(i, t if w is None else t * w.load(i, block))


square = tt.op(
    scaled_square, like={"y": "x"}, gradient=scaled_square_gradient, name="tilec_tests::square", block=32
)
softmax = tt.op(
    row_softmax,
    like={"y": "x", "top": lambda x: (x.shape[:1], x.dtype)},
    gradient=row_softmax_gradient,
    name="tilec_tests::softmax",
)


def normal(*shape: int, dtype: Any = None) -> Any:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return made.to(dtype or torch.float64).requires_grad_()


def test_kernels_called_with_tensors() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = normal(100).detach().to(dtype)
        y = torch.empty_like(x)
        scaled_square(x, y, 2.0)
        torch.testing.assert_close(y, 2 * x * x, rtol=2e-2, atol=2e-2)
        scaled_square(x[::2], y[1::2], 3.0)
        torch.testing.assert_close(y[1::2], 3 * x[::2] * x[::2], rtol=2e-2, atol=2e-2)
    with pytest.raises(
        tc.TilecError, match=r"x requires a gradient, .* make the kernel one with tilec\.torch\.op"
    ):
        scaled_square(normal(4), torch.empty(4, dtype=torch.float64), 1.0)


def test_gradients() -> None:
    assert torch.autograd.gradcheck(lambda x: square(x, 3.0), normal(5))
    assert torch.autograd.gradcheck(lambda x: softmax(x)[0], normal(3, 4))
    y, top = softmax(normal(3, 4))
    torch.testing.assert_close(y, normal(3, 4).softmax(1))
    torch.testing.assert_close(top, normal(3, 4).max(1).values)


def test_what_torch_checks() -> None:
    torch.library.opcheck(torch.ops.tilec_tests.square.default, (normal(40, dtype=torch.float32), 2.0))
    torch.library.opcheck(torch.ops.tilec_tests.softmax.default, (normal(3, 5),))


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_compiled() -> None:
    x = normal(40)
    compiled = torch.compile(lambda x: square(x, 2.0).sum(), fullgraph=True, backend="aot_eager")
    compiled(x).backward()
    torch.testing.assert_close(x.grad, 4 * x)


def test_without_a_gradient_and_with_an_optional_array() -> None:
    run = tt.op(weighted, like={"y": "x"})
    x = normal(70).detach()
    torch.testing.assert_close(run(x, None), x)
    torch.testing.assert_close(run(x, x), x * x)


def test_what_is_refused() -> None:
    for call, message in (
        (
            lambda: tt.op(scaled_square, like={}),
            r"like= names the outputs among .* \(x, y, alpha\), found none",
        ),
        (lambda: tt.op(scaled_square, like={"z": "x"}), "found z"),
        (
            lambda: tt.op(scaled_square, like={"y": "z"})(normal(3).detach(), 1.0),
            "y is like z, expected a tensor",
        ),
        (
            lambda: tt.op(scaled_square, like={"y": "x"}, gradient=row_softmax),
            "row_softmax takes x, y, top: a gradient takes x, alpha, y, d_y, and writes some of d_x",
        ),
    ):
        with pytest.raises(tc.TilecError, match=message):
            call()
