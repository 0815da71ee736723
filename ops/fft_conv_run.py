"""Launches of fft_conv's kernels: in one pass, or in three, some channels at a time.

values = spectrum_of(Kernel(k, None, "causal"), plan, f32)
convolve(u, FftSpectrum(values, length, taps, "causal", plan), Around(), y)
"""

from collections.abc import Iterator
from math import ceil, prod
from typing import NamedTuple

from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ops.arrays import Array, empty, numpy_dtype
from tilec.ops.callers import there
from tilec.ops.fft_conv_call import FftSpectrum, Kernel
from tilec.ops.fft_conv_kernel import conv_kernel, lags_kernel, spectrum_kernel
from tilec.ops.fft_conv_matrix import matrix_kernel, ordered_kernel
from tilec.ops.fft_conv_passes import (
    first_pass,
    first_pass_of_taps,
    last_pass,
    middle_pass,
    middle_pass_of_lags,
    middle_pass_of_taps,
)
from tilec.ops.fft_conv_plan import (
    Matrices,
    Plan,
    Tables,
    frequencies_of,
    places_of,
    tables_of,
    turns_of,
)
from tilec.ops.fft_conv_taps import low_frequencies_kernel

SCRATCH = 1 << 28  # bytes between passes
WARPS = 8  # of butterflies: a period in the registers of so many


class Around(NamedTuple):
    """What stands around a convolution; `other` gates a second result."""

    skip: Array | None = None
    pregate: Array | None = None
    postgate: Array | None = None
    other: Array | None = None
    flipped: bool = False  # made of what comes later


def tables(plan: Plan, sums: DType) -> Tables:
    return Tables(*map(there, tables_of(plan.down, plan.across, plan.outer, numpy_dtype(sums).str)))


def spectrum_of(kernel: Kernel, plan: Plan, sums: DType) -> Array:
    """[2, H, matrices, columns, rows]"""
    channels, table = kernel.k.shape[0], tables(plan, sums)
    values = empty((2, channels, plan.matrices, plan.columns, plan.rows), sums)
    options = {"plan": plan, "apart": kernel.apart, "accumulator": sums, "warps": WARPS}
    if not plan.outer:
        spectrum_kernel(kernel.k, kernel.k_reverse, table.inner, values, **options)
        return values
    for part in some_channels(channels, 1, plan, sums):
        k, reverse = kernel.k[part], None if kernel.k_reverse is None else kernel.k_reverse[part]
        z = _scratch(1, len(k), plan, sums)
        first_pass_of_taps(k, reverse, table.coarse, table.fine, z, **options)
        middle_pass_of_taps(z, table.inner, values[:, part], plan=plan, warps=WARPS)
    return values


def spectrum_on_matrices(kernel: Kernel, plan: Matrices, whole: Plan) -> tuple[Array, Array]:
    """The spectrum [2, H, rows, across] and its norms [H], by way of butterflies over the same period."""
    f32, channels = find_dtype("f32"), kernel.k.shape[0]
    values = spectrum_of(kernel, whole, f32).reshape(2, channels, plan.period)
    spectrum, norms = empty((2, channels, plan.period), f32), empty((channels,), f32)
    ordered_kernel(values, there(places_of(plan, whole)), spectrum, norms, block=min(1024, plan.period))
    return spectrum.reshape(2, channels, plan.rows, plan.across), norms


