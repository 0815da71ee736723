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
ONE_PASS = 17  # bits of the longest period that is done in one pass on a CPU: its points fit the second cache
INNER = 15  # bits of the periods between outer passes


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
    inner = bits if bits <= one_pass else max(min(INNER, one_pass), bits - 9)
    wraps = mode == "circular" and length != 1 << bits
    half = 2 * length <= 1 << bits and not wraps
    return Plan(radices(inner // 2), radices(inner - inner // 2), radices(bits - inner), half, wraps)


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


def _unit(turns: Array, period: int, dtype: str) -> Array:
    """[2, ...]: exp(-2 pi i turns / period)."""
    angle = turns % period * (2 * np.pi / period)
    return np.stack([np.cos(angle), -np.sin(angle)]).astype(dtype)
