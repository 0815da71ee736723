"""Arrays and options that the tests of attention share."""

from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tilec.ops.attention_windows import Axis, window_of

BOUNDS = {np.float64: 1e-12, np.float32: 1e-5, np.float16: 1.5e-3, ml_dtypes.bfloat16: 1e-2}


def normal(*shape: int, dtype=np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def tensors(extents, batch=2, heads=2, kv_heads=None, dim=8, value_dim=None, dtype=np.float32):
    """query, key, value."""
    q = normal(batch, *extents, heads, dim, dtype=dtype)
    k = normal(batch, *extents, kv_heads or heads, dim, dtype=dtype, seed=1)
    return q, k, normal(batch, *extents, kv_heads or heads, value_dim or dim, dtype=dtype, seed=2)


def mixture(seed: int) -> tuple[tuple[np.ndarray, ...], dict[str, Any]]:
    """Arrays and options drawn at random."""
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 4))
    extents = tuple(int(n) for n in rng.integers(1, (0, 40, 12, 7)[rank] + 1, rank))
    sizes = tuple(int(rng.integers(1, n + 1)) for n in extents)
    shared, heads = (int(n) for n in rng.integers(1, 3, 2))
    dims = (int(8 * rng.integers(1, 6)) for _ in range(2))
    q, k, v = tensors(extents, int(rng.integers(1, 3)), shared * heads, heads, *dims)
    options = {
        "kernel_size": sizes,
        "stride": tuple(int(rng.integers(1, w + 1)) for w in sizes),
        "dilation": tuple(int(rng.integers(1, n // w + 1)) for n, w in zip(extents, sizes, strict=True)),
        "is_causal": tuple(bool(c) for c in rng.integers(0, 2, rank)),
        "border": str(rng.choice(["shift", "shift", "zero"])),
    }
    if rng.integers(0, 3) == 0:
        count = int(rng.integers(1, 20))
        options["additional_keys"] = normal(q.shape[0], count, heads, q.shape[-1])
        options["additional_values"] = normal(q.shape[0], count, heads, v.shape[-1], seed=1)
    if rng.integers(0, 3) == 0:
        options["bias"] = normal(q.shape[-2], *(2 * w - 1 for w in sizes))
    return (q, k, v), options


def mask_of(extents: tuple[int, ...], axes: tuple[Axis, ...]) -> np.ndarray:
    """Which token sees which, from the function that kernels compute windows with."""
    mask = np.ones((1, 1), bool)
    for n, axis in zip(extents, axes, strict=True):
        own = np.zeros((n, n), bool)
        for i in range(n):
            group = i % axis.dilation
            first, end = window_of(i // axis.dilation, len(range(group, n, axis.dilation)), axis)
            own[i, np.arange(first, end) * axis.dilation + group] = True
        mask = np.kron(mask, own)
    return mask


class Recorded(NamedTuple):
    """A mask of NATTEN's: extents, what queries see along each, and the hash of its bits."""

    extents: tuple[int, ...]
    axes: tuple[Axis, ...]
    hash: str


def recorded_masks() -> list[Recorded]:
    """natten_masks.txt: extents, kernel sizes, strides, dilations and is_causal, and the hash of the mask."""
    lines = Path(__file__).with_name("natten_masks.txt").read_text().splitlines()
    return [_recorded(*line.split()) for line in lines]


def _recorded(*columns: str) -> Recorded:
    extents, *settings = (tuple(map(int, column.split(","))) for column in columns[:-1])
    axes = (Axis(w, s, d, bool(c)) for w, s, d, c in zip(*settings, strict=True))
    return Recorded(extents, tuple(axes), columns[-1])


def hash_of(mask: np.ndarray) -> str:
    return sha256(np.packbits(mask).tobytes()).hexdigest()[:12]
