"""The demo: a small network that reads handwritten digits, with its weights in every width from 8 bits to 1.

    python -m tilec demo
trains on scikit-learn's digits (numpy, under a second), quantises each layer with `ops.quantize`, runs it
with `ops.linear`, prints accuracy and time per width, and shows the 4-bit kernel's PTX for sm_90a.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilec.ir.errors import TilecError
from tilec.ops.linear import linear
from tilec.ops.quantize import quantize
from tilec.ops.weight import QuantizedWeight

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

SIZES = (64, 256, 128, 10)
GROUP = 32
TRAINING_IMAGES = 1200
CHECKED_BITS = 4  # from here up, quantising may cost at most MARGIN points
MARGIN = 1.0
TYPES = (
    ("u8", "f8e4m3"), ("u7", "f7e3m3"), ("u6", "f6e2m3"), ("u5", "f5e2m2"),
    ("u4", "f4e2m1"), ("u3", "f3e1m1"), ("u2", None), ("u1", None),
)  # fmt: skip


@dataclass(frozen=True)
class Network:
    """Linear layers with relu between them: `weights` [N, K] each, dense or quantised."""

    weights: tuple[Floats | QuantizedWeight, ...]
    biases: tuple[Floats, ...]

    def __call__(self, images: Floats) -> Floats:
        """Scores [M, 10] of images [M, 64]."""
        last = len(self.weights) - 1
        x: Any = images
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = linear(x, weight, bias, activation="relu" if i < last else None)
        return np.asarray(x)

    def quantised(self, dtype: str) -> "Network":
        weights = tuple(quantize(np.asarray(w), dtype, group_size=GROUP) for w in self._dense)
        return Network(weights, self.biases)

    @property
    def _dense(self) -> tuple[Floats, ...]:
        return tuple(w.dequantize() if isinstance(w, QuantizedWeight) else w for w in self.weights)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(w.nbytes for w in self.weights)


@dataclass(frozen=True)
class Row:
    """One line's half: how a network of some type did."""

    dtype: str
    nbytes: int
    accuracy: float
    milliseconds: float

    def __str__(self) -> str:
        return f"{self.dtype:<7}{self.nbytes / 1024:8.1f} KB{self.accuracy:8.1f} %{self.milliseconds:9.2f} ms"


# The data and the training.


def digits() -> tuple[Floats, Labels, Floats, Labels]:
    """Images [M, 64] in 0..1 and labels, shuffled once: for training, then for testing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise TilecError("the demo's data comes with scikit-learn: pip install 'tilec[demo]'") from e
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x, y, n = (images[order] / 16).astype(np.float32), labels[order].astype(np.int64), TRAINING_IMAGES
    return x[:n], y[:n], x[n:], y[n:]


def train(x: Floats, labels: Labels, epochs: int = 30, batch: int = 64, seed: int = 1) -> Network:
    """A network trained with Adam (Kingma and Ba, 2015) on the cross entropy."""
    rng = np.random.default_rng(seed)
    shapes = list(zip(SIZES[1:], SIZES[:-1], strict=True))
    weights = [(rng.standard_normal(s) * np.sqrt(2 / s[1])).astype(np.float32) for s in shapes]
    biases = [np.zeros(n, np.float32) for n in SIZES[1:]]
    adam = Adam([*weights, *biases])
    with import_module("threadpoolctl").threadpool_limits(1):  # products so small: threads would only wait
        for _ in range(epochs):
            order = rng.permutation(len(x))
            for part in np.array_split(order, max(1, len(x) // batch)):
                adam.step(gradients(weights, biases, x[part], labels[part]))
    return Network(tuple(weights), tuple(biases))


def gradients(weights: Sequence[Floats], biases: Sequence[Floats], x: Floats, labels: Labels) -> list[Floats]:
    """Of the mean cross entropy, by every weight, then every bias."""
    inputs = [x]
    for weight, bias in zip(weights, biases, strict=True):
        inputs.append(np.maximum(inputs[-1] @ weight.T + bias, 0))
    scores = inputs[-2] @ weights[-1].T + biases[-1]
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    error = odds / odds.sum(axis=1, keepdims=True)
    error[np.arange(len(x)), labels] -= 1
    error /= len(x)
    by_weight, by_bias = [], []
    for weight, seen in zip(reversed(weights), reversed(inputs[:-1]), strict=True):
        by_weight.append(error.T @ seen)
        by_bias.append(error.sum(axis=0))
        error = (error @ weight) * (seen > 0)
    return by_weight[::-1] + by_bias[::-1]


class Adam:
    """Parameters, changed in place, with running means of their gradients and of the gradients' squares."""

    def __init__(self, parameters: list[Floats], rate: float = 2e-3) -> None:
        self.parameters, self.rate, self.steps = parameters, rate, 0
        self.means = [np.zeros_like(p) for p in parameters]
        self.squares = [np.zeros_like(p) for p in parameters]

    def step(self, gradients: list[Floats]) -> None:
        self.steps += 1
        rate = self.rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for p, mean, square, g in zip(self.parameters, self.means, self.squares, gradients, strict=True):
            mean += 0.1 * (g - mean)
            square += 0.001 * (g * g - square)
            p -= (rate * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)


