"""Convolutions as long as their sequences, by fast Fourier transforms, as state-space models have them.

y = fft_conv(u, k)                                  # u [B, H, L], k [H, up to L]: causal
y = fft_conv(u, k, skip=d, pregate=v, postgate=w)   # w * (conv(k, v * u) + d * v * u)
s = fft_conv_spectrum(k, 4096, "causal")            # once for many calls: fft_conv(u, s)
"""

from typing import Any

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.arrays import Array, empty_like, float_of, sums_in
from tilec.ops.fft_conv_call import Call, FftSpectrum, Kernel, call_of, check_length, checked_taps, kernel_of
from tilec.ops.fft_conv_choice import butterflies, check_algorithm, is_short, plan_for, whole_period
from tilec.ops.fft_conv_direct import direct_kernel
from tilec.ops.fft_conv_kernel import conv_kernel, spectrum_kernel
from tilec.ops.fft_conv_matrix import matrix_kernel
from tilec.ops.fft_conv_passes import middle_pass, middle_pass_of_taps
from tilec.ops.fft_conv_plan import Matrices
from tilec.ops.fft_conv_run import WARPS, Around, convolve, keep_low, spectrum_of, spectrum_on_matrices
from tilec.ops.op import op
from tilec.ops.tiling import has_threads
from tilec.places import current_target


