"""Layouts to look at: text that reads back, closed forms, pictures.

c = spatial(8, 4) * local(1, 2)
str(c) == "{[8, 8] thread 8:1,0 4:0,2; slot 2:0,1}", and parse(str(c)) == c
formula(c) == (floor(thread/4), 2*Mod(thread, 4) + slot)
draw(c)     an SVG: a cell per element, with the thread and slot of its owner, coloured by thread
"""

import colorsys
import re
from html import escape
from math import prod
from typing import Any

import numpy as np

from tilec.ir import digits as dg
from tilec.ir.digits import Digit, Digits, Ints
from tilec.ir.errors import TilecError
from tilec.ir.holders import flat_points
from tilec.ir.layout import Layout
from tilec.ir.swizzle import Swizzle

CELL = (44, 22)  # pixels
GOLDEN = 0.618034  # turns of the colour wheel between threads: neighbours look different
TEXT = re.compile(r"\{\[([\d, ]*)\] ([^^]*)(?: \^ (\d+),(\d+),(\d+))?\}")


def parse(text: str) -> Layout:
    """The layout whose `str` this is; TilecError where it is none."""
    match = TEXT.fullmatch(text)
    if match is None:
        raise TilecError(f"no layout: {text!r}; one looks like {{[8, 8] thread 8:1,0 4:0,2; slot 2:0,1}}")
    shape = _numbers(match[1])
    groups = (group.split() for group in match[2].split(";"))
    named = tuple((name, tuple(_digit(d) for d in digits)) for name, *digits in groups)
    swizzle = Swizzle(int(match[3]), int(match[4]), int(match[5])) if match[3] else None
    return Layout(named, shape, swizzle)


def _digit(text: str) -> Digit:
    extent, _, stride = text.partition(":")
    return Digit(int(extent), _numbers(stride))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n.strip())


def formula(layout: Layout) -> tuple[Any, ...]:
    """Each coordinate of the point as a sympy expression in the groups' names (axes "0", "1" are x0, x1),
    which stand for integers from 0. A swizzled byte offset is swizzle_bits_base_shift(...).
    """
    import sympy

    point = [sympy.Integer(0)] * layout.rank
    for name, digits in layout.groups:
        index = sympy.Symbol(f"x{name}" if name.isdigit() else name, integer=True, nonnegative=True)
        for value, digit in _digit_values(sympy, index, digits):
            point = [c + s * value for c, s in zip(point, digit.stride, strict=True)]
    if layout.swizzle is None:
        return tuple(point)
    s = layout.swizzle
    return (sympy.Function(f"swizzle_{s.bits}_{s.base}_{s.shift}")(*point),)


def _digit_values(sympy: Any, index: Any, digits: Digits) -> list[tuple[Any, Digit]]:
    """Each digit's value: index // place % extent, without the % for the first and the // for the last."""
    found = []
    for position, (place, digit) in enumerate(dg.places(digits)):
        value = sympy.floor(index / place) if place > 1 else index
        found.append((sympy.Mod(value, digit.extent) if position else value, digit))
    return found


def draw(layout: Layout) -> str:
    """An SVG text of a register layout: cells in row-major order, all axes but the last below each other.

    A cell says thread:slot of the owner, and hovering all holders; an element that nobody holds is grey.
    """
    columns = layout.shape[-1] if layout.shape else 1
    owners = layout.section().ravel().tolist()
    titles = _holders(layout)
    cells = (_cell(divmod(i, columns), owner, layout.slots, titles[i]) for i, owner in enumerate(owners))
    width, height = columns * CELL[0], prod(layout.shape[:-1]) * CELL[1]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + 16}" '
        f'font-family="monospace" font-size="11"><text x="2" y="12">{escape(str(layout))}</text>'
        f'<g transform="translate(0 16)" stroke="#fff">{"".join(cells)}</g></svg>'
    )


def _holders(layout: Layout) -> list[str]:
    """For each element the (thread, slot) pairs that hold it."""
    flat: Ints = flat_points(layout)
    found: list[list[str]] = [[] for _ in range(layout.size)]
    for thread, slot in np.argwhere(flat >= 0).tolist():
        found[flat[thread, slot]].append(f"{thread}:{slot}")
    return [" ".join(pairs) for pairs in found]


def _cell(at: tuple[int, int], owner: int, slots: int, title: str) -> str:
    y, x = at[0] * CELL[1], at[1] * CELL[0]
    thread, slot = divmod(owner, slots)
    label = f"{thread}:{slot}" if owner >= 0 else ""
    return (
        f'<g><title>{title}</title><rect x="{x}" y="{y}" width="{CELL[0]}" height="{CELL[1]}" '
        f'fill="{_colour(thread) if owner >= 0 else "#ccc"}"/>'
        f'<text x="{x + CELL[0] // 2}" y="{y + 15}" text-anchor="middle" stroke="none">{label}</text></g>'
    )


def _colour(thread: int) -> str:
    red, green, blue = colorsys.hls_to_rgb(thread * GOLDEN % 1, 0.8, 0.6)
    return f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"