# What it prints.


def measure(name: str, network: Network, images: Floats, labels: Labels) -> Row:
    """The accuracy, and the best time of three runs after one that compiles."""
    accuracy = 100 * float((network(images).argmax(axis=1) == labels).mean())
    times = []
    for _ in range(3):
        start = time.perf_counter()
        network(images)
        times.append(time.perf_counter() - start)
    return Row(name, network.nbytes, accuracy, 1e3 * min(times))


def table(network: Network, images: Floats, labels: Labels) -> Iterator[tuple[Row, ...]]:
    """The dense network, then each width: one or two rows of it."""
    yield (measure("f32", network, images, labels),)
    for names in TYPES:
        yield tuple(measure(n, network.quantised(n), images, labels) for n in names if n)


def check(rows: Sequence[Row], dense: Row) -> None:
    """Raises TilecError where a type of CHECKED_BITS or more loses more than MARGIN points."""
    for row in rows:
        if int(row.dtype[1]) >= CHECKED_BITS and row.accuracy < dense.accuracy - MARGIN:
            raise TilecError(
                f"{row.dtype} reads {row.accuracy:.1f} % of the digits, and f32 {dense.accuracy:.1f} %: "
                f"expected at most {MARGIN} points less"
            )


def show_ptx(lines: int = 24) -> Path:
    """Prints the start of the 4-bit kernel's PTX, and writes all of it to a file."""
    compiled = linear.compile(m=16, n=4096, k=4096, x="f16", weight="u4", group_size=128, target="sm_90a")
    folder = Path(tempfile.gettempdir()) / "tilec-demo"
    folder.mkdir(exist_ok=True)
    path = folder / "linear_u4_sm_90a.ptx"
    path.write_text(compiled.ptx)
    text = compiled.ptx[compiled.ptx.index(".version") :].splitlines()
    print(f"\nThe 4-bit kernel (m=16, n=k=4096, f16) for sm_90a, {len(text)} lines of PTX in {path}:\n")
    print("\n".join("    " + line for line in text[:lines]) + "\n    ...")
    return path


def main() -> None:
    """Trains, quantises, runs, prints. Raises TilecError where 8 to 4 bits are not within a point of f32."""
    x, labels, images, expected = digits()
    start = time.perf_counter()
    network = train(x, labels)
    seconds = time.perf_counter() - start
    layers = " -> ".join(map(str, SIZES))
    print(f"A network {layers}, trained in numpy on {len(x)} handwritten digits in {seconds:.1f} s.")
    print(f"It reads {len(images)} digits that it has not seen, with its weights in f32 and quantised")
    print(f"(groups of {GROUP}, f16 scales), one kernel text for every type, compiled for this CPU:\n")
    header = "type    weights  accuracy  all digits"
    print(header.ljust(46) + header)
    rows: list[Row] = []
    for found in table(network, images, expected):
        print("    ".join(str(row).ljust(42) for row in found).rstrip(), flush=True)
        rows += found
    check(rows[1:], rows[0])
    print(f"\nChecked: 8 to {CHECKED_BITS} bits are within {MARGIN:g} point of f32.")
    show_ptx()
