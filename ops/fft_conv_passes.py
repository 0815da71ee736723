"""Convolutions by transforms in three passes, for periods that no block can hold.

A period is `matrices` rows of `inner` points. The first pass transforms down columns of it, a strip at a
time, and twists; the second does with each row what the kernels of one pass do with all; the third goes back.
"""

from typing import Any

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ops.fft_conv_butterfly import down, split, up
from tilec.ops.fft_conv_complex import Complex, Part, computed
from tilec.ops.fft_conv_kernel import check, forward, inverse, spectrum_at, store_spectrum
from tilec.ops.fft_conv_plan import STRIP, Plan
from tilec.ops.fft_conv_sequences import Pair, Taps, continued


def _check_strips(plan: Plan, coarse: tc.Array, fine: tc.Array, z: tc.Array) -> None:
    """Facts of what the outer passes read and write."""
    strips = plan.inner // STRIP
    tc.require(coarse.shape == (2, strips, plan.matrices), fine.shape == (2, plan.matrices, STRIP))
    _check_between(plan, z)


def _check_between(plan: Plan, z: tc.Array) -> None:
    tc.require(z.shape[0] == 2, z.shape[3:] == (plan.matrices, plan.inner))


def _strip_turns(coarse: tc.Array, fine: tc.Array, strip: Any, plan: Plan) -> Complex:
    """The strip's twiddles [matrices, STRIP]: the first column's, times what each column turns further."""
    shape = (plan.matrices, STRIP)
    first = Complex(*(coarse.load((i, strip, 0), (1, 1, plan.matrices)).reshape(-1, 1) for i in range(2)))
    further = Complex(*(fine.load((i, 0, 0), (1, *shape)).reshape(shape) for i in range(2)))
    return further * first


def _transformed(strip: Complex, coarse: tc.Array, fine: tc.Array, at: Any, plan: Plan) -> Complex:
    """Down the columns of a strip's first rows, then twisted."""
    return down(split(strip, plan.first, plan.matrices), plan.outer) * _strip_turns(coarse, fine, at, plan)


def _keep(z: tc.Array, value: Complex, place: tuple[Any, ...]) -> None:
    for i, part in enumerate(value):
        z.store((i, *place), part)


