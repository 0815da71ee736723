"""Convolutions by transforms on matrix units: every stage is a product with a matrix of roots of unity.

A period is `rows` times `across` points. After products down the columns, and twiddles, a block's points lie
in shared memory as [rows, across]. Each row is then transformed, multiplied and transformed back by one warp,
whose registers pass from product to product as they are: accumulators y are the left operand of y @ b, and
y.T the right operand of a @ y.T. Products up the columns end it. Between stages numbers have u's dtype.

    down      F @ z * twiddle
    each row  z = (F @ z * twiddle) @ F * spectrum,  (F' @ z.T * twiddle') @ F'
    up        F' @ z
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ir.layouts import mma_c
from tilec.ops.fft_conv_complex import Complex, unit
from tilec.ops.fft_conv_plan import Matrices
from tilec.ops.fft_conv_sequences import Continued, Pair, continued

Spectrum = Callable[[int], Complex]
SMALLEST, EXPONENT = 2.0**-100, 0x7F800000  # of f32: what counts as 0, and its bits of the exponent
HEADROOM = 8.0  # what a spectrum is over for sums on the way back to stay in f16's range


def product(a: Complex, b: Complex, warps: tuple[int, int]) -> Complex:
    """a @ b, of parts [m, k] and [k, n], in f32, by warps below each other and side by side."""
    shape = (a.re.shape[0], b.re.shape[1])
    zero = tc.annotate(tc.zeros(shape, tc.f32), mma_c(tc.f32, shape, warps))
    re = tc.dot(-a.im, b.im, tc.dot(a.re, b.re, zero))
    return Complex(re, tc.dot(a.im, b.re, tc.dot(a.re, b.im, zero)))


def roots(n: int, kind: DType, rows: int = 0, columns: int = 0) -> Complex:
    """The first rows and columns of the n x n matrix of exp(-2 pi i r s / n)."""
    return unit((rows or n, columns or n), lambda r, s: r * s, n, kind)


def stacked_rows(x: Any, count: int) -> Any:
    """[n, count * m] as [count * n, m]: matrices side by side, one below the other; no element moves."""
    n, m = x.shape[0], x.shape[1] // count
    return x.reshape(n, count, m).permute(1, 0, 2).reshape(count * n, m)


def row_by_row(x: Complex, spectrum: Spectrum, plan: Matrices, kind: DType) -> Complex:
    """inverse(forward(x) * spectrum) of a step's rows: x [batch, across] of `kind` -> the same in f32; of x
    and the result perhaps the first part only, where the rest is zero."""
    count, below, beside = plan.batch, (plan.warps, 1), (1, plan.warps)
    if len(plan.factors) == 1:
        (n,) = plan.factors
        z = (product(x, roots(n, kind), below) * spectrum(n)).to(kind)
        return product(z, roots(n, kind).conj, below)
    n, m = plan.factors
    filled = x.re.shape[1] // m
    side = x.each(lambda t: t.reshape(count, filled, m).permute(1, 0, 2).reshape(filled, count * m))
    y = product(roots(n, kind, columns=filled), side, beside)
    y = (y * unit((n, count * m), lambda r, s: r * (s % m), n * m, tc.f32)).to(kind)
    z = product(y.each(lambda t: stacked_rows(t, count)), roots(m, kind), below)
    z = (z * spectrum(m)).to(kind)
    y = product(roots(m, kind).conj, z.each(lambda t: t.T), beside)
    y = y.back(unit((m, count * n), lambda r, s: r * (s % n), n * m, tc.f32)).to(kind)
    z = product(y.each(lambda t: stacked_rows(t, count)), roots(n, kind, columns=filled).conj, below)
    return z.each(lambda t: t.reshape(count, m, filled).permute(0, 2, 1).reshape(count, filled * m))


def spectrum_rows(spectrum: tc.Array, channel: Any, row: Any, plan: Matrices, flipped: bool) -> Spectrum:
    """The kernel's spectrum in the rows of a step, [batch * across / m, m], or its conjugate."""

    def read(m: int) -> Complex:
        shape, box = (plan.batch * plan.across // m, m), (1, 1, plan.batch, plan.across)
        found = Complex(*(spectrum.load((i, channel, row, 0), box).reshape(shape) for i in range(2)))
        return found.conj if flipped else found

    return read


class Columns(NamedTuple):
    """Columns of a pair's periods, as matrices [rows, across], a step's at a time."""

    pair: Pair
    plan: Matrices
    more: Continued | None
    kind: DType

    def places(self, step: Any) -> Any:
        """Where they are in the sequence, [filled, columns]."""
        plan = self.plan
        rows = (tc.arange(plan.filled) * plan.across)[:, None]
        return rows + (step * plan.columns + tc.arange(plan.columns))[None, :]

    def read(self, x: tc.Array, gate: tc.Array | None, step: Any) -> Complex:
        """x * gate, in f32."""
        places = self.places(step)
        return Complex(*(self.pair.gathered(x, gate, i, places, self.more) for i in range(2)))

    def peaks(self, x: tc.Array, gate: tc.Array | None) -> Complex:
        """For each of the two sequences the power of two at or below the largest |x * gate|, so that numbers
        over it are below 2; 1 where no sum can leave the range of the stages' dtype."""
        if self.kind.exponent == 8:
            return Complex(*(tc.full((), 1.0, tc.f32) for _ in range(2)))
        nothing = tc.zeros((self.plan.filled, self.plan.columns), tc.f32)
        largest = Complex(nothing, nothing)
        for step in tc.range(self.plan.steps):
            z = self.read(x, gate, step)
            largest = Complex(tc.maximum(largest.re, tc.abs(z.re)), tc.maximum(largest.im, tc.abs(z.im)))
        return largest.each(lambda t: power_of_two(t.max()))

    def write(self, y: tc.Array, z: Complex, gate: tc.Array | None, step: Any) -> None:
        for i, part in enumerate(z):
            self.pair.scattered(y, part, gate, i, self.places(step))


def power_of_two(x: Any) -> Any:
    """At or below a positive f32 that is not small."""
    return (tc.maximum(x, SMALLEST).bitcast("i32") & EXPONENT).bitcast("f32")


class Ends(NamedTuple):
    """What a convolution reads and writes: see `matrix_kernel`."""

    u: tc.Array
    pregate: tc.Array | None
    skip: tc.Array | None
    postgate: tc.Array | None
    other: tc.Array | None
    y: tc.Array
    y_other: tc.Array | None

    def finish(self, at: Columns, z: Complex, step: Any) -> None:
        """Adds what skips the convolution, and writes."""
        if self.skip is not None:
            x = at.read(self.u, self.pregate, step)
            z = z + x.times(self.skip.at(at.pair.channel).to(tc.f32))
        at.write(self.y, z, self.postgate, step)
        if self.y_other is not None:
            at.write(self.y_other, z, self.other, step)


@tc.kernel
def matrix_kernel(
    u: tc.Array, spectrum: tc.Array, norms: tc.Array, turns: tc.Array, skip: tc.Array | None,
    pregate: tc.Array | None, postgate: tc.Array | None, other: tc.Array | None, y: tc.Array,
    y_other: tc.Array | None,
    taps: tc.i32,  # type: ignore[valid-type]  # a scalar that the launch gives
    *,
    plan: Matrices, kind: DType, flipped: bool = False, warps: int = 1,
) -> None:  # fmt: skip
    """y = postgate * (conv(pregate * u) + skip * pregate * u): arrays [B, H, L], skip [H], spectrum [2, H,
    rows, across] over norms [H], turns [2, steps, rows]. `flipped`: of what comes later. y_other: the same,
    times `other` instead.
    """
    channel, i = tc.blocks(u.shape[1], tc.cdiv(u.shape[0], 2))
    ends, pair = Ends(u, pregate, skip, postgate, other, y, y_other), Pair(i, channel, tc.f32)
    at = Columns(pair, plan, continued(plan, u.shape[2], taps, flipped), kind)
    peaks = at.peaks(u, pregate).times(plan.headroom)
    down, up = peaks.each(lambda t: 1.0 / t), peaks.times(norms.at(channel))
    if plan.rows == 1:
        x = at.read(u, pregate, 0).scaled(down).to(kind)
        z = row_by_row(x, spectrum_rows(spectrum, channel, 0, plan, flipped), plan, kind)
        ends.finish(at, z.scaled(up), 0)
        return
    re, im = (tc.shared((plan.rows, plan.across + 8), kind) for _ in range(2))
    for j in tc.range(plan.steps):
        x = at.read(u, pregate, j).scaled(down).to(kind)
        z = product(roots(plan.rows, kind, columns=plan.filled), x, plan.shares) * column_turns(
            turns, j, plan
        )
        re.store((0, j * plan.columns), z.re.to(kind))
        im.store((0, j * plan.columns), z.im.to(kind))
    for r in tc.range(plan.rows // plan.batch):
        k = spectrum_rows(spectrum, channel, r * plan.batch, plan, flipped)
        x = Complex(*(part.load((r * plan.batch, 0), (plan.batch, plan.across)) for part in (re, im)))
        z = row_by_row(x, k, plan, kind).to(kind)
        re.store((r * plan.batch, 0), z.re)
        im.store((r * plan.batch, 0), z.im)
    for j in tc.range(plan.steps):
        x = Complex(*(part.load((0, j * plan.columns), (plan.rows, plan.columns)) for part in (re, im)))
        x = x.to(tc.f32).back(column_turns(turns, j, plan)).to(kind)
        z = product(roots(plan.rows, kind, rows=plan.filled).conj, x, plan.shares)
        ends.finish(at, z.scaled(up), j)


@tc.kernel
def ordered_kernel(
    values: tc.Array,
    order: tc.Array,
    spectrum: tc.Array,
    norms: tc.Array,
    *,
    block: int = 1024,
    warps: int = 4,
) -> None:
    """spectrum [2, H, n] = values [2, H, n] in another order, over norms [H], which leave f16 no overflow."""
    channel, n = tc.blocks(values.shape[1]), tc.static(values.shape[2])
    largest = tc.zeros(block, tc.f32)
    for at in tc.range(0, n, block):
        for i in tc.static_range(2):
            part = values.load((i, channel, at), (1, 1, block)).reshape(block)
            largest = tc.maximum(largest, tc.abs(part))
    norm = power_of_two(largest.max()) * HEADROOM * float(1 << (n.bit_length() - 1) // 2)
    norms.store(channel, norm)
    for at in tc.range(0, n, block):
        places = order.load(at, block)
        for i in tc.static_range(2):
            part = values.gather(i, channel, places) * (1.0 / norm)
            spectrum.store((i, channel, at), part.reshape(1, 1, block))


def column_turns(turns: tc.Array, j: Any, plan: Matrices) -> Complex:
    """Twiddles [rows, columns] of a step's columns: those of the first, times what each turns further."""
    first = Complex(*(turns.load((i, j, 0), (1, 1, plan.rows)).reshape(-1, 1) for i in range(2)))
    return unit((plan.rows, plan.columns), lambda r, s: r * s, plan.period, tc.f32) * first
