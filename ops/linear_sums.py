"""The sums of a linear layer's tile: the loop over K, weights unpacked in registers.

acc = summed(x, Weights(codes, scales, zeros), Form(...), i, j, Run(first, last), bm, stages)
"""

from math import gcd
from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ir.layout import Layout
from tilec.ops.factors import factors, floats, unit
from tilec.ops.split import Run
from tilec.ops.weight import default_zero

WHOLE = 1 << 30  # more weights than a row has
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


def summed(
    x: tc.Array, given: Weights, form: Form, i: Any, j: Any, run: Run, bm: int, stages: int
) -> tc.Tile:
    """The sums (bm, bn) f32 of tile (i, j), over the steps of a run along K."""
    (bk, bn), group, compute, zero_point = form.fragment.shape, form.group, form.compute, form.zero_point
    weight, scales, zeros, placed = form.weight, given.scales, given.zeros, form.placed
    X, W = x.tiles((bm, bk)), given.codes.tiles((1, 1, form.fragment.nbytes(weight)))
    acc = tc.zeros((bm, bn), tc.f32)
    sums = tc.i32 if compute.is_integer else tc.f32
    part = tc.zeros((bm, bn), sums)  # those of the group under way
    span = gcd(group, LONGEST) if compute.is_integer else group
    apart = compute.is_integer and zero_point and zeros.dtype.is_float  # differences that are no bytes
    held = weight.all_numbers if weight.exponent < compute.exponent else weight  # no code is special
    plain = group % bk == 0 and not (apart or form.scaled_weights)
    worth = unit(weight, compute, zero_point, placed) if plain else 1.0
    for s in tc.range(run.first, run.last, stages=stages):
        xs, w = X[i, s].to(compute), tc.view(W[j, s, 0], held, form.fragment, placed=placed)
        if group % bk == 0 and not apart:
            at = (s * bk // group if group else 0, j * bn)
            if form.scaled_weights:
                w = floats(w, zeros, at, compute, zero_point) * scales.load(at, (1, bn)).to(compute)
                acc = tc.dot(xs, w, acc)
            else:
                part = tc.dot(xs, factors(w, zeros, at, compute, zero_point, placed), part)
            if not form.scaled_weights and span and ends_group(s, run.last, bk, span):
                acc = tc.fma(part.to(tc.f32), scales.load(at, (1, bn)).to(tc.f32), acc)
                part = tc.zeros((bm, bn), sums)
        else:  # groups end within a step: each weight gets its own scale
            g, n = (s * bk + tc.arange(bk)[:, None]) // (group or WHOLE), j * bn + tc.arange(bn)[None, :]
            zero = zeros.gather(g, n).to(tc.f32) if zero_point else default_zero(weight)
            scaled = (w.to(tc.f32) - zero) * scales.gather(g, n).to(tc.f32)
            exact = tc.f32 if compute.is_integer else compute
            acc = tc.dot(xs.to(exact), scaled.to(exact), acc)
    if not span and not form.scaled_weights:
        acc = part * scales.load((0, j * bn), (1, bn)).to(tc.f32)
    if worth != 1:
        acc = acc * worth
    return acc


def ends_group(step: Any, steps: Any, bk: int, group: int) -> Any:
    """Is this the last step of its group, or the last of all?"""
    return True if group == bk else ((step + 1) * bk % group == 0) | (step + 1 == steps)
