"""Convolutions by transforms in one pass: a block takes two sequences of a channel from end to end.

A period of n points is a matrix of rows and columns (Bailey, 1990): transforms down the columns, twiddles,
then across the rows. Frequencies stay in the order that this leaves; the way back takes them so.
"""

from typing import Any

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ops.fft_conv_butterfly import down, joined, split, up
from tilec.ops.fft_conv_complex import Complex, Part, computed
from tilec.ops.fft_conv_plan import Plan
from tilec.ops.fft_conv_sequences import Pair, Taps, continued


def check(plan: Plan, twiddle: tc.Array, spectrum: tc.Array | None = None) -> None:
    """Facts, without which each read would have to ask: twiddles [2, columns, rows], a spectrum likewise."""
    tc.require(twiddle.shape == (2, plan.columns, plan.rows))
    if spectrum is not None:
        tc.require(spectrum.shape[0] == 2, spectrum.shape[2:] == (plan.matrices, plan.columns, plan.rows))


def forward(parts: list[Part], twiddle: tc.Array, plan: Plan) -> Complex:
    """The spectrum [columns, rows] of a matrix, both axes in the orders that butterflies leave."""
    turned = down(parts, plan.down).each(lambda x: x.T)
    cut = split(turned, plan.across[0], plan.columns)
    return down([z and z * _turns(twiddle, r, plan) for r, z in enumerate(cut)], plan.across)


def inverse(z: Complex, twiddle: tc.Array, plan: Plan) -> list[Part]:
    """Back, times the number of points, in the parts of the first radix."""
    cut = [z and z.back(_turns(twiddle, r, plan)) for r, z in enumerate(up(z, plan.across))]
    turned = joined(cut, 0, (plan.columns, plan.rows)).each(lambda x: x.T)
    return up(turned, plan.down)


def _turns(twiddle: tc.Array, r: int, plan: Plan) -> Complex:
    rows = plan.columns // plan.across[0]
    re, im = (twiddle.load((i, r * rows, 0), (1, rows, plan.rows)).reshape(rows, plan.rows) for i in range(2))
    return Complex(re, im)


def spectrum_at(spectrum: tc.Array, skip: tc.Array | None, channel: Any, matrix: Any, plan: Plan) -> Complex:
    """The kernel's spectrum in one matrix; `skip` adds its channel's number to the kernel's first."""
    shape = (plan.columns, plan.rows)
    re, im = (spectrum.load((i, channel, matrix, 0, 0), (1, 1, 1, *shape)).reshape(shape) for i in range(2))
    if skip is not None:
        re = re + skip.at(channel).to(re.dtype) * (1 / plan.period)
    return Complex(re, im)


def _parts(plan: Plan) -> tuple[int, tuple[int, int]]:
    """Points of a part of the first radix, and its shape."""
    count = plan.inner // plan.down[0]
    return count, (count // plan.columns, plan.columns)


def whole(pair: Pair, x: tc.Array, gate: tc.Array | None, plan: Plan, more: Any) -> list[Part]:
    """A pair's period, in the parts of the first radix."""
    count, shape = _parts(plan)
    found: list[Part] = [None] * plan.first
    for r in tc.static_range(plan.filled):
        found[r] = pair.read(x, gate, r * count, count, more).each(lambda part: part.reshape(shape))
    return found


@tc.kernel
def conv_kernel(
    u: tc.Array, spectrum: tc.Array, twiddle: tc.Array, skip: tc.Array | None, pregate: tc.Array | None,
    postgate: tc.Array | None, other: tc.Array | None, y: tc.Array, y_other: tc.Array | None,
    taps: tc.i32,  # type: ignore[valid-type]  # a scalar that the launch gives
    *,
    plan: Plan, accumulator: DType = tc.f32, flipped: bool = False, warps: int = 4,
) -> None:  # fmt: skip
    """y = postgate * conv(pregate * u): arrays [B, H, L], spectrum [2, H, 1, columns, rows], skip [H].
    `flipped`: y[t] is made of what comes later, the gradient of u. y_other = other * conv(pregate * u).
    """
    check(plan, twiddle, spectrum)
    channel, i = tc.blocks(u.shape[1], tc.cdiv(u.shape[0], 2))
    pair = Pair(i, channel, accumulator)
    z = forward(whole(pair, u, pregate, plan, continued(plan, u.shape[2], taps, flipped)), twiddle, plan)
    k = spectrum_at(spectrum, skip, channel, 0, plan)
    found = inverse(z.back(k) if flipped else z * k, twiddle, plan)
    for r, part in enumerate(computed(found)[: plan.filled]):
        at = r * _parts(plan)[0]
        pair.write(y, part, postgate, at)
        if y_other is not None:
            pair.write(y_other, part, other, at)


@tc.kernel
def spectrum_kernel(
    k: tc.Array, k_reverse: tc.Array | None, twiddle: tc.Array, spectrum: tc.Array, *, plan: Plan, apart: int,
    accumulator: DType = tc.f32, warps: int = 4,
) -> None:  # fmt: skip
    """The spectrum [2, H, 1, columns, rows] of k [H, taps] and k_reverse over the period, divided by it."""
    check(plan, twiddle, spectrum)
    channel = tc.blocks(k.shape[0])
    taps = Taps(k, k_reverse, channel, apart, accumulator)
    count, shape = _parts(plan)
    parts: list[Part] = []
    for r in tc.static_range(plan.first):
        parts.append(taps.read(plan, r * count, count).each(lambda x: x.reshape(shape)))
    store_spectrum(spectrum, forward(parts, twiddle, plan), channel, 0)


def store_spectrum(spectrum: tc.Array, z: Complex, channel: Any, matrix: Any) -> None:
    for i, part in enumerate(z):
        spectrum.store((i, channel, matrix, 0, 0), part)


@tc.kernel
def lags_kernel(
    dy: tc.Array, u: tc.Array, twiddle: tc.Array, pregate: tc.Array | None, postgate: tc.Array | None,
    lags: tc.Array,
    taps: tc.i32,  # type: ignore[valid-type]  # a scalar that the launch gives
    *, plan: Plan, accumulator: DType = tc.f32, warps: int = 4,
) -> None:  # fmt: skip
    """lags[0, h, s] = the sum over batch and t of dy[t] * u[t - s], both gated, s modulo the period."""
    check(plan, twiddle)
    tc.require(lags.shape[2] == plan.period)
    channel = tc.blocks(u.shape[1])
    shape = (plan.columns, plan.rows)
    total = Complex(tc.zeros(shape, accumulator), tc.zeros(shape, accumulator))
    more = continued(plan, u.shape[2], taps, False)
    for i in tc.range(tc.cdiv(u.shape[0], 2)):
        pair = Pair(i, channel, accumulator)
        x = forward(whole(pair, u, pregate, plan, more), twiddle, plan)
        g = forward(whole(pair, dy, postgate, plan, None), twiddle, plan)
        total = total + g.back(x)
    for r, z in enumerate(computed(inverse(total.times(1 / plan.period), twiddle, plan))):
        lags.store((0, channel, r * _parts(plan)[0]), z.re.reshape(1, 1, z.re.size))