def keep_low(spectrum: FftSpectrum, share: float) -> None:
    """Zeros in place of the high frequencies: of period / 2 + 1 the share is kept."""
    plan, channels = spectrum.plan, spectrum.values.shape[1]
    values = spectrum.values.reshape(2, channels, plan.period)
    low_frequencies_kernel(values, there(frequencies_of(plan)), keep=ceil(share * (plan.period // 2 + 1)))


def convolve(u: Array, spectrum: FftSpectrum, around: Around, y: Array, y_other: Array | None = None) -> None:
    """y = postgate * conv(pregate * u), y_other = other * the same."""
    plan, given = spectrum.plan, (around.skip, around.pregate, around.postgate, around.other, y, y_other)
    if isinstance(plan, Matrices):
        options = {"plan": plan, "kind": find_dtype(u.dtype), "warps": plan.warps, "flipped": around.flipped}
        values, norms = spectrum.values, spectrum.norms
        matrix_kernel(u, values, norms, there(turns_of(plan)), *given, spectrum.taps, **options)
    elif plan.outer:
        _in_three_passes(u, spectrum, plan, around, y, y_other)
    else:
        sums = find_dtype(spectrum.values.dtype)
        conv_kernel(
            u, spectrum.values, tables(plan, sums).inner, *given, spectrum.taps,
            flipped=around.flipped, plan=plan, accumulator=sums, warps=WARPS,
        )  # fmt: skip


def _in_three_passes(
    u: Array, spectrum: FftSpectrum, plan: Plan, around: Around, y: Array, y_other: Array | None
) -> None:
    sums = find_dtype(spectrum.values.dtype)
    table, skip, flipped = tables(plan, sums), around.skip, around.flipped
    options = {"plan": plan, "accumulator": sums, "warps": WARPS}
    gates = (around.pregate, around.postgate, around.other)
    pairs = -(-u.shape[0] // 2)
    for part in some_channels(u.shape[1], pairs, plan, sums):
        z = _scratch(pairs, part.stop - part.start, plan, sums)
        pre, post, other, into, second = (x if x is None else x[:, part] for x in (*gates, y, y_other))
        first_pass(u[:, part], pre, table.coarse, table.fine, z, spectrum.taps, flipped=flipped, **options)
        added = None if skip is None else skip[part]
        middle_pass(z, spectrum.values[:, part], table.inner, added, plan=plan, flipped=flipped, warps=WARPS)
        last_pass(z, table.coarse, table.fine, post, other, into, second, **options)


def correlate(
    dy: Array, u: Array, pregate: Array | None, postgate: Array | None, plan: Plan, taps: int, sums: DType
) -> Array:
    """lags [1, H, period]: the sum over batch and t of (dy * postgate)[t] * (u * pregate)[t - s]."""
    channels, table = u.shape[1], tables(plan, sums)
    whole = plan._replace(half=False)
    lags = empty((1, channels, plan.period), sums)
    options = {"plan": plan, "accumulator": sums, "warps": WARPS}
    if not plan.outer:
        lags_kernel(dy, u, table.inner, pregate, postgate, lags, taps, **options)
        return lags
    pairs = -(-u.shape[0] // 2)
    for part in some_channels(channels, 2 * pairs, plan, sums):
        count = part.stop - part.start
        x, g, z = (_scratch(n, count, plan, sums) for n in (pairs, pairs, 1))
        pre, post = (None if gate is None else gate[:, part] for gate in (pregate, postgate))
        first_pass(u[:, part], pre, table.coarse, table.fine, x, taps, **options)
        plain = plan._replace(wraps=False)
        first_pass(dy[:, part], post, table.coarse, table.fine, g, taps, **(options | {"plan": plain}))
        middle_pass_of_lags(g, x, table.inner, z, **options)
        last_pass(z, table.coarse, table.fine, None, None, lags[:, part], None, **(options | {"plan": whole}))
    return lags


def some_channels(channels: int, pairs: int, plan: Plan, sums: DType) -> Iterator[slice]:
    """As many channels at a time as leave what is between passes within bounds."""
    each = prod((2, pairs, plan.period, sums.bytes))
    count = max(1, SCRATCH // max(1, each))
    for start in range(0, channels, count):
        yield slice(start, min(channels, start + count))


def _scratch(pairs: int, channels: int, plan: Plan, sums: DType) -> Array:
    return empty((2, pairs, channels, plan.matrices, plan.inner), sums)
