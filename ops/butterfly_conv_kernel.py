"""Convolutions by learned transforms: Cooley and Tukey's stages with matrices of their own instead of roots
of unity, between true twiddles; the way back is the true one, of which the real part is kept.

    P = T(u) * T'(k),  y = Re(inverse DFT of P)
A stage multiplies along one factor of the period, n = n1 * n2 * ..., with a complex matrix [n_i, n_i]. Which
frequency a place stands for is the same for both transforms and on the way back, so nobody is sorted.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ops.fft_conv_complex import Complex, unit


class Stages(NamedTuple):
    """The factors of a period; matrices are added to the roots of unity where `additive`."""

    factors: tuple[int, ...]
    additive: bool
    kind: DType

    @property
    def period(self) -> int:
        n = 1
        for factor in self.factors:
            n *= factor
        return n

    def around(self, i: int) -> tuple[int, int, int]:
        """Points before a factor, the factor, points after it."""
        before = 1
        for factor in self.factors[:i]:
            before *= factor
        return before, self.factors[i], self.period // before // self.factors[i]


class Matrices(NamedTuple):
    """A channel's matrices, one after the other, re and im: [sum of n_i^2, 2]."""

    held: tc.Array
    channel: Any
    stages: Stages

    def at(self, i: int) -> Complex:
        n, start = self.stages.factors[i], sum(n * n for n in self.stages.factors[:i])
        found = Complex(
            *(self.held.load((self.channel, start, part), (1, n * n, 1)).reshape(n, n) for part in range(2))
        ).to(self.stages.kind)
        return found + roots(n, self.stages.kind) if self.stages.additive else found

    def each(self) -> list[Complex]:
        return [self.at(i) for i in range(len(self.stages.factors))]


def roots(n: int, kind: DType) -> Complex:
    return unit((n, n), lambda r, s: r * s, n, kind)


def product(a: Complex, b: Complex) -> Complex:
    """a @ b in full precision."""
    zero = tc.zeros((a.re.shape[0], b.re.shape[1]), a.re.dtype)
    re = tc.dot(-a.im, b.im, tc.dot(a.re, b.re, zero))
    return Complex(re, tc.dot(a.im, b.re, tc.dot(a.re, b.im, zero)))


def transposed(z: Complex) -> Complex:
    """The conjugate transpose."""
    return z.each(lambda x: x.T).conj


def gathered(z: Complex, shape: tuple[int, int, int]) -> Complex:
    """Points [before, n, after] as columns [n, before * after]."""
    return z.each(lambda x: x.reshape(shape).permute(1, 0, 2).reshape(shape[1], shape[0] * shape[2]))


def spread(z: Complex, shape: tuple[int, int, int]) -> Complex:
    """And back, [before, n, after]."""
    return z.each(lambda x: x.reshape(shape[1], shape[0], shape[2]).permute(1, 0, 2))


def twiddles(stages: Stages, i: int) -> Complex:
    _, n, after = stages.around(i)
    return unit((1, n, after), lambda _, r, s: r * s, n * after, stages.kind)


def transform(z: Complex, matrices: Sequence[Complex], stages: Stages) -> tuple[Complex, list[Complex]]:
    """The learned transform of a period, and what each stage's matrix was multiplied with."""
    seen = []
    for i, matrix in enumerate(matrices):
        shape = stages.around(i)
        seen.append(gathered(z, shape))
        z = spread(product(matrix, seen[-1]), shape) * twiddles(stages, i)
    return z.each(lambda x: x.reshape(stages.period)), seen


def pulled(
    g: Complex, matrices: Sequence[Complex], seen: Sequence[Complex], stages: Stages
) -> tuple[Complex, list[Complex]]:
    """Gradients of a transform's input and matrices, from that of its output."""
    found = []
    for i in range(len(matrices))[::-1]:
        columns, g = turned_back(g, matrices[i], stages, i)
        found.append(product(columns, transposed(seen[i])))
    return g.each(lambda x: x.reshape(stages.period)), found[::-1]


def turned_back(g: Complex, matrix: Complex, stages: Stages, i: int) -> tuple[Complex, Complex]:
    """A stage's conjugate transpose: what its matrix is multiplied with, and the product."""
    shape = stages.around(i)
    columns = gathered(g.each(lambda x: x.reshape(shape)).back(twiddles(stages, i)), shape)
    return columns, spread(product(transposed(matrix), columns), shape)


