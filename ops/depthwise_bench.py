"""`tilec bench depthwise`: depthwise convolution on this CPU, beside torch (oneDNN) where it is.

for line in table(runs=5): print(line)
All take turns in one run (tilec.ops.beside), f32, in both orders of axes: results, and gradients of the
weight.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from tilec.ops.beside import Call, compared
from tilec.ops.depthwise import depthwise_conv
from tilec.ops.depthwise_backward import weight_gradient
from tilec.ops.depthwise_call import depthwise_call

Arrays = tuple[np.ndarray[Any, Any], ...]
SLOW = 31  # rows of a kernel from which torch takes seconds for few calls


class Problem(NamedTuple):
    """x [N, C, H, W], kernels of size x size, padding that keeps the extents."""

    shape: tuple[int, int, int, int]
    size: int
    layout: str
    gradient: bool = False

    @property
    def name(self) -> str:
        what = "d_weight" if self.gradient else "forward"
        return f"{self.shape}, {self.size}x{self.size} {self.layout} {what}"


SHAPES = (((1, 64, 56, 56), 7), ((1, 64, 56, 56), 31), ((1, 384, 14, 14), 13))
PROBLEMS = tuple(
    Problem(shape, size, layout, gradient)
    for gradient in (False, True)
    for shape, size in SHAPES
    for layout in ("NCHW", "NHWC")
)


def table(runs: int) -> Iterator[str]:
    """For each problem a block of lines: milliseconds, ratio to ours."""
    for problem in PROBLEMS:
        yield from compare(problem, runs)


def compare(problem: Problem, runs: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    c, pad = problem.shape[1], problem.size // 2
    x, d_out = (rng.standard_normal(problem.shape, np.float32) for _ in range(2))
    w = rng.standard_normal((c, 1, problem.size, problem.size), np.float32)
    if problem.layout == "NHWC":  # the same axes, the channels next to each other
        x, d_out = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in (x, d_out))
    calls: dict[str, Call] = {"tilec": ours(problem, (x, w, d_out), pad)}
    peers = _peers(problem, (x, w, d_out), pad)
    yield from compared(problem.name, calls, peers, 1 if problem.size >= SLOW else runs, "torch")


def ours(problem: Problem, arrays: Arrays, pad: int) -> Call:
    x, w, d_out = arrays
    if not problem.gradient:
        return lambda: depthwise_conv(x, w, padding=pad)
    if problem.layout == "NHWC":
        x, d_out = (a.transpose(0, 2, 3, 1) for a in (x, d_out))
    return lambda: weight_gradient(depthwise_call(x, w, 1, pad, 1, problem.layout), d_out)[0]


def _peers(problem: Problem, arrays: Arrays, pad: int) -> Iterator[tuple[str, Call]]:
    if find_spec("torch") is None:
        return
    torch: Any = import_module("torch")
    x, w, d_out = (torch.from_numpy(a) for a in arrays)
    c, name = x.shape[1], f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    if not problem.gradient:
        yield name, lambda: torch.nn.functional.conv2d(x, w, padding=pad, groups=c)
        return
    back = torch.ops.aten.convolution_backward
    one, zero = [1, 1], [0, 0]
    options = (None, one, [pad, pad], one, False, zero, c, [False, True, False])
    yield name, lambda: back(d_out, x, w, *options)[1]
