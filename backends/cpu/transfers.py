"""Loads, stores and copies between arrays and tiles.

A window that lies inside its array is not copied: the tile is the array's memory until that is written. One
that leaves it is copied with a mask. Which of the two it is, is decided once per load, at run time or before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tilec.backends.convert import from_memory, to_memory
from tilec.backends.cpu import packed
from tilec.backends.cpu.arrays import alloc
from tilec.backends.cpu.cluster import APART, Cluster, flush
from tilec.backends.cpu.filled import filled
from tilec.backends.cpu.lanes import Lanes, lane, memory_type, read, safe, write
from tilec.backends.cpu.loops import Index, add, loop, mul, phi, step_pointer
from tilec.backends.cpu.lower import ArrayPlace, Lowering
from tilec.backends.cpu.nest import Point, nest, ramp
from tilec.backends.cpu.places import Affine, Place, Ref, Shape, Splat, permute
from tilec.backends.cpu.transpose import lies_across, turned
from tilec.backends.cpu.windows import Window, spread
from tilec.backends.writer import Writer
from tilec.ir.func import Value, root
from tilec.ir.inst import memory
from tilec.ir.tile import TileType, dense_strides

FEW = 8  # vectors of a row, for which there are registers of masks
OfVector = Callable[[list[str], Index, Lanes], list[str]]  # (inputs, element offset, lanes) -> outputs


def load(lo: Lowering, inst: memory.Load) -> None:
    """A register for one element, else an address in the array, or a copy where that will not do, at once
    where it is to go if that is known.
    """
    array, order = lo.array(inst.array), tuple(range(len(inst.shape)))
    if inst.tile.size > 1:
        order = _neighbours_last(array, inst.shape)
    at, shape = tuple(inst.at[axis] for axis in order), tuple(inst.shape[axis] for axis in order)
    proven = [order.index(axis) for axis in inst.inside]
    window = Window(lo, array.permuted(order), at, shape, proven)
    if inst.tile.size == 1:
        lo.define(inst, Splat(_one(lo, window, lo.scalar(inst.other)), inst.tile.dtype))
    else:
        place = _filling(lo, window, inst, order) or _tile(lo, window, inst)
        lo.define(inst, permute(place, [order.index(axis) for axis in range(len(order))]))
    lo.used(inst)


def _neighbours_last(array: ArrayPlace, shape: Shape) -> tuple[int, ...]:
    """The order of axes in which elements of a row are neighbours in memory, if some order has that."""
    axes = list(range(len(shape)))
    unit = [axis for axis in axes if shape[axis] != 1 and array.strides[axis] == 1]
    if array.packed or not unit:
        return tuple(axes)
    return (*(axis for axis in axes if axis != unit[-1]), unit[-1])


def _filling(lo: Lowering, window: Window, inst: memory.Load, order: tuple[int, ...]) -> Ref | None:
    """A copy right in the shared memory that it fills."""
    if inst not in filled(lo.func).loads:
        return None
    target, strides = filled(lo.func).loads[inst]
    alloc(lo, target)
    permuted = tuple(strides[axis] for axis in order)
    into = Ref(lo.array(target).base, inst.tile.dtype, window.shape, permuted)
    back = [order.index(axis) for axis in range(len(order))]
    source, plain = permute(window.ref(inst.array), back), permute(into, back)
    assert isinstance(source, Ref) and isinstance(plain, Ref), "memory stays memory"
    if window.plain and window.inside == "true" and lies_across(source) and plain.strides[-1] == 1:
        turned(lo, source, plain)
    else:
        _fetch(lo, window, lo.scalar(inst.other), into)
    return into


def _tile(lo: Lowering, window: Window, inst: memory.Load) -> Ref:
    """A window of several elements."""
    if not window.plain:
        target = lo.new(TileType(inst.tile.dtype, window.shape))
        _fetch(lo, window, lo.scalar(inst.other), target)
        return target
    return window.ref(inst.array) if window.inside == "true" else _either(lo, window, inst)


def _one(lo: Lowering, window: Window, other: str) -> str:
    """One element, by masked access."""
    w, array = lo.w, window.array
    if array.packed:
        found = packed.read(w, array, str(window.offset), window.inside)
    else:
        found = read(w, safe(w, window.inside, window.base), memory_type(array.dtype), 1, Lanes(1, 1))
    value = from_memory(w, found, array.dtype)
    return value if window.inside == "true" else w.select(window.inside, w.held(array.dtype), value, other)


def _either(lo: Lowering, window: Window, inst: memory.Load) -> Ref:
    """The array's own memory if the window is inside, else a masked copy."""
    w, array = lo.w, window.array
    copy = lo.new(TileType(inst.tile.dtype, window.shape))
    border, done = w.label("border"), w.label("loaded")
    before = w.current
    w.branch(window.inside, done, border)
    w.start(border)
    _fetch(lo, window, lo.scalar(inst.other), copy)
    after = w.current
    w.jump(done)
    w.start(done)
    base = phi(w, "ptr", [(window.base, before), (copy.base, after)])
    strides = [
        _either_stride(lo, *pair, before, after) for pair in zip(array.strides, copy.strides, strict=True)
    ]
    for axis in (axis for axis, n in enumerate(window.shape) if n == 1):
        strides[axis] = 0
    return Ref(base, array.dtype, window.shape, tuple(strides), copy.buffer, array.raw, root(inst.array))


