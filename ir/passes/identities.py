"""Equations between instructions, each a function that gives the right side where the left one stands.

    def one_times(inst: Mul) -> Value | None:      x * 1 -> x
A rule is tried on the types of instructions that its annotation names. All of them keep every bit; on floats
that leaves x * 1, x / 1, x - 0 and x + (-0): x + 0 would turn -0 into 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, get_args, get_type_hints

import numpy as np

from tilec.ir.dtype import DType
from tilec.ir.func import Inst, Item, Value
from tilec.ir.inst.arith import (
    Abs,
    Add,
    And,
    Cast,
    Compare,
    Div,
    FloorDiv,
    Fma,
    Full,
    Maximum,
    Minimum,
    Mod,
    Mul,
    Neg,
    Not,
    Or,
    Shl,
    Shr,
    Sub,
    Where,
    Xor,
)
from tilec.ir.inst.control import If
from tilec.ir.inst.memory import ArraySlice, Size
from tilec.ir.inst.reduce import Reduce
from tilec.ir.inst.rules import wrap
from tilec.ir.inst.shape import Broadcast, Convert, Extract, Permute, Reshape, Stack

Rule = Callable[[Any], Value | None]


def number(v: Value) -> int | float | None:
    """The number that every element is, else None."""
    return v.value if isinstance(v, Full) else None


def is_exactly(v: Value, value: float) -> bool:
    """Whether every element is this number, with this sign."""
    found = number(v)
    if found is None or found != value:
        return False
    return is_whole(v) or math.copysign(1, found) == math.copysign(1, value)


def is_whole(v: Value) -> bool:
    return not v.tile.dtype.is_float


def constant(value: float, like: Value) -> Value:
    """A tile of the type of another, of one number."""
    tile = like.tile
    return Full(bool(value) if tile.dtype.is_bool else value, tile.dtype, tile.shape, tile.layout)


def all_ones(dtype: DType) -> int:
    """The integer (or bool) with every bit set."""
    return -1 if dtype.is_signed else int(dtype.max)


# Constants.


def constant_to_the_right(inst: Add | Mul | And | Or | Xor | Minimum | Maximum) -> Value | None:
    """c + x -> x + c, and so on for what commutes; integers and bool"""
    turn = is_whole(inst) and isinstance(inst.a, Full) and not isinstance(inst.b, Full)
    return type(inst)(inst.b, inst.a) if turn else None


def sums_of_constants(inst: Add) -> Value | None:
    """(x + c) + d -> x + (c + d) on integers"""
    match inst:
        case Add(Add(x, Full(c)), Full(d)) if is_whole(inst):
            return Add(x, constant(int(wrap(np.asarray(int(c) + int(d)), inst.tile.dtype)), inst))
    return None


def nothing_added(inst: Add | Or | Xor | Shl | Shr | Sub) -> Value | None:
    """x + 0, x - 0, x | 0, x ^ 0, x << 0, x >> 0 -> x; on floats only x + (-0) and x - 0"""
    neutral = -0.0 if isinstance(inst, Add) and not is_whole(inst) else 0
    return inst.a if is_exactly(inst.b, neutral) else None


def one_times(inst: Mul | Div | FloorDiv) -> Value | None:
    """x * 1, 1 * x, x / 1, x // 1 -> x"""
    if number(inst.b) == 1:
        return inst.a
    return inst.b if isinstance(inst, Mul) and number(inst.a) == 1 else None


def nothing_left(inst: Mul | And | Mod | Sub | Xor) -> Value | None:
    """x * 0, x & 0, x % 1, x - x, x ^ x -> 0 on integers and bool"""
    same = inst.a is inst.b and isinstance(inst, Sub | Xor)
    absorbed = number(inst.b) == (1 if isinstance(inst, Mod) else 0) and isinstance(inst, Mul | And | Mod)
    return constant(0, inst) if is_whole(inst) and (same or absorbed) else None


def all_bits(inst: And | Or) -> Value | None:
    """x & -1 -> x, x | -1 -> -1; of bool: x & true -> x, x | true -> true"""
    if number(inst.b) != all_ones(inst.tile.dtype):
        return None
    return inst.a if isinstance(inst, And) else inst.b


def same_twice(inst: And | Or | Minimum | Maximum) -> Value | None:
    """x & x, x | x, min(x, x), max(x, x) -> x"""
    return inst.a if inst.a is inst.b else None


def twice_undone(inst: Neg | Not) -> Value | None:
    """-(-x), ~~x -> x"""
    match inst:
        case Neg(Neg(x)) | Not(Not(x)):
            return x
    return None


def magnitude_twice(inst: Abs) -> Value | None:
    """|(|x|)|, |-x| -> |x|"""
    match inst.x:
        case Abs():
            return inst.x
        case Neg(x):
            return Abs(x)
    return None


def fma_of_one(inst: Fma) -> Value | None:
    """fma(x, 1, c), fma(1, x, c) -> x + c;  fma(a, b, -0) -> a * b"""
    if number(inst.b) == 1:
        return Add(inst.a, inst.c)
    if number(inst.a) == 1:
        return Add(inst.b, inst.c)
    return Mul(inst.a, inst.b) if is_exactly(inst.c, -0.0) else None


# Choices and comparisons.


def chosen(inst: Where) -> Value | None:
    """where(true, a, b), where(c, a, a) -> a;  where(false, a, b) -> b"""
    condition = number(inst.condition)
    if inst.a is inst.b or condition is True:
        return inst.a
    return inst.b if condition is False else None


def compared_with_itself(inst: Compare) -> Value | None:
    """x == x, x <= x, x >= x -> true;  x != x, x < x, x > x -> false; not on floats, where x may be NaN"""
    if inst.a is not inst.b or not is_whole(inst.a):
        return None
    return constant(inst.op in ("eq", "le", "ge"), inst)


