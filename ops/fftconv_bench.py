"""`tilec bench fftconv`: long causal convolutions on this CPU, beside torch and scipy where they are.

for line in table(runs=5): print(line)
All take turns in one run (tilec.ops.beside), f32, with the kernel's spectrum made before ("spectrum kept")
and in every call.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from tilec.ops.beside import Call, compared
from tilec.ops.fft_conv import fft_conv, fft_conv_spectrum

KEPT = "tilec, spectrum kept"


class Problem(NamedTuple):
    """u [batch, channels, length], k [channels, length]."""

    batch: int
    channels: int
    length: int

    @property
    def name(self) -> str:
        return f"B={self.batch}, H={self.channels}, L={self.length}, causal"


PROBLEMS = tuple(Problem(4, 64, length) for length in (1 << 10, 1 << 13, 1 << 16))


def table(runs: int) -> Iterator[str]:
    """For each problem a block of lines: milliseconds, ratio to ours."""
    for problem in PROBLEMS:
        yield from compare(problem, runs)


def compare(problem: Problem, runs: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    u = rng.standard_normal((problem.batch, problem.channels, problem.length), np.float32)
    k = rng.standard_normal((problem.channels, problem.length), np.float32)
    spectrum = fft_conv_spectrum(k, problem.length)
    calls: dict[str, Call] = {KEPT: lambda: fft_conv(u, spectrum), "tilec": lambda: fft_conv(u, k)}
    yield from compared(problem.name, calls, _peers(u, k), runs, "torch, scipy")


def _peers(u: Any, k: Any) -> Iterator[tuple[str, Call]]:
    length = u.shape[-1]
    if find_spec("torch") is not None:
        torch: Any = import_module("torch")
        x, taps = torch.from_numpy(u), torch.from_numpy(k)
        name, kept = f"torch {torch.__version__}", torch.fft.rfft(taps, 2 * length)

        def convolved(spectrum: Any) -> Any:
            return torch.fft.irfft(torch.fft.rfft(x, 2 * length) * spectrum, 2 * length)[..., :length]

        yield f"{name}, spectrum kept", lambda: convolved(kept)
        yield name, lambda: convolved(torch.fft.rfft(taps, 2 * length))
    if find_spec("scipy") is not None:
        fft: Any = import_module("scipy.fft")
        spectrum = fft.rfft(k, 2 * length)

        def theirs() -> Any:
            made = fft.rfft(u, 2 * length, workers=-1) * spectrum
            return fft.irfft(made, 2 * length, workers=-1)[..., :length]

        yield f"scipy {import_module('scipy').__version__}, spectrum kept", theirs
