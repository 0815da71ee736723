"""A tile copied so that its columns become rows: square blocks in registers, exchanged in halves.

stage 1 of 2 x 2 lanes:   a0 a1      a0 b0
                          b0 b1      a1 b1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tilec.backends.convert import cast, to_memory
from tilec.backends.cpu.lanes import Lanes, read, write
from tilec.backends.cpu.loops import Index, loop, mul, step_pointer
from tilec.backends.cpu.lower import Lowering
from tilec.backends.cpu.nest import held_from, merged_axes
from tilec.backends.cpu.places import Ref
from tilec.backends.writer import Writer

WORTH = 8  # rows and columns from which blocks pay


def lies_across(place: Ref) -> bool:
    """Are the neighbours in memory those along another axis than the last, and both axes long?"""
    along = _unit(place)
    return along >= 0 and min(place.shape[-1], place.shape[along]) >= WORTH


def _unit(place: Ref) -> int:
    """The axis of stride 1 where that is not the last one, else -1."""
    *outer, last = place.strides
    if last in (0, 1) or place.shape[-1] == 1:
        return -1
    units = [axis for axis, stride in enumerate(outer) if stride == 1 and place.shape[axis] > 1]
    return max(units, default=-1)


def turned(lo: Lowering, source: Ref, into: Ref) -> None:
    """Copies a tile of any rank to `into`, whose rows are dense, its last axis and that of its neighbours
    block by block.
    """
    source, into = _merged(source, into)
    along, last = _unit(source), len(source.shape) - 1
    rest = [axis for axis in range(last) if axis != along and source.shape[axis] > 1]

    def level(axes: Sequence[int], source: Ref, into: Ref) -> None:
        if not axes:
            pair = [_plane(ref, (along, last)) for ref in (source, into)]
            transposed(lo, *pair)
            return
        with loop(lo.w, 0, source.shape[axes[0]]) as run:
            moved = [_stepped(lo.w, ref, axes[0], run.index) for ref in (source, into)]
            level(axes[1:], *moved)

    level(rest, source, into)


def _merged(*refs: Ref) -> list[Ref]:
    """The same elements with fewer axes."""
    extents, strides = merged_axes(refs[0].shape, [ref.strides for ref in refs])
    return [replace(ref, shape=extents, strides=each) for ref, each in zip(refs, strides, strict=True)]


def _plane(ref: Ref, axes: tuple[int, int]) -> Ref:
    shape = tuple(ref.shape[axis] for axis in axes)
    return replace(ref, shape=shape, strides=tuple(ref.strides[axis] for axis in axes))


def _stepped(w: Writer, ref: Ref, axis: int, index: Index) -> Ref:
    base = step_pointer(w, ref.base, ref.element, mul(w, index, ref.strides[axis]))
    return replace(ref, base=base)


def transposed(lo: Lowering, source: Ref, into: Ref) -> None:
    """Writes `into`, dense and of any dtype, from a tile whose elements are neighbours along axis 0."""
    rows, columns = into.shape
    edge = min(16, lo.width(source.dtype, into.dtype))
    for first, height in _pieces(rows, edge):
        for start, width in _pieces(columns, edge):
            _region(lo, source, into, (first, height), (start, width), edge)


def _pieces(extent: int, edge: int) -> list[tuple[tuple[int, int], int]]:
    """An extent in whole edges, and what is left: ((from, to), length of one)."""
    whole = extent - extent % edge
    return [x for x in (((0, whole), edge), ((whole, extent), extent - whole)) if x[0][0] < x[0][1]]


def _region(lo: Lowering, source: Ref, into: Ref, rows: tuple[tuple[int, int], int],
            columns: tuple[tuple[int, int], int], edge: int) -> None:  # fmt: skip
    w = lo.w
    with loop(w, rows[0][0], rows[0][1], edge) as i, loop(w, columns[0][0], columns[0][1], edge) as j:
        _block(lo, source, into, (i.index, j.index), (rows[1], columns[1]), edge)


def _block(
    lo: Lowering, source: Ref, into: Ref, at: tuple[Index, Index], size: tuple[int, int], edge: int
) -> None:
    """Reads `columns` vectors down the rows, exchanges, writes `rows` vectors along the columns."""
    w, (height, length) = lo.w, size
    corner = _moved(w, source, source.base, at)
    target = _moved(w, into, into.base, at)
    with w.at_width(edge):
        lines = []
        for c in range(length):
            vector = read(w, _moved(w, source, corner, (0, c)), source.element, 1, Lanes(edge, height))
            lines.append(cast(w, held_from(w, vector, source), source.dtype, into.dtype))
        lines += ["zeroinitializer"] * (edge - length)
        for r, line in enumerate(exchanged(w, lines, w.held(into.dtype))[:height]):
            place = _moved(w, into, target, (r, 0))
            write(w, to_memory(w, line, into.dtype), place, into.element, 1, Lanes(edge, length))


def _moved(w: Writer, ref: Ref, pointer: str, by: Sequence[Index]) -> str:
    for index, stride in zip(by, ref.strides, strict=True):
        pointer = step_pointer(w, pointer, ref.element, mul(w, index, stride))
    return pointer


def exchanged(w: Writer, lines: list[str], element: str) -> list[str]:
    """A square of lanes, transposed: log2 stages that swap off-diagonal quarters."""
    edge = len(lines)
    half = 1
    while half < edge:
        moved = list(lines)
        for r in (r for r in range(edge) if not r & half):
            pair = lines[r], lines[r + half]
            upper = [lane if not lane & half else edge + lane - half for lane in range(edge)]
            lower = [lane + half if not lane & half else edge + lane for lane in range(edge)]
            moved[r], moved[r + half] = (_chosen(w, pair, order, element) for order in (upper, lower))
        lines = moved
        half *= 2
    return lines


def _chosen(w: Writer, pair: tuple[str, str], order: list[int], element: str) -> str:
    kind, mask = w.vector(element), ", ".join(f"i32 {i}" for i in order)
    return w.let(f"shufflevector {kind} {pair[0]}, {kind} {pair[1]}, <{len(order)} x i32> <{mask}>")
