"""Instructions that make or move elements: most are another way to say where they are."""

from __future__ import annotations

import numpy as np

from tilec.backends.convert import cast
from tilec.backends.cpu.lower import Lowering, Several
from tilec.backends.cpu.nest import Point, nest, only
from tilec.backends.cpu.places import Affine, Place, Ref, Splat, broadcast, extract, permute, reshape
from tilec.backends.cpu.transpose import lies_across, turned
from tilec.ir import dtype as dt
from tilec.ir.func import Inst, Item
from tilec.ir.inst import arith, shape
from tilec.ir.tile import dense_strides


def full(lo: Lowering, inst: arith.Full) -> None:
    lo.define(inst, Splat(lo.w.constant(inst.value, inst.dtype), inst.dtype))


def iota(lo: Lowering, inst: arith.Iota) -> None:
    """A formula; in a float type, one that is written out."""
    strides = tuple(int(axis == inst.axis) for axis in range(len(inst.shape)))
    if inst.tile.size == 1:
        lo.define(inst, Splat(lo.w.constant(0, inst.dtype), inst.dtype))
    elif inst.dtype.is_integer:
        lo.define(inst, Affine(inst.dtype, inst.shape, strides))
    else:
        counts, into = Affine(dt.i64, inst.shape, strides), lo.new(inst.tile)

        def body(args: list[str], point: Point) -> list[str]:
            return [cast(lo.w, args[0], dt.i64, inst.dtype)]

        nest(lo.w, inst.shape, [counts], [into], lo.width(dt.i64), body)
        lo.define(inst, into)


def table(lo: Lowering, inst: arith.Table) -> None:
    """Elements in the host's memory; whole vectors are read, so it goes on behind the last."""
    codes = np.append(inst.elements(), np.zeros(lo.vector_bytes, inst.dtype.code))
    place = Ref(lo.table(codes), inst.dtype, inst.shape, dense_strides(inst.shape))
    lo.define(inst, _one(lo, place) if inst.tile.size == 1 else place)


def _alias(lo: Lowering, inst: Inst, place: Place) -> None:
    """The result of an instruction is what another value is, seen differently; one element is a register."""
    lo.define(inst, _one(lo, place) if inst.tile.size == 1 else place)
    lo.used(inst)


def _one(lo: Lowering, place: Place) -> Splat:
    """A tile of one element in a register."""
    return Splat(only(lo.w, place), place.dtype)


def reshaped(lo: Lowering, inst: shape.Reshape) -> None:
    """Copied where strides can't say it."""
    place = lo.place(inst.x)
    moved = reshape(place, inst.shape)
    if moved is None:
        moved = reshape(lo.copy(place, inst.x.tile, lo.new(inst.x.tile)), inst.shape)
    assert moved is not None, "a dense tile takes any shape"
    _alias(lo, inst, moved)


def permuted(lo: Lowering, inst: shape.Permute) -> None:
    """Another order of strides; what is then read across in pieces is turned as a whole."""
    place = permute(lo.place(inst.x), inst.axes)
    if isinstance(place, Ref) and lies_across(place) and inst in lo.cut_up:
        into = lo.new(inst.tile)
        turned(lo, place, into)
        place = into
    _alias(lo, inst, place)


def broadcasted(lo: Lowering, inst: shape.Broadcast) -> None:
    _alias(lo, inst, broadcast(lo.place(inst.x), inst.shape))


def extracted(lo: Lowering, inst: shape.Extract) -> None:
    _alias(lo, inst, extract(lo.w, lo.place(inst.x), inst.start, inst.shape))


def stack(lo: Lowering, inst: shape.Stack) -> None:
    """Each tile is copied to its slice of the result, unless it was computed right there."""
    places = [lo.place(tile) for tile in inst.tiles]
    into = lo.stacks.pop(inst, None) or lo.new(inst.tile, inst)
    strides = dense_strides(inst.tile.shape)
    rest = (*strides[: inst.axis], *strides[inst.axis + 1 :])
    for i, (tile, place) in enumerate(zip(inst.tiles, places, strict=True)):
        if isinstance(place, Ref) and place.buffer is into.buffer:
            continue
        base = lo.w.let(f"getelementptr {into.element}, ptr {into.base}, i64 {i * strides[inst.axis]}")
        lo.copy(place, tile.tile, Ref(base, into.dtype, tile.tile.shape, rest))
    lo.define(inst, into)
    lo.used(inst)


def item(lo: Lowering, inst: Item) -> None:
    """One of what a loop or branch gave."""
    several = lo.env[inst.source]
    assert isinstance(several, Several), "only control flow gives several values"
    lo.define(inst, several.places[inst.index])
    lo.used(inst)
