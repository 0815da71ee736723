"""CUDA tensors, on a real GPU: `PYTHONPATH=. python3 -m pytest -m gpu`. Not yet run on hardware."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")

import tilec.torch as tt  # noqa: E402
from tests.gpu import test_on_a_gpu as gpu  # noqa: E402
from tests.ops.test_callers import moved  # noqa: E402
from tests.torch.test_operators import CASES, Net, alike, normal, off  # noqa: E402
from tilec import ops  # noqa: E402
from tilec.device import memory_of  # noqa: E402
from tilec.ops.callers import Exported  # noqa: E402

pytestmark = pytest.mark.gpu


class InTorch:
    """tilec.ops, its arrays CUDA tensors."""

    def __getattr__(self, name: str) -> Any:
        def there(x: Any) -> Any:
            return torch.from_dlpack(Exported(x)).cuda()

        def back(x: Any) -> Any:
            if isinstance(x, tuple):
                return tuple(map(back, x))
            assert x is None or x.is_cuda
            return None if x is None else memory_of(x.cpu(), "x")

        def call(*args: Any, **named: Any) -> Any:
            words = {word: moved(x, there) for word, x in named.items()}
            found = getattr(ops, name)(*moved(args, there), **words)
            return found if name in ("quantize", "fft_conv_spectrum") else back(found)

        return call


@pytest.mark.parametrize("name", gpu.CASES)
def test_operators(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = gpu.CASES[name]()
    monkeypatch.setattr(gpu, "ops", InTorch())
    with torch.cuda.stream(torch.cuda.Stream()):
        assert gpu.close(gpu.CASES[name](), wanted)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients(case: Any) -> None:
    """As on the CPU."""
    there = [x.detach().cuda().requires_grad_() if isinstance(x, torch.Tensor) else x for x in case.args]
    run = getattr(torch.ops.tilec, case.name)
    results = [run(*args) for args in (case.args, there)]
    pairs = [r if isinstance(r, tuple) else (r,) for r in results]
    for ours, theirs in zip(*pairs, strict=True):
        assert off(theirs.cpu(), ours) < 1e-6
    sums = [sum(x.square().sum() for x in pair) for pair in pairs]
    for args, total in zip((case.args, there), sums, strict=True):
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        args_grads = torch.autograd.grad(total, tensors)
        if args is case.args:
            wanted = args_grads
    for found, other in zip(args_grads, wanted, strict=True):
        assert off(found.cpu(), other) < 1e-6


def test_a_network() -> None:
    torch.manual_seed(0)
    net, x = Net().cuda(), normal(2, 8, 6, 6, grad=False).cuda()
    compiled = torch.compile(net, fullgraph=True)
    assert off(compiled(x), net(x)) < 1e-4
    alike(lambda x: compiled(x), lambda x: net(x), x.requires_grad_(), bound=1e-3)


def test_graphs() -> None:
    """A captured launch reads what its inputs hold when it is played."""
    x, y = (
        torch.zeros(16, 256, device="cuda", dtype=torch.float16),
        torch.empty(16, 128, device="cuda").half(),
    )
    layer = tt.QuantizedLinear.from_linear(torch.nn.Linear(256, 128), "u4").cuda()
    with torch.no_grad():
        for _ in range(2):  # compiles, and copies what does not change
            tt.linear(x, layer.held, layer.bias.half(), out=y)
        bias = layer.bias.half()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            tt.linear(x, layer.held, bias, out=y)
        x.copy_(torch.randn_like(x))
        graph.replay()
        assert off(y, layer(x)) < 1e-3 and bool(np.isfinite(y.float().cpu().numpy()).all())