def _either_stride(lo: Lowering, a: Index, b: Index, before: str, after: str) -> Index:
    return a if a == b else phi(lo.w, "i64", [(str(a), before), (str(b), after)])


def _fetch(lo: Lowering, window: Window, other: str, into: Ref) -> None:
    """Copies a window, with `other` outside the array: along each axis what lies before the array, what lies
    inside, what lies behind, so that only lanes are masked.
    """
    w, array, last = lo.w, window.array, len(window.shape) - 1
    filler, width = Splat(other, array.dtype), _width(lo, window)
    rows = _Rows(lo, window, width)

    def body(args: list[str], offset: Index, lanes: Lanes) -> list[str]:
        value = _lanes(lo, window, offset, lanes)
        return [value if lanes.mask is None else w.select(lanes.mask, w.held(array.dtype), value, args[0])]

    def level(at: tuple[Index, ...], into: Ref) -> None:
        axis = len(at)
        if axis >= last:
            rows.row(at, [filler], [into], body)
            return
        first, end = window.clipped(axis)
        sides: list[tuple[Index, Index]] = [(0, first), (end, window.shape[axis])]
        for start, stop in sides if axis not in window.proven else ():
            with loop(w, start, stop) as run:
                part = _part(w, into, run.index)
                nest(w, part.shape, [filler], [part], width, lambda args, point: args)
        with loop(w, first, end) as run:
            level((*at, run.index), _part(w, into, run.index))

    level((), into)


def _part(w: Writer, ref: Ref, index: Index) -> Ref:
    """One of the parts along the first axis."""
    base = step_pointer(w, ref.base, ref.element, mul(w, index, ref.strides[0]))
    return replace(ref, base=base, shape=ref.shape[1:], strides=ref.strides[1:])


class _Rows:
    """A window's rows in vectors. Where a row has few, their masks are made once, before the first row."""

    def __init__(self, lo: Lowering, window: Window, width: int) -> None:
        self.w, self.window, self.width = lo.w, window, width
        few = window.plain and window.shape[-1] <= FEW * width
        self.vectors = window.vectors(width) if few else None

    def row(
        self, at: tuple[Index, ...], inputs: Sequence[Place], outputs: Sequence[Ref], body: OfVector
    ) -> None:
        """One row, at these coordinates."""
        if self.vectors is None:
            self._part(at, (0, None), self.window.shape[-1], inputs, outputs, body)
        for first, lanes in self.vectors or ():
            ins, outs = ([_from(self.w, x, first) for x in places] for places in (inputs, outputs))
            self._part(at, (first, lanes), lanes.count, ins, [x for x in outs if isinstance(x, Ref)], body)

    def _part(self, at: tuple[Index, ...], known: tuple[int, Lanes | None], extent: int,
              inputs: Sequence[Place], outputs: Sequence[Ref], body: OfVector) -> None:  # fmt: skip
        """Of a row, from an element on: all of it, or one vector whose lanes are known."""
        window, (start, lanes) = self.window, known

        def vector(args: list[str], point: Point) -> list[str]:
            first = add(self.w, start, point.at[-1])
            inside = lanes or window.masked(first, point.lanes)
            return body(args, window.place((*at, first)), inside)

        nest(self.w, (extent,), inputs, outputs, self.width, vector, merge=False)


def _from(w: Writer, place: Place, first: int) -> Place:
    """A row's place from an element on."""
    if not isinstance(place, Ref):
        return place
    return replace(place, base=step_pointer(w, place.base, place.element, mul(w, first, place.strides[-1])))


def _width(lo: Lowering, window: Window) -> int:
    """Lanes; few where each is moved by itself."""
    most = lo.width(window.array.dtype)
    return most if window.plain else min(most, APART)


def _lanes(lo: Lowering, window: Window, offset: Index, lanes: Lanes) -> str:
    """The held values of a window's lanes."""
    w, array = lo.w, window.array
    if array.packed:
        stride = array.strides[-1]
        assert isinstance(stride, int), "packed arrays are dense, and their views' steps are constants"
        offsets = w.op("add", "i64", spread(lo, offset), ramp(w, "i64", stride))
        return from_memory(w, packed.read(w, array, offsets, lanes.text), array.dtype)
    found = read(w, window.element(offset), memory_type(array.dtype), _lane_stride(window), lanes)
    return from_memory(w, found, array.dtype)


