"""Transforms along the first axis of a tile, as butterflies: for machines whose vectors run along the last.

    z = down(z, (8, 4))         [32, q]: row 4 * a + b of the result is frequency a + 8 * b, for all columns
    z = up(z, (8, 4))           back, times 32; it takes frequencies in that order, so nobody is ever sorted
Each radix is one pass over the tile: decimation in frequency on the way down, in time on the way up
(Gentleman and Sande, 1966). Parts that nobody reads, and parts known to be zero, are not computed.
"""

from collections.abc import Sequence

import numpy as np

import tilec as tc
from tilec.ops.fft_conv_complex import Complex, Part, butterfly, computed, unit

Radices = tuple[int, ...]


def order(radices: Sequence[int]) -> np.ndarray:
    """The frequency in each row after `down`."""
    found = np.zeros(1, np.int64)
    done = 1
    for radix in radices:
        found = (found[:, None] + done * np.arange(radix)[None, :]).reshape(-1)
        done *= radix
    return found


def split(z: Complex, radix: int, rows: int) -> list[Part]:
    """The tile's rows, of `rows` in all, in `radix` parts; those past its end are zero."""
    part = rows // radix
    there = z.re.shape[0] // part
    cut = [Complex(*(x[r * part : (r + 1) * part] for x in z)) for r in range(there)]
    return [*cut, *([None] * (radix - there))]


def down(parts: Sequence[Part], radices: Radices) -> Complex:
    """The transform of rows, which come in as many parts as the first radix says."""
    first, q = next(z for z in parts if z is not None).re.shape
    length = first * radices[0]
    z = joined(twisted(butterfly(parts), length, 1), 0, (length, q))
    done = radices[0]
    for radix in radices[1:]:
        parts = _cut(z, done, radix)
        z = joined(twisted(butterfly(parts), length // done, 2), 1, (length, q))
        done *= radix
    return z


def up(z: Complex, radices: Radices) -> list[Part]:
    """The inverse of `down` without its 1 / n, in as many parts of rows as the first radix says."""
    length, q = z.re.shape
    done = length
    for radix in reversed(radices[1:]):
        done //= radix
        z = joined(raised(_cut(z, done, radix), length // done, 2), 1, (length, q))
    return raised(split(z, radices[0], length), length, 1)


def _cut(z: Complex, done: int, radix: int) -> list[Part]:
    """Each of `done` blocks of rows in `radix` parts, [done, rows, q] for each."""
    length, q = z.re.shape
    blocks = z.each(lambda x: x.reshape(done, radix, length // done // radix, q))
    return [Complex(*(x[:, r] for x in blocks)) for r in range(radix)]


def raised(parts: Sequence[Part], length: int, axes: int) -> list[Part]:
    """One radix of `up`: turned back, then the butterfly between two swaps."""
    turned = twisted([None if z is None else z.swapped for z in parts], length, axes)
    return [None if z is None else z.swapped for z in butterfly(turned)]


def twisted(parts: Sequence[Part], length: int, axes: int) -> list[Part]:
    """Part r times exp(-2 pi i r j / length), j along the rows of the part, which is axis `axes` - 1."""
    rows = length // len(parts)
    if rows == 1:
        return list(parts)
    shape = (*([1] * (axes - 1)), rows, 1)
    found: list[Part] = [parts[0]]
    for r, z in enumerate(parts[1:], 1):
        turns = unit(shape, lambda *at, r=r: at[axes - 1] * r, length, z.re.dtype) if z else None
        found.append(z * turns if z and turns else z)
    return found


def joined(parts: Sequence[Part], axis: int, shape: tuple[int, int]) -> Complex:
    """All parts side by side along a new axis, as a tile of this shape."""
    whole = computed(parts)
    stacked = Complex(tc.stack([z.re for z in whole], axis), tc.stack([z.im for z in whole], axis))
    return stacked.each(lambda x: x.reshape(shape))
