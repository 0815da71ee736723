"""Activations rounded to bytes, row by row, while a layer runs: what `linear(..., activations="int8")` means.

    q, scale = rounded(x)       # x [M, K]: q i8 [M, K], scale f32 [M];  x is near q * scale[:, None]
A row's scale is its largest magnitude / 127, and every number goes to the nearest multiple of it (ties to
even ones): off by max|x| / 254 at most. A row with a NaN or an infinity gives nothing finite.
"""

from typing import Any

import tilec as tc
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ops.arrays import NOTHING, Array, empty
from tilec.ops.callers import there

CLASSES = (None, "int8")
LEAST = 2.0**-126  # of scales: dividing by smaller ones overflows
WHOLE = 1.5 * 2.0**23  # floats of this size are integers: adding it rounds


@tc.kernel
def round_rows(
    x: tc.Array, given: tc.Array, q: tc.Array, scale: tc.Array, *, scaled: bool = False, bk: int = 1024
) -> None:
    """q = x / step to the nearest integers, scale = step (* given): one row per block."""
    i = tc.blocks(x.shape[0])
    steps, top = tc.cdiv(x.shape[1], bk), tc.zeros((1,), tc.f32)
    for s in tc.range(steps):
        top = tc.maximum(top, tc.abs(x.load((i, s * bk), (1, bk), other=0).to(tc.f32)).max(1))
    step = tc.maximum(top / 127.0, LEAST)
    for s in tc.range(steps):
        part = x.load((i, s * bk), (1, bk)).to(tc.f32) / step[:, None]
        q.store((i, s * bk), ((part + WHOLE) - WHOLE).to(tc.i8))
    scale.store(i, step * given.load(i, 1).to(tc.f32) if scaled else step)


def check_class(name: str | None) -> None:
    """Raises TilecError for a name that is no class of activations."""
    if name not in CLASSES:
        raise TilecError(f"expected activations=None (as they come) or 'int8', found {name!r}")


def check_bytes(weight: DType) -> None:
    """Raises TilecError for weights that are no integers."""
    if not weight.is_integer:
        raise TilecError(
            f"activations='int8' takes weights quantised to integers, found {weight}: leave activations out"
        )


def rounded(x: Array, x_scale: Any = NOTHING) -> tuple[Array, Array]:
    """x [M, K] as bytes, and the scale of each row [M]; `x_scale` [M]: what x already stands times."""
    q, scale = empty(x.shape, dt.i8), empty(x.shape[:1], dt.f32)
    round_rows(x, there(x_scale), q, scale, scaled=x_scale is not NOTHING)
    return q, scale
