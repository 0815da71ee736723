"""Layouts of memory: one group of digits per axis, from coordinates to an element's offset.

row_major((8, 64), Swizzle(3, 4, 3)).byte_offset((1, 0), element_bits=16) == 128 ^ 16
"""

from dataclasses import replace
from math import prod

from tilec.ir.digits import Digit
from tilec.ir.layout import Layout, Shape, memory
from tilec.ir.swizzle import Swizzle


def strided(shape: Shape, strides: Shape) -> Layout:
    """Memory: element c of an axis at c * stride."""
    axes = tuple((Digit(n, (s,)),) for n, s in zip(shape, strides, strict=True))
    return memory(axes, 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)))


def row_major(shape: Shape, swizzle: Swizzle | None = None) -> Layout:
    """Memory: the last axis fastest."""
    return replace(strided(shape, tuple(prod(shape[a + 1 :]) for a in range(len(shape)))), swizzle=swizzle)


def column_major(shape: Shape, swizzle: Swizzle | None = None) -> Layout:
    """Memory: the first axis fastest."""
    return replace(strided(shape, tuple(prod(shape[:a]) for a in range(len(shape)))), swizzle=swizzle)


def padded(shape: Shape, pad: int) -> Layout:
    """Memory: row-major, every row `pad` elements longer than it needs to be."""
    return strided(shape, tuple(prod((*shape[a + 1 : -1], shape[-1] + pad)) if a + 1 < len(shape) else 1
                                for a in range(len(shape))))  # fmt: skip