def _lane_stride(window: Window) -> Index:
    """Elements between lanes (of a tile whose rows are one element, any: there are no others)."""
    return 1 if window.shape[-1] == 1 else window.array.strides[-1]


def store(lo: Lowering, inst: memory.Store) -> None:
    """A tile that waits in a cluster is computed right where it goes, if it can be."""
    lo.before_write(inst.array)
    tile = lo.same(inst.tile_)
    waiting = lo.env[tile]
    if isinstance(waiting, Cluster) and not (inst.tile_.tile.size > 1 and lo.uses[tile] == 1):
        waiting = lo.place(tile)
    window = Window(lo, lo.array(inst.array), inst.at, inst.tile_.tile.shape, inst.inside)
    if not isinstance(waiting, Cluster):
        _put_anywhere(lo, window, tile)
    elif window.plain and window.inside == "true":
        flush(lo, waiting, (tile, window.ref(inst.array)))
    else:
        _through(lo, window, waiting, inst)
    lo.used(inst)


def _through(lo: Lowering, window: Window, waiting: Cluster, inst: memory.Store) -> None:
    """Computes a cluster into the array if the window is inside, else into the arena, from where it is
    stored.
    """
    w, kind = lo.w, inst.tile_.tile
    aside = lo.temporary(kind)
    aside = Ref(aside.base, kind.dtype, kind.shape, dense_strides(kind.shape))
    if not window.plain:
        flush(lo, waiting, (lo.same(inst.tile_), aside))
        _put(lo, window, aside)
        return
    base = w.let(f"select i1 {window.inside}, ptr {window.base}, ptr {aside.base}")
    pairs = zip(window.array.strides, aside.strides, strict=True)
    strides = [a if a == b else w.let(f"select i1 {window.inside}, i64 {a}, i64 {b}") for a, b in pairs]
    flush(lo, waiting, (lo.same(inst.tile_), Ref(base, kind.dtype, kind.shape, tuple(strides))))
    border, done = w.label("border"), w.label("stored")
    w.branch(window.inside, done, border)
    w.start(border)
    _put(lo, window, aside)
    w.jump(done)
    w.start(done)


def _put_anywhere(lo: Lowering, window: Window, tile: Value) -> None:
    """Stores a tile that has been computed."""
    place = lo.place(tile)
    if isinstance(place, Ref) and place.base == window.base and _lies(place, window.array.strides):
        return  # it was loaded right there
    if window.plain and window.inside == "true":
        lo.copy(place, TileType(window.array.dtype, window.shape), window.ref(tile))
    else:
        _put(lo, window, place)


def _lies(place: Ref, strides: Sequence[Index]) -> bool:
    return all(n == 1 or a == b for n, a, b in zip(place.shape, place.strides, strides, strict=True))


def _put(lo: Lowering, window: Window, place: Place) -> None:
    """Stores what lies inside, row after row; only lanes are masked."""
    w, array, last = lo.w, window.array, len(window.shape) - 1
    if isinstance(place, Affine):
        kind = TileType(place.dtype, window.shape)
        place = lo.copy(place, kind, lo.temporary(kind))

    rows = _Rows(lo, window, _width(lo, window))

    def body(args: list[str], offset: Index, lanes: Lanes) -> list[str]:
        value = to_memory(w, args[0], array.dtype)
        if array.packed:
            _put_packed(lo, window, value, offset, lanes)
        else:
            write(w, value, window.element(offset), memory_type(array.dtype), _lane_stride(window), lanes)
        return []

    def level(at: tuple[Index, ...], place: Ref | Splat) -> None:
        if len(at) >= last:
            rows.row(at, [place], [], body)
            return
        with loop(w, *window.clipped(len(at))) as run:
            level((*at, run.index), _part(w, place, run.index) if isinstance(place, Ref) else place)

    level((), place)


def _put_packed(lo: Lowering, window: Window, value: str, offset: Index, lanes: Lanes) -> None:
    w, array = lo.w, window.array
    for i in range(lanes.count):
        where = add(w, offset, mul(w, i, array.strides[-1]))
        code = lane(w, value, "i8", i)
        kept = "true" if lanes.mask is None else lane(w, lanes.mask, "i1", i)
        with w.at_width(1):
            packed.write(w, array, str(where), kept, w.let(f"and i8 {code}, {array.dtype.code_mask}"))


def copy(lo: Lowering, inst: memory.Copy) -> None:
    """At once: the data is there before anybody may look."""
    lo.before_write(inst.buffer)
    window = Window(lo, lo.array(inst.array), inst.at, inst.shape, inst.inside)
    buffer = lo.array(inst.buffer)
    into = Ref(buffer.base, buffer.dtype, inst.shape, buffer.strides)
    _fetch(lo, window, lo.scalar(inst.other), into)
    lo.used(inst)