@tc.kernel
def first_pass(
    x: tc.Array, gate: tc.Array | None, coarse: tc.Array, fine: tc.Array, z: tc.Array,
    taps: tc.i32,  # type: ignore[valid-type]  # a scalar that the launch gives
    *,
    plan: Plan, flipped: bool = False, accumulator: DType = tc.f32, warps: int = 4,
) -> None:  # fmt: skip
    """z [2, pairs, H, matrices, inner] of x * gate [B, H, L]."""
    _check_strips(plan, coarse, fine, z)
    channel, i, strip = tc.blocks(x.shape[1], tc.cdiv(x.shape[0], 2), plan.inner // STRIP)
    pair, more = Pair(i, channel, accumulator), continued(plan, x.shape[2], taps, flipped)
    rows = plan.filled * (plan.matrices // plan.first)
    re, im = (tc.shared((rows, STRIP), accumulator) for _ in range(2))
    for row in tc.range(rows):
        value = pair.read(x, gate, row * plan.inner + strip * STRIP, STRIP, more)
        re.store((row, 0), value.re.reshape(1, STRIP))
        im.store((row, 0), value.im.reshape(1, STRIP))
    held = Complex(*(part.load((0, 0), (rows, STRIP)) for part in (re, im)))
    _keep(z, _transformed(held, coarse, fine, strip, plan), (i, channel, 0, strip * STRIP))


@tc.kernel
def first_pass_of_taps(
    k: tc.Array, k_reverse: tc.Array | None, coarse: tc.Array, fine: tc.Array, z: tc.Array, *, plan: Plan,
    apart: int, accumulator: DType = tc.f32, warps: int = 4,
) -> None:  # fmt: skip
    """z [2, 1, H, matrices, inner] of a kernel k [H, taps] and k_reverse, divided by the period."""
    _check_strips(plan, coarse, fine, z)
    channel, strip = tc.blocks(k.shape[0], plan.inner // STRIP)
    taps = Taps(k, k_reverse, channel, apart, accumulator)
    re = tc.shared((plan.matrices, STRIP), accumulator)
    for row in tc.range(plan.matrices):
        re.store((row, 0), taps.read(plan, row * plan.inner + strip * STRIP, STRIP).re)
    held = Complex(re.load((0, 0), (plan.matrices, STRIP)), tc.zeros((plan.matrices, STRIP), accumulator))
    _keep(z, _transformed(held, coarse, fine, strip, plan), (0, channel, 0, strip * STRIP))


def _row(z: tc.Array, place: tuple[Any, ...], plan: Plan) -> list[Part]:
    """One matrix, in the parts of its first radix."""
    shape = (1, 1, 1, 1, plan.inner)
    held = Complex(*(z.load((i, *place, 0), shape).reshape(plan.rows, plan.columns) for i in range(2)))
    return split(held, plan.down[0], plan.rows)


def _put_row(z: tc.Array, place: tuple[Any, ...], parts: list[Part], plan: Plan) -> None:
    for r, part in enumerate(computed(parts)):
        at = r * (plan.inner // plan.down[0])
        _keep(z, part.each(lambda x: x.reshape(1, 1, 1, 1, x.size)), (*place, at))


@tc.kernel
def middle_pass(
    z: tc.Array, spectrum: tc.Array, twiddle: tc.Array, skip: tc.Array | None, *, plan: Plan,
    flipped: bool = False, warps: int = 4,
) -> None:  # fmt: skip
    """z = inverse(forward(z) * spectrum), matrix by matrix; spectrum [2, H, matrices, columns, rows]."""
    check(plan, twiddle, spectrum)
    _check_between(plan, z)
    channel, matrix, i = tc.blocks(z.shape[2], plan.matrices, z.shape[1])
    place = (i, channel, matrix)
    found = forward(_row(z, place, plan), twiddle, plan)
    k = spectrum_at(spectrum, skip, channel, matrix, plan)
    _put_row(z, place, inverse(found.back(k) if flipped else found * k, twiddle, plan), plan)


@tc.kernel
def middle_pass_of_taps(
    z: tc.Array, twiddle: tc.Array, spectrum: tc.Array, *, plan: Plan, warps: int = 4
) -> None:
    """The spectrum [2, H, matrices, columns, rows] of z [2, 1, H, matrices, inner]."""
    check(plan, twiddle, spectrum)
    _check_between(plan, z)
    channel, matrix = tc.blocks(z.shape[2], plan.matrices)
    store_spectrum(spectrum, forward(_row(z, (0, channel, matrix), plan), twiddle, plan), channel, matrix)


@tc.kernel
def middle_pass_of_lags(
    g: tc.Array, x: tc.Array, twiddle: tc.Array, z: tc.Array, *, plan: Plan, accumulator: DType = tc.f32,
    warps: int = 4,
) -> None:  # fmt: skip
    """z [2, 1, H, matrices, inner]: the sum of spectra of g by conjugate spectra of x, and back."""
    check(plan, twiddle)
    for each in (g, x, z):
        _check_between(plan, each)
    channel, matrix = tc.blocks(g.shape[2], plan.matrices)
    shape = (plan.columns, plan.rows)
    total = Complex(tc.zeros(shape, accumulator), tc.zeros(shape, accumulator))
    for i in tc.range(g.shape[1]):
        theirs = forward(_row(g, (i, channel, matrix), plan), twiddle, plan)
        ours = forward(_row(x, (i, channel, matrix), plan), twiddle, plan)
        total = total + theirs.back(ours)
    _put_row(z, (0, channel, matrix), inverse(total.times(1 / plan.period), twiddle, plan), plan)


@tc.kernel
def last_pass(
    z: tc.Array, coarse: tc.Array, fine: tc.Array, gate: tc.Array | None, other: tc.Array | None, y: tc.Array,
    y_other: tc.Array | None, *, plan: Plan, accumulator: DType = tc.f32, warps: int = 4,
) -> None:  # fmt: skip
    """y [B, H, L] = gate * what z is the first pass of, y_other = other * the same."""
    _check_strips(plan, coarse, fine, z)
    channel, i, strip = tc.blocks(z.shape[2], z.shape[1], plan.inner // STRIP)
    shape, place = (plan.matrices, STRIP), (i, channel, 0, strip * STRIP)
    held = Complex(*(z.load((part, *place), (1, 1, 1, *shape)).reshape(shape) for part in range(2)))
    parts = computed(up(held.back(_strip_turns(coarse, fine, strip, plan)), plan.outer))
    rows, pair = plan.matrices // plan.first, Pair(i, channel, accumulator)
    re, im = (tc.shared((rows * plan.filled, STRIP), accumulator) for _ in range(2))
    for r in tc.static_range(plan.filled):
        re.store((r * rows, 0), parts[r].re)
        im.store((r * rows, 0), parts[r].im)
    for row in tc.range(rows * plan.filled):
        at = row * plan.inner + strip * STRIP
        found = Complex(*(part.load((row, 0), (1, STRIP)) for part in (re, im)))
        pair.write(y, found, gate, at)
        if y_other is not None:
            pair.write(y_other, found, other, at)
