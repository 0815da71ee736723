"""How a convolution of some length is computed: its period, and how that is factored. Data for the kernels.

plan_of(1000, 1000, "causal").period == 2048
"""

from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from tilec.ops.arrays import Array
from tilec.ops.fft_conv_butterfly import Radices, order

MODES = ("causal", "circular", "bidirectional", "bidirectional_fftconv", "bidirectional_safari")
LONGEST = 1 << 22
STRIP = 32  # columns that a block of the outer passes takes
INNER, OUTER = 15, 9  # bits of the periods between outer passes, and of those at most


class Plan(NamedTuple):
    """A period of rows * columns points, and the radices of the transforms down and across. `outer`: those of
    a transform before and after, in passes of their own, over so many such matrices. `half`: only the first
    half of a period is anything but zeros, and only that is wanted. `wraps`: what reaches past the ends of a
    sequence comes in at the other."""

    down: Radices
    across: Radices
    outer: Radices = ()
    half: bool = False
    wraps: bool = False

    @property
    def rows(self) -> int:
        return prod(self.down)

    @property
    def columns(self) -> int:
        return prod(self.across)

    @property
    def inner(self) -> int:
        """Points of a matrix."""
        return self.rows * self.columns

    @property
    def matrices(self) -> int:
        return prod(self.outer)

    @property
    def period(self) -> int:
        return self.inner * self.matrices

    @property
    def first(self) -> int:
        """The radix that the points of a period meet first."""
        return (self.outer or self.down)[0]

    @property
    def filled(self) -> int:
        """Of that radix's parts those that are not known to be zero."""
        return self.first // 2 if self.half else self.first

    def frequencies(self) -> Array:
        """The frequency at each place of the spectrum [matrices, columns, rows]."""
        within = order(self.down)[None, :] + self.rows * order(self.across)[:, None]
        found: Array = order(self.outer)[:, None, None] + self.matrices * within
        return found


class Matrices(NamedTuple):
    """A plan for matrix units. Sizes of the transforms: `rows` (1: none) down columns, the `factors` of a
    row. A block's warps take `columns` columns at a time; of a single row only so many points are wanted.
    `half`, `wraps`: as in Plan."""

    rows: int
    factors: tuple[int, ...]
    columns: int
    warps: int = 1
    half: bool = False
    wraps: bool = False

    @property
    def across(self) -> int:
        return prod(self.factors)

    @property
    def period(self) -> int:
        return self.rows * self.across

    @property
    def filled(self) -> int:
        """Rows that are not known to be zero."""
        return self.rows // 2 if self.half and self.rows > 1 else self.rows

    @property
    def steps(self) -> int:
        """Turns of the loops over columns."""
        return 1 if self.rows == 1 else self.across // self.columns

    @property
    def batch(self) -> int:
        """Rows at a time: each warp transforms one, or the rows of a matrix atom."""
        return 1 if self.rows == 1 else self.warps * (1 if len(self.factors) == 2 else 16)

    @property
    def shares(self) -> tuple[int, int]:
        """How warps share products down the columns; of long ones each holds half of the roots."""
        down = 2 if self.rows == 64 and self.warps == 8 else 1
        return down, self.warps // down

    @property
    def headroom(self) -> float:
        """What numbers below 2 are over for sums of a period to stay below 2^16."""
        return 2.0 if self.period > 1 << 14 else 1.0

    def frequencies(self) -> Array:
        """The frequency at each place of the spectrum [rows, across]."""
        inner = np.zeros(1, np.int64)
        done = 1
        for factor in self.factors:
            inner = (inner[:, None] + done * np.arange(factor)).reshape(-1)
            done *= factor
        return np.arange(self.rows)[:, None] + self.rows * inner


ON_MATRICES = {  # log2 of the period: rows, factors, columns, warps
    8: (1, (16, 16), 0, 1), 9: (1, (16, 32), 0, 1), 10: (32, (32,), 32, 2), 11: (64, (32,), 32, 4),
    12: (16, (16, 16), 64, 4), 13: (16, (16, 32), 64, 4), 14: (32, (16, 32), 64, 8),
    15: (64, (16, 32), 32, 8),
}  # fmt: skip