def inverse(z: Complex, stages: Stages) -> Complex:
    """The true transform back: for roots of unity the conjugate transpose is the inverse, times n."""
    for i in range(len(stages.factors))[::-1]:
        z = turned_back(z, roots(stages.factors[i], stages.kind), stages, i)[1]
    return z.each(lambda x: x.reshape(stages.period)).times(1 / stages.period)


def true(stages: Stages) -> list[Complex]:
    return [roots(n, stages.kind) for n in stages.factors]


def period_of(x: tc.Array, place: tuple[Any, ...], stages: Stages) -> Complex:
    """A sequence, then zeros, to the end of the period."""
    shape = (*(1 for _ in place), stages.period)
    re = x.load((*place, 0), shape).reshape(stages.period).to(stages.kind)
    return Complex(re, tc.zeros(stages.period, stages.kind))


def write(x: tc.Array, place: tuple[Any, ...], value: tc.Tile) -> None:
    x.store((*place, 0), value.reshape(*(1 for _ in place), value.size).to(x.dtype))


@tc.kernel
def butterfly_conv_kernel(
    u: tc.Array, k: tc.Array, for_u: tc.Array, for_k: tc.Array, y: tc.Array, *, stages: Stages, warps: int = 4
) -> None:
    """y [B, H, L] of u [B, H, L], k [H, taps]; matrices [H, sum of n_i^2, 2]."""
    channel, b = tc.blocks(u.shape[1], u.shape[0])
    ours, theirs = (Matrices(held, channel, stages).each() for held in (for_u, for_k))
    spectrum = transform(period_of(k, (channel,), stages), theirs, stages)[0]
    z = transform(period_of(u, (b, channel), stages), ours, stages)[0] * spectrum
    write(y, (b, channel), inverse(z, stages).re)


@tc.kernel
def block_kernel(
    ours: tc.Array,
    theirs: tc.Array | None,
    block: tc.Array,
    *,
    start: int,
    accumulator: DType,
    warps: int = 1,
) -> None:
    """block [heads, n^2, 2]: entries from `start` on of ours (and theirs) [H, .., 2], summed for a single
    head."""
    head, count = tc.blocks(block.shape[0]), tc.static(block.shape[1])
    total = tc.zeros((1, count, 2), accumulator)
    for h in tc.range(head, ours.shape[0], tc.maximum(block.shape[0], 1)):
        for held in (ours, theirs):
            if held is not None:
                total = total + held.load((h, start, 0), (1, count, 2)).to(accumulator)
    block.store((head, 0, 0), total.to(block.dtype))


@tc.kernel
def butterfly_conv_backward_kernel(
    dy: tc.Array, u: tc.Array, k: tc.Array, for_u: tc.Array, for_k: tc.Array, du: tc.Array, dk: tc.Array,
    d_for_u: tc.Array, d_for_k: tc.Array, *, stages: Stages, warps: int = 4,
) -> None:  # fmt: skip
    """The gradients of all that butterfly_conv_kernel reads. A block takes a channel, and all of the
    batch."""
    channel = tc.blocks(u.shape[1])
    ours, others = (Matrices(held, channel, stages).each() for held in (for_u, for_k))
    spectrum, seen_of_k = transform(period_of(k, (channel,), stages), others, stages)
    zero = tc.zeros(stages.period, stages.kind)
    total = Complex(zero, zero)
    sums = [Complex(*(tc.zeros((n, n), stages.kind) for _ in range(2))) for n in stages.factors]
    for b in tc.range(u.shape[0]):
        z, seen = transform(period_of(u, (b, channel), stages), ours, stages)
        g = transform(period_of(dy, (b, channel), stages), true(stages), stages)[0].times(1 / stages.period)
        total = total + g.back(z)
        dz, found = pulled(g.back(spectrum), ours, seen, stages)
        sums = [a + d for a, d in zip(sums, found, strict=True)]
        write(du, (b, channel), dz.re)
    dz, found = pulled(total, others, seen_of_k, stages)
    write(dk, (channel,), dz.re)
    start = 0
    for i, n in enumerate(stages.factors):
        for into, gradient in ((d_for_u, sums[i]), (d_for_k, found[i])):
            for part, value in enumerate(gradient):
                into.store((channel, start, part), value.reshape(1, n * n, 1).to(into.dtype))
        start += n * n
