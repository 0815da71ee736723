"""What a call costs the host, of kernels and of operators: `tilec bench call`.

for line in table(runs=5): print(line)
Operators get arrays so small that there is next to nothing to compute.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

import tilec as tc
from tilec import bench_call, ops
from tilec.bench_call import microseconds, silent
from tilec.ops.callers import forget_there
from tilec.ops.linear_kernel import linear_kernel

Call = Callable[..., Any]
Arrays = tuple[np.ndarray[Any, Any], ...]


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape, np.float32).astype(np.float16)


def cases() -> dict[str, tuple[Call, Arrays]]:
    """Operators by their names, and arrays for them."""
    weight, x = ops.quantize(normal(64, 128), "u4", group_size=128), normal(1, 128)
    image, filters, tokens = normal(1, 4, 6, 6), normal(4, 1, 3, 3), normal(1, 4, 1, 16)
    return {
        "linear, u4": (lambda x: ops.linear(x, weight), (x,)),
        'linear, u4, activations="int8"': (lambda x: ops.linear(x, weight, activations="int8"), (x,)),
        "depthwise_conv": (lambda x, w: ops.depthwise_conv(x, w, padding=1), (image, filters)),
        "attention": (ops.attention, (tokens,) * 3),
    }


def table(runs: int) -> Iterator[str]:
    """Microseconds of calls that look like earlier ones."""
    *kernels, note = bench_call.table(runs)
    yield from kernels
    yield f"{'operators, until the CPU is done':<44}{'numpy':>10}{'torch':>10}"
    for name, (call, arrays) in cases().items():
        yield f"{name:<44}{_micro(call, arrays, runs):10.2f}{_in_torch(call, arrays, runs)}"
    yield f"{'linear, u4, out=, until a driver is called':<44}{_on_gpu(runs):10.2f}"
    yield note


def _micro(call: Call, arrays: Any, runs: int) -> float:
    for _ in range(2):  # the third is the first that decides nothing
        call(*arrays)
    return microseconds(lambda: call(*arrays), runs)


def _in_torch(call: Call, arrays: Arrays, runs: int) -> str:
    if find_spec("torch") is None:
        return f"{'-':>10}"
    import torch

    return f"{_micro(call, [torch.from_numpy(x) for x in arrays], runs):10.2f}"


def _on_gpu(runs: int) -> float:
    """Of a driver that does nothing."""
    weight = ops.quantize(normal(64, 128), "u4", group_size=128)
    with silent(linear_kernel):
        x, y = tc.to_device(normal(1, 128)), tc.to_device(normal(1, 64))
        found = _micro(lambda x, y: ops.linear(x, weight, out=y), (x, y), runs)
        forget_there()
    return found
