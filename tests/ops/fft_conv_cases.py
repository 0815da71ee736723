"""Problems of fft_conv drawn at random: families that share kernels, so that hundreds of them take seconds.

Odd extents throughout, since kernels are made for what divides extents; test_fft_conv.py has the others.
"""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

F32, F64, F16, BF16 = np.float32, np.float64, np.float16, ml_dtypes.bfloat16
BOUNDS: dict[Any, float] = {F64: 1e-13, F32: 3e-7, F16: 1.5e-3, BF16: 1e-2}


class Family(NamedTuple):
    """Lengths of one period, one mode and dtype, and which of the optional arrays are there."""

    mode: str
    lengths: tuple[int, int]
    dtype: Any = F32
    skip: bool = False
    pregate: bool = False
    postgate: bool = False
    algorithm: str | None = None

    @property
    def name(self) -> str:
        there = [name for name in ("skip", "pregate", "postgate") if getattr(self, name)]
        words = [self.mode, f"{self.lengths[0]}-{self.lengths[1]}", np.dtype(self.dtype).name, *there]
        return " ".join([*words, *([self.algorithm] if self.algorithm else [])])


FORWARD = (
    Family("causal", (17, 31), skip=True, algorithm="one pass"),
    Family("causal", (13, 15), F16, pregate=True, postgate=True, algorithm="one pass"),
    Family("circular", (13, 15), BF16, skip=True, pregate=True, algorithm="one pass"),
    Family("bidirectional", (13, 15), F64, True, True, True, "one pass"),
    Family("bidirectional_safari", (13, 15), postgate=True, algorithm="one pass"),
    Family("causal", (3, 15), BF16, skip=True, postgate=True),
    Family("circular", (3, 15), F64, skip=True),
    Family("bidirectional_fftconv", (3, 63), F32, True, algorithm="direct"),
    Family("causal", (3, 127), F16, pregate=True, algorithm="direct"),
    Family("circular", (43, 63), F32, postgate=True, algorithm="three passes"),
)
BACKWARD = (
    Family("causal", (13, 15), F32, True, True, True),
    Family("circular", (13, 15), F64, pregate=True),
    Family("bidirectional_safari", (13, 15), F16, skip=True),
)


def odd(rng: np.random.Generator, low: int, high: int) -> int:
    """An odd number from low to high, both of which are odd."""
    return low + 2 * int(rng.integers(0, (high - low) // 2 + 1))


def some(family: Family, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """u, k and options."""
    rng = np.random.default_rng([seed, *family.name.encode()])
    length = odd(rng, *family.lengths)
    b, h, fewest = odd(rng, 3, 5), odd(rng, 3, 5), max(3, family.lengths[0] // 2 // 2 * 2 + 1)
    taps = odd(rng, min(fewest, length), length)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(family.dtype)

    u, options = normal(b, h, length), {"mode": family.mode}
    if family.mode.startswith("bidirectional"):
        options["k_reverse"] = normal(h, odd(rng, min(fewest, taps), taps))
    if family.skip:
        options["skip"] = normal(h)
    for name in ("pregate", "postgate"):
        if getattr(family, name):
            options[name] = normal(b, h, length)
    return u, normal(h, taps), options


def bound(dtype: Any, length: int) -> float:
    """The promise: relative error in the 2-norm."""
    limit = BOUNDS[np.dtype(dtype).type]
    return limit * (1 + float(np.log2(length))) if np.dtype(dtype) == F32 else limit
