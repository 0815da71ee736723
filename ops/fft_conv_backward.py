"""Gradients of fft_conv, by the transforms that it is made of.

g = dy * postgate, x = u * pregate
dx[t] = sum over s of k[s] * g[t + s]           the convolution, made of what comes later
dk[s] = sum over b and t of g[t] * x[t - s]     products of spectra, summed over the batch before they go back
"""

from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.arrays import Array, empty_like, float_of, sums_in, told
from tilec.ops.fft_conv import spectrum_for
from tilec.ops.fft_conv_call import Call, FftSpectrum, Kernel, call_of, checked_taps, floats
from tilec.ops.fft_conv_choice import butterflies
from tilec.ops.fft_conv_kernel import lags_kernel
from tilec.ops.fft_conv_passes import middle_pass_of_lags
from tilec.ops.fft_conv_run import WARPS, Around, convolve, correlate
from tilec.ops.op import op
from tilec.places import current_target


class FftConvGradients(NamedTuple):
    """One for each argument of fft_conv, of its shape and dtype; None for those that were not given."""

    u: Array
    k: Array
    k_reverse: Array | None = None
    skip: Array | None = None
    pregate: Array | None = None
    postgate: Array | None = None


@tc.kernel
def taps_kernel(
    lags: tc.Array, dk: tc.Array, *, period: int, backwards: bool = False, apart: int = 0, block: int = 256,
    warps: int = 4,
) -> None:  # fmt: skip
    """dk[h, s] = lags[0, h, s], or, backwards, lags[0, h, -apart - s] modulo the period."""
    channel, part = tc.blocks(dk.shape[0], tc.cdiv(dk.shape[1], block))
    if not backwards:
        found = lags.load((0, channel, part * block), (1, 1, block))
    else:
        later = part * block + tc.arange(block) + apart
        place = tc.where(later == 0, 0, period - later)
        found = lags.gather(0, channel, place[None, None, :], other=0)
    dk.store((channel, part * block), found.reshape(1, block).to(dk.dtype))


@tc.kernel
def skip_kernel(
    dy: tc.Array, u: tc.Array, pregate: tc.Array | None, postgate: tc.Array | None, dskip: tc.Array, *,
    accumulator: DType = tc.f32, block: int = 512, warps: int = 4,
) -> None:  # fmt: skip
    """dskip[h] = the sum over batch and t of dy * u, both gated."""
    channel = tc.blocks(u.shape[1])
    total = tc.zeros(block, accumulator)
    for b in tc.range(u.shape[0]):
        for part in tc.range(tc.cdiv(u.shape[2], block)):
            at, product = (b, channel, part * block), tc.ones((1, 1, block), accumulator)
            for x in (dy, u, pregate, postgate):
                if x is not None:
                    product = product * x.load(at, (1, 1, block)).to(accumulator)
            total = total + product.reshape(block)
    dskip.store(channel, total.sum().to(dskip.dtype))


def compile_fft_conv_backward(
    *,
    batch: int,
    channels: int,
    length: int,
    taps: int | None = None,
    mode: str = "causal",
    dtype: Any = "f32",
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel in which dk's sums over the batch are made; of those of three passes the one between."""
    kind, count = float_of(dtype, "dtype"), checked_taps(taps, length, mode)
    plan, sums = butterflies(length, count, mode, target), sums_in(kind)
    x = tc.Spec(kind, (batch, channels, length))
    table, lags = tc.Spec(sums, (2, plan.columns, plan.rows)), tc.Spec(sums, (1, channels, plan.period))
    options: dict[str, Any] = {"plan": plan, "accumulator": sums, "warps": WARPS}
    if plan.outer:
        g, z = (tc.Spec(sums, (2, n, channels, plan.matrices, plan.inner)) for n in (-(-batch // 2), 1))
        return middle_pass_of_lags.compile(g, g, table, z, target=target, **options)
    return lags_kernel.compile(x, x, table, None, None, lags, tc.Spec("i32", ()), target=target, **options)


@op(compile_fft_conv_backward)
def fft_conv_backward(
    dy: Any,
    u: Any,
    k: Any,
    *,
    mode: str = "causal",
    k_reverse: Any = None,
    skip: Any = None,
    pregate: Any = None,
    postgate: Any = None,
) -> FftConvGradients:
    """How sum(dy * fft_conv(u, k, ...)) changes with each argument: dy [B, H, L], the rest as fft_conv takes.

    Everything is recomputed from the arguments. k is the kernel itself, no spectrum of it. Raises TilecError
    for what does not fit.
    """
    if isinstance(k, FftSpectrum):
        raise TilecError("fft_conv_backward takes the kernel [H, taps] itself, found its spectrum")
    call = call_of(u, k, mode, k_reverse, skip, pregate, postgate)
    g = floats(dy, "dy")
    if g.shape != call.u.shape:
        raise TilecError(f"dy is {told(g)}, expected the shape of u, {list(call.u.shape)}")
    assert isinstance(call.k, Kernel), "spectra were refused"
    spectrum = spectrum_for(call.k, call.u.shape[2], find_dtype(call.u.dtype))
    du, dpre = _of_inputs(g, call, spectrum)
    dk, dreverse = _of_taps(g, call, call.k)
    return FftConvGradients(du, dk, dreverse, _of_skip(g, call), dpre, _of_postgate(g, call, spectrum))


def _of_inputs(g: Array, call: Call, spectrum: FftSpectrum) -> tuple[Array, Array | None]:
    du, dpre = empty_like(call.u), None if call.pregate is None else empty_like(call.pregate)
    other = None if dpre is None else call.u
    around = Around(call.skip, call.postgate, call.pregate, other, flipped=True)
    convolve(g, spectrum, around, du, dpre)
    return du, dpre


def _of_taps(g: Array, call: Call, kernel: Kernel) -> tuple[Array, Array | None]:
    plan = butterflies(call.u.shape[2], kernel.taps, call.mode, current_target())
    lags = correlate(g, call.u, call.pregate, call.postgate, plan, kernel.taps, call.sums)
    dk = empty_like(kernel.k)
    taps_kernel(lags, dk, period=plan.period)
    if kernel.k_reverse is None:
        return dk, None
    dreverse = empty_like(kernel.k_reverse)
    taps_kernel(lags, dreverse, period=plan.period, backwards=True, apart=kernel.apart)
    return dk, dreverse


def _of_skip(g: Array, call: Call) -> Array | None:
    if call.skip is None:
        return None
    dskip = empty_like(call.skip)
    skip_kernel(g, call.u, call.pregate, call.postgate, dskip, accumulator=call.sums)
    return dskip


def _of_postgate(g: Array, call: Call, spectrum: FftSpectrum) -> Array | None:
    """dy times what the gate was given."""
    if call.postgate is None:
        return None
    dpost = empty_like(call.postgate)
    around = Around(call.skip, call.pregate, g)
    convolve(call.u, spectrum, around, dpost)
    return dpost
