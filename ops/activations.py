"""Activations of 8 bits: rows rounded to bytes or to f8e4m3, each with a scale of its own.

    q, scale = quantize_activation(x)      # x [.., K]: q i8 [.., K], scale f32 [.., 1];  x is near q * scale
A row's scale is its largest magnitude over the largest number of the dtype (127, 448), and every number goes
to the nearest there is (ties to even). Bytes are off by max|x| / 254 at most; f8e4m3 by 1/16 of the number,
or by max|x| / 2^18 where that is more.
"""

from typing import Any

import tilec as tc
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.arrays import NOTHING, Array, array, empty, flat, result, written_flat
from tilec.ops.callers import there
from tilec.ops.op import op
from tilec.ops.tiling import Extent

CLASSES: dict[str | None, DType | None] = {None: None, "int8": dt.i8, "f8e4m3": dt.f8e4m3}
LEAST = 2.0**-126  # of scales: dividing by smaller ones overflows
WHOLE = 1.5 * 2.0**23  # floats of this size are integers: adding it rounds


@tc.kernel
def round_rows(
    x: tc.Array, given: tc.Array, q: tc.Array, scale: tc.Array, *, scaled: bool = False, bk: int = 1024
) -> None:
    """q = x / step to the nearest of q's numbers, scale = step (* given): one row per block."""
    i = tc.blocks(x.shape[0])
    steps, top = tc.cdiv(x.shape[1], bk), tc.zeros((1,), tc.f32)
    for s in tc.range(steps):
        top = tc.maximum(top, tc.abs(x.load((i, s * bk), (1, bk), other=0).to(tc.f32)).max(1))
    step = tc.maximum(top / float(q.dtype.max), LEAST)
    inverse = 1.0 / step
    for s in tc.range(steps):
        part = x.load((i, s * bk), (1, bk)).to(tc.f32) * inverse[:, None]
        q.store((i, s * bk), ((part + WHOLE) - WHOLE if q.dtype.is_integer else part).to(q.dtype))
    scale.store(i, step * given.load(i, 1).to(tc.f32) if scaled else step)


def rounded(x: Array, dtype: DType, x_scale: Any = NOTHING) -> tuple[Array, Array]:
    """x [M, K] in a dtype of 8 bits, and the scale of each row [M]; `x_scale` [M]: what x already stands
    times.
    """
    q, scale = empty(x.shape, dtype), empty(x.shape[:1], dt.f32)
    round_rows(x, there(x_scale), q, scale, scaled=x_scale is not NOTHING)
    return q, scale


def compile_rounding(
    *, m: Extent, k: Extent, x: Any = "f16", dtype: Any = "i8", target: str = "sm_90a"
) -> tc.Compiled:
    """The kernel for x [m, k]; extents are numbers, or names or tc.dim that the launch knows."""
    nothing, scale, into = tc.Spec("f32", (1,)), tc.Spec("f32", (m,)), eight_bits(dtype)
    return round_rows.compile(tc.Spec(x, (m, k)), nothing, tc.Spec(into, (m, k)), scale, target=target)


@op(compile_rounding)
def quantize_activation(x: Any, dtype: Any = "i8", *, out: Any = None) -> tuple[Array, Array]:
    """(q, scale) with x near q * scale: q [..., K] of `dtype` (i8 or f8e4m3), scale f32 [..., 1].

    `x` is f16, bf16 or f32 [..., K]; `ops.linear(q, weight, x_scale=scale)` takes the pair. A row's scale is
    max|x| / 127 or / 448 (2^-126 at least: a row of zeros has zeros); numbers go to the nearest, ties to the
    even one. A row with an infinity has that as its scale, one with a NaN a NaN: nothing of it is finite
    again. One kernel, which reads x twice. `out` = (q, scale) is written in place. Raises TilecError for
    other dtypes, and for an `out` that does not fit.
    """
    into = eight_bits(dtype)
    held = array(x, "x", rank=1)
    kind = find_dtype(held.dtype)
    if kind.name not in ("f16", "bf16", "f32"):
        raise TilecError(f"x is {kind}, expected f16, bf16 or f32: x.astype(np.float32)")
    to_q, to_scale = pair(out)
    q, scale = result(to_q, held.shape, into), result(to_scale, (*held.shape[:-1], 1), dt.f32)
    with written_flat(q, 2) as rows, written_flat(scale, 2) as steps:
        round_rows(flat(held, 2), there(NOTHING), rows, steps[:, 0])
    return q, scale


def eight_bits(dtype: Any) -> DType:
    """i8 or f8e4m3; TilecError for others."""
    found = find_dtype(dtype)
    if found not in CLASSES.values():
        raise TilecError(f"activations are rounded to i8 or f8e4m3, not to {found}")
    return found


def pair(out: Any) -> tuple[Any, Any]:
    """What `out` names, q and scale; TilecError unless it is two things."""
    if out is None:
        return None, None
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise TilecError(f"out is a pair (q [..., K], scale [..., 1]), found {type(out).__name__}")
    return out[0], out[1]


# Classes of accuracy of a linear layer.


def check_class(name: str | None) -> None:
    """Raises TilecError for a name that is no class of activations."""
    if name not in tuple(CLASSES):  # which takes what has no hash
        raise TilecError(f"expected activations=None (as they come), 'int8' or 'f8e4m3', found {name!r}")


def check_bytes(weight: DType) -> None:
    """Raises TilecError for weights that are no integers."""
    if not weight.is_integer:
        raise TilecError(
            f"activations='int8' takes weights quantised to integers, found {weight}: leave activations out, "
            "or say activations='f8e4m3'"
        )
