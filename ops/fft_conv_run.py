"""Launches of fft_conv's kernels: in one pass, or in three, some channels at a time.

values = spectrum_of(Kernel(k, None, "causal"), plan, f32)
convolve(u, values, plan, taps, y, gates)
"""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ops.arrays import Array, empty, numpy_dtype
from tilec.ops.callers import there
from tilec.ops.fft_conv_call import Kernel
from tilec.ops.fft_conv_kernel import conv_kernel, lags_kernel, spectrum_kernel
from tilec.ops.fft_conv_passes import (
    first_pass,
    first_pass_of_taps,
    last_pass,
    middle_pass,
    middle_pass_of_lags,
    middle_pass_of_taps,
)
from tilec.ops.fft_conv_plan import Plan, Tables, tables_of

SCRATCH = 1 << 28  # bytes between passes


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
    options = {"plan": plan, "apart": kernel.apart, "accumulator": sums}
    if not plan.outer:
        spectrum_kernel(kernel.k, kernel.k_reverse, table.inner, values, **options)
        return values
    for part in some_channels(channels, 1, plan, sums):
        k, reverse = kernel.k[part], None if kernel.k_reverse is None else kernel.k_reverse[part]
        z = _scratch(1, len(k), plan, sums)
        first_pass_of_taps(k, reverse, table.coarse, table.fine, z, **options)
        middle_pass_of_taps(z, table.inner, values[:, part], plan=plan)
    return values


def convolve(
    u: Array, spectrum: Array, plan: Plan, taps: int, around: Around, y: Array, y_other: Array | None = None
) -> None:
    """y = postgate * conv(pregate * u), y_other = other * the same."""
    sums = find_dtype(spectrum.dtype)
    table, skip, flipped = tables(plan, sums), around.skip, around.flipped
    options = {"plan": plan, "accumulator": sums}
    gates = (around.pregate, around.postgate, around.other)
    if not plan.outer:
        conv_kernel(u, spectrum, table.inner, skip, *gates, y, y_other, taps, flipped=flipped, **options)
        return
    pairs = -(-u.shape[0] // 2)
    for part in some_channels(u.shape[1], pairs, plan, sums):
        z = _scratch(pairs, part.stop - part.start, plan, sums)
        pre, post, other, into, second = (x if x is None else x[:, part] for x in (*gates, y, y_other))
        first_pass(u[:, part], pre, table.coarse, table.fine, z, taps, flipped=flipped, **options)
        added = None if skip is None else skip[part]
        middle_pass(z, spectrum[:, part], table.inner, added, plan=plan, flipped=flipped)
        last_pass(z, table.coarse, table.fine, post, other, into, second, **options)


def correlate(
    dy: Array, u: Array, pregate: Array | None, postgate: Array | None, plan: Plan, taps: int, sums: DType
) -> Array:
    """lags [1, H, period]: the sum over batch and t of (dy * postgate)[t] * (u * pregate)[t - s]."""
    channels, table = u.shape[1], tables(plan, sums)
    whole = plan._replace(half=False)
    lags = empty((1, channels, plan.period), sums)
    options = {"plan": plan, "accumulator": sums}
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
        first_pass(dy[:, part], post, table.coarse, table.fine, g, taps, plan=plain, accumulator=sums)
        middle_pass_of_lags(g, x, table.inner, z, **options)
        last_pass(z, table.coarse, table.fine, None, None, lags[:, part], None, plan=whole, accumulator=sums)
    return lags


def some_channels(channels: int, pairs: int, plan: Plan, sums: DType) -> Iterator[slice]:
    """As many channels at a time as leave what is between passes within bounds."""
    each = prod((2, pairs, plan.period, sums.bytes))
    count = max(1, SCRATCH // max(1, each))
    for start in range(0, channels, count):
        yield slice(start, min(channels, start + count))


def _scratch(pairs: int, channels: int, plan: Plan, sums: DType) -> Array:
    return empty((2, pairs, channels, plan.matrices, plan.inner), sums)
