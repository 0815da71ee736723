"""The sums of a linear layer's tile: the loop over K, weights unpacked in registers.

acc = summed(x, Weights(codes, scales, zeros), Form(...), i, j, Run(first, last), bm, stages)
"""

from math import gcd
from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ir.layout import Layout
from tilec.ops.factors import by_elements, factors, floats, of_group, unit
from tilec.ops.split import Run
from tilec.ops.tiling import sliced

WHOLE = 1 << 30  # more weights than a row has
UNDER_WAY = 128  # bytes of weights that each thread waits for, where no copy is ahead of it
WORD, WARP, GROUP = 32, 32, 4  # bits; lanes of a warp; warps of a warpgroup
LONGEST = 1 << 14  # products of bytes whose sum an i32 holds: 2^14 * 127 * 255 < 2^31


class Weights(NamedTuple):
    """codes [ceil(N / bn), ceil(K / bk), bytes]; scales and zeros [groups, N]."""

    codes: Any
    scales: Any
    zeros: Any


class Form(NamedTuple):
    """What the codes are, and what is made of them: `group` weights of a row share a scale, 0: all of them
    do. Products of `compute`, sums of f32; of i8: a group's are of i32.
    """

    weight: DType
    fragment: Layout
    group: int
    compute: DType
    zero_point: bool
    scaled_weights: bool
    placed: DType | None
    direct: bool = False
    rescaled: bool = False
    slices: int = 1  # of each step, one for each group of warps

    @property
    def warps(self) -> int:
        return self.fragment.threads // WARP

    @property
    def has_groups(self) -> bool:
        """Is each slice a group?"""
        return self.slices > 1 and self.group * self.slices == self.fragment.shape[0]

    @property
    def sums(self) -> DType:
        """Of a group's products."""
        return tc.i32 if self.compute.is_integer else tc.f32

    @property
    def span(self) -> int:
        """Weights whose products are summed before they are scaled; 0: all of a row."""
        return gcd(self.group, LONGEST) if self.compute.is_integer else self.group

    @property
    def held(self) -> DType:
        """What codes are read as: where NaN would cost something none is special."""
        plainly = self.weight.exponent < self.compute.exponent and self.placed != self.weight
        return self.weight.all_numbers if plainly else self.weight

    @property
    def steps(self) -> int:
        """How many steps are written out in a row, so that so many loads are under way."""
        bits = self.fragment.slots * self.weight.bits
        return max(1, min(4, UNDER_WAY * 8 // bits)) if self.direct else 1

    def is_grouped(self, zeros: tc.Array) -> bool:
        """Are groups made of steps, or steps of groups, with zeros that bytes can be less?"""
        apart = self.compute.is_integer and self.zero_point and zeros.dtype.is_float
        return not apart and (self.group % self.fragment.shape[0] == 0 or self.has_groups)


class Sums(NamedTuple):
    """(bm, bn) of all groups that are scaled already, and those of the group under way; what the first are in
    units of, where they are `rescaled`.
    """

    acc: tc.Tile
    part: tc.Tile
    unit: Any


def rows_of(x: tc.Array, i: Any, s: Any, bm: int, form: Form) -> tc.Tile:
    """Tile (i, s) of x; without shared memory (`direct`) in the fragment that goes with the weights'."""
    tile, (bk, _), compute = x.tiles((bm, form.fragment.shape[0]))[i, s], form.fragment.shape, form.compute
    if form.direct and is_left(form):
        tile = tc.annotate(tile, tc.layouts.mma_b(compute, (bk, bm), (form.warps, 1)).permute((1, 0)))
    elif form.direct:
        tile = tc.annotate(tile, rows_by_slices(bm, form))
    return tile.to(compute)


def rows_by_slices(bm: int, form: Form) -> Layout:
    """Who holds x (bm, bk) as the left operand of weights that are held by slices."""
    bk, beside = form.fragment.shape[0], form.warps // form.slices
    cut = (form.slices, bm, bk // form.slices), (form.slices, 1, beside)
    held = tc.layouts.mma_a(form.compute, *cut).permute((1, 0, 2)).reshape((bm, bk))
    assert held is not None, "neighbouring axes are one"
    return held


def product(xs: tc.Tile, w: tc.Tile, acc: tc.Tile, form: Form) -> tc.Tile:
    """xs @ w + acc. Weights that warpgroups hold as a left operand stay it without them: their columns come
    in the order in which warps have them.
    """
    if form.slices > 1:
        return tc.dot(xs.reshape((xs.shape[0], form.slices, -1)).permute((1, 0, 2)), by_slices(w, form), acc)
    if not (form.direct and is_left(form)):
        return tc.dot(xs, w, acc)
    turned = by_warps(acc.T, form.warps)
    turned = tc.annotate(turned, tc.layouts.mma_c(acc.dtype, (acc.shape[1], acc.shape[0]), (form.warps, 1)))
    return by_groups(tc.dot(by_warps(w.T, form.warps), xs.T, turned), form.warps).T


def by_slices(w: tc.Tile, form: Form) -> tc.Tile:
    """Weights (slices, bk / slices, bn): those of each group of warps."""
    return w.reshape((form.slices, -1, form.fragment.shape[1]))


def by_warps(rows: tc.Tile, warps: int) -> tc.Tile:
    """Rows that warpgroups hold, 16 of each warp in turn, so that each warp's are neighbours."""
    groups, columns = warps // GROUP, rows.shape[1]
    return rows.reshape((groups, -1, GROUP, 16, columns)).permute((0, 2, 1, 3, 4)).reshape(rows.shape)


def by_groups(rows: tc.Tile, warps: int) -> tc.Tile:
    """The way back."""
    groups, columns = warps // GROUP, rows.shape[1]
    return rows.reshape((groups, GROUP, -1, 16, columns)).permute((0, 2, 1, 3, 4)).reshape(rows.shape)


def is_left(form: Form) -> bool:
    """Are weights held as the left operand of warpgroups?"""
    bk, bn = form.fragment.shape
    return form.fragment != sliced(form.compute, (bk, bn), form.warps, form.slices)


def words_of(form: Form) -> Layout:
    """Who holds a tile of weights as words of 32 bits: the threads that hold them as bytes."""
    count = form.fragment.slots * form.weight.bits // WORD
    unit = gcd(count, 4)
    return (
        tc.layouts.local(count // unit) * tc.layouts.spatial(form.fragment.threads) * tc.layouts.local(unit)
    )


def packed(W: Any, j: Any, s: Any, form: Form) -> tc.Tile:
    """The bytes of tile (j, s) of the weights; those that are waited for while others are used, as words."""
    held: tc.Tile = W[j, s, 0]
    if not form.direct:
        return held
    source = form.fragment.bytes(form.weight)
    return tc.view(held.reshape(source.shape), tc.u32, words_of(form), source)


def summed(
    x: tc.Array, given: Weights, form: Form, i: Any, j: Any, run: Run, bm: int, stages: int
) -> tc.Tile:
    """The sums (bm, bn) f32 of tile (i, j), over the steps of a run along K."""
    (bk, bn), direct = form.fragment.shape, form.direct
    W = given.codes.tiles((1, 1, form.fragment.nbytes(form.weight)))
    steps = 1 if run.share is None else form.steps  # runs of several tiles end anywhere
    coming = [packed(W, j, run.first + q, form) for q in range(steps)] if direct else []
    sums = begun(given, form, (run.first * bk, j * bn), bm)
    for first in tc.range(run.first, run.last, steps, stages=stages):
        there = [packed(W, j, first + (steps if direct else 0) + q, form) for q in range(steps)]
        here, coming = (coming, there) if direct else (there, [])
        for q in range(steps):
            xs, w = rows_of(x, i, first + q, bm, form), unpacked(here[q], form)
            sums = added(sums, xs, w, given, form, first + q, j * bn, run.last)
    return finished(sums, given, form, j * bn)


def unpacked(codes: tc.Tile, form: Form) -> tc.Tile:
    """Weights (bk, bn) of what `packed` gives."""
    source = words_of(form) if form.direct else None
    return tc.view(codes, form.held, form.fragment, source, placed=form.placed)


def begun(given: Weights, form: Form, at: tuple[Any, Any], bm: int) -> Sums:
    """Sums of nothing, before weight (k, n)."""
    (k, n), shape = at, (bm, form.fragment.shape[1])
    own = shape if form.slices == 1 else (form.slices, *shape)
    unit = scale_of(given.scales, (k // form.group, n), form) if form.rescaled else None
    return Sums(tc.zeros(own, tc.f32), tc.zeros(own, form.sums), unit)


def added(
    sums: Sums, xs: tc.Tile, w: tc.Tile, given: Weights, form: Form, s: Any, column: Any, last: Any
) -> Sums:
    """With the products of step s."""
    (bk, _), group, compute, zero_point = form.fragment.shape, form.group, form.compute, form.zero_point
    (acc, part, unit), scales, zeros = sums, given.scales, given.zeros
    if not form.is_grouped(zeros):
        exact = tc.f32 if compute.is_integer else compute
        k, n = s * bk + tc.arange(bk)[:, None], column + tc.arange(w.shape[1])[None, :]
        scaled = by_elements(w, scales, zeros, (k // (group or WHOLE), n), zero_point)
        return Sums(product(xs.to(exact), scaled.to(exact), acc, form), part, unit)
    w, at = by_slices(w, form) if form.has_groups else w, (s * bk // group if group else 0, column)
    if form.scaled_weights:
        scaled = floats(w, zeros, at, compute, zero_point) * of_group(scales, at, w).to(compute)
        return Sums(product(xs, scaled, acc, form), part, unit)
    if form.rescaled:
        acc, unit = in_units(acc, unit, scales, at, form, s * bk % group == 0)
        acc = product(xs, factors(w, zeros, at, compute, zero_point, form.placed), acc, form)
        return Sums(acc, part, unit)
    part = product(xs, factors(w, zeros, at, compute, zero_point, form.placed), part, form)
    if form.span and ends_group(s, last, bk, form.span):
        acc = tc.fma(part.to(tc.f32), of_group(scales, at, w).to(tc.f32), acc)
        part = tc.zeros(part.shape, form.sums)
    return Sums(acc, part, unit)


def finished(sums: Sums, given: Weights, form: Form, column: Any) -> tc.Tile:
    """The sums (bm, bn) of all slices, in f32."""
    acc, part, now = sums
    if form.rescaled:
        acc = acc * now
    elif not form.span and not form.scaled_weights:
        acc = part * given.scales.load((0, column), (1, form.fragment.shape[1])).to(tc.f32)
    plain = form.is_grouped(given.zeros) and not form.scaled_weights
    worth = unit(form.weight, form.compute, form.zero_point, form.placed) if plain else 1.0
    acc = acc if worth == 1 else acc * worth
    return acc if form.slices == 1 else acc.sum(0)


def scale_of(scales: tc.Array, at: Any, form: Form) -> tc.Tile:
    """(1, bn) scales of the group at `at`; (slices, 1, bn) of each slice's."""
    count, bn = form.slices if form.has_groups else 1, form.fragment.shape[1]
    rows = scales.load(at, (count, bn), other=1).to(tc.f32)
    return rows.reshape((count, 1, bn)) if form.has_groups else rows


def in_units(
    acc: tc.Tile, now: tc.Tile, scales: tc.Array, at: Any, form: Form, begins: Any
) -> tuple[tc.Tile, tc.Tile]:
    """Sums in units of `now`, where a group begins in units of its scale; and what they are in units of."""
    if begins:
        scale = scale_of(scales, at, form)
        acc = acc * (now / scale)
        now = scale
    return acc, now


def ends_group(step: Any, steps: Any, bk: int, group: int) -> Any:
    """Is this the last step of its group, or the last of all?"""
    return True if bk % group == 0 else ((step + 1) * bk % group == 0) | (step + 1 == steps)
