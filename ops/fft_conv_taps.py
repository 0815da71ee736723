"""Kernels of long convolutions made tame: smoothed, squashed, or heard in low frequencies only.

    k = tame_kernel(k, squash=0.003, smooth=7)     # sign(s) * max(|s| - 0.003, 0) of 7-tap averages s of k
    dk = tame_kernel_backward(dk, k, squash=0.003, smooth=7)
As Safari's LongConv has it (Fu et al., 2023): averages have zeros beyond both ends, and so see fewer taps
there.
"""

from typing import Any

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.arrays import Array, empty_like, sums_in, told
from tilec.ops.fft_conv_call import floats
from tilec.ops.op import op

BLOCK = 512


def averaged(x: tc.Array, row: Any, at: Any, smooth: int, count: int, kind: DType) -> Any:
    """Averages of `smooth` neighbours, [1, count]."""
    total = tc.zeros((1, count), kind)
    for i in tc.static_range(smooth):
        total = total + x.load((row, at + i - smooth // 2), (1, count)).to(kind)
    return total * (1 / smooth)


@tc.kernel
def tame_kernel_kernel(
    k: tc.Array, out: tc.Array, *, squash: float, smooth: int, accumulator: DType, block: int = BLOCK,
    warps: int = 4,
) -> None:  # fmt: skip
    """out = sign(s) * max(|s| - squash, 0), s the averages of k [H, taps]."""
    row, part = tc.blocks(k.shape[0], tc.cdiv(k.shape[1], block))
    s = averaged(k, row, part * block, smooth, block, accumulator)
    kept = tc.maximum(tc.abs(s) - squash, 0.0)
    out.store((row, part * block), tc.where(s < 0, -kept, kept).to(out.dtype))


@tc.kernel
def tame_kernel_backward_kernel(
    d_out: tc.Array, k: tc.Array, dk: tc.Array, *, squash: float, smooth: int, accumulator: DType,
    block: int = BLOCK, warps: int = 4,
) -> None:  # fmt: skip
    """dk: averages of what of d_out passed the squash."""
    row, part = tc.blocks(k.shape[0], tc.cdiv(k.shape[1], block))
    total = tc.zeros((1, block), accumulator)
    for i in tc.static_range(smooth):
        at = part * block + i - smooth // 2
        passes = tc.abs(averaged(k, row, at, smooth, block, accumulator)) > squash
        total = total + tc.where(passes, d_out.load((row, at), (1, block)).to(accumulator), 0.0)
    dk.store((row, part * block), (total * (1 / smooth)).to(dk.dtype))


def compile_tame_kernel(
    *,
    channels: int,
    taps: int,
    squash: float = 0.0,
    smooth: int = 1,
    dtype: Any = "f32",
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel for k [channels, taps]."""
    k = tc.Spec(dtype, (channels, taps))
    options = {"squash": squash, "smooth": smooth, "accumulator": sums_in(find_dtype(dtype))}
    return tame_kernel_kernel.compile(k, k, target=target, **options)


def compile_tame_kernel_backward(
    *,
    channels: int,
    taps: int,
    squash: float = 0.0,
    smooth: int = 1,
    dtype: Any = "f32",
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel of the gradient for k [channels, taps]."""
    k = tc.Spec(dtype, (channels, taps))
    options = {"squash": squash, "smooth": smooth, "accumulator": sums_in(find_dtype(dtype))}
    return tame_kernel_backward_kernel.compile(k, k, k, target=target, **options)


@op(compile_tame_kernel)
def tame_kernel(k: Any, *, squash: float = 0.0, smooth: int = 1) -> Array:
    """sign(s) * max(|s| - squash, 0) of averages s of `smooth` taps (an odd number) of k [H, taps].

    Raises TilecError for what does not fit.
    """
    held, options = _checked(k, squash, smooth)
    out = empty_like(held)
    if 0 not in out.shape:
        tame_kernel_kernel(held, out, **options)
    return out


@op(compile_tame_kernel_backward)
def tame_kernel_backward(d_out: Any, k: Any, *, squash: float = 0.0, smooth: int = 1) -> Array:
    """How sum(d_out * tame_kernel(k, ...)) changes with k. Raises TilecError for what does not fit."""
    held, options = _checked(k, squash, smooth)
    given = floats(d_out, "d_out")
    if given.shape != held.shape:
        raise TilecError(f"d_out is {told(given)}, expected the shape of k, {list(held.shape)}")
    dk = empty_like(held)
    if 0 not in dk.shape:
        tame_kernel_backward_kernel(given, held, dk, **options)
    return dk


def _checked(k: Any, squash: float, smooth: int) -> tuple[Array, dict[str, Any]]:
    held = floats(k, "k")
    if held.ndim != 2:
        raise TilecError(f"k is {told(held)}, expected [H, taps]")
    if not isinstance(smooth, int) or smooth < 1 or smooth % 2 == 0:
        raise TilecError(f"smooth is an odd number of taps, 1 or more: found {smooth!r}")
    if not isinstance(squash, int | float) or squash < 0:
        raise TilecError(f"squash is a number of 0 or more: found {squash!r}")
    sums = sums_in(find_dtype(held.dtype))
    return held, {"squash": float(squash), "smooth": smooth, "accumulator": sums}


@tc.kernel
def low_frequencies_kernel(
    spectrum: tc.Array, frequencies: tc.Array, *, keep: int, block: int = BLOCK, warps: int = 4
) -> None:
    """spectrum [2, H, n]: 0 but for the lowest frequencies, `keep` of them from 0 on and their mirror
    images."""
    row, part = tc.blocks(spectrum.shape[1], tc.cdiv(spectrum.shape[2], block))
    n = tc.static(spectrum.shape[2])
    places = frequencies.load(part * block, block).reshape(1, 1, block)
    low = tc.minimum(places, n - places) < keep
    for i in tc.static_range(2):
        at = (i, row, part * block)
        spectrum.store(at, tc.where(low, spectrum.load(at, (1, 1, block)), 0.0))
