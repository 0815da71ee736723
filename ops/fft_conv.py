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
from tilec.ops.arrays import Array, empty_like
from tilec.ops.fft_conv_call import (
    Call,
    FftSpectrum,
    Kernel,
    call_of,
    check_length,
    kernel_of,
    sums_in,
)
from tilec.ops.fft_conv_direct import direct_kernel
from tilec.ops.fft_conv_kernel import conv_kernel, spectrum_kernel
from tilec.ops.fft_conv_plan import ONE_PASS, Plan, plan_of
from tilec.ops.fft_conv_run import Around, convolve, spectrum_of
from tilec.ops.op import op
from tilec.ops.tiling import has_threads
from tilec.places import current_target

ALGORITHMS = (None, "direct", "one pass", "three passes")
SHORT = 16  # sequences of this length and less are multiplied with Toeplitz matrices


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
    """The kernel of one pass for u [batch, channels, length] and the spectrum of a k of so many taps."""
    kind, count = find_dtype(dtype), taps or length
    check_length(length)
    plan, sums = _plan(length, count, mode, "one pass", target), sums_in(kind)
    u, spectrum = tc.Spec(kind, (batch, channels, length)), (2, channels, 1, plan.columns, plan.rows)
    return conv_kernel.compile(
        u,
        tc.Spec(sums, spectrum),
        tc.Spec(sums, (2, plan.columns, plan.rows)),
        tc.Spec(kind, (channels,)) if skip else None,
        u if pregate else None,
        u if postgate else None,
        None,
        u,
        None,
        tc.Spec("i32", ()),
        target=target,
        plan=plan,
        accumulator=sums,
    )


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
    Transforms are in f32, or f64 for f64. `algorithm`: "direct", "one pass", "three passes", None: by cost.
    Raises TilecError for what does not fit.
    """
    call = call_of(u, k, mode, k_reverse, skip, pregate, postgate)
    y = empty_like(call.u)
    if 0 in y.shape:
        return y
    if _is_short(call, algorithm):
        direct(call, y)
        return y
    spectrum = (
        call.k
        if isinstance(call.k, FftSpectrum)
        else spectrum_for(call.k, call.u.shape[2], call.sums, algorithm)
    )
    around = Around(call.skip, call.pregate, call.postgate)
    convolve(call.u, spectrum.values, spectrum.plan, spectrum.taps, around, y)
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
    """The kernel of one pass for k [channels, taps], and k_reverse likewise where the mode takes one."""
    kind, plan = find_dtype(dtype), _plan(length, taps, mode, "one pass", target)
    k, sums = tc.Spec(kind, (channels, taps)), sums_in(kind)
    return spectrum_kernel.compile(
        k,
        k if mode.startswith("bidirectional") else None,
        tc.Spec(sums, (2, plan.columns, plan.rows)),
        tc.Spec(sums, (2, channels, 1, plan.columns, plan.rows)),
        target=target,
        plan=plan,
        apart=int(mode == "bidirectional_safari"),
        accumulator=sums,
    )


@op(compile_fft_conv_spectrum)
def fft_conv_spectrum(k: Any, length: int, mode: str = "causal", *, k_reverse: Any = None) -> FftSpectrum:
    """What fft_conv takes for k with sequences of this length: k [H, up to length], k_reverse likewise.

    f64 where k is, for a u of f64; else f32, for all others. Raises TilecError for what does not fit.
    """
    check_length(length)
    kernel = kernel_of(k, k_reverse, mode, length)
    return spectrum_for(kernel, length, sums_in(find_dtype(kernel.k.dtype)))


def spectrum_for(kernel: Kernel, length: int, sums: DType, algorithm: str | None = None) -> FftSpectrum:
    """The spectrum of a kernel for sequences of a length."""
    plan = _plan(length, kernel.taps, kernel.mode, algorithm, current_target())
    return FftSpectrum(spectrum_of(kernel, plan, sums), length, kernel.taps, kernel.mode, plan)


def _plan(length: int, taps: int, mode: str, algorithm: str | None, target: str) -> Plan:
    most = {None: ONE_PASS, "one pass": 22, "three passes": 5}[algorithm]
    return plan_of(length, taps, mode, most)


def _is_short(call: Call, algorithm: str | None) -> bool:
    if algorithm not in ALGORITHMS:
        raise TilecError(f"expected algorithm {', '.join(map(repr, ALGORITHMS))}, found {algorithm!r}")
    known = isinstance(call.k, FftSpectrum)
    if known and algorithm is not None:
        raise TilecError(f"a spectrum was made for an algorithm already: leave out algorithm={algorithm!r}")
    return algorithm == "direct" or (algorithm is None and not known and call.u.shape[2] <= SHORT)


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
