"""`tilec bench linear`: layers with quantised weights on one core of this CPU, beside onnxruntime and numpy.

for line in table(runs=20): print(line)
N = K = 4096, groups of 128, x in f32. What is compared takes turns; of each the least and the median time of
all threads together, which other programs disturb less than the clock. Classes of accuracy are apart:
products of f32 beside onnxruntime's accuracy_level=0, activations rounded to bytes beside its
accuracy_level=4. Other widths take turns with u4 one by one: weights of all would not stay in the last cache.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from tilec.ops.beside import PAUSE
from tilec.ops.linear import linear
from tilec.ops.matmul import matmul
from tilec.ops.quantize import quantize
from tilec.ops.weight import QuantizedWeight

Array = np.ndarray[Any, Any]
Call = Callable[[], Any]
GROUP = 128
WIDTHS = ("u1", "u2", "u3", "u5", "u6", "u7")


class Problem(NamedTuple):
    """x [m, size] by a weight [size, size]."""

    m: int
    size: int = 4096


def table(runs: int) -> Iterator[str]:
    """A block of lines for each number of rows: milliseconds, ratio to what it is compared with."""
    with one_core():
        for m in (1, 16, 128):
            yield from compare(Problem(m), 4 * runs)
        yield from square(1024, 4 * runs)


@contextmanager
def one_core() -> Iterator[None]:
    """Everything on one core, where the system can say so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def compare(problem: Problem, runs: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((problem.m, problem.size), np.float32)
    weights = {dtype: weight(dtype, problem.size) for dtype in ("u4", *WIDTHS)}
    yield f"M={problem.m}, N=K={problem.size}, groups of {GROUP}".ljust(36) + "   least  median   ratio"
    for activations, level in ((None, 0), ("int8", 4)):
        peer = {
            f"onnxruntime, accuracy_level={level}": call for call in _onnxruntime(weights["u4"], x, level)
        }
        ours = {"tilec u4": _ours(x, weights["u4"], activations)}
        yield from lines(f"{activations or 'f32'} activations", {**ours, **peer}, runs)
        yield f"  {activations or 'f32'} activations, each width in turn with u4"
        for name in WIDTHS:
            both = {**ours, f"tilec {name}": _ours(x, weights[name], activations)}
            yield list(rows(both, runs))[-1]
    dense = weights["u4"].dequantize()
    calls: dict[str, Call] = {"tilec": lambda: linear(x, dense), "numpy": lambda: x @ dense.T}
    yield from lines("dense f32", calls, runs, PAUSE)


def square(size: int, runs: int) -> Iterator[str]:
    """Products of dense matrices."""
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    yield f"M=N=K={size}".ljust(36) + "   least  median   ratio"
    calls: dict[str, Call] = {"tilec": lambda: matmul(a, b), "numpy": lambda: a @ b}
    yield from lines("dense f32", calls, runs, PAUSE)


def weight(dtype: str, size: int) -> QuantizedWeight:
    """A few rows quantised, again and again: their numbers do not matter."""
    few = quantize(np.random.default_rng(1).standard_normal((64, size), np.float32), dtype, group_size=GROUP)
    again = size // 64
    codes, scales = (np.tile(part, (again, 1)) for part in (few.codes, few.scales))
    return QuantizedWeight(codes, scales, None, few.dtype, few.scale_dtype, few.group_size)


def _ours(x: Array, held: QuantizedWeight, activations: str | None) -> Call:
    return lambda: linear(x, held, activations=activations)


def lines(title: str, calls: dict[str, Call], runs: int, pause: float = 0) -> Iterator[str]:
    yield f"  {title}" + ("" if len(calls) > 1 else ": no peer in this run")
    yield from rows(calls, runs, pause)


def rows(calls: dict[str, Call], runs: int, pause: float = 0) -> Iterator[str]:
    """Each call's times, and their ratio to the first's; with `pause` seconds between calls."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(runs + 1):
        for name, call in calls.items():
            time.sleep(pause)
            start = time.process_time()
            call()
            if round_:
                times[name].append(1e3 * (time.process_time() - start))
    first = min(next(iter(times.values())))
    for name, found in times.items():
        yield f"    {name:<32}{min(found):8.3f}{median(found):8.3f}{min(found) / first:8.2f}"


def _onnxruntime(held: QuantizedWeight, x: Array, level: int) -> Iterator[Call]:
    """Its MatMulNBits, if it is installed, with the same weights."""
    if not (find_spec("onnxruntime") and find_spec("onnx")):
        return
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(_model(held, level), options, providers=["CPUExecutionProvider"])
    yield lambda: session.run(None, {"x": x})


def _model(held: QuantizedWeight, level: int) -> bytes:
    onnx = import_module("onnx")
    helper, kinds, (n, k) = onnx.helper, onnx.TensorProto, held.shape
    pairs = held.codes.reshape(n, k // GROUP, GROUP // 2, 2)
    packed = (pairs[..., 0] | pairs[..., 1] << 4).astype(np.uint8)
    given = [
        helper.make_tensor("b", kinds.UINT8, packed.shape, packed.tobytes(), raw=True),
        helper.make_tensor("s", kinds.FLOAT, held.scales.shape, np.float32(held.scales).tobytes(), raw=True),
    ]
    shape = {"K": k, "N": n, "bits": 4, "block_size": GROUP, "accuracy_level": level}
    node = helper.make_node("MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", **shape)
    ends = (helper.make_tensor_value_info(*end) for end in (("x", 1, ["m", k]), ("y", 1, ["m", n])))
    x, y = ([end] for end in ends)
    graph = helper.make_graph([node], "layer", x, y, given)
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model: bytes = helper.make_model(graph, opset_imports=sets, ir_version=10).SerializeToString()
    return model