def compile_fft_conv(
    *,
    batch: int,
    channels: int,
    length: int,
    taps: int | None = None,
    mode: str = "causal",
    dtype: Any = "f16",
    skip: bool = False,
    pregate: bool = False,
    postgate: bool = False,
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel for u [batch, channels, length] and the spectrum of a k of so many taps; of those of three
    passes the one between.
    """
    kind, count = float_of(dtype, "dtype"), checked_taps(taps, length, mode)
    plan, u = plan_for(length, count, mode, kind, target), tc.Spec(kind, (batch, channels, length))
    gates = (u if pregate else None, u if postgate else None)
    added = tc.Spec(kind, (channels,)) if skip else None
    given = (added, *gates, None, u, None, tc.Spec("i32", ()))
    if isinstance(plan, Matrices):
        spectrum, turns = (2, channels, plan.rows, plan.across), (2, plan.steps, plan.rows)
        arrays = [tc.Spec("f32", shape) for shape in (spectrum, (channels,), turns)]
        options: dict[str, Any] = {"plan": plan, "kind": kind, "warps": plan.warps}
        return matrix_kernel.compile(u, *arrays, *given, target=target, **options)
    sums, shape = sums_in(kind), (plan.columns, plan.rows)
    spectrum_spec = tc.Spec(sums, (2, channels, plan.matrices, *shape))
    table = tc.Spec(sums, (2, *shape))
    if plan.outer:
        z = tc.Spec(sums, (2, -(-batch // 2), channels, plan.matrices, plan.inner))
        return middle_pass.compile(z, spectrum_spec, table, added, target=target, plan=plan, warps=WARPS)
    options = {"plan": plan, "accumulator": sums, "warps": WARPS}
    return conv_kernel.compile(u, spectrum_spec, table, *given, target=target, **options)


@op(compile_fft_conv)
def fft_conv(
    u: Any,
    k: Any,
    *,
    mode: str = "causal",
    k_reverse: Any = None,
    skip: Any = None,
    pregate: Any = None,
    postgate: Any = None,
    algorithm: str | None = None,
) -> Array:
    """postgate * (sum over s of k[h, s] * x[b, h, t - s] + skip[h] * x[b, h, t]), x = pregate * u.

    u and gates [B, H, L], L up to 2^22, of f16, bf16, f32 or f64; k [H, up to L] of the same dtype, or f32
    with a u of 16 bits, or what fft_conv_spectrum gives; skip [H]. `mode`: "causal"; "circular", t - s modulo
    L; "bidirectional" (or "bidirectional_fftconv"), which adds k_reverse[h, s] * x[t + s] as H3's fftconv
    does; "bidirectional_safari", which adds k_reverse[h, s] * x[t + 1 + s] as Safari's LongConv does.
    Transforms are in f32, or f64 for f64; on a GPU those of 16 bits are products of u's dtype, summed in f32,
    while a period of up to 2^15 fits a block. Rows 2 i and 2 i + 1 of the batch are one transform of complex
    numbers: butterflies round relative to the larger row, and what is no number in one reaches both.
    `algorithm`: "direct", "one pass", "three passes", None: by cost. Raises TilecError for what does not fit.
    """
    call = call_of(u, k, mode, k_reverse, skip, pregate, postgate)
    y = empty_like(call.u)
    if 0 in y.shape:
        return y
    if _is_direct(call, algorithm):
        direct(call, y)
        return y
    if isinstance(call.k, FftSpectrum):
        spectrum = call.k
    else:
        spectrum = spectrum_for(call.k, call.u.shape[2], find_dtype(call.u.dtype), algorithm)
    convolve(call.u, spectrum, Around(call.skip, call.pregate, call.postgate), y)
    return y


def compile_fft_conv_spectrum(
    *,
    channels: int,
    taps: int,
    length: int,
    mode: str = "causal",
    dtype: Any = "f32",
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel for k [channels, taps], and k_reverse likewise where the mode takes one; of those of three
    passes the one between.
    """
    kind, count = float_of(dtype, "dtype"), checked_taps(taps, length, mode)
    plan = butterflies(length, count, mode, target)
    k, sums = tc.Spec(kind, (channels, count)), sums_in(kind)
    table = tc.Spec(sums, (2, plan.columns, plan.rows))
    spectrum = tc.Spec(sums, (2, channels, plan.matrices, plan.columns, plan.rows))
    if plan.outer:
        z = tc.Spec(sums, (2, 1, channels, plan.matrices, plan.inner))
        return middle_pass_of_taps.compile(z, table, spectrum, target=target, plan=plan, warps=WARPS)
    return spectrum_kernel.compile(
        k,
        k if mode.startswith("bidirectional") else None,
        table,
        spectrum,
        target=target,
        plan=plan,
        apart=int(mode == "bidirectional_safari"),
        accumulator=sums,
        warps=WARPS,
    )


@op(compile_fft_conv_spectrum)
def fft_conv_spectrum(
    k: Any, length: int, mode: str = "causal", *, k_reverse: Any = None, frequencies: float = 1.0
) -> FftSpectrum:
    """What fft_conv takes for k with sequences of this length: k [H, up to length], k_reverse likewise.

    Of the frequencies of the period (`.plan.period` points) this share is kept, the lowest, and the others
    are 0. f64 where k is, for a u of f64; else f32, for all others. Raises TilecError for what does not fit.
    """
    check_length(length)
    if not isinstance(frequencies, int | float) or not 0 < frequencies <= 1:
        raise TilecError(f"frequencies is the share that is kept, above 0 and up to 1: found {frequencies!r}")
    kernel = kernel_of(k, k_reverse, mode, length)
    spectrum = spectrum_for(kernel, length, find_dtype(kernel.k.dtype))
    if frequencies < 1:
        keep_low(spectrum, frequencies)
    return spectrum


def spectrum_for(kernel: Kernel, length: int, dtype: DType, algorithm: str | None = None) -> FftSpectrum:
    """The spectrum of a kernel for sequences of a length and dtype."""
    target = current_target()
    plan = plan_for(length, kernel.taps, kernel.mode, dtype, target, algorithm)
    if isinstance(plan, Matrices):
        values, norms = spectrum_on_matrices(kernel, plan, whole_period(plan, target))
        return FftSpectrum(values, length, kernel.taps, kernel.mode, plan, norms)
    values = spectrum_of(kernel, plan, sums_in(dtype))
    return FftSpectrum(values, length, kernel.taps, kernel.mode, plan)


def _is_direct(call: Call, algorithm: str | None) -> bool:
    check_algorithm(algorithm)
    if isinstance(call.k, FftSpectrum):
        if algorithm is not None:
            raise TilecError(
                f"a spectrum was made for an algorithm already: leave out algorithm={algorithm!r}"
            )
        return False
    short = is_short(call.u.shape[2], find_dtype(call.u.dtype), current_target())
    return algorithm == "direct" or (algorithm is None and short)


def direct(call: Call, y: Array) -> None:
    """y by Toeplitz matrices."""
    assert isinstance(call.k, Kernel), "spectra are for transforms"
    kind, threads = find_dtype(call.u.dtype), has_threads(current_target())
    direct_kernel(
        call.u, call.k.k, call.k.k_reverse, call.skip, call.pregate, call.postgate, y,
        circular=call.mode == "circular", apart=call.k.apart, accumulator=call.sums,
        compute=kind if threads else call.sums, bm=16 if threads else min(16, len(call.u)),
        bn=64 if call.u.shape[2] > 16 or threads else 16,
    )  # fmt: skip