def same_on_both_sides(inst: Item) -> Value | None:
    """What both branches give from outside -> that"""
    if not isinstance(inst.source, If):
        return None
    a, b = (block.results[inst.index] for block in inst.source.blocks)
    return a if a is b else None


# Casts.


def cast_to_itself(inst: Cast) -> Value | None:
    """x.to(its own dtype) -> x"""
    return inst.x if inst.x.type == inst.type else None


def cast_there_and_back(inst: Cast) -> Value | None:
    """x.to(wider).to(x's dtype) -> x, if the wider type has all of x's values"""
    match inst:
        case Cast(Cast(x, wide), narrow) if x.tile.dtype == narrow and _holds(wide, narrow):
            return x
    return None


def _holds(wide: DType, narrow: DType) -> bool:
    """Whether a cast to `wide` and back keeps all values. Infinities do not come back to 8 bits: casts
    saturate.
    """
    if wide.is_integer and narrow.is_integer:
        return wide.bits >= narrow.bits
    if not (wide.kind == narrow.kind == "float") or (narrow.saturates and narrow.has_infinity):
        return False
    return wide.exponent >= narrow.exponent and wide.mantissa >= narrow.mantissa and wide.has_infinity


# Shapes.


def constants_stay_constant(inst: Reshape | Permute | Broadcast | Extract | Convert) -> Value | None:
    """A constant in another shape or layout is a constant"""
    return constant(inst.x.value, inst) if isinstance(inst.x, Full) else None


def stack_of_one_constant(inst: Stack) -> Value | None:
    """stack(c, c) -> c"""
    first = inst.tiles[0]
    same = isinstance(first, Full) and all(tile is first for tile in inst.tiles)
    return constant(first.value, inst) if same and isinstance(first, Full) else None


def nothing_moves(inst: Reshape | Permute | Broadcast | Extract | Convert) -> Value | None:
    """A reshape, permute, broadcast, slice or conversion to what x is -> x"""
    moved = isinstance(inst, Permute) and inst.axes != tuple(range(len(inst.axes)))
    return inst.x if inst.type == inst.x.type and not moved else None


def reshape_twice(inst: Reshape) -> Value | None:
    """reshape(reshape(x)) -> reshape(x), before layouts are chosen"""
    match inst:
        case Reshape(Reshape(x), shape, None) if inst.x.tile.layout is None:
            return Reshape(x, shape)
    return None


def sum_of_one(inst: Reduce) -> Value | None:
    """sum(x, axis), any, all along an axis of one element -> reshape(x), before layouts are chosen; what max
    and min take in is checked first
    """
    tile = inst.x.tile
    alone = tile.shape[inst.axis] == 1 and tile.layout is None and inst.op in ("sum", "any", "all")
    return Reshape(inst.x, inst.tile.shape) if alone else None


def permute_twice(inst: Permute) -> Value | None:
    """permute(permute(x, p), q) -> permute(x, p[q])"""
    match inst:
        case Permute(Permute(x, first), second):
            return Permute(x, tuple(first[axis] for axis in second))
    return None


def broadcast_twice(inst: Broadcast) -> Value | None:
    """broadcast(broadcast(x)), broadcast(reshape(scalar)) -> broadcast(x), before layouts are chosen"""
    match inst:
        case Broadcast(Broadcast(x) | Reshape(x), shape, None) if inst.x.tile.layout is None:
            fits = x.tile.rank == 0 or (isinstance(inst.x, Broadcast) and x.tile.rank == len(shape))
            return Broadcast(x, shape) if fits else None
    return None


def extract_twice(inst: Extract) -> Value | None:
    """A slice of a slice -> a slice, before layouts are chosen"""
    match inst:
        case Extract(Extract(x, first), second, shape, None) if inst.x.tile.layout is None:
            return Extract(x, tuple(a + b for a, b in zip(first, second, strict=True)), shape)
    return None


def convert_twice(inst: Convert) -> Value | None:
    """convert(convert(x, L), M) -> convert(x, M)"""
    return Convert(inst.x.x, inst.layout) if isinstance(inst.x, Convert) else None


# Arrays.


def known_extent(inst: Size) -> Value | None:
    """The extent of an axis that the type knows, or that a view leaves as it is -> that

    Views that drop an axis may be empty, whatever their type says: their extents are left alone.
    """
    array = inst.array
    if isinstance(array, ArraySlice):
        whole = not array.dropped and array.whole(inst.axis)
        return Size(array.array, inst.axis) if whole else None
    extent = array.array_type.shape[inst.axis]
    return constant(extent, inst) if isinstance(extent, int) else None


RULES: tuple[Rule, ...] = (
    constant_to_the_right, sums_of_constants, nothing_added, one_times, nothing_left, all_bits, same_twice,
    twice_undone, magnitude_twice, fma_of_one, chosen, compared_with_itself, same_on_both_sides,
    cast_to_itself, cast_there_and_back, constants_stay_constant, stack_of_one_constant, nothing_moves,
    reshape_twice, sum_of_one, permute_twice, broadcast_twice, extract_twice, convert_twice, known_extent,
)  # fmt: skip


@cache
def _table() -> dict[type[Inst], tuple[Rule, ...]]:
    """The rules by the types that their annotations name."""
    found: dict[type[Inst], tuple[Rule, ...]] = {}
    for rule in RULES:
        kind = get_type_hints(rule)["inst"]
        for each in get_args(kind) or (kind,):
            found[each] = (*found.get(each, ()), rule)
    return found


def rewritten(inst: Inst) -> Value | None:
    """The right side of the first rule that applies."""
    for rule in _table().get(type(inst), ()):
        if (found := rule(inst)) is not None:
            return found
    return None