def matrices_of(length: int, taps: int, mode: str, most_bytes: int) -> Matrices | None:
    """The plan of the shortest period for matrix units of 16 bits, None where blocks have no room for it."""
    bits = max(min(ON_MATRICES), period_bits(length, taps, mode))
    if bits not in ON_MATRICES or 4 << bits > most_bytes:
        return None
    rows, factors, columns, warps = ON_MATRICES[bits]
    wraps = mode == "circular" and length != 1 << bits
    half = 2 * length <= 1 << bits and not wraps
    return Matrices(rows, factors, columns or (1 << bits) >> half, warps, half, wraps)


def period_bits(length: int, taps: int, mode: str) -> int:
    """log2 of the shortest period in which no sum runs into another; `taps`: of the longer kernel."""
    if mode == "circular" and length & (length - 1) == 0:
        return max(2, length.bit_length() - 1)
    reach = length + taps - (mode != "bidirectional_safari")
    both = 2 * taps if mode.startswith("bidirectional") else 0
    return max(2, (max(reach, both) - 1).bit_length())


@lru_cache
def plan_of(length: int, taps: int, mode: str, one_pass: int) -> Plan:
    """The plan of the shortest period; up to 1 << one_pass points are done in one pass."""
    bits = period_bits(length, taps, mode)
    wraps = mode == "circular" and length != 1 << bits
    return of_period(bits, one_pass)._replace(half=2 * length <= 1 << bits and not wraps, wraps=wraps)


def of_period(bits: int, one_pass: int) -> Plan:
    """A plan of 1 << bits points, for sequences that fill it."""
    inner = bits if bits <= one_pass else max(min(INNER, one_pass), bits - OUTER)
    return Plan(radices(inner // 2), radices(inner - inner // 2), radices(bits - inner))


def radices(bits: int) -> Radices:
    """As few as there can be up to 8, the larger first."""
    passes = -(-bits // 3)
    return tuple(1 << (bits // passes + (i < bits % passes)) for i in range(passes))


class Tables(NamedTuple):
    """Twiddles: `inner` [2, columns, rows]; the outer ones are products of `coarse` [2, strips, matrices] and
    `fine` [2, matrices, STRIP]."""

    inner: Array
    coarse: Array
    fine: Array


@lru_cache(32)
def tables_of(down: Radices, across: Radices, outer: Radices, dtype: str) -> Tables:
    """In float64, then rounded to `dtype`; frequencies in the order in which butterflies leave them."""
    plan = Plan(down, across, outer)
    inner = np.arange(plan.columns)[:, None] * order(down)
    strips, frequencies = np.arange(0, plan.inner, STRIP), order(outer)
    coarse, fine = strips[:, None] * frequencies, frequencies[:, None] * np.arange(STRIP)
    return Tables(*(
        _unit(turns, period, dtype)
        for turns, period in ((inner, plan.inner), (coarse, plan.period), (fine, plan.period))
    ))  # fmt: skip


@lru_cache(32)
def turns_of(plan: Matrices) -> Array:
    """Twiddles [2, steps, rows] of the first column of each step."""
    return _unit(
        np.arange(0, plan.across, plan.columns)[: plan.steps, None] * np.arange(plan.rows), plan.period, "f4"
    )


@lru_cache(32)
def frequencies_of(plan: Plan | Matrices) -> Array:
    """The frequency at each place of a plan's spectrum, int32 [period]."""
    return plan.frequencies().reshape(-1).astype(np.int32)


@lru_cache(32)
def places_of(plan: Matrices, given: Plan) -> Array:
    """Where the frequencies of a plan's spectrum are in that of another, int32 [period]."""
    return np.argsort(given.frequencies().reshape(-1))[plan.frequencies().reshape(-1)].astype(np.int32)


def _unit(turns: Array, period: int, dtype: str) -> Array:
    """[2, ...]: exp(-2 pi i turns / period)."""
    angle = turns % period * (2 * np.pi / period)
    return np.stack([np.cos(angle), -np.sin(angle)]).astype(dtype)
